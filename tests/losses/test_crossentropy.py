import keras
import numpy as np
import pytest
import references

from keras_danet import PixelCrossentropy


def example(seed=0):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((2, 5, 7, 4)).astype("float32")
    labels = rng.integers(0, 4, (2, 5, 7)).astype("uint8")
    labels[rng.random(labels.shape) < 0.3] = 255
    return labels, logits


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
@pytest.mark.parametrize("trailing", [False, True])
def test_equals_the_reference(dtype, trailing):
    labels, logits = example()
    expected = references.pixel_crossentropy(labels, logits)
    given = labels.astype(dtype)[..., np.newaxis] if trailing else labels
    loss = float(PixelCrossentropy()(given, logits))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_sample_weight_per_pixel_and_per_image():
    labels, logits = example()
    weights = np.random.default_rng(1).random(labels.shape).astype("float32")
    expected = references.pixel_crossentropy(labels, logits, weights=weights)
    for given in (weights, weights[..., np.newaxis]):
        loss = float(PixelCrossentropy()(labels, logits, given))
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # Square images as wide as the batch: broadcasting would not notice.
    labels, logits = labels[:, :2, :2], logits[:, :2, :2]
    per_image = np.array([0.5, 2.0], "float32")
    weights = np.broadcast_to(per_image[:, None, None], labels.shape)
    expected = references.pixel_crossentropy(labels, logits, weights=weights)
    loss = float(PixelCrossentropy()(labels, logits, per_image))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_gradient_is_the_mean_over_valid_pixels():
    labels, logits = example()
    valid = labels != 255
    probabilities = references.softmax(logits.astype("float64"))
    one_hot = np.eye(4)[np.where(valid, labels, 0)]
    expected = (probabilities - one_hot) * valid[..., None] / valid.sum()
    # The loss is linear in a small step along its gradient.
    step = 1e-2 * expected / np.abs(expected).max()
    loss = PixelCrossentropy()
    up = float(loss(labels, (logits + step).astype("float32")))
    down = float(loss(labels, (logits - step).astype("float32")))
    slope = (up - down) / 2
    np.testing.assert_allclose(slope, (expected * step).sum(), rtol=1e-2)


def test_nothing_valid_gives_zero():
    _, logits = example()
    labels = np.full(logits.shape[:3], 255, "uint8")
    assert float(PixelCrossentropy()(labels, logits)) == 0.0


@pytest.mark.parametrize("value", [4, 200, -1])
def test_a_label_outside_the_classes_gives_nan(value):
    labels, logits = example()
    labels = labels.astype("int32")
    labels[1, 2, 3] = value
    assert np.isnan(float(PixelCrossentropy()(labels, logits)))
    labels[1, 2, 3] = 255
    assert np.isfinite(float(PixelCrossentropy()(labels, logits)))


@pytest.mark.parametrize("value", [0.5, 255.4, -0.5])
def test_a_fraction_is_no_label(value):
    labels = np.array([[[0.0, value, 255.0]]])
    logits = np.zeros((1, 1, 3, 2), "float32")
    assert np.isnan(float(PixelCrossentropy()(labels, logits)))


def test_another_ignore_label():
    labels, logits = example()
    labels[labels == 255] = 0
    expected = references.pixel_crossentropy(labels, logits, ignore_label=0)
    loss = float(PixelCrossentropy(ignore_label=0)(labels, logits))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_half_precision_logits_are_computed_in_float32():
    labels, logits = example()
    half = keras.ops.cast(keras.ops.convert_to_tensor(logits), "float16")
    rounded = np.asarray(keras.ops.convert_to_numpy(half), "float64")
    expected = references.pixel_crossentropy(labels, rounded)
    loss = PixelCrossentropy()(labels, half)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    np.testing.assert_allclose(float(loss), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "labels, weights, message",
    [
        (np.zeros((2, 7, 5)), None, "The labels must have one value"),
        (np.zeros((2, 5, 7, 4)), None, "not one-hot"),
        (np.zeros((2, 5, 7)), np.ones((2, 5)), "The sample weights must"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(labels, weights, message):
    _, logits = example()
    with pytest.raises(ValueError, match=message):
        PixelCrossentropy()(labels, logits, weights)


def test_config_goes_round():
    loss = PixelCrossentropy(ignore_label=7, name="mine")
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(loss)
    )
    assert copy.get_config() == loss.get_config()
    assert copy.ignore_label == 7
