"""float64 is float64: every backend beside PyTorch's, in float64, to 1e-9."""

import float64_reference as reference
import keras
import numpy as np
import pytest
from conftest import slow_but_on_torch
from conftest import x64

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import PixelCrossentropy
from keras_danet import layers

BACKEND = keras.backend.backend()

NETWORKS = {
    "resnet18": {"depth": 18},
    "resnet50": {"depth": 50, "multi_grid": (4, 8, 16)},
}
DEEP = {"stem_filters": (4, 6, 8), "auxiliary": True}


@pytest.fixture(autouse=True)
def told():
    with x64():
        yield


def build(
    depth, multi_grid=None, filters=8, stem_filters=None, auxiliary=False
):
    """A DANet with drawn weights in which every part matters."""
    backbone = DilatedResNet(
        depth,
        filters=filters,
        multi_grid=multi_grid,
        stem_filters=stem_filters,
        dtype="float64",
    )
    model = DANet(5, backbone, auxiliary=auxiliary, dropout=0, dtype="float64")
    rng = np.random.default_rng(0)
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.path.split("/")[-1]
        value = 0.1 * rng.standard_normal(shape)
        if name == "kernel":
            value *= 10 * np.sqrt(2 / np.prod(shape[:-1]))
        elif name == "moving_variance":
            value = rng.uniform(0.8, 1.25, shape)
        elif variable.path.endswith("_bn/gamma"):
            # Or the sums of residuals, and the energies, grow.
            value = rng.uniform(0.2, 0.4, shape)
        elif name == "gamma":
            value = np.array(-0.6 if "channel" in variable.path else 0.7)
        variable.assign(value)
    return model


def numbers(x):
    return np.array(keras.ops.convert_to_numpy(x))


def weights_of(model):
    return {v.path: numbers(v) for v in model.weights}


def batch(rng, size=(25, 33)):
    images = rng.integers(0, 256, (2, *size, 3)).astype("uint8")
    labels = rng.integers(0, 5, (2, *size)).astype("uint8")
    labels[1, : size[0] // 2] = 255
    return images, labels


@pytest.mark.parametrize("name", NETWORKS)
def test_every_stage_is_pytorchs(name):
    model = build(**NETWORKS[name])
    images, _ = batch(np.random.default_rng(1))
    inside, logits = reference.Network(
        {k: reference.torch.tensor(v) for k, v in weights_of(model).items()},
        training=False,
        **NETWORKS[name],
    )(images)
    expected = {**inside, "logits": logits["fusion"]}
    stages = {f"stage{n}": model.features[f"stage{n}"] for n in range(1, 5)}
    view = keras.Model(
        model.input,
        {
            "normalization": model.get_layer("normalization").output,
            **stages,
            "logits": model.inference_model.output,
        },
    )
    for key, value in view(images, training=False).items():
        value = numbers(value)
        assert value.dtype == "float64", key
        there = expected[key].permute(0, 2, 3, 1).numpy()
        # Sums of some hundred terms, one after another.
        bound = 3e-16 if key == "normalization" else 5e-15
        assert reference.distance(value, there) < bound, key


def check_training(model, **network):
    rng = np.random.default_rng(2)
    batches = [batch(rng) for _ in range(3)]
    start = weights_of(model)
    paths = [v.path for v in model.trainable_variables]
    losses, gradients, expected = reference.train(
        start, batches, paths, **network
    )
    model.compile(total_steps=10)
    for step, (images, labels) in enumerate(batches):
        logs = model.train_on_batch(images, labels, return_dict=True)
        if step == 0:
            # Keras's mean of one loss, on torch in float32.
            bound = 1e-6 if BACKEND == "torch" else 1e-14
            assert abs(logs["loss"] - losses[0]) < bound * losses[0]
            velocities = [numbers(v) for v in model.optimizer.momentums]
            for path, velocity in zip(paths, velocities, strict=True):
                received = velocity - 1e-4 * start[path]
                wrong = reference.distance(received, gradients[path])
                # No bias before a softmax over the keys changes anything.
                if "attention/key/bias" not in path:
                    assert wrong < 1e-9, path
    for path, value in weights_of(model).items():
        assert value.dtype == "float64"
        moved = expected[path] - start[path]
        wrong = np.linalg.norm(value - expected[path])
        bound = 1e-9 * np.linalg.norm(moved) + 1e-15
        assert wrong < bound, path


@slow_but_on_torch
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_steps_are_pytorchs(name):
    check_training(build(**NETWORKS[name]), **NETWORKS[name])


def test_gradients_with_deep_stem_and_auxiliary_head():
    check_training(build(18, **DEEP), depth=18)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_the_full_width(name):
    model = build(**NETWORKS[name], filters=64)
    check_training(model, **NETWORKS[name])


@pytest.mark.parametrize(
    "make",
    [
        lambda: DANet(5, "resnet18", dtype="float64"),
        lambda: DilatedResNet(18, dtype="float64"),
        lambda: layers.PositionAttention(dtype="float64"),
        lambda: layers.BilinearResize(dtype="float64"),
        lambda: PixelCrossentropy(dtype="float64"),
    ],
)
@pytest.mark.skipif(BACKEND != "jax", reason="the others have float64")
def test_jax_without_x64_is_told(make):
    import jax

    with jax.enable_x64(False), pytest.raises(ValueError, match="ENABLE_X64=1"):
        make()
