"""The comparison counts what it says, by hand."""

import math

import numpy as np
import pytest
from conftest import one_backend

from keras_danet.export import Sample
from keras_danet.export.contract import Contract
from keras_danet.export.verification import Reference

pytestmark = one_backend


class Model:
    """Two classes; the first is ahead by 2, but in the last column by 0.5."""

    num_classes = 2

    def predict_on_batch(self, batch):
        logits = np.zeros((*batch.shape[:3], 2), "float32")
        logits[..., 0] = 2
        logits[:, :, -1, 0] = 0.5
        return logits


def sample(label=None):
    return Sample(np.zeros((4, 5, 3), "uint8"), label)


def test_agreement_and_largest_lead():
    reference = Reference(Model(), [sample(), sample()])
    answers = iter([np.zeros((1, 4, 5)), np.zeros((1, 4, 5))])
    assert reference.compare(lambda batch: next(answers), "none").agreement == 1

    wrong = np.zeros((1, 4, 5), "uint8")
    wrong[0, 0, -1] = 1
    found = reference.compare(lambda batch: wrong, "none")
    assert found.agreement == 38 / 40 and found.num_pixels == 40
    logits = Model().predict_on_batch(np.zeros((1, 4, 5, 3)))
    assert found.largest_lead == pytest.approx(0.5 / logits.std())
    assert not found.passed and math.isnan(found.mean_iou)
    assert reference.compare(lambda b: wrong, "none", 0.9).passed


def test_largest_difference_of_logits():
    reference = Reference(Model(), [sample(), sample()])
    logits = Model().predict_on_batch(np.zeros((1, 4, 5, 3)))
    other = logits.copy()
    other[0, 2, 3] -= (0.25, 0.125)
    answers = iter([other, logits])
    found = reference.compare(lambda batch: next(answers), "none")
    assert found.largest_difference == 0.25 and found.agreement == 1
    assert found.outputs == "logits" and found.passed
    [line] = [x for x in found.summary().splitlines() if "logits" in x]
    assert line.split(maxsplit=1)[1] == "differ by 2.5e-01 or less"
    labels = logits.argmax(-1)
    found = reference.compare(lambda batch: labels, "none")
    assert found.as_dict()["largest_difference"] is None


def test_probabilities_are_held_to_the_models():
    reference = Reference(Model(), [sample()])
    logits = Model().predict_on_batch(np.zeros((1, 4, 5, 3)))
    # Of two classes the softmax is the logistic function of their difference.
    first = 1 / (1 + np.exp(logits[..., 1] - logits[..., 0]))
    right = np.stack([first, 1 - first], -1)
    for error, passed in ((0, True), (0.009, True), (0.011, False)):
        wrong = right.copy()
        wrong[0, 1, 1] += (-error, error)
        found = reference.compare(
            lambda batch, w=wrong: w, "none", probabilities=True
        )
        assert found.agreement == 1 and found.passed is passed
        assert found.largest_difference == pytest.approx(error, abs=1e-6)
        assert found.as_dict()["outputs"] == "probabilities"
    # Logits in their place have the same classes, and are none.
    found = reference.compare(lambda b: logits, "none", probabilities=True)
    assert found.agreement == 1 and not found.passed


def test_lost_mean_iou():
    label = np.zeros((4, 5), "uint8")
    label[0] = 1
    label[1] = 255
    reference = Reference(Model(), [sample(label)])
    # The model: 10 of 15 zeros right, no one found: (10/15 + 0) / 2.
    better = np.zeros((1, 4, 5), "uint8")
    better[0, 0] = 1
    found = reference.compare(lambda batch: better, "int8", 0.5)
    assert found.model_mean_iou == pytest.approx(1 / 3)
    assert found.mean_iou == 1 and found.passed
    worse = np.zeros((1, 4, 5), "uint8")
    worse[0, 3] = 1
    found = reference.compare(lambda batch: worse, "int8", 0.5)
    assert found.mean_iou == pytest.approx((5 / 15 + 0) / 2)
    assert found.lost_iou == pytest.approx(1 / 6) and not found.passed
    assert found.as_dict()["passed"] is False


def test_nonsense_is_refused():
    reference = Reference(Model(), [sample()])
    for answer, match in (
        (np.zeros((1, 5, 4)), "gives shape"),
        (np.full((1, 4, 5), 2), "gives the class 2"),
        (np.full((1, 4, 5, 2), np.nan), "not finite"),
        (np.zeros((1, 4, 5, 1)), "Expected \\(1, 4, 5, 2\\)"),
    ):
        with pytest.raises(ValueError, match=match):
            reference.compare(lambda batch, a=answer: a, "none")


def contract(**given):
    return Contract("onnx", "none", "labels", ("a",), ((0, 0, 0),), **given)


def test_a_sample_is_resized_to_what_the_network_gets():
    image = np.zeros((4, 6, 3), "uint8")
    image[:, 3:] = 100
    label = np.arange(24, dtype="uint8").reshape(4, 6)
    given = Sample(image, label)
    fitted = given.fitted(contract(size=(2, 3)))
    # Middles lie at rows 1 and 3 and columns 1, 3 and 5.
    np.testing.assert_array_equal(fitted.label, [[7, 9, 11], [19, 21, 23]])
    assert fitted.image.shape == (2, 3, 3)
    assert (fitted.image[:, 0] < 50).all() and (fitted.image[:, 2] > 50).all()
    assert given.fitted(contract(size=(4, 6))) is given
    assert given.fitted(contract(test_sides=(None, None))) is given
    assert given.fitted(contract(test_sides=(12, None))).label.shape == (8, 12)


def test_a_model_that_computes_nan_is_no_reference():
    class Diverged(Model):
        def predict_on_batch(self, batch):
            return np.full((*batch.shape[:3], 2), np.nan)

    with pytest.raises(ValueError, match="computes NaN or infinity"):
        Reference(Diverged(), [sample()])


def test_the_margin_is_that_of_the_worse_requirement():
    label = np.zeros((4, 5), "uint8")
    reference = Reference(Model(), [sample(label)])
    wrong = np.zeros((1, 4, 5), "uint8")
    wrong[0, 0, 0] = 1
    found = reference.compare(lambda batch: wrong, "int8", 0.9)
    # 95 % of the pixels; IoU 0.95 and 0, where it was 1.
    assert found.lost_iou == pytest.approx(1 - 0.95 / 2)
    assert found.margin == pytest.approx(0.01 - found.lost_iou)
    reference = Reference(Model(), [sample()])
    found = reference.compare(lambda batch: wrong, "int8", 0.9)
    assert found.margin == pytest.approx(0.05) and found.passed
