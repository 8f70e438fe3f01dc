"""Scores against the field's own definitions, written out in plain loops."""

import math
from fractions import Fraction

import numpy as np
import pytest
from conftest import one_backend
from scipy import ndimage

from keras_danet import metrics
from keras_danet.data.datasets import CITYSCAPES
from keras_danet.inference import scores
from keras_danet.inference.report import Report

pytestmark = one_backend

# cityscapesscripts, helpers/labels.py: the ids that its evaluation leaves out.
CITYSCAPES_IGNORED = (*range(7), 9, 10, 14, 15, 16, 18, 29, 30)


def maps(seed, size, num_classes, void=0.1):
    """A truth of patches, and a prediction that is mostly right."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(0, num_classes, (height // 6 + 1, width // 6 + 1))
    label = np.kron(coarse, np.ones((6, 6), int))[:height, :width]
    prediction = np.roll(label, (1, 2), (0, 1))
    wrong = rng.random(size) < 0.1
    prediction[wrong] = rng.integers(0, num_classes, wrong.sum())
    label[rng.random(size) < void] = 255
    label[:4, : width // 2] = 255
    return label.astype("uint8"), prediction.astype("uint8")


def count(pairs, num_classes):
    total = scores.Counts.zeros(num_classes, True, False)
    for label, prediction in pairs:
        total += scores.count_image(label, prediction, num_classes)
    return total


def test_cityscapes_pixel_level_evaluation():
    """Its rules, pixel by pixel, over label ids instead of train ids."""
    rng = np.random.default_rng(0)
    to_id = [CITYSCAPES.label_map.index(k) for k in range(19)]
    pairs, raw_pairs = [], []
    for size in ((24, 40), (31, 17)):
        # Bicycles are neither there nor predicted; trains only predicted.
        raw = rng.integers(0, 33, size)
        raw[raw == to_id[16]] = 0
        predicted = rng.integers(0, 18, size)
        label = np.array(CITYSCAPES.label_map, "uint8")[raw]
        pairs.append((label, predicted.astype("uint8")))
        raw_pairs.append((raw, np.array(to_id)[predicted]))
    table = np.zeros((34, 34), int)
    for raw, predicted in raw_pairs:
        for true, found in zip(raw.ravel(), predicted.ravel(), strict=True):
            table[true, found] += 1
    kept = [k for k in range(34) if k not in CITYSCAPES_IGNORED]
    expected = []
    for label in kept:
        tp = table[label, label]
        fn = table[label].sum() - tp
        # Pixels of ignored labels are nobody's false positives.
        fp = sum(table[other, label] for other in kept if other != label)
        total = tp + fp + fn
        expected.append(tp / total if total else math.nan)
    total = count(pairs, 19)
    np.testing.assert_array_equal(metrics.class_iou(total.confusion), expected)
    assert np.isnan(expected[18]) and expected[16] == 0
    report = Report(
        "cityscapes", "val", "", 2, CITYSCAPES.class_names, total.confusion
    )
    assert report.mean_iou == pytest.approx(np.nanmean(expected), rel=1e-15)
    assert total.ignored == sum((raw < 7).sum() for raw, _ in raw_pairs) + sum(
        np.isin(raw, [9, 10, 14, 15, 16, 18, 29, 30]).sum()
        for raw, _ in raw_pairs
    )


def mmsegmentation(pairs, num_classes):
    """What its IoUMetric computes from histograms of three areas."""
    areas = np.zeros((3, num_classes))
    for label, prediction in pairs:
        kept = label != 255
        label, prediction = label[kept], prediction[kept]
        both = prediction[prediction == label]
        for row, values in enumerate((both, prediction, label)):
            area, _ = np.histogram(
                values, bins=num_classes, range=(0, num_classes - 1)
            )
            areas[row] += area
    intersect, predicted, labelled = areas
    union = predicted + labelled - intersect
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = intersect / predicted, intersect / labelled
        f1 = 2 * precision * recall / (precision + recall)
        return {
            "aAcc": intersect.sum() / labelled.sum(),
            "mIoU": np.nanmean(intersect / union),
            "mAcc": np.nanmean(recall),
            "mFscore": np.nanmean(f1),
            "mPrecision": np.nanmean(precision),
            "Fscore": f1,
        }


def test_mmsegmentation_iou_metric():
    pairs = [maps(k, (30 + k, 40), 7) for k in range(3)]
    expected = mmsegmentation(pairs, 7)
    names = tuple("abcdefg")
    report = Report("d", "s", "", 3, names, count(pairs, 7).confusion)
    # Float64 sums in another order.
    for found, name in (
        (report.pixel_accuracy, "aAcc"),
        (report.mean_iou, "mIoU"),
        (report.mean_accuracy, "mAcc"),
        (report.mean_f1, "mFscore"),
        (np.nanmean([*report.class_precision.values()]), "mPrecision"),
    ):
        assert found == pytest.approx(expected[name], rel=1e-12), name
        assert 0.1 < found < 0.99

    # A class that is never found has no F1 there, and 0 here.
    missed = [(label, np.where(p == 2, 3, p)) for label, p in pairs]
    expected = mmsegmentation(missed, 7)
    report = Report("d", "s", "", 3, names, count(missed, 7).confusion)
    assert math.isnan(expected["Fscore"][2]) and report.class_f1["c"] == 0
    assert report.mean_iou == pytest.approx(expected["mIoU"], rel=1e-12)
    assert report.mean_accuracy == pytest.approx(expected["mAcc"], rel=1e-12)


def boundary(classes, k, width):
    """The mask of a class without its erosion, step by step."""
    mask = classes == k
    inner = np.pad(mask, 1)
    for _ in range(width):
        inner = ndimage.binary_erosion(inner, np.ones((3, 3)), border_value=1)
        # The frame stays outside.
        inner &= np.pad(np.ones_like(mask), 1)
    return mask & ~inner[1:-1, 1:-1]


@pytest.mark.parametrize(
    "size",
    [(60, 150), (150, 61), (9, 300), (3, 3), (1, 1), (1, 50), (200, 200)],
)
def test_boundary_iou(size):
    num_classes = 4
    rng = np.random.default_rng(size[1])
    coarse = rng.integers(
        0, num_classes, (size[0] // 40 + 1, size[1] // 40 + 1)
    )
    label = np.kron(coarse, np.ones((40, 40), int))[: size[0], : size[1]]
    label = label.astype("uint8")
    prediction = np.roll(label, (2, -3), (0, 1))
    prediction[::17, ::13] = 0
    label[: size[0] // 3, : size[1] // 4] = 255
    width = max(1, round(0.02 * math.hypot(*size)))
    assert scores.boundary_width(*size) == width
    counted = scores.count_image(label, prediction, num_classes).boundary
    # Ignored pixels bound the truth and the prediction alike.
    seen = np.where(label == 255, 255, prediction)
    for k in range(num_classes):
        truth, found = boundary(label, k, width), boundary(seen, k, width)
        assert counted[k].tolist() == [
            (truth & found).sum(),
            truth.sum(),
            found.sum(),
        ]
        union = (truth | found).sum()
        iou = scores.boundary_iou(counted)[k]
        if union:
            assert iou == (truth & found).sum() / union
        else:
            assert np.isnan(iou)
    # Right everywhere is right at every boundary, beside ignored pixels too.
    perfect = scores.count_image(label, label, num_classes).boundary
    assert set(scores.boundary_iou(perfect)[np.unique(label[label < 4])]) <= {1}


def test_boundary_is_not_all_of_a_large_image():
    label = np.zeros((100, 100), "uint8")
    edge = scores.boundary_pixels(label, 3)
    assert edge.sum() == 100**2 - 94**2
    label[50, 50] = 1
    assert scores.boundary_pixels(label, 3).sum() == 100**2 - 94**2 + 49


def test_calibration_is_a_plain_loop():
    rng = np.random.default_rng(3)
    size = (40, 50)
    label, prediction = maps(1, size, 5)
    confidence = rng.random(size).astype("float32")
    # Ends of bins, as far as float32 holds them.
    confidence[5, :16] = np.arange(16) / 16
    confidence[6, :4] = 0, 1, 0.2, 0.5
    counts = scores.count_image(label, prediction, 5, confidence).calibration
    expected = [[0, Fraction(0), 0] for _ in range(15)]
    for true, found, share in zip(
        label.ravel(), prediction.ravel(), confidence.ravel(), strict=True
    ):
        if true == 255:
            continue
        share = Fraction(round(Fraction(float(share)) * 2**24), 2**24)
        for k in range(15):
            low, high = Fraction(k, 15), Fraction(k + 1, 15)
            if low < share <= high or (k == 0 and share == 0):
                expected[k][0] += 1
                expected[k][1] += share
                expected[k][2] += int(true == found)
    assert counts[:, 0].tolist() == [row[0] for row in expected]
    assert counts[:, 2].tolist() == [row[2] for row in expected]
    assert [Fraction(int(u), 2**24) for u in counts[:, 1]] == [
        row[1] for row in expected
    ]
    total = sum(row[0] for row in expected)
    error = sum(abs(row[2] - row[1]) for row in expected) / total
    got = scores.expected_calibration_error(counts)
    # Two roundings of float64.
    assert got == pytest.approx(float(error), rel=1e-14)
    assert 0.05 < got < 0.95


@pytest.mark.parametrize(
    "confidence, problem",
    [
        (np.zeros((2, 3)), "label's shape"),
        (np.full((2, 2), np.nan), "values from nan"),
        (np.full((2, 2), 1.5), "to 1.5"),
        (np.full((2, 2), -0.5), "from -0.5"),
    ],
)
def test_what_is_no_confidence(confidence, problem):
    label = np.zeros((2, 2), "uint8")
    with pytest.raises(ValueError, match=problem):
        scores.count_image(label, label, 2, confidence)


@pytest.mark.parametrize(
    "prediction, problem",
    [
        (np.zeros((2, 3), int), "same shape"),
        (np.zeros((2, 2)), "must hold integers"),
        (np.full((2, 2), 7), r"outside \[0, 3\): \[7\]"),
        (np.full((2, 2), -1), r"\[-1\]"),
        # Not cut to uint8 first.
        (np.full((2, 2), 256), r"\[256\]"),
    ],
)
def test_what_is_no_prediction(prediction, problem):
    label = np.zeros((2, 2), "uint8")
    with pytest.raises(ValueError, match=problem):
        scores.count_image(label, prediction, 3)


def test_predictions_are_not_read_where_nothing_is_labelled():
    label = np.array([[255, 1]], "uint8")
    counts = scores.count_image(label, np.array([[9000, 1]]), 3)
    assert counts.confusion.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert counts.ignored == 1
    # 254 classes are the most, and all are counted.
    label = np.array([[0, 253, 255]], "uint8")
    counts = scores.count_image(label, np.array([[253, 253, 0]]), 254)
    assert np.argwhere(counts.confusion).tolist() == [[0, 253], [253, 253]]


def test_scores_of_few_pixels():
    matrix = np.array([[6, 2, 0], [0, 0, 0], [0, 0, 0]])
    nan = math.nan
    for function, expected in (
        (scores.class_precision, [1, 0, nan]),
        (scores.class_recall, [0.75, nan, nan]),
        (scores.class_f1, [12 / 14, 0, nan]),
        (scores.class_share, [1, 0, 0]),
        (metrics.class_iou, [0.75, 0, nan]),
    ):
        np.testing.assert_array_equal(function(matrix), expected)
    assert scores.frequency_weighted_iou(matrix) == 0.75
    nothing = np.zeros((2, 2), int)
    assert math.isnan(scores.frequency_weighted_iou(nothing))
    assert np.isnan(scores.class_share(nothing)).all()
    assert math.isnan(scores.expected_calibration_error(np.zeros((15, 3))))
    assert math.isnan(scores.mean_of_defined([nan, nan]))


def test_sums_and_vectors_keep_every_number():
    big = 2**61 + 1
    one = scores.Counts(
        np.full((2, 2), big), 7, np.full((2, 3), 5), np.full((15, 3), big)
    )
    for counts in (one, scores.Counts(one.confusion, 7)):
        again = counts.with_vector(counts.as_vector())
        twice = again + counts
        assert twice.confusion.tolist() == [[2 * big] * 2] * 2
        assert twice.ignored == 14 and type(again.ignored) is int
        assert counts.as_vector().dtype == "int64"
    assert twice.boundary is None and twice.calibration is None
