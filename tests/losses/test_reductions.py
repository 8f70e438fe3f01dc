"""What each of Keras's reductions means, against sums by NumPy."""

import numpy as np
import pytest
import references
from layer_contract import to_numpy

from keras_danet.losses import DiceLoss
from keras_danet.losses import FocalLoss
from keras_danet.losses import LovaszSoftmax
from keras_danet.losses import OhemCrossentropy
from keras_danet.losses import PixelCrossentropy
from keras_danet.losses import SumOfLosses

WEIGHTS = (0.5, 2.0, 0.3, 1.3)
REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight")


def example():
    rng = np.random.default_rng(3)
    logits = 2 * rng.standard_normal((2, 5, 7, 4)).astype("float32")
    labels = rng.integers(0, 4, (2, 5, 7)).astype("uint8")
    # Half of one image and a little of the other.
    labels[0, :, :3] = 255
    labels[1, 0, 0] = 255
    return labels, logits


def parts(labels, logits):
    """Whether labelled, the class or 0, -log p of it, in float64."""
    valid = labels != 255
    classes = np.where(valid, labels, 0)
    p = references.softmax(logits.astype("float64"))
    p = np.take_along_axis(p, classes[..., None].astype("int64"), -1)[..., 0]
    return valid, classes, -np.log(p)


def plain(labels, logits):
    valid, _, entropies = parts(labels, logits)
    return valid * entropies, valid * 1.0


def weighted(labels, logits):
    valid, classes, entropies = parts(labels, logits)
    shares = valid * np.array(WEIGHTS)[classes]
    return shares * entropies, shares


def focal(labels, logits):
    pixels, shares = weighted(labels, logits)
    _, _, entropies = parts(labels, logits)
    return pixels * (1 - np.exp(-entropies)) ** 2, shares


def ohem(labels, logits):
    valid, _, entropies = parts(labels, logits)
    kept = valid & (np.exp(-entropies) < 0.4)
    assert 5 < kept.sum() < valid.sum() - 5
    return kept * entropies, kept * 1.0


MEANS = {
    "crossentropy": (lambda **k: PixelCrossentropy(**k), plain),
    "weighted": (
        lambda **k: PixelCrossentropy(class_weights=WEIGHTS, **k),
        weighted,
    ),
    "focal": (lambda **k: FocalLoss(class_weights=WEIGHTS, **k), focal),
    "ohem": (lambda **k: OhemCrossentropy(0.4, 0, **k), ohem),
}


@pytest.mark.parametrize("given", ["none", "pixels", "images"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", MEANS)
def test_a_mean_over_pixels(case, reduction, given):
    make, reference = MEANS[case]
    labels, logits = example()
    pixels, shares = reference(labels, logits)
    rng = np.random.default_rng(5)
    weights = {
        "none": None,
        "pixels": rng.uniform(0.5, 3, labels.shape).astype("float32"),
        "images": np.array([0.5, 2.0], "float32"),
    }[given]
    every = 1.0 if weights is None else weights
    if given == "images":
        every = weights[:, None, None]
    total = (every * pixels).sum()
    expected = {
        "sum": total,
        "mean_with_sample_weight": total / (every * shares).sum(),
    }.get(reduction, total / shares.sum())
    value = float(make(reduction=reduction)(labels, logits, weights))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["none", None])
@pytest.mark.parametrize("case", MEANS)
def test_none_is_a_map_whose_mean_is_the_loss(case, reduction):
    make, reference = MEANS[case]
    labels, logits = example()
    pixels, shares = reference(labels, logits)
    expected = pixels * pixels.size / shares.sum()
    value = to_numpy(make(reduction=reduction)(labels, logits))
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_the_sum_of_half_a_batch():
    """190.6 would be twice as much: that of all pixels."""
    labels = np.zeros((2, 5, 55), "uint8")
    labels[1] = 255
    logits = np.zeros((2, 5, 55, 2), "float32")
    value = float(PixelCrossentropy(reduction="sum")(labels, logits))
    np.testing.assert_allclose(value, 275 * np.log(2), rtol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_over_regions(reduction):
    labels, logits = example()
    labels[labels == 3] = 255
    for make, expected in (
        (DiceLoss, references.dice_loss(labels, logits, 1.0)),
        (LovaszSoftmax, references.lovasz_softmax(labels, logits)),
    ):
        if reduction == "sum":
            expected *= 3  # over the three classes that are labelled
        value = float(make(reduction=reduction)(labels, logits))
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    per_image = [
        references.lovasz_softmax(labels[i : i + 1], logits[i : i + 1])
        for i in range(2)
    ]
    expected = sum(per_image) if reduction == "sum" else np.mean(per_image)
    loss = LovaszSoftmax(per_image=True, reduction=reduction)
    np.testing.assert_allclose(float(loss(labels, logits)), expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_labelled_is_zero(reduction):
    labels, logits = example()
    labels[:] = 255
    for make, _ in MEANS.values():
        assert float(make(reduction=reduction)(labels, logits)) == 0
    for make in (DiceLoss, LovaszSoftmax):
        assert float(make(reduction=reduction)(labels, logits)) == 0


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "none"])
def test_a_label_that_is_no_class_is_nan(reduction):
    labels, logits = example()
    labels[1, 2, 3] = 4
    for make in (
        *(make for make, _ in MEANS.values()),
        DiceLoss,
        LovaszSoftmax,
    ):
        value = to_numpy(make(reduction=reduction)(labels, logits))
        assert np.isnan(value).all()


def test_a_sum_of_losses_reduces_each():
    labels, logits = example()
    loss = SumOfLosses(
        [(2, PixelCrossentropy(reduction="sum")), (np.float32(0.5), DiceLoss())]
    )
    pixels, _ = plain(labels, logits)
    expected = 2 * pixels.sum() + 0.5 * references.dice_loss(
        labels, logits, 1.0
    )
    np.testing.assert_allclose(float(loss(labels, logits)), expected, rtol=1e-5)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction"):
        PixelCrossentropy(reduction="total")
