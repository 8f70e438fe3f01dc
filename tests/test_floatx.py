"""Counts, losses and steps are right whatever `keras.config.floatx()` is."""

import keras
import numpy as np
import pytest
import references
from conftest import x64

from keras_danet import SGD
from keras_danet import PixelCrossentropy
from keras_danet.losses import OhemCrossentropy
from keras_danet.metrics import SegmentationMetrics


@pytest.fixture(params=["float16", "bfloat16", "float64"], autouse=True)
def floatx(request):
    before = keras.config.floatx()
    with x64():
        keras.config.set_floatx(request.param)
        yield
        keras.config.set_floatx(before)


def drawn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (1, 200, 300)).astype("uint8")
    labels[:, :20] = 255
    logits = rng.standard_normal((1, 200, 300, 3)).astype("float32")
    return labels, logits


def test_metrics_count():
    labels, logits = drawn()
    metric = SegmentationMetrics(3)
    metric.update_state(labels, logits)
    expected = references.confusion_matrix(labels, logits.argmax(-1), 3)
    np.testing.assert_array_equal(metric.confusion_matrix(), expected)
    accuracy = np.trace(expected) / expected.sum()
    assert abs(float(metric.result()["pixel_accuracy"]) - accuracy) < 1e-6


def test_losses_keep_their_digits():
    labels, logits = drawn()
    expected = references.pixel_crossentropy(labels, logits)
    for loss in (PixelCrossentropy(), OhemCrossentropy(1.0)):
        assert abs(float(loss(labels, logits)) - expected) < 1e-5


def test_sgd_takes_the_rate_and_decay_that_were_given():
    weight = keras.Variable(np.array([1.0]), dtype="float32")
    optimizer = SGD(0.01, weight_decay=0.3)
    gradient = keras.ops.convert_to_tensor(np.array([1.0]), "float32")
    value, velocity = 1.0, 0.0
    for _ in range(2):
        optimizer.apply([gradient], [weight])
        velocity = 0.9 * velocity + 1.0 + 0.3 * value
        value -= 0.01 * velocity
    received = keras.ops.convert_to_numpy(weight)[0]
    # A half precision of 0.01 or 0.3 gives 1e-6 and more.
    assert abs(received - value) < 2e-7
