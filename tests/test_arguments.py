"""NumPy's scalars are taken as Python's; not all that iterates is numbers."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tiny
from conftest import one_backend

import keras_danet
from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import arguments
from keras_danet import layers
from keras_danet import losses
from keras_danet import metrics
from keras_danet.arguments import as_sequence
from keras_danet.data import plan
from keras_danet.data import scenes
from keras_danet.inference.visualization import default_palette
from keras_danet.losses import FocalLoss
from keras_danet.losses import OhemCrossentropy
from keras_danet.losses import PixelCrossentropy
from keras_danet.losses import SumOfLosses

INT, FLOAT, TRUE = np.int64, np.float32, np.bool_(True)


def backbone():
    return keras_danet.DilatedResNet(
        INT(18),
        INT(16),
        multi_grid=np.array([2, 4]),
        stem_filters=(INT(4), INT(4), np.array(4)),
        filters=np.uint8(4),
    )


MADE = {
    "DANet": lambda: keras_danet.DANet(
        INT(4),
        backbone(),
        auxiliary=TRUE,
        dropout=FLOAT(0.25),
        align_corners=np.bool_(False),
        pixel_mean=FLOAT(2),
        pixel_std=np.array([1, 2, 4], "float32"),
    ),
    "DilatedResNet": backbone,
    "PositionAttention": lambda: layers.PositionAttention(INT(4), INT(64)),
    "BilinearResize": lambda: layers.BilinearResize(np.array(True)),
    "WinogradConv2D": lambda: layers.WinogradConv2D(INT(4), np.array(2)),
    "Conv2D": lambda: layers.Conv2D(INT(4), INT(3), dilation_rate=INT(2)),
    "BatchNormalization": lambda: layers.BatchNormalization(
        FLOAT(0.25), FLOAT(0.5)
    ),
    "PixelCrossentropy": lambda: losses.PixelCrossentropy(
        INT(-1), label_smoothing=FLOAT(0.25)
    ),
    "OhemCrossentropy": lambda: losses.OhemCrossentropy(FLOAT(0.5), INT(9)),
    "FocalLoss": lambda: losses.FocalLoss(FLOAT(2)),
    "DiceLoss": lambda: losses.DiceLoss(np.array(1.5)),
    "LovaszSoftmax": lambda: losses.LovaszSoftmax(per_image=TRUE),
    "SumOfLosses": lambda: losses.SumOfLosses(
        [(FLOAT(0.5), losses.FocalLoss())]
    ),
    "SegmentationMetrics": lambda: metrics.SegmentationMetrics(
        INT(4), np.int16(-1)
    ),
    "SGD": lambda: keras_danet.SGD(
        FLOAT(0.5),
        FLOAT(0.5),
        FLOAT(0.25),
        {"kernel": INT(2)},
        nesterov=TRUE,
        global_clipnorm=FLOAT(1),
        gradient_accumulation_steps=INT(2),
        use_ema=TRUE,
        ema_momentum=FLOAT(0.5),
    ),
    "PolySchedule": lambda: keras_danet.PolySchedule(
        FLOAT(0.5), INT(9), FLOAT(0.5), np.array(0.25), INT(3), FLOAT(0.5)
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_numpy_scalars_are_taken_and_saved(name):
    made = MADE[name]()
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(made)))
    again = keras.saving.deserialize_keras_object(saved)
    for part in (made.get_config(), again.get_config()):
        values = keras.tree.flatten(part)
        assert not [
            x for x in values if isinstance(x, (np.generic, np.ndarray))
        ]
    assert again.get_config() == made.get_config()


def test_values_are_those_given():
    config = MADE["DANet"]().get_config()
    assert config["num_classes"] == 4 and config["auxiliary"] is True
    assert config["dropout"] == 0.25 and config["pixel_std"] == (1.0, 2.0, 4.0)
    inner = config["backbone"]["config"]
    assert tuple(inner["multi_grid"]) == (2, 4) and inner["filters"] == 4
    assert keras_danet.DANet(3, "resnet18", output_stride=INT(32)).built


def test_backbones_are_dilated_by_numpy_integers():
    network = keras.applications.MobileNetV2(
        alpha=0.35, weights=None, include_top=False
    )
    images = keras.KerasTensor((1, 64, 64, 3))
    for stride in (INT(16), np.array(16, "uint8")):
        features = keras_danet.dilate(network, stride)(images)
        assert features["stage4"].shape[1] == 4
    with pytest.raises(ValueError, match=r"8, 16, 32\]. Received: output_st"):
        keras_danet.dilate(network, True)


@one_backend
def test_recipes_hold_plain_python():
    config = keras_danet.TrainConfig(
        "camvid",
        epochs=INT(3),
        batch_size=np.uint8(4),
        augmentation={
            "crop_size": np.array([64, 96]),
            "scale_range": (FLOAT(0.5), INT(2)),
            "flip": INT(1),
            "long_side": INT(320),
        },
        model={"multi_grid": [INT(2), INT(4)], "auxiliary": TRUE},
        objective={"class_weights": np.arange(1.0, 12.0, dtype="float32")},
        jit_compile=np.bool_(False),
    )
    weights = config.objective.class_weights
    assert weights == tuple(float(n) for n in range(1, 12))
    text = json.dumps(dataclasses.asdict(config))
    assert json.loads(text)["augmentation"]["crop_size"] == [64, 96]
    assert type(config.augmentation.flip) is float
    assert config.jit_compile is False
    with pytest.raises(ValueError, match="`epochs` must be int"):
        config.replace({"epochs": TRUE})


@one_backend
def test_plans_scenes_and_palettes_take_numpy_scalars():
    options = {"hue": 36, "long_side": 64, "scale_range": (0.5, 1)}
    given = {
        "hue": FLOAT(36),
        "long_side": INT(64),
        "scale_range": (0.5, INT(1)),
    }
    ours = plan.draw_plan(3, 1, 7, plan.Augmentation((32, 32), **options))
    theirs = plan.draw_plan(
        INT(3),
        np.array(1),
        np.int32(7),
        plan.Augmentation(np.array([32, 32]), **given),
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    image, _ = scenes.draw_scene(INT(0), np.array(7), (INT(32), INT(40)))
    same, _ = scenes.draw_scene(0, 7, (32, 40))
    np.testing.assert_array_equal(image, same)
    np.testing.assert_array_equal(default_palette(INT(3)), default_palette(3))


@one_backend
@pytest.mark.parametrize(
    "call",
    [
        lambda: arguments.integer("n", True),
        lambda: arguments.integer("n", np.bool_(True)),
        lambda: arguments.integer("n", 3.0),
        lambda: arguments.integer("n", np.array([3])),
        lambda: arguments.integer("n", "3"),
        lambda: arguments.integer("n", 3, least=4),
        lambda: arguments.number("n", float("nan")),
        lambda: arguments.number("n", float("inf")),
        lambda: arguments.number("n", -float("inf")),
        lambda: arguments.number("n", False),
        lambda: arguments.number("n", None),
        lambda: arguments.number("n", 1.0, below=1),
        lambda: arguments.number("n", 0, above=0),
        lambda: arguments.number("n", 10**5000, most=1),
        lambda: arguments.boolean("n", 1),
        lambda: arguments.integers("n", "12"),
        lambda: arguments.integers("n", {1: 2}),
        lambda: arguments.integers("n", []),
        lambda: arguments.integers("n", (1, True)),
        lambda: arguments.numbers("n", {1.0, 2.0}),
        lambda: arguments.numbers("n", np.ones((2, 2))),
        lambda: arguments.numbers("n", (1, 2), length=3),
    ],
)
def test_what_is_something_else_is_refused(call):
    with pytest.raises(ValueError, match="^`n` must be .*Received: n="):
        call()


WRONG = [
    {0: 1.0, 1: 5.0, 2: 2.0},
    {1.0, 5.0, 2.0},
    "152",
    b"152",
    ["1", "5", "2"],
    [True, False, True],
    [1.0, None, 2.0],
    [1.0, np.nan, 2.0],
    [1.0, np.inf, 2.0],
    [[1.0, 5.0, 2.0]],
    np.ones((1, 3)),
    np.array(["1", "5", "2"]),
    {0: 1.0, 1: 5.0, 2: 2.0}.keys(),
    1 + 2j,
    object(),
    np.float32(3),
]
RIGHT = [
    (1, 5, 2),
    [1.0, 5.0, 2.0],
    np.array([1, 5, 2], "uint8"),
    np.array([1, 5, 2], "float16"),
    [np.float32(1), np.int64(5), 2.0],
    {0: 1.0, 1: 5.0, 2: 2.0}.values(),
    range(1, 4),
]


@pytest.mark.parametrize("values", WRONG, ids=repr)
@pytest.mark.parametrize(
    "make", [PixelCrossentropy, OhemCrossentropy, FocalLoss]
)
def test_class_weights_are_not_coerced(make, values):
    with pytest.raises(ValueError, match="in the order of the classes"):
        make(class_weights=values)


@pytest.mark.parametrize("values", RIGHT, ids=repr)
def test_numbers_in_an_order_are_taken(values):
    expected = (1.0, 2.0, 3.0) if isinstance(values, range) else (1.0, 5.0, 2.0)
    found = PixelCrossentropy(class_weights=values).class_weights
    assert found == expected
    assert all(type(number) is float for number in found)


def test_tensors_are_taken():
    tensor = keras.ops.array([1.0, 5.0, 2.0])
    assert PixelCrossentropy(class_weights=tensor).class_weights == (1, 5, 2)


def test_sequences():
    assert as_sequence(iter([1, "a"])) == (1, "a")
    assert as_sequence(np.array(3)) is None


@pytest.mark.parametrize("values", [*WRONG[:10], *WRONG[11:13]], ids=repr)
def test_pixel_statistics_are_not_coerced(values):
    backbone = DilatedResNet(18, filters=8)
    for argument in ("pixel_mean", "pixel_std"):
        with pytest.raises(ValueError, match=f"`{argument}` must be"):
            DANet(3, backbone, **{argument: values})


@pytest.mark.parametrize(
    "losses",
    [
        {(1.0, PixelCrossentropy()): "once"},
        {(1.0, PixelCrossentropy())},
        [{1.0: 0, PixelCrossentropy(): 0}],
        [("1", PixelCrossentropy())],
        [(True, PixelCrossentropy())],
        "losses",
    ],
    ids=lambda losses: type(losses).__name__,
)
def test_sums_of_losses_are_not_coerced(losses):
    with pytest.raises(ValueError, match="pairs of a number and a loss"):
        SumOfLosses(losses)


def test_weights_of_outputs_are_numbers():
    model = DANet(3, DilatedResNet(18, filters=8))
    for weights in (
        ["1", "2", "3"],
        {"fusion": "1"},
        {"fusion": np.nan},
        "123",
        {1.0, 2.0, 3.0},
        [True, True, False],
    ):
        with pytest.raises(ValueError, match="`loss_weights` must"):
            model.compile(loss_weights=weights)
    model.compile(loss_weights=[np.float32(1), 2, 0.5])


@one_backend
@pytest.mark.parametrize(
    "asked, meant",
    [
        (lambda: DANet(2, attention=("position", "chanel")), "channel"),
        (lambda: layers.BilinearResize(data_format="channel_last"), "channels"),
        (lambda: losses.DiceLoss(classes="presents"), "present"),
        (lambda: keras_danet.freeze(None, "batchnorm"), "batch_norm"),
        (lambda: recipe(on_bad_file="skipp"), "skip"),
        (lambda: recipe(loss="cross_entropy"), "crossentropy"),
        (lambda: recipe(dtype="mixed-bfloat16"), "mixed_bfloat16"),
        (lambda: recipe(dataset="city_scapes"), "cityscapes"),
    ],
)
def test_the_nearest_word_is_offered(asked, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}"):
        asked()


def recipe(dataset="camvid", **fields):
    crop = {"crop_size": (64, 64)}
    return keras_danet.TrainConfig(dataset, 1, 1, crop).replace(fields)


@pytest.mark.parametrize(
    "palette",
    [
        {(0, 0, 0), (200, 1, 1), (2, 99, 2)},
        {(0, 0, 0): 1, (200, 1, 1): 2, (2, 99, 2): 3},
        [{1, 2, 3}, {9, 200, 7}, {5, 6, 8}],
        [b"abc", b"def", b"xyz"],
    ],
)
def test_colors_have_an_order(palette):
    with pytest.raises(ValueError, match="`palette` must be 3 colors"):
        tiny.danet(palette=palette)
