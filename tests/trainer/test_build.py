"""What a recipe's fields become: the loss of a step, the network."""

import keras
import numpy as np
import pytest
import references
from conftest import one_backend
from tiny import quick_builds

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import dilate
from keras_danet.models.freezing import backbone_of
from keras_danet.recipe import TrainConfig
from keras_danet.trainer import build

WEIGHTS = (0.5, 2.0, 0.1, 1.3)


def tiny(**settings):
    return TrainConfig(
        dataset="scenes",
        epochs=1,
        batch_size=2,
        model={"depth": 18, "filters": 8, "dropout": 0.0},
        augmentation={"crop_size": (32, 32)},
        jit_compile=keras.backend.backend() == "jax",
    ).replace(settings)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="others compute in it"
)
def test_what_jax_would_compute_in_another_dtype_is_refused():
    with pytest.raises(ValueError, match="JAX_ENABLE_X64=1"):
        build.build_model(tiny(dtype="float64"), 3)


def smoothed(labels, logits):
    """A tenth of each pixel is spread over the four classes."""
    shares = [
        references.pixel_crossentropy(np.where(labels == 255, 255, c), logits)
        for c in range(4)
    ]
    hard = references.pixel_crossentropy(labels, logits)
    return 0.9 * hard + 0.1 * np.mean(shares)


def lovasz(labels, logits):
    """The mean over images, of which each has labelled pixels."""
    return np.mean(list(map(references.lovasz_softmax, labels, logits)))


def dice(labels, logits):
    return references.dice_loss(labels, logits, 1.0)


def focal(labels, logits):
    return references.focal_loss(labels, logits, 2.0, WEIGHTS)


quick = pytest.fixture(quick_builds)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, references.pixel_crossentropy),
        ({"label_smoothing": 0.1}, smoothed),
        (
            {"class_weights": WEIGHTS},
            # Every pixel is kept where all are hard.
            lambda *x: references.ohem_crossentropy(*x, 1.1, 0, WEIGHTS),
        ),
        ({"loss": "focal", "class_weights": WEIGHTS}, focal),
        (
            {"loss": "ohem", "ohem_threshold": 0.2, "ohem_min_kept": 90},
            lambda *x: references.ohem_crossentropy(*x, 0.2, 90),
        ),
        (
            {"lovasz_weight": 0.5},
            lambda *x: references.pixel_crossentropy(*x) + 0.5 * lovasz(*x),
        ),
        (
            {
                "loss": "focal",
                "class_weights": WEIGHTS,
                "dice_weight": 2.0,
                "lovasz_weight": 3.0,
            },
            lambda *x: focal(*x) + 2 * dice(*x) + 3 * lovasz(*x),
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_step_has_the_loss_of_the_recipe(settings, expected):
    config = tiny(**settings)
    keras.utils.set_random_seed(0)
    model = build.build_model(config, 4)
    for output in model.output:
        kernel = model.get_layer(f"{output}_classifier").kernel
        # Far enough from 0 for easy and hard pixels.
        kernel.assign(100 * kernel)
    build.compile_model(model, config, 10)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    labels = rng.integers(0, 4, (2, 32, 32)).astype("uint8")
    labels[rng.random(labels.shape) < [[[0.9]], [[0.2]]]] = 255
    outputs = model(images, training=True)
    wanted = sum(
        expected(labels, keras.ops.convert_to_numpy(logits))
        for logits in outputs.values()
    )
    found = model.train_on_batch(images, labels, return_dict=True)["loss"]
    np.testing.assert_allclose(float(found), wanted, rtol=1e-4)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A model to start from, unlike the defaults in everything."""
    path = tmp_path_factory.mktemp("started") / "model.keras"
    backbone = DilatedResNet(
        18,
        filters=4,
        output_stride=16,
        multi_grid=(1, 2),
        stem_filters=(4, 4, 8),
    )
    DANet(4, backbone, attention="channel").save(path)
    return {
        "start_from": str(path),
        "attention": "channel",
        "depth": 18,
        "filters": 4,
        "output_stride": 16,
        "multi_grid": (1, 2),
        "stem_filters": (4, 4, 8),
    }


@one_backend
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"attention": ()}, r"attention=\('channel',\) \(received \(\)\)"),
        ({"depth": 50}, r"depth=18 \(received 50\)"),
        ({"filters": 64}, r"filters=4 \(received 64\)"),
        ({"multi_grid": None}, r"multi_grid=\(1, 2\) \(received None\)"),
        ({"stem_filters": None}, r"stem_filters=\(4, 4, 8\)"),
    ],
)
def test_a_recipe_says_what_it_starts_from(started, settings, message):
    with pytest.raises(ValueError, match=f"start_from=.*{message}"):
        build.build_model(tiny(**{**started, **settings}), 4)


@one_backend
def test_a_recipe_may_start_from_what_it_says(started):
    model = build.build_model(tiny(**started), 4)
    assert model.attention == ("channel",)
    # The same weights at another stride.
    finer = build.build_model(tiny(**{**started, "output_stride": 8}), 4)
    for old, new in zip(model.weights, finer.weights, strict=True):
        np.testing.assert_array_equal(
            *map(keras.ops.convert_to_numpy, (old, new))
        )
    found = backbone_of(finer).get_config()
    assert found["output_stride"] == 8 and found["multi_grid"] == (1, 2)
    # Of a network that no recipe describes nothing is said.
    backbone = dilate(
        keras.applications.MobileNetV2(
            (32, 32, 3), 0.35, include_top=False, weights=None
        ),
        8,
    )
    other = DANet(4, backbone)
    other.save(started["start_from"].replace("model", "other"))
    config = tiny(depth=50, filters=64, attention=("channel", "position"))
    named = started["start_from"].replace("model", "other")
    build.build_model(config.replace({"start_from": named}), 4)
    with pytest.raises(ValueError, match=r"depth=50 \(received 18\)"):
        build.build_model(config.replace({"start_from": named, "depth": 18}), 4)


@one_backend
def test_a_recipe_says_what_its_backbone_is(tmp_path):
    path = tmp_path / "backbone.npz"
    tensors = DANet(4, DilatedResNet(18, filters=8)).to_state_dict()
    np.savez(path, **tensors)
    config = tiny(backbone_weights=str(path))
    build.build_model(config, 4)
    with pytest.raises(ValueError, match=r"backbone.* filters=8 \(received 16"):
        build.build_model(config.replace({"filters": 16}), 4)


@one_backend
@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"accumulation_steps": 7},
            "0 updates long.*6, / accumulation_steps, 7",
        ),
        ({"warmup_steps": 10}, "6 updates long.*warmup_steps=10"),
        ({"warmup_steps": 3, "accumulation_steps": 3}, "2 updates long"),
    ],
)
def test_a_training_that_is_too_short_is_refused(settings, message):
    model = build.build_model(tiny(), 4)
    with pytest.raises(ValueError, match=message):
        build.compile_model(model, tiny(**settings), 6)


def test_what_cannot_be_compiled_is_refused():
    model = build.build_model(tiny(), 4)
    config = tiny(jit_compile=True)
    if keras.backend.backend() == "torch":
        with pytest.raises(ValueError, match="Received: jit_compile=True"):
            build.compile_model(model, config, 9)
        config = tiny(jit_compile="auto")
    build.compile_model(model, config, 9)
    assert model.jit_compile == (config.jit_compile is True)
