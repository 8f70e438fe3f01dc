import subprocess
import sys

import keras
import numpy as np
import pytest
import references

import keras_danet
from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import PixelCrossentropy

BACKEND = keras.backend.backend()
# XLA compiles for longer than these trainings take; JAX is nothing without.
JIT = {"jit_compile": False} if BACKEND == "tensorflow" else {}


def small(num_classes=5, seed=0, depth=18, **arguments):
    """A tiny DANet whose attentions do something."""
    keras.utils.set_random_seed(seed)
    dtype = arguments.get("dtype")
    model = DANet(
        num_classes, DilatedResNet(depth, filters=8, dtype=dtype), **arguments
    )
    for layer, gamma in (("position", 0.7), ("channel", -0.6)):
        if layer in model.attention:
            model.get_layer(f"{layer}_attention").gamma.assign(gamma)
    return model


def example(num_classes=5, shape=(2, 33, 65), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (*shape, 3)).astype("uint8")
    labels = rng.integers(0, num_classes, shape).astype("uint8")
    labels[:, :5] = 255
    return images, labels


def to_numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x), "float64")


def test_outputs_in_training_and_inference():
    model = small(auxiliary=True)
    images, _ = example()
    outputs = model(images, training=True)
    assert list(model.output) == ["fusion", "position", "channel", "auxiliary"]
    assert set(outputs) == set(model.output)
    assert all(tuple(o.shape) == (2, 33, 65, 5) for o in outputs.values())
    fused = to_numpy(model(images))
    assert fused.shape == (2, 33, 65, 5)
    np.testing.assert_allclose(
        fused, to_numpy(model.inference_model(images)), atol=1e-6
    )
    np.testing.assert_allclose(
        fused, model.predict(images, verbose=0), atol=1e-4
    )
    every = keras.Model(model.input, model.output)(images, training=False)
    np.testing.assert_allclose(fused, to_numpy(every["fusion"]), atol=1e-6)


@pytest.mark.parametrize(
    "attention", [(), ("position",), ("channel",), "channel"]
)
def test_ablations_have_one_output(attention):
    model = small(attention=attention)
    assert list(model.output) == ["fusion"]
    names = {layer.name for layer in model.layers}
    for kind in ("position", "channel"):
        assert (f"{kind}_attention" in names) == (kind in attention)
    images, labels = example()
    model.compile(**JIT)
    loss = model.evaluate(images, labels, verbose=0, return_dict=True)["loss"]
    expected = references.pixel_crossentropy(labels, to_numpy(model(images)))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_normalisation_is_the_first_layer():
    images, _ = example()
    model = small(pixel_mean=(10, 20, 30), pixel_std=(2, 4, 8))
    plain = small(pixel_mean=0, pixel_std=1)
    plain.set_weights(model.get_weights())
    normalised = (images - np.array([10, 20, 30])) / np.array([2, 4, 8])
    np.testing.assert_allclose(
        to_numpy(plain(normalised.astype("float32"))),
        to_numpy(model(images)),
        atol=1e-4,
    )


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (300, 2), (37, 53)])
def test_any_size_in_the_same_size_out(shape):
    model = small()
    images, _ = example(shape=(2, *shape))
    logits = to_numpy(model(images))
    assert logits.shape == (2, *shape, 5)
    assert np.isfinite(logits).all()
    # The batch does not matter to an image.
    np.testing.assert_allclose(
        logits[1:], to_numpy(model(images[1:])), atol=1e-4
    )


def test_loss_is_the_weighted_sum_over_the_outputs():
    model = small(auxiliary=True, dropout=0)
    model.compile(**JIT)
    images, labels = example()
    weights = np.random.default_rng(3).random(labels.shape).astype("float32")
    outputs = {
        name: to_numpy(value)
        for name, value in model(images, training=True).items()
    }
    # Twice the same forward pass: batch norm trains on batch statistics.
    for given in (labels, labels[..., None]):
        loss = model.compute_loss(
            images,
            given,
            model(images, training=True),
            keras.ops.convert_to_tensor(weights),
        )
        expected = sum(
            weight
            * references.pixel_crossentropy(
                labels, outputs[name], weights=weights
            )
            for name, weight in (
                ("fusion", 1),
                ("position", 1),
                ("channel", 1),
                ("auxiliary", 0.4),
            )
        )
        np.testing.assert_allclose(to_numpy(loss), expected, rtol=1e-4)


def test_fit_evaluate_predict():
    model = small()
    images, labels = example()
    model.compile(total_steps=6, **JIT)
    history = model.fit(
        images,
        labels,
        batch_size=2,
        epochs=6,
        validation_data=(images, labels[..., None]),
        verbose=0,
    ).history
    assert history["loss"][-1] < history["loss"][0]
    prediction = model.predict(images, verbose=0).argmax(-1)
    matrix = references.confusion_matrix(labels, prediction, 5)
    hits = np.diag(matrix)
    iou = hits / (matrix.sum(0) + matrix.sum(1) - hits)
    result = model.evaluate(images, labels, verbose=0, return_dict=True)
    np.testing.assert_allclose(result["mean_iou"], iou.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        result["pixel_accuracy"], hits.sum() / matrix.sum(), rtol=1e-5
    )
    np.testing.assert_allclose(
        history["val_mean_iou"][-1], iou.mean(), rtol=1e-5
    )


def test_every_weight_but_the_key_bias_is_trained():
    model = small(auxiliary=True, dropout=0)
    before = {v.path: to_numpy(v) for v in model.trainable_variables}
    model.compile(keras.optimizers.SGD(1.0), **JIT)
    images, labels = example()
    model.train_on_batch(images, labels)
    moved = {
        v.path: np.abs(to_numpy(v) - before[v.path]).max()
        for v in model.trainable_variables
    }
    key_bias = moved.pop("position_attention/key/bias")
    assert len(moved) == len(before) - 1
    unmoved = [path for path, change in moved.items() if not change > 1e-7]
    assert not unmoved
    # Softmax is blind to it; what is left is rounding.
    assert key_bias < 1e-5


def test_the_users_own_loss_and_added_losses_count():
    images, labels = example()
    model = small(dropout=0)

    def constant(y_true, y_pred):
        return 0 * keras.ops.mean(y_pred) + 2.0

    model.compile("sgd", loss=constant, loss_weights=[1.0, 0.5, 0.25])
    outputs = model(images, training=True)
    np.testing.assert_allclose(
        to_numpy(model.compute_loss(images, labels, outputs)), 3.5, rtol=1e-6
    )
    losses = {"fusion": PixelCrossentropy(), "channel": constant}
    model.compile("sgd", loss=losses, loss_weights={"channel": 3.0})
    expected = 6 + references.pixel_crossentropy(
        labels, to_numpy(outputs["fusion"])
    )
    np.testing.assert_allclose(
        to_numpy(model.compute_loss(images, labels, outputs)),
        expected,
        rtol=1e-4,
    )
    kernel = model.get_layer("fusion_classifier").kernel
    kernel.regularizer = keras.regularizers.L2(0.5)
    penalty = 0.5 * (to_numpy(kernel) ** 2).sum()
    np.testing.assert_allclose(
        to_numpy(model.compute_loss(images, labels, outputs)),
        expected + penalty,
        rtol=1e-4,
    )


def test_inference_model_trains_inside_another_model():
    model = small()
    inputs = keras.Input((None, None, 3))
    outer = keras.Model(inputs, model.inference_model(inputs))
    outer.compile(keras.optimizers.SGD(0.1), PixelCrossentropy(), **JIT)
    images, labels = example()
    before = to_numpy(model.get_layer("position_attention").gamma)
    losses = outer.fit(images, labels, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert to_numpy(model.get_layer("position_attention").gamma) != before


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_without_nan(policy):
    model = small(dtype=policy)
    images, labels = example()
    model.compile(**JIT)
    logits = model(images)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    history = model.fit(images, labels, epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert keras.config.dtype_policy().name == "float32"


def test_keras_file_loads_in_a_fresh_process(tmp_path):
    model = small(
        auxiliary=True, multi_grid=None, pixel_mean=(1.5, 2, 3), name="mine"
    )
    images, labels = example()
    model.compile(total_steps=7, **JIT)
    model.fit(images, labels, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    np.save(tmp_path / "images.npy", images)
    script = f"""
import numpy as np
{"import torch" if BACKEND == "torch" else ""}
import keras
import keras_danet
model = keras.saving.load_model(r"{path}", safe_mode=True)
images = np.load(r"{tmp_path / "images.npy"}")
np.save(r"{tmp_path / "logits.npy"}", model.predict(images, verbose=0))
assert model.name == "mine"
print(int(model.optimizer.iterations), model.get_config())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    logits = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(
        logits, model.predict(images, verbose=0), atol=1e-5
    )
    assert done.stdout.startswith("1 ")
    loaded = keras.saving.load_model(path)
    assert loaded.get_config() == model.get_config()
    assert type(loaded.optimizer) is keras_danet.SGD
    loaded.fit(images, labels, verbose=0)


@pytest.mark.parametrize("given", ["backbone", "layers", "whole"])
def test_frozen_layers_stay_frozen(given):
    backbone = DilatedResNet(18, filters=8)
    model = DANet(3, backbone)
    if given == "backbone":
        backbone.trainable = False
    elif given == "layers":
        model.get_layer("position_attention").trainable = False
        backbone.get_layer("stage1_block0_conv1").trainable = False
    else:
        model.trainable = False
    count = len(model.trainable_variables)
    assert count < 86
    copy = DANet.from_config(model.get_config())
    assert len(copy.trainable_variables) == count
    assert copy.get_config() == model.get_config()


def test_unknown_arguments_are_refused():
    for make in (DANet, DilatedResNet):
        with pytest.raises(TypeError, match="dropuot"):
            make(18, dropuot=0.5)


def test_backbone_by_name_is_saved_by_name():
    config = DANet(3, "resnet18", multi_grid=(2, 4), dropout=0).get_config()
    assert config["backbone"] == "resnet18"
    assert config["multi_grid"] == (2, 4)
    copy = DANet.from_config(config)
    assert copy.get_config() == config
    backbone = copy.get_layer("resnet18")
    assert backbone.get_layer("stage4_block1_conv2").dilation_rate == (4, 4)


def test_parameters_are_the_published_ones():
    head = 23_954_619  # MMSegmentation 1.2.2 and the authors', 19 classes
    model = DANet(19, "resnet50")
    backbone = sum(
        int(np.prod(v.shape))
        for v in model.get_layer("resnet50").trainable_variables
    )
    total = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert total - backbone == head
    assert total == 47_462_651


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_classes": 1}, "foreground and background are two"),
        ({"num_classes": 256}, "255 means 'ignore'"),
        ({"num_classes": 2.0}, "must be an integer"),
        ({"num_classes": True}, "must be an integer"),
        ({"num_classes": 2, "backbone": "vgg"}, "must be one of"),
        ({"num_classes": 2, "backbone": 50}, "`backbone` must be a name"),
        (
            {"num_classes": 2, "attention": ("pixel",)},
            "one of position, channel",
        ),
        ({"num_classes": 2, "attention": ("channel",) * 2}, "at most once"),
        ({"num_classes": 2, "dropout": 1.0}, "`dropout` must be the share"),
        ({"num_classes": 2, "pixel_std": 0}, "must be positive"),
        (
            {"num_classes": 2, "pixel_mean": (1, 2)},
            "one finite number or three",
        ),
        ({"num_classes": 2, "output_stride": 4}, "`output_stride`"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DANet(**arguments)


def test_backbone_options_beside_a_backbone_are_refused():
    backbone = DilatedResNet(18, filters=8)
    with pytest.raises(ValueError, match="when you make the backbone"):
        DANet(2, backbone, output_stride=16)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"loss": {"pixel": "mse"}}, "outputs of this model"),
        ({"loss_weights": [1.0]}, "one entry per output"),
        ({"loss_weights": 2.0}, "must be a dict or a list"),
        ({"metrics": {"position": ["mse"]}}, "fused output only"),
        ({"optimizer": "sgd", "total_steps": 5}, "`total_steps` sets"),
    ],
)
def test_bad_compile_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small().compile(**arguments)


def test_what_fit_cannot_honour_is_refused():
    model = small()
    model.compile(**JIT)
    images, labels = example()
    with pytest.raises(ValueError, match="weights whole images"):
        model.fit(images, labels, class_weight={0: 2.0}, verbose=0)
    with pytest.raises(ValueError, match=r"32, 65\)"):
        model.fit(images, labels[:, :-1], verbose=0)
    with pytest.raises(ValueError):
        model.predict(images[..., :2], verbose=0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pixel_std": float("nan")}, "one finite number"),
        ({"pixel_std": 1e300}, r"at most 1e\+18.*pixel_std=1e\+300"),
        ({"pixel_std": 1e-300}, "must be positive"),
        ({"pixel_mean": 10**400}, r"pixel_mean=1000.*0\.\.\."),
        ({"pixel_mean": 10**5000}, "an integer of thousands of digits"),
        ({"pixel_mean": "123"}, "one finite number"),
        ({"pixel_mean": None}, "one finite number"),
        ({"align_corners": "half_pixel"}, "`align_corners` must be a bool"),
        ({"auxiliary": "no"}, "`auxiliary` must be a boolean"),
        ({"attention": None}, "`attention` must name"),
        ({"dropout": "x"}, "`dropout` must be the share"),
    ],
)
def test_arguments_of_other_types_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DANet(3, DilatedResNet(18, filters=8), **arguments)


def test_a_multi_grid_that_is_no_sequence_is_refused():
    with pytest.raises(ValueError, match="`multi_grid` must be None or"):
        DANet(3, "resnet18", multi_grid=5)
