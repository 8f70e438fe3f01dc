"""What an image adds to a measurement, and the scores of the sum.

Everything that is added up is an integer, so a sum is the same whatever the
order of the images and the number of processes. Scores are computed from
sums only. They are fractions in [0, 1], NaN where nothing defines them.
"""

import dataclasses
import math
from typing import Any
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from keras_danet import metrics
from keras_danet.data.datasets import IGNORE_LABEL

# Width of a boundary as a share of the image's diagonal: Cheng et al., CVPR
# 2021, arXiv:2103.16562, for Cityscapes and COCO alike.
BOUNDARY_SHARE = 0.02
# Guo et al., ICML 2017, arXiv:1706.04599.
NUM_BINS = 15
# Confidences are added as integers, in these units. It is a float32's
# precision between 0.5 and 1.
UNITS = 2**24
_PARTS = ("confusion", "ignored", "boundary", "calibration")
# Rows of the histogram of (label, prediction), both uint8.
_LEVELS = 256


@dataclasses.dataclass(frozen=True)
class Counts:
    """What was counted in some images; all int64.

    Args:
        confusion: `(num_classes, num_classes)`, pixels of each true class
            (row) and predicted one (column).
        ignored: integer, pixels that were left out.
        boundary: `(num_classes, 3)`, boundary pixels of each class: in both,
            in the truth, in the prediction. `None` if not counted.
        calibration: `(NUM_BINS, 3)`, of each bin of confidence: pixels, the
            sum of their confidence in 1 / `UNITS`, and how many are right.
            `None` if not counted.
    """

    confusion: np.ndarray
    ignored: int = 0
    boundary: np.ndarray | None = None
    calibration: np.ndarray | None = None

    @classmethod
    def zeros(cls, num_classes: int, boundary: bool, calibration: bool) -> Self:
        """Nothing counted yet."""
        return cls(
            np.zeros((num_classes, num_classes), "int64"),
            0,
            np.zeros((num_classes, 3), "int64") if boundary else None,
            np.zeros((NUM_BINS, 3), "int64") if calibration else None,
        )

    def __add__(self, other: "Counts") -> "Counts":
        pairs = zip(self._parts, other._parts, strict=True)
        sums: list[Any] = [
            None if one is None or two is None else one + two
            for one, two in pairs
        ]
        return Counts(*sums)

    @property
    def _parts(self):
        return [getattr(self, name) for name in _PARTS]

    def as_vector(self) -> np.ndarray:
        """All numbers in a row."""
        parts = [part for part in self._parts if part is not None]
        return np.concatenate([np.ravel(part) for part in parts])

    def with_vector(self, vector: np.ndarray) -> "Counts":
        """Counts of this one's shapes from `as_vector`'s numbers."""
        parts: dict[str, Any] = {}
        start = 0
        for name, part in zip(_PARTS, self._parts, strict=True):
            if part is None:
                continue
            end = start + np.size(part)
            parts[name] = vector[start:end].reshape(np.shape(part))
            start = end
        return Counts(**{**parts, "ignored": int(parts["ignored"])})


def count_image(
    label: np.ndarray,
    prediction: ArrayLike,
    num_classes: int,
    confidence: np.ndarray | None = None,
    boundary: bool = True,
) -> Counts:
    """Counts one image.

    Args:
        label: uint8 array `(height, width)` of classes, 255 for pixels that
            are left out.
        prediction: integer array of the same shape. It may hold anything
            where the label is 255.
        num_classes: integer, at most 254.
        confidence: float array of the same shape in [0, 1], the probability
            of the predicted class; `None` counts no calibration. Defaults to
            `None`.
        boundary: boolean, whether boundary pixels are counted. Defaults to
            `True`.

    Returns:
        A `Counts`.

    Raises:
        ValueError: if the shapes differ, or a prediction is no class.

    >>> label = np.array([[0, 1, 255]], "uint8")
    >>> count_image(label, np.array([[0, 0, 0]]), 2).confusion
    array([[1, 0],
           [1, 0]])
    """
    predicted = np.asarray(prediction)
    is_map = predicted.shape == label.shape and predicted.dtype.kind in "iu"
    if not is_map or not _are_classes(predicted, num_classes):
        # Raises the error, unless only ignored pixels are odd.
        metrics.confusion_matrix(label, predicted, num_classes)
    ignored = label == IGNORE_LABEL
    predicted = predicted.astype("uint8")
    predicted[ignored] = IGNORE_LABEL
    # From the lowest byte on: the prediction, the label, the boundaries.
    cell = label.astype("uint32") << 8
    cell |= predicted
    kinds = 1
    if boundary:
        kinds = 4
        width = boundary_width(*label.shape)
        for place, classes in ((17, label), (16, predicted)):
            edge = boundary_pixels(classes, width)
            cell |= edge.astype("uint32") << place
    counts = np.bincount(cell.ravel(), minlength=kinds * _LEVELS**2)
    counts = counts.astype("int64").reshape(-1, kinds, _LEVELS, _LEVELS)[0]
    left_out = int(counts[:, IGNORE_LABEL].sum())
    counts = counts[:, :num_classes, :num_classes]
    edges = None
    if boundary:
        # Kinds: 0 neither, 1 the prediction's, 2 the truth's, 3 both.
        edges = np.stack(
            [
                np.diagonal(counts[3]),
                counts[2:].sum(axis=(0, 2)),
                counts[1::2].sum(axis=(0, 1)),
            ],
            axis=1,
        )
    bins = None
    if confidence is not None:
        bins = count_calibration(confidence, label == predicted, ignored)
    return Counts(counts.sum(axis=0), left_out, edges, bins)


def _are_classes(predicted, num_classes):
    if not predicted.size:
        return True
    return predicted.min() >= 0 and predicted.max() < num_classes


def boundary_width(height: int, width: int) -> int:
    """Pixels of a boundary's width in an image of this size, at least 1.

    >>> boundary_width(1024, 2048)
    46
    """
    return max(1, round(BOUNDARY_SHARE * math.hypot(height, width)))


def boundary_pixels(classes: np.ndarray, width: int) -> np.ndarray:
    """Where another class, or the image's end, is within `width` pixels.

    The distance is the greater one of rows and columns. It is what is left
    of each class's mask without its erosion by a 3x3 square, `width` times,
    for all classes at once. Time grows with the logarithm of `width`.

    Args:
        classes: uint8 array `(height, width)`.
        width: integer, at least 1.

    Returns:
        Boolean array of the same shape.

    >>> boundary_pixels(np.zeros((3, 4), "uint8"), 1).astype(int)
    array([[1, 1, 1, 1],
           [1, 0, 0, 1],
           [1, 1, 1, 1]])
    """
    edge = np.ones(classes.shape, bool)
    span = 2 * width + 1
    if min(classes.shape) < span:
        return edge
    lowest = _slide(np.minimum, classes, span)
    highest = _slide(np.maximum, classes, span)
    inside = edge[width:-width, width:-width]
    np.not_equal(lowest, highest, out=inside)
    return edge


def _slide(extreme, values, span):
    """The minimum or maximum of every square of `span` pixels a side."""
    for axis in (0, 1):
        size = 1
        while size < span:
            # Two runs of `size` cover each run of `size + step`.
            step = min(size, span - size)
            if axis == 0:
                values = extreme(values[:-step], values[step:])
            else:
                values = extreme(values[:, :-step], values[:, step:])
            size += step
    return values


def count_calibration(
    confidence: np.ndarray, right: np.ndarray, ignored: np.ndarray
) -> np.ndarray:
    """Per bin of confidence: pixels, sum of confidence, how many are right.

    Bin k of `NUM_BINS` holds confidences in (k, k + 1] / `NUM_BINS`, and the
    first one 0 as well. Confidences are rounded to 1 / `UNITS`.

    Args:
        confidence: float array `(height, width)` in [0, 1].
        right: boolean array, whether the predicted class is the true one.
        ignored: boolean array, pixels to leave out.

    Returns:
        `(NUM_BINS, 3)` int64 array, as `Counts.calibration`.

    Raises:
        ValueError: if the shapes differ, or a confidence is not in [0, 1].
    """
    confidence = np.asarray(confidence)
    if confidence.shape != right.shape:
        raise ValueError(
            "`confidence` must have the label's shape. Received: "
            f"{confidence.shape} and {right.shape}. Give the probability of "
            "the predicted class of each pixel."
        )
    # Written so that NaN fails it too. Sums of float32 end just above 1.
    if confidence.size and not (
        confidence.min() >= 0 and confidence.max() <= 1 + 1e-5
    ):
        raise ValueError(
            "`confidence` must be a probability in [0, 1]. Received: values "
            f"from {confidence.min()} to {confidence.max()}. Check the "
            "model's weights, or the function that predicts."
        )
    units = np.multiply(confidence, UNITS, dtype="float32")
    units = np.rint(units, out=units).astype("int32")
    units = np.minimum(units, UNITS, out=units)
    # ceil(confidence * NUM_BINS) - 1, in integers.
    bins = np.maximum((units * NUM_BINS - 1) >> 24, 0)
    # Ignored pixels have a bin of their own, the last one.
    bins[ignored] = NUM_BINS
    bins = bins.ravel().astype("intp")
    # Float64 sums are exact: at most 2**28 pixels of 2**24 units.
    sums = np.bincount(bins, units.ravel(), minlength=NUM_BINS + 1)
    bins *= 2
    bins += right.ravel()
    pixels = np.bincount(bins, minlength=2 * NUM_BINS + 2).reshape(-1, 2)
    counts = np.stack([pixels.sum(axis=1), sums, pixels[:, 1]], axis=1)
    return counts[:NUM_BINS].astype("int64")


def class_precision(matrix: ArrayLike) -> np.ndarray:
    """Of the pixels predicted as a class, the share that are; NaN of none."""
    matrix = np.asarray(matrix)
    return _ratio(np.diagonal(matrix), matrix.sum(axis=0))


def class_recall(matrix: ArrayLike) -> np.ndarray:
    """Of a class's pixels, the share that is found; NaN of none.

    It is also called the class's accuracy.
    """
    matrix = np.asarray(matrix)
    return _ratio(np.diagonal(matrix), matrix.sum(axis=1))


def class_f1(matrix: ArrayLike) -> np.ndarray:
    """2 tp / (2 tp + fp + fn) of each class, also called Dice.

    It is the harmonic mean of precision and recall, and 0 for a class of
    which nothing is right; NaN for one in neither truth nor prediction.

    >>> class_f1([[3, 1, 0], [1, 4, 0], [0, 0, 0]])
    array([0.75, 0.8 ,  nan])
    """
    matrix = np.asarray(matrix)
    both = matrix.sum(axis=0) + matrix.sum(axis=1)
    return _ratio(2 * np.diagonal(matrix), both)


def class_share(matrix: ArrayLike) -> np.ndarray:
    """Each true class's share of the counted pixels; NaN without any."""
    matrix = np.asarray(matrix)
    return _ratio(matrix.sum(axis=1), matrix.sum())


def frequency_weighted_iou(matrix: ArrayLike) -> float:
    """The IoU of each true class, weighted by its share of the pixels.

    >>> frequency_weighted_iou([[3, 1], [0, 4]])
    0.775
    """
    share = class_share(matrix)
    if np.isnan(share).any():
        return float("nan")
    present = share > 0
    return float(share[present] @ metrics.class_iou(matrix)[present])


def boundary_iou(boundary: ArrayLike) -> np.ndarray:
    """Boundary IoU of each class from `Counts.boundary`.

    Reference: Cheng et al., Boundary IoU, CVPR 2021, arXiv:2103.16562.

    >>> boundary_iou([[2, 3, 3], [0, 0, 0]])
    array([0.5, nan])
    """
    both, truth, prediction = np.asarray(boundary).T
    return _ratio(both, truth + prediction - both)


def expected_calibration_error(calibration: ArrayLike) -> float:
    """Mean distance of accuracy and confidence over all pixels, by bin.

    Reference: Guo et al., On Calibration of Modern Neural Networks, ICML
    2017, arXiv:1706.04599.

    >>> expected_calibration_error([[4, 3 * UNITS, 2], [0, 0, 0]])
    0.25
    """
    pixels, confidence, right = np.asarray(calibration).T
    gaps = np.abs(right - confidence / UNITS)
    return float(_ratio(gaps.sum(), pixels.sum()))


def mean_of_defined(values: ArrayLike) -> float:
    """The mean without NaN; NaN if nothing else is there."""
    values = np.asarray(values)
    defined = ~np.isnan(values)
    return float(values[defined].mean()) if defined.any() else float("nan")


def _ratio(part, whole):
    """`part / whole`, NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
