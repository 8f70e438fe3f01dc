"""What `fit` and its like say about labels, images and learning rates."""

import warnings

import keras
import numpy as np
import pytest
import tiny

from keras_danet import SGD
from keras_danet import DilatedResNet
from keras_danet import MeanIoU
from keras_danet import PixelCrossentropy
from keras_danet import PolySchedule
from keras_danet import Predictor
from keras_danet import SegmentationMetrics
from keras_danet import explain
from keras_danet import losses
from keras_danet import optimize_for_inference

BACKEND = keras.backend.backend()
JIT = {"jit_compile": False} if BACKEND == "tensorflow" else {}


def example(wrong=None, count=4, dtype="uint8", at=0):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 16, 16, 3)).astype("uint8")
    labels = rng.integers(0, 3, (count, 16, 16)).astype(dtype)
    labels[:, :2] = 255 if dtype != "int8" else 0
    if wrong is not None:
        labels[at, 5, 5] = wrong
    return images, labels


@pytest.fixture(scope="module")
def compiled():
    model = tiny.danet()
    model.compile(SGD(1e-3), **JIT)
    return model


@pytest.mark.parametrize(
    "wrong, dtype, told",
    [
        (11, "uint8", r"Label 11 is neither one of the 3 classes \(0 to 2\)"),
        (3, "uint8", "Label 3 .*CamVid's 11; or the labels count from 1"),
        (-1, "int32", "Label -1 .*give loss and metrics that label as"),
        (1000, "int64", "Label 1000 .*labels == 1000"),
        (2**31 - 1, "int64", "Label 2147483648 .*labels >= 3"),
        (0.5, "float32", "Label 0.5 .*nearest neighbour"),
        (np.nan, "float32", "Label nan .*nearest neighbour"),
    ],
)
def test_labels_out_of_range_end_fit(compiled, wrong, dtype, told):
    images, labels = example(wrong, dtype=dtype)
    with pytest.raises(ValueError, match=f"^Training: {told}"):
        compiled.fit(images, labels, batch_size=2, verbose=0)
    # And leave nothing behind.
    compiled.fit(*example(dtype=dtype), batch_size=2, verbose=0)


def test_labels_out_of_range_end_the_rest(compiled):
    images, labels = example(7)
    fine = example()
    with pytest.raises(ValueError, match="^Evaluation: Label 7 is"):
        compiled.evaluate(images, labels, verbose=0)
    with pytest.raises(ValueError, match="^Training: Label 7 is"):
        compiled.train_on_batch(images, labels)
    with pytest.raises(ValueError, match="^Evaluation: Label 7 is"):
        compiled.test_on_batch(images, labels)
    with pytest.raises(ValueError, match="^Validation: Label 7 is"):
        compiled.fit(*fine, validation_data=(images, labels), verbose=0)
    # In the last batch, ahead of a validation that is fine.
    late = example(7, at=3)
    with pytest.raises(ValueError, match="^Training: Label 7 is"):
        compiled.fit(
            *late, batch_size=1, validation_data=fine, shuffle=False, verbose=0
        )

    def batches():
        for image, label in zip(images, labels, strict=True):
            yield image[None], label[None]

    with pytest.raises(ValueError, match="^Training: Label 7 is"):
        compiled.fit(batches(), shuffle=False, verbose=0)


class Sequence(keras.utils.PyDataset):
    def __init__(self, images, labels):
        super().__init__()
        self.batch = images, labels

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.batch


def test_labels_out_of_range_from_data_sets(compiled):
    batch = example(7)
    with pytest.raises(ValueError, match="^Training: Label 7 is"):
        compiled.fit(Sequence(*batch), verbose=0)
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensors(batch)
    for given in (data, data.repeat(2), data.map(unknown_shape)):
        with pytest.raises(ValueError, match="^Training: Label 7 is"):
            compiled.fit(given, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="^Evaluation: Label 7 is"):
        compiled.evaluate(data, verbose=0)


def unknown_shape(images, labels):
    import tensorflow as tf

    return images, tf.numpy_function(lambda x: x, [labels], tf.uint8)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="XLA of TensorFlow")
def test_labels_out_of_range_under_xla():
    model = tiny.danet()
    model.compile(SGD(1e-3), jit_compile=True)
    with pytest.raises(ValueError, match="^Training: Label 7 is"):
        model.fit(*example(7), batch_size=2, verbose=0)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_data_that_fails_costs_no_weights(method):
    """On JAX Keras takes the weights away while it loops."""
    images, labels = example()
    model = tiny.danet()
    model.compile(SGD(1e-3), **JIT)

    class Failing(keras.utils.PyDataset):
        def __init__(self, at):
            super().__init__()
            self.at = at

        def __len__(self):
            return 2

        def __getitem__(self, index):
            if index == self.at:
                raise OSError("no such image")
            return images, labels

    for at in (0, 1):
        with pytest.raises(OSError, match="no such image"):
            getattr(model, method)(Failing(at), verbose=0)
        assert np.isfinite(model.predict(images, verbose=0)).all()


def test_several_wrong_labels_and_no_metrics():
    model = tiny.danet()
    model.compile(SGD(1e-3), metrics=[], **JIT)
    images, labels = example(4)
    labels[1, 3] = 33
    with pytest.raises(ValueError, match="Labels 4, 33 are .*labelIds"):
        model.fit(images, labels, verbose=0)
    model = tiny.danet()
    model.compile(SGD(1e-3), metrics=[], **JIT)
    history = model.fit(*example(), verbose=0).history
    assert list(history) == ["loss"] and np.isfinite(history["loss"]).all()


def test_metrics_ignore_what_the_loss_ignores():
    images, labels = example(-1, dtype="int32")
    labels[labels == 255] = -1
    inner = PixelCrossentropy(ignore_label=-1)
    for loss in (
        inner,
        {"fusion": losses.SumOfLosses([(1.0, inner)])},
        keras.losses.SparseCategoricalCrossentropy(True, ignore_class=-1),
    ):
        model = tiny.danet()
        model.compile(SGD(1e-3), loss, **JIT)
        (metric,) = model._compile_metrics._user_metrics
        assert metric.ignore_label == -1
    model = tiny.danet()
    model.compile(SGD(1e-3), inner, **JIT)
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert np.isfinite(list(found.values())).all()
    logits = model.predict(images, verbose=0)
    kept = labels != -1
    right = (logits.argmax(-1) == labels)[kept].mean()
    np.testing.assert_allclose(found["pixel_accuracy"], right, rtol=1e-5)
    mixed = losses.SumOfLosses([(1.0, inner), (1.0, losses.DiceLoss())])
    with pytest.raises(ValueError, match=r"different labels.*\[-1, 255\]"):
        model.compile(loss=mixed)


def test_every_metric_is_in_the_logs():
    images, labels = example()
    weights = np.zeros(labels.shape, "float32")
    weights[:, 4:8] = 1
    model = tiny.danet()
    model.compile(
        SGD(1e-3),
        metrics=[
            SegmentationMetrics(3, name="mean_iou"),
            SegmentationMetrics(3, ignore_label=0, name="things"),
            SegmentationMetrics(3),
        ],
        weighted_metrics=[SegmentationMetrics(3, name="near"), MeanIoU(3)],
        **JIT,
    )
    labels[labels == 255] = 0
    found = model.evaluate(
        images, labels, sample_weight=weights, verbose=0, return_dict=True
    )
    assert set(found) == {
        "loss",
        "mean_iou",
        "pixel_accuracy",
        "things_mean_iou",
        "things_pixel_accuracy",
        "segmentation_metrics_mean_iou",
        "segmentation_metrics_pixel_accuracy",
        "near_mean_iou",
        "near_pixel_accuracy",
        "weighted_mean_iou",
    }
    predicted = model.predict(images, verbose=0).argmax(-1)
    right = predicted == labels
    for key, kept in (
        ("pixel_accuracy", labels >= 0),
        ("things_pixel_accuracy", labels > 0),
        ("near_pixel_accuracy", weights > 0),
    ):
        np.testing.assert_allclose(found[key], right[kept].mean(), rtol=1e-5)


KERAS_CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy


@pytest.mark.parametrize(
    "loss, wrong, told",
    [
        ("sparse_categorical_crossentropy", 255, r"Label 255 .*\(none is\)"),
        (KERAS_CROSSENTROPY(from_logits=True), 11, "Label 11 is neither"),
        (
            KERAS_CROSSENTROPY(from_logits=True, ignore_class=255),
            11,
            "Label 11 .*the ignored label 255",
        ),
    ],
)
def test_wrong_labels_are_told_under_losses_of_keras(loss, wrong, told):
    images, labels = example()
    if getattr(loss, "ignore_class", None) is None:
        labels = np.where(labels == 255, 0, labels)
    labels[0, 5, 5] = wrong
    model = tiny.danet()
    model.compile(SGD(1e-3), loss, metrics=None, **JIT)
    with pytest.raises(ValueError, match=told):
        model.fit(images, labels, batch_size=2, verbose=0)


def test_logits_are_told_to_crossentropies_that_are_metrics():
    images, labels = example()
    labels = np.where(labels == 255, 0, labels)
    model = tiny.danet()
    names = ["sparse_categorical_crossentropy", "ce"]
    function = keras.losses.sparse_categorical_crossentropy
    model.compile(metrics=[*names, function], **JIT)
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert set(names) < set(found)
    np.testing.assert_allclose(list(found.values()), found["loss"], rtol=1e-5)
    config = model.get_compile_config()
    model.compile_from_config(config)
    of_probabilities = keras.metrics.SparseCategoricalCrossentropy()
    with pytest.raises(ValueError, match="not probabilities"):
        model.compile(metrics=[of_probabilities])


def test_what_compile_refuses_is_refused_within_a_sum():
    model = tiny.danet()
    for loss, told in (
        (KERAS_CROSSENTROPY(), "from_logits=False"),
        (PixelCrossentropy(reduction="none"), "must give one number"),
    ):
        with pytest.raises(ValueError, match=told):
            model.compile(loss=losses.SumOfLosses([(1.0, loss)]))
    with pytest.raises(ValueError, match="without a loss: .'position'."):
        tiny.danet(attention=("position", "channel")).compile(
            loss={"fusion": PixelCrossentropy()},
            loss_weights={"fusion": 1.0, "position": 5.0},
        )


def test_labels_are_one_tensor_and_losses_may_be_lambdas(compiled):
    images, labels = example()
    with pytest.raises(ValueError, match="one label map for all outputs"):
        compiled.fit(images, {"fusion": labels}, verbose=0)
    model = tiny.danet()
    model.compile(loss=lambda y_true, y_pred: keras.ops.mean(y_pred**2), **JIT)
    logits = model.predict(images, verbose=0)
    found = model.test_on_batch(images, labels, return_dict=True)
    np.testing.assert_allclose(found["loss"], np.mean(logits**2), rtol=1e-5)


def rate_warnings(model, data=None, **options):
    given = (data,) if data else example()
    batch = {} if data else {"batch_size": 2}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(*given, verbose=0, **batch, **options)
    return [str(w.message) for w in caught if "learning rate" in str(w.message)]


def test_a_learning_rate_of_zero_is_told_once(tmp_path):
    model = tiny.danet()
    model.compile(total_steps=4, **JIT)
    assert not rate_warnings(model, epochs=2)
    (told,) = rate_warnings(model, epochs=2)
    assert "is 0 after 4 steps" in told and "total_steps=4" in told
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(rate_warnings(loaded)) == 1
    model.compile(total_steps=3, **JIT)
    (told,) = rate_warnings(model, epochs=2)
    assert "will be 0 before" in told
    floor = PolySchedule(0.01, 2, end_learning_rate=1e-4)
    model.compile(SGD(floor), **JIT)
    assert not rate_warnings(model, epochs=2)
    gathered = SGD(PolySchedule(0.01, 2), gradient_accumulation_steps=2)
    model.compile(gathered, **JIT)
    assert not rate_warnings(model, epochs=2)
    assert len(rate_warnings(model)) == 1
    model.compile(total_steps=1, **JIT)
    with pytest.warns(UserWarning, match="is 0 after 1 steps") as caught:
        for _ in range(5):
            model.train_on_batch(*example())
    assert len([w for w in caught if "is 0" in str(w.message)]) == 1
    # Nobody knows how many batches come.
    for total_steps, told in ((1, 1), (3, 0)):
        model.compile(total_steps=total_steps, **JIT)
        stream = (example() for _ in range(3))
        assert len(rate_warnings(model, stream)) == told


def pixel_warnings(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if "0-255" in str(w.message)]


def test_images_of_another_range_are_told_once():
    images, labels = example()
    unit = images.astype("float32") / 255
    model = tiny.danet()
    model.compile(SGD(1e-3), **JIT)
    fit = lambda x: model.fit(x, labels, epochs=2, verbose=0)  # noqa: E731
    assert not pixel_warnings(lambda: fit(np.zeros_like(images)))
    assert not pixel_warnings(lambda: fit(images.astype("float32")))
    (told,) = pixel_warnings(lambda: fit(unit))
    assert "are in 0-1" in told
    assert not pixel_warnings(lambda: fit(unit))
    for call in (
        lambda model: model.evaluate(unit, labels, verbose=0),
        lambda model: model.predict(unit, verbose=0),
        lambda model: model.predict_on_batch(keras.ops.array(unit)),
        lambda model: explain.Explainer(model)(unit[0]),
        lambda model: Predictor(model)(unit[0]),
        lambda model: Predictor(optimize_for_inference(model))(unit[0]),
    ):
        other = tiny.danet()
        other.compile(SGD(1e-3), **JIT)
        assert len(pixel_warnings(lambda: call(other))) == 1  # noqa: B023
    (told,) = pixel_warnings(
        lambda: tiny.danet().predict(unit * 4 - 2, verbose=0)
    )
    assert "normalised already" in told
    own = tiny.danet(pixel_mean=0, pixel_std=1)
    assert not pixel_warnings(lambda: own.predict(unit, verbose=0))


def test_class_weight_is_refused_wherever_it_stands(compiled):
    images, labels = example()
    with pytest.raises(ValueError, match="weights whole images"):
        compiled.train_on_batch(images, labels, None, {0: 1.0})
    with pytest.raises(ValueError, match="weights whole images"):
        compiled.fit(images, labels, 2, 1, 0, None, 0.0, None, True, {0: 1.0})


@pytest.mark.skipif(BACKEND != "torch", reason="XLA compiles it elsewhere")
def test_torch_compile_is_refused_at_once():
    model = tiny.danet()
    for one in (model, model.inference_model, DilatedResNet(18, filters=4)):
        with pytest.raises(ValueError, match="Received: jit_compile=True"):
            one.compile(optimizer="sgd", loss="mse", jit_compile=True)
    model.compile(jit_compile=False)
    config = {**model.get_compile_config(), "jit_compile": True}
    with pytest.warns(UserWarning, match="loaded with False"):
        model.compile_from_config(config)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's shapes")
def test_metrics_take_weights_of_unknown_rank():
    import tensorflow as tf

    _, labels = example()
    logits = np.random.default_rng(1).standard_normal((4, 16, 16, 3))
    ours, theirs = SegmentationMetrics(3), SegmentationMetrics(3)
    unknown = tf.TensorSpec(None, "float32")

    @tf.function(input_signature=[unknown, unknown, unknown])
    def update(y, x, w):
        theirs.update_state(y, tf.ensure_shape(x, (None, 16, 16, 3)), w)

    for weights in (
        np.array([0, 1, 0, 2], "float32"),
        (np.arange(4 * 256).reshape(4, 16, 16) % 3).astype("float32"),
    ):
        ours.reset_state()
        theirs.reset_state()
        ours.update_state(labels, logits, weights)
        update(labels.astype("float32"), logits.astype("float32"), weights)
        np.testing.assert_array_equal(
            ours.confusion_matrix(), theirs.confusion_matrix()
        )
