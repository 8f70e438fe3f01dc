"""What classes inherit from Keras is honoured, or refused."""

import json

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_danet import SGD
from keras_danet import MeanIoU
from keras_danet import PixelAccuracy
from keras_danet import SegmentationMetrics
from keras_danet import layers
from keras_danet import losses
from keras_danet import metrics

JIT = {"jit_compile": False}


def example():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    return images, rng.integers(0, 3, (2, 32, 32)).astype("int32")


@pytest.mark.parametrize(
    "loss",
    [
        losses.PixelCrossentropy(),
        losses.PixelCrossentropy(reduction="sum"),
        losses.OhemCrossentropy(min_kept=3),
        losses.FocalLoss(),
        losses.DiceLoss(),
        losses.LovaszSoftmax(),
    ],
    ids=lambda loss: f"{loss.name}_{loss.reduction}",
)
def test_losses_leave_out_what_a_keras_mask_does(loss):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (2, 4, 6)).astype("uint8")
    logits = rng.standard_normal((2, 4, 6, 3)).astype("float32")
    kept = rng.random(labels.shape) < 0.5
    masked = ops.convert_to_tensor(logits)
    masked._keras_mask = ops.convert_to_tensor(kept)
    expected = loss(np.where(kept, labels, 255), logits)
    assert float(loss(labels, masked)) == pytest.approx(float(expected))
    assert float(loss(labels, logits)) != pytest.approx(float(expected))


def test_metrics_leave_out_what_a_keras_mask_does():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, (2, 4, 6)).astype("uint8")
    logits = rng.standard_normal((2, 4, 6, 3)).astype("float32")
    kept = rng.random(labels.shape) < 0.5
    weights = (rng.random(labels.shape) < 0.7).astype("float32")
    masked = ops.convert_to_tensor(logits)
    masked._keras_mask = ops.convert_to_tensor(kept)
    for given, counted in ((None, kept), (weights, kept & (weights > 0))):
        metric = SegmentationMetrics(3)
        metric.update_state(labels, masked, sample_weight=given)
        expected = metrics.confusion_matrix(
            labels[counted], logits.argmax(-1)[counted], 3
        )
        np.testing.assert_array_equal(metric.confusion_matrix(), expected)


def test_synchronized_is_refused():
    with pytest.raises(ValueError, match="Leave `synchronized` out"):
        layers.BatchNormalization(synchronized=True)


@pytest.mark.parametrize(
    "mean, std",
    [("12", (1.0, 2.0)), ((1.0, 2.0), (1.0,)), ((0.0,), (0.0,)), (0, 1)],
)
def test_constants_of_normalization_are_checked(mean, std):
    with pytest.raises(ValueError, match="Received: (mean|std)="):
        layers.Normalization(mean, std)


@pytest.mark.parametrize(
    "option",
    [
        {"decay": 0.1},
        {"clipvalue": -1.0},
        {"clipnorm": "1"},
        {"global_clipnorm": 0},
        {"gradient_accumulation_steps": 2.5},
        {"ema_overwrite_frequency": 2},
    ],
)
def test_options_that_keras_would_ignore_are_refused(option):
    with pytest.raises(ValueError, match=f"Received: {next(iter(option))}="):
        SGD(0.1, **option)


def test_exclusions_that_would_be_lost_are_refused():
    inner = SGD(0.1, weight_decay=0.1)
    inner.exclude_from_weight_decay(var_names=["bias"])
    tiny.danet().compile(keras.optimizers.LossScaleOptimizer(inner), **JIT)
    outer = keras.optimizers.LossScaleOptimizer(SGD(0.1, weight_decay=0.1))
    outer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(ValueError, match="on the optimizer inside"):
        tiny.danet().compile(outer)


def test_a_weighted_metric_takes_no_name_from_one_without():
    images, labels = example()
    weights = np.zeros(labels.shape, "float32")
    weights[:, :8] = 1
    model = tiny.danet()
    model.compile(
        weighted_metrics=[PixelAccuracy(3), MeanIoU(3), "accuracy"], **JIT
    )
    found = model.evaluate(
        images, labels, sample_weight=weights, verbose=0, return_dict=True
    )
    predicted = model.predict(images, verbose=0).argmax(-1)
    right = predicted == labels
    for name, value in {
        "pixel_accuracy": right.mean(),
        "weighted_pixel_accuracy": right[:, :8].mean(),
        "accuracy": right[:, :8].mean(),
        "mean_iou": metrics.mean_iou(
            metrics.confusion_matrix(labels, predicted, 3)
        ),
        "weighted_mean_iou": metrics.mean_iou(
            metrics.confusion_matrix(labels[:, :8], predicted[:, :8], 3)
        ),
    }.items():
        assert found.pop(name) == pytest.approx(value, abs=1e-6), name
    assert set(found) == {"loss"}


def test_evaluate_lists_every_score_once():
    images, labels = example()
    model = tiny.danet()
    model.compile(**JIT)
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    listed = [found[name] for name in ("loss", "mean_iou", "pixel_accuracy")]
    assert model.evaluate(images, labels, verbose=0) == listed
    np.testing.assert_allclose(
        model.test_on_batch(images, labels), listed, rtol=1e-5
    )


LAYERS = [
    lambda **given: layers.PositionAttention(4, **given),
    layers.ChannelAttention,
    layers.BilinearResize,
    layers.BatchNormalization,
    lambda **given: layers.Conv2D(2, 1, **given),
    lambda **given: layers.WinogradConv2D(2, **given),
    lambda **given: layers.Normalization(
        np.array([1.0, 2.0], "float32"), np.array([1.0, 2.0]), **given
    ),
]


@pytest.mark.parametrize("make", LAYERS)
def test_layers_take_numpys_booleans(make):
    layer = make(trainable=np.bool_(False))
    assert layer.trainable is False
    json.dumps(layer.get_config())


def test_batch_norm_takes_numpys_scalars():
    layer = layers.BatchNormalization(
        np.float32(0.5), np.array(0.25), center=np.bool_(False)
    )
    config = json.loads(json.dumps(layer.get_config()))
    assert config["epsilon"] == 0.5 and config["momentum"] == 0.25
    assert config["center"] is False


def test_numpys_scalars_in_fit_evaluate_and_predict():
    images, labels = example()
    model = tiny.danet()
    one, two = np.int64(1), np.int64(2)
    model.compile(
        SGD(0.01, multipliers=model.head_multipliers(np.float32(2))),
        steps_per_execution=one,
        run_eagerly=np.bool_(False),
        jit_compile=np.bool_(False),
    )
    json.dumps(model.optimizer.get_config())
    json.dumps(model.head_multipliers(np.float32(2)))
    json.dumps(model.get_compile_config()["run_eagerly"])
    history = model.fit(
        images, labels, one, two, np.int64(0), initial_epoch=one, shuffle=False
    )
    assert len(history.epoch) == 1
    model.evaluate(images, labels, batch_size=one, verbose=np.int64(0))
    logits = model.predict(images, batch_size=one, verbose=np.int64(0))
    assert logits.shape == (2, 32, 32, 3)


def test_a_confusion_matrix_of_bytes():
    label = np.array([0, 100, 199, 255], "uint8")
    found = metrics.confusion_matrix(label, label, np.uint8(200), np.array(255))
    assert found.shape == (200, 200) and np.trace(found) == found.sum() == 3
