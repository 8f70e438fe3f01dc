"""A DANet as a layer of another model, and what Keras does to a model."""

import copy

import keras
import numpy as np
import pytest
from tiny import backbone

import keras_danet


def tiny(**options):
    small = keras_danet.DilatedResNet(18, filters=8)
    options = {"backbone": small, "dropout": 0.0, **options}
    return keras_danet.DANet(5, **options)


IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 24, 32, 3))
IMAGES = IMAGES.astype("float32")
LABELS = (IMAGES[..., 0] // 52).astype("int32")


class Wrapped(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs, training=None):
        return self.inner(inputs, training=training)


def functional(inner):
    inputs = keras.Input((24, 32, 3))
    return keras.Model(inputs, inner(inputs))


# The other classifiers have no part in it, and Keras says so.
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(
    "outer", [functional, lambda inner: keras.Sequential([inner]), Wrapped]
)
def test_nested_it_trains_and_predicts_its_fused_logits(outer):
    inner = tiny(backbone=backbone(64))
    model = outer(inner)
    before = model(IMAGES, training=False)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(before),
        keras.ops.convert_to_numpy(inner(IMAGES, training=False)),
    )
    model.compile("sgd", keras_danet.PixelCrossentropy())
    moving = inner.get_layer("channel_out_bn").moving_mean
    kernel = inner.get_layer("fusion_classifier").kernel
    was = [keras.ops.convert_to_numpy(v).copy() for v in (moving, kernel)]
    model.fit(IMAGES, LABELS, verbose=0)
    for old, variable in zip(was, (moving, kernel), strict=True):
        assert np.abs(keras.ops.convert_to_numpy(variable) - old).max() > 0
    np.testing.assert_allclose(
        model.predict(IMAGES, verbose=0),
        inner.predict(IMAGES, verbose=0),
        atol=1e-5,
    )


@pytest.mark.parametrize("training", [None, True, False])
def test_a_symbolic_call_gives_one_output(training):
    output = tiny()(keras.Input((24, 32, 3)), training=training)
    assert output.shape == (None, 24, 32, 5)


def test_the_dict_is_for_who_calls_the_model_itself():
    model = tiny()
    with pytest.raises(ValueError):
        model(np.zeros((1, 2)))
    assert set(model(IMAGES, training=True)) == {
        "fusion",
        "position",
        "channel",
    }


def test_a_nested_one_is_saved_and_loaded(tmp_path):
    model = functional(tiny(backbone=backbone(64)))
    model.save(tmp_path / "outer.keras")
    loaded = keras.saving.load_model(tmp_path / "outer.keras")
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    )


def test_time_distributed_in_training():
    model = keras.Sequential(
        [keras.layers.TimeDistributed(tiny(), name="frames")]
    )
    output = model(IMAGES[None], training=True)
    assert tuple(output.shape) == (1, 2, 24, 32, 5)


def test_copies_stay_what_they_were():
    model = tiny()
    for original in (model, model.get_layer("resnet18")):
        with pytest.raises(ValueError, match=r"copy\.deepcopy\(model\)"):
            keras.models.clone_model(original)
    again = copy.deepcopy(model)
    assert type(again) is keras_danet.DANet
    np.testing.assert_array_equal(
        again.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    )


def test_a_whole_model_is_no_h5_file(tmp_path):
    model = tiny()
    for original in (
        model,
        model.inference_model,
        model.get_layer("resnet18"),
        functional(model),
    ):
        path = tmp_path / "model.h5"
        with pytest.raises(ValueError, match=r"model\.save\('model\.keras'\)"):
            keras.saving.save_model(original, path)
    path = tmp_path / "other.h5"
    with pytest.raises(ValueError, match=r"model\.save\('model\.keras'\)"):
        model.save(path)
    assert not path.exists()
    model.save_weights(tmp_path / "model.weights.h5")


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantize_is_refused(mode):
    model = tiny()
    for each in (model, model.inference_model, model.get_layer("resnet18")):
        with pytest.raises(ValueError, match="export_model"):
            each.quantize(mode)


@pytest.mark.parametrize("shape", [None, (1, None, 32, 3), (1, 24, None, 3)])
def test_a_litert_file_of_free_sizes_is_refused(shape, tmp_path):
    signature = shape and [keras.InputSpec(shape=shape, dtype="float32")]
    with pytest.raises(ValueError, match="fixed size"):
        tiny().export(
            tmp_path / "danet.tflite",
            format="litert",
            input_signature=signature,
        )
    assert not list(tmp_path.iterdir())
