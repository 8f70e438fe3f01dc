"""Segmentation scores from an exact integer confusion matrix.

The functions work on NumPy label maps, the classes inside `model.fit` on
logits. Both fill the same matrix: rows true classes, columns predicted ones.
"""

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_danet import arguments
from keras_danet.layers.numerics import maximum
from keras_danet.layers.numerics import wide_dtype
from keras_danet.losses.pixels import weights_of_pixels

# A count is `high * 2**30 + low`: JAX has no 64-bit integers by default, and a
# low limb below 2**30 leaves room for one update in an int32.
LIMB_BITS = 30
SCORES = ("mean_iou", "pixel_accuracy")
# With these names, the logs show the scores without a prefix.
PLAIN_NAMES = ("segmentation_metrics", "mean_iou")


def confusion_matrix(
    label: ArrayLike,
    prediction: ArrayLike,
    num_classes: int,
    ignore_label: int = 255,
) -> np.ndarray:
    """Counts every pair of true and predicted class.

    Args:
        label: integer array of any shape, the true class of each pixel.
        prediction: integer array of the same shape; ignored pixels are not
            read.
        num_classes: integer, the number of classes.
        ignore_label: integer, the label to leave out. Defaults to 255.

    Returns:
        int64 array `(num_classes, num_classes)`, rows true, columns predicted.

    Raises:
        ValueError: if shapes differ, or a value is not an integer or a class.

    >>> confusion_matrix(np.array([0, 1, 255]), np.array([0, 0, 1]), 2)
    array([[1, 0],
           [1, 0]])
    """
    num_classes = arguments.integer("num_classes", num_classes, least=1)
    ignore_label = arguments.integer("ignore_label", ignore_label)
    labels, predictions = np.asarray(label), np.asarray(prediction)
    if labels.shape != predictions.shape:
        raise ValueError(
            "`label` and `prediction` must have the same shape: resize the "
            f"prediction. Received: {labels.shape} and {predictions.shape}."
        )
    valid = labels != ignore_label
    rows, columns = (
        _checked_classes(name, values[valid], num_classes, {ignore_label})
        for name, values in (("label", labels), ("prediction", predictions))
    )
    cells = rows * num_classes + columns
    counts = np.bincount(cells, minlength=num_classes**2).astype(np.int64)
    return counts.reshape(num_classes, num_classes)


def _checked_classes(name, values, num_classes, ignored):
    if values.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must hold integers. Received: dtype={values.dtype}. "
            "Pass class indices: argmax of the logits, or a cast of the map."
        )
    wrong = values[(values < 0) | (values >= num_classes)]
    if wrong.size:
        found = np.unique(wrong)[:10].tolist()
        remedy = "Use a model, or a function, that predicts these classes."
        if name == "label":
            remedy = wrong_labels(found, num_classes, ignored)
        raise ValueError(
            f"`{name}` holds values outside [0, {num_classes}): {found} in "
            f"{wrong.size} pixels. {remedy}"
        )
    return values.astype(np.int64)


def wrong_labels(values, num_classes, ignored):
    """The error message for labels that are neither a class nor ignored.

    Args:
        values: the values found, or the lowest and highest of them.
        num_classes: integer.
        ignored: set of the labels that are left out.

    >>> wrong_labels([3.0], num_classes=3, ignored={255})[:56]
    'Label 3 is neither one of the 3 classes (0 to 2) nor the'
    """
    values = [int(v) if v == v and v == int(v) else float(v) for v in values]
    shown = ", ".join(map(str, values))
    void = ", ".join(map(str, sorted(ignored)))
    void = f"the ignored label {void}" if ignored else "ignored (none is)"
    target = min(ignored, default=255)
    if not all(isinstance(v, int) for v in values):
        remedy = (
            "Labels are whole numbers: resize label maps by nearest neighbour "
            "only, and keep them as integers."
        )
    elif values == [target]:
        remedy = (
            f"If {target} means void, give loss and metrics ignore_label="
            f"{target} (Keras's own losses: ignore_class={target})."
        )
    else:
        # They were kept in float32, which rounds larger ones.
        which = f"== {values[-1]}"
        if values[-1] >= 2**24:
            which = f">= {num_classes}"
        remedy = f"Map labels without a class to {target}"
        if target == 255 and not ignored:
            remedy += " and give the loss that `ignore_label`"
        remedy += f", as in labels[labels {which}] = {target}."
        if values == [num_classes]:
            remedy += (
                f" {num_classes} may be void, like CamVid's 11; or the labels "
                "count from 1, with 0 for void (ADE20K's `reduce_zero_label`):"
                f" then subtract 1, and map 0 to {target}."
            )
        elif min(values) < 0 or 255 in values:
            remedy += " Or give loss and metrics that label as `ignore_label`."
        elif len(values) > 1:
            remedy += (
                " Label files may hold ids other than class indices, such as "
                "Cityscapes' labelIds: map these to 0 to "
                f"{num_classes - 1}."
            )
    many = len(values) > 1
    return (
        f"Label{'s' * many} {shown} {'are' if many else 'is'} neither one of "
        f"the {num_classes} classes (0 to {num_classes - 1}) nor {void}. "
        f"{remedy}"
    )


def class_iou(matrix: ArrayLike) -> np.ndarray:
    """Intersection over union of each class of a confusion matrix.

    Returns:
        float64 array `(num_classes,)` in [0, 1], NaN for a class that is in
        neither the truth nor the prediction.

    >>> class_iou(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    array([0.75, 0.8 ,  nan])
    """
    matrix = np.asarray(matrix)
    hits = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    iou = np.full(hits.shape, np.nan)
    np.divide(hits, union, out=iou, where=union > 0)
    return iou


def mean_iou(matrix: ArrayLike) -> float:
    """Mean of `class_iou` over the classes that have one, NaN if none has."""
    iou = class_iou(matrix)
    present = ~np.isnan(iou)
    return float(iou[present].mean()) if present.any() else float("nan")


def pixel_accuracy(matrix: ArrayLike) -> float:
    """Share of the counted pixels whose class is right, NaN without any."""
    matrix = np.asarray(matrix)
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total else float("nan")


def _predicted_class(logits, num_classes):
    if keras.backend.backend() == "torch":
        return ops.argmax(logits, axis=-1)
    # Compilers turn this into one pass over the logits; on a CPU `ops.argmax`
    # first copies them (to order -0.0 and 0.0). Ties go to the lowest index.
    best = logits[..., 0]
    index = ops.zeros_like(best, dtype="int32")
    for k in range(1, num_classes):
        logit = logits[..., k]
        index = ops.where(logit > best, k, index)
        best = ops.maximum(best, logit)
    return index


def _histogram(index, length):
    if keras.backend.backend() == "torch":
        # `segment_sum` adds in float32 on torch: exact only up to 2**24.
        return ops.bincount(index, minlength=length)
    # `bincount` cannot be compiled on TensorFlow and JAX.
    return ops.segment_sum(ops.ones_like(index), index, num_segments=length)


@keras.saving.register_keras_serializable(package="keras_danet")
class SegmentationMetrics(keras.Metric):
    """Mean IoU and pixel accuracy from one exact confusion matrix.

    `fit` and `evaluate` log them as `mean_iou` and `pixel_accuracy`; with
    your own `name` as `{name}_mean_iou` and `{name}_pixel_accuracy`. Counts
    are integers in two limbs, exact on every backend up to 2**61 pixels per
    cell (fewer than 2**30 per update), for any batches and devices. Pixels
    labelled `ignore_label` or of weight 0 are left out; so are, from the mean,
    classes in neither truth nor prediction. Scores are 0 before the first
    pixel, and NaN once a label was neither a class nor `ignore_label`:
    `confusion_matrix()` then raises ValueError.

    A `DANet` keeps several of them apart. In any other Keras model give each
    its own name: Keras lets the scores of one overwrite another's.

    A callback on `val_mean_iou` needs `mode="max"`, or this metric the name
    `"mean_iou"`: Keras infers from the name whether higher is better.

    Args:
        num_classes: integer of at least 2, the number of classes.
        ignore_label: integer, the label to leave out. Defaults to 255.
        name: string. Defaults to `"segmentation_metrics"`.

    Call arguments:
        y_true: labels `(batch, height, width)` or `(..., 1)`, of any dtype.
        y_pred: logits `(batch, height, width, num_classes)`. Pixels that
            their Keras mask excludes are left out.
        sample_weight: `None`, or weights `(batch,)` or of `y_true`'s shape: a
            pixel of weight 0 is left out, any other counts once.

    Raises:
        ValueError: if `num_classes` is below 2, or the shapes do not fit.

    Example:

    >>> metric = SegmentationMetrics(num_classes=2)
    >>> metric.update_state([[[0, 1, 255]]], [[[[2, 1], [2, 1], [0, 1]]]])
    >>> metric.confusion_matrix()
    array([[1, 0],
           [1, 0]])
    >>> {name: float(value) for name, value in metric.result().items()}
    {'mean_iou': 0.25, 'pixel_accuracy': 0.5}
    """

    def __init__(
        self,
        num_classes: int,
        ignore_label: int = 255,
        name: str = "segmentation_metrics",
    ) -> None:
        super().__init__(name=name)
        self.num_classes = arguments.integer(
            "num_classes",
            num_classes,
            "must be an integer of at least 2 (a binary mask has 2 classes)",
            least=2,
        )
        self.ignore_label = arguments.integer("ignore_label", ignore_label)
        self._direction = "up"  # what `ModelCheckpoint(mode="auto")` reads
        self._table_rows = max(self.num_classes, 256)
        # The last element counts invalid labels. "int" is int32, but int64 on
        # TensorFlow, which does not place int32 variables on the GPU.
        shape = (self.num_classes**2 + 1,)
        self.low = self.add_variable(shape, "zeros", dtype="int", name="low")
        self.high = self.add_variable(shape, "zeros", dtype="int", name="high")

    def update_state(self, y_true, y_pred, sample_weight=None):
        mask = getattr(y_pred, "_keras_mask", None)
        y_true = ops.convert_to_tensor(y_true)
        y_pred = ops.convert_to_tensor(y_pred)
        if getattr(y_true.shape, "rank", 0) is None:
            # A TensorFlow function that was called with both label shapes.
            y_true = ops.reshape(y_true, ops.shape(y_pred)[:-1])
        self._check_shapes(y_true.shape, y_pred.shape)
        predicted = _predicted_class(y_pred, self.num_classes)
        row = self._pixel_rows(y_true, y_pred, sample_weight, mask)
        index = ops.reshape(row * self.num_classes + predicted, (-1,))
        counts = _histogram(index, (self._table_rows + 2) * self.num_classes)
        counts = ops.reshape(counts, (-1, self.num_classes))[:-1]
        kept = np.append(np.arange(self._table_rows) != self.ignore_label, True)
        counts = ops.multiply(counts, kept[:, None].astype("int32"))
        invalid = ops.sum(counts[self.num_classes :])
        counts = ops.append(counts[: self.num_classes], invalid)
        low = self.low + ops.cast(counts, self.low.dtype)
        self.high.assign(self.high + ops.right_shift(low, LIMB_BITS))
        mask = ops.convert_to_tensor(2**LIMB_BITS - 1, low.dtype)
        self.low.assign(ops.bitwise_and(low, mask))

    def _check_shapes(self, label, logits):
        fits = len(logits) == 4 and logits[-1] == self.num_classes
        fits = fits and (len(label) == 3 or (len(label) == 4 and label[3] == 1))
        if not fits or any(
            None not in pair and pair[0] != pair[1]
            for pair in zip(label[:3], logits[:3], strict=True)
        ):
            raise ValueError(
                "Expected `y_true` (batch, height, width) or (batch, height, "
                "width, 1) and `y_pred` (batch, height, width, "
                f"{self.num_classes}). Received: y_true.shape={tuple(label)}, "
                f"y_pred.shape={tuple(logits)}. Give the metric the model's "
                "`num_classes`, and resize the logits to the labels."
            )

    def _pixel_rows(self, y_true, y_pred, sample_weight, mask):
        # One row per label value, one for invalid labels, one left out.
        if len(y_true.shape) == 4:
            y_true = ops.squeeze(y_true, axis=-1)
        dtype = keras.backend.standardize_dtype(y_true.dtype)
        label = ops.cast(y_true, "int32")
        if dtype == "uint8" and sample_weight is None and mask is None:
            return label  # each has a row; steps below are passes over pixels
        # Fractions, NaN and integers beyond int32 do not survive the cast.
        whole = ops.cast(label, dtype) == y_true
        valid = ops.logical_and(label >= 0, label < self.num_classes)
        valid = ops.logical_and(valid, whole)
        left_out = ops.logical_and(label == self.ignore_label, whole)
        if mask is not None:
            left_out = ops.logical_or(left_out, ops.logical_not(mask))
        if sample_weight is not None:
            weight = ops.convert_to_tensor(sample_weight)
            weight = weights_of_pixels(weight, y_pred)
            left_out = ops.logical_or(left_out, weight == 0)
        row = ops.where(valid, label, self._table_rows)
        return ops.where(left_out, self._table_rows + 1, row)

    def result(self):
        prefix = "" if self.name in PLAIN_NAMES else f"{self.name}_"
        scores = zip(SCORES, self._scores(), strict=True)
        return {f"{prefix}{name}": score for name, score in scores}

    def _scores(self):
        wide = wide_dtype(self.dtype)
        counts = ops.cast(self.high, wide) * 2.0**LIMB_BITS
        counts = counts + ops.cast(self.low, wide)
        matrix = ops.reshape(counts[:-1], (self.num_classes, -1))
        hits = ops.diagonal(matrix)
        true = ops.sum(matrix, axis=1)
        union = true + ops.sum(matrix, axis=0) - hits
        present = ops.sum(ops.cast(union > 0, wide))
        iou = hits / maximum(union, 1.0)
        mean = ops.sum(iou) / maximum(present, 1.0)
        accuracy = ops.sum(hits) / maximum(ops.sum(true), 1.0)
        # NaN if a label was invalid, and made only then: debuggers stop at NaN.
        poison = ops.sqrt(1.0 - 2.0 * ops.cast(counts[-1] > 0, counts.dtype))
        return mean * poison, accuracy * poison

    def confusion_matrix(self) -> np.ndarray:
        """The exact int64 NumPy matrix so far, rows true, columns predicted."""
        low = ops.convert_to_numpy(self.low.value).astype(np.int64)
        high = ops.convert_to_numpy(self.high.value).astype(np.int64)
        counts = (high << LIMB_BITS) + low
        if counts[-1]:
            raise ValueError(
                f"{counts[-1]} pixels had a label neither in [0, "
                f"{self.num_classes}) nor ignore_label={self.ignore_label}. "
                "Map it to one of these, then call `reset_state()`."
            )
        return counts[:-1].reshape(self.num_classes, self.num_classes)

    def get_config(self):
        return {
            "num_classes": self.num_classes,
            "ignore_label": self.ignore_label,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="keras_danet")
class MeanIoU(SegmentationMetrics):
    """The mean IoU of `SegmentationMetrics` alone, a scalar.

    Args:
        num_classes, ignore_label, name: those of `SegmentationMetrics`.
    """

    def __init__(
        self, num_classes: int, ignore_label: int = 255, name: str = "mean_iou"
    ) -> None:
        super().__init__(num_classes, ignore_label, name)

    def result(self):
        return self._scores()[0]


@keras.saving.register_keras_serializable(package="keras_danet")
class PixelAccuracy(SegmentationMetrics):
    """The pixel accuracy of `SegmentationMetrics` alone, a scalar.

    Args:
        num_classes, ignore_label, name: those of `SegmentationMetrics`.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_label: int = 255,
        name: str = "pixel_accuracy",
    ) -> None:
        super().__init__(num_classes, ignore_label, name)

    def result(self):
        return self._scores()[1]
