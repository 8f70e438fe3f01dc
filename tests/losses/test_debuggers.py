"""A healthy training makes no NaN and no infinity, not even to mask it."""

import contextlib

import keras
import numpy as np
import pytest
import tiny
from conftest import slow_but_on_torch
from layer_contract import to_numpy
from layer_contract import value_and_gradients

from keras_danet import SGD
from keras_danet import SegmentationMetrics
from keras_danet.losses import DiceLoss
from keras_danet.losses import FocalLoss
from keras_danet.losses import LovaszSoftmax
from keras_danet.losses import OhemCrossentropy
from keras_danet.losses import PixelCrossentropy
from keras_danet.losses import SumOfLosses

BACKEND = keras.backend.backend()
LOSSES = [
    PixelCrossentropy(class_weights=(1, 2, 3), label_smoothing=0.1),
    OhemCrossentropy(0.7, 3, class_weights=(1, 0, 3)),
    FocalLoss(0.5),
    DiceLoss(0.0),
    DiceLoss(classes="all"),
    LovaszSoftmax(),
    LovaszSoftmax(classes="all", per_image=True),
]


@contextlib.contextmanager
def debugger():
    """What the backend has to stop at the first number that is none."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.debugging.enable_check_numerics()
        try:
            yield
        finally:
            tf.debugging.disable_check_numerics()
    elif BACKEND == "jax":
        import jax

        with jax.debug_nans(True), jax.debug_infs(True):
            yield
    else:
        import torch

        with torch.autograd.set_detect_anomaly(True):
            yield


def example(labelled="some"):
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((2, 5, 7, 3)).astype("float32")
    labels = rng.integers(0, 3, (2, 5, 7)).astype("uint8")
    if labelled == "some":
        labels[0, 1:] = 255
    elif labelled == "one image":
        labels[1] = 255
    elif labelled == "nothing":
        labels[:] = 255
    return labels, logits


def test_the_debugger_sees_a_masked_nan():
    def masked(x):
        return keras.ops.sum(keras.ops.where(x > 0, keras.ops.log(x), 0.0))

    with debugger(), pytest.raises(Exception, match=r"(?i)nan|inf"):
        value, _ = value_and_gradients(
            masked, [np.array([1.0, 0.0], "float32")], np.float32(1)
        )
        to_numpy(value)


@pytest.mark.parametrize("labelled", ["some", "one image", "all", "nothing"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_losses_make_no_nan(loss, labelled):
    labels, logits = example(labelled)
    with debugger():
        value, (gradient,) = value_and_gradients(
            lambda x: loss(labels, x),
            [logits],
            np.float32(1),
            labelled == "some",
        )
    assert np.isfinite(to_numpy(value))
    assert np.isfinite(to_numpy(gradient)).all()


@pytest.mark.parametrize("labelled", ["some", "nothing"])
def test_metrics_make_no_nan(labelled):
    labels, logits = example(labelled)
    metric = SegmentationMetrics(3)
    with debugger():
        metric.update_state(labels, logits)
        result = {k: float(v) for k, v in metric.result().items()}
    assert all(0 <= value <= 1 for value in result.values())
    labels[0, 0, 0] = 7
    metric.update_state(labels.astype("int32"), logits)
    assert all(np.isnan(float(v)) for v in metric.result().values())


@slow_but_on_torch
def test_a_whole_training_makes_no_nan():
    both = "position", "channel"
    model = tiny.danet(3, both, auxiliary=True, dropout=0.1)
    pairs = [(0.1, loss) for loss in LOSSES]
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3))
    labels = np.random.default_rng(1).integers(0, 3, (3, 32, 32))
    labels[0, 2:] = 255
    labels[1] = 255
    # The norm of a batch without labels is 0.
    optimizer = SGD(0.01, 0.9, 1e-4, global_clipnorm=1.0)
    model.compile(optimizer, SumOfLosses(pairs), jit_compile=False)
    with debugger():
        logs = model.fit(
            images.astype("float32"),
            labels.astype("uint8"),
            batch_size=1,
            shuffle=False,
            validation_data=(images.astype("float32"), labels.astype("uint8")),
            verbose=0,
        ).history
    assert np.isfinite([value[0] for value in logs.values()]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())
