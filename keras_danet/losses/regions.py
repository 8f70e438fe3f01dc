"""Losses that measure overlap over many pixels: Dice and Lovász-Softmax."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_danet.arguments import boolean
from keras_danet.arguments import choice
from keras_danet.arguments import number
from keras_danet.distribution.replicas import global_batch
from keras_danet.layers.numerics import matmul
from keras_danet.layers.numerics import maximum
from keras_danet.layers.numerics import segment_sum
from keras_danet.losses.pixels import PixelLoss
from keras_danet.losses.pixels import crossentropy

CLASSES = ("present", "all")


class RegionLoss(PixelLoss):
    """One loss per class over many pixels, averaged over the classes."""

    def __init__(self, classes, *of_pixel_loss):
        super().__init__(*of_pixel_loss)
        self.classes = choice("classes", classes, CLASSES)

    def __call__(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            raise ValueError(
                f"{type(self).__name__} measures overlap over many pixels and "
                "takes no sample weights. Leave pixels out by `ignore_label`, "
                "or use PixelCrossentropy."
            )
        return super().__call__(y_true, y_pred)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable(package="keras_danet")
class DiceLoss(RegionLoss):
    """One minus the soft Dice coefficient of each class, averaged.

    Over the labelled pixels of the whole batch, with p their softmax and t
    their labels, 1 for the class and 0 otherwise,

        dice = (2 * sum(p * t) + smooth) / (sum(p) + sum(t) + smooth)
        loss = mean over classes of (1 - dice)

    with plain sums in the divisor, as in segmentation_models.pytorch (V-Net
    and MMSegmentation sum squares). The mean is over the classes that are
    labelled in the batch, or over all. With no labelled
    pixel it is 0; a label that is not a class makes it NaN. No one-hot labels
    are made.

    Reference:
        - [V-Net](https://arxiv.org/abs/1606.04797)

    Args:
        smooth: float, 0 or more, in pixels. Defaults to `1.0`.
        classes: `"present"` or `"all"`. With `"all"` a class that is
            predicted but not labelled costs up to 1. Defaults to `"present"`.
        ignore_label: integer. Defaults to `255`.
        reduction: as in `keras.losses.Loss`; `"sum"` is the sum over those
            classes; `"none"` gives a vector by class whose mean is the loss.
            Defaults to `"sum_over_batch_size"`, as `"mean"` and
            `"mean_with_sample_weight"`.
        reducer: as in `PixelCrossentropy`; gradients must flow through it.
            With it the sums are those of the global batch.
        name: string. Defaults to `"dice_loss"`.
        dtype: as in `PixelCrossentropy`.

    Call arguments:
        y_true, y_pred: as in `PixelCrossentropy`. A `sample_weight` is
            refused.

    Raises:
        ValueError: for arguments out of range, or labels and logits that do
            not fit each other.

    Example:

    >>> loss = keras_danet.losses.DiceLoss(smooth=0.0)
    >>> labels = np.array([[[0, 0]]])
    >>> logits = np.array([[[[0.0, 0.0], [0.0, 0.0]]]], "float32")
    >>> round(float(loss(labels, logits)), 4)  # 1 - 2 * 1 / (1 + 2)
    0.3333
    """

    def __init__(
        self,
        smooth: float = 1.0,
        classes: str = "present",
        ignore_label: int = 255,
        reduction: str | None = "sum_over_batch_size",
        reducer: Callable | None = None,
        name: str = "dice_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(classes, ignore_label, reduction, reducer, name, dtype)
        must = "must be a number, 0 or more"
        self.smooth = float(number("smooth", smooth, must, least=0))

    def call(self, y_true, y_pred, sample_weight=None):
        num_classes = y_pred.shape[-1]
        labels, known, poison = self.read_labels(y_true, num_classes)
        of_label = ops.exp(-crossentropy(labels, y_pred))
        labels, mask, of_label = (
            ops.reshape(x, (-1,))
            for x in (labels, ops.cast(known, y_pred.dtype), of_label)
        )
        scores = ops.reshape(ops.softmax(y_pred), (-1, num_classes))
        both, wanted = (
            segment_sum(values, labels, num_classes)
            for values in (of_label * mask, mask)
        )
        given = matmul(mask, scores)
        both, wanted, given = ops.unstack(
            self.reducer(ops.stack([both, wanted, given])), 3
        )
        divisor = wanted + given + self.smooth
        # A class that is neither labelled nor predicted costs nothing.
        nothing = divisor <= 0
        dice = (2 * both + self.smooth) / ops.where(nothing, 1.0, divisor)
        dice = ops.where(nothing, 1.0, dice)
        labelled = wanted if self.classes == "present" else ops.sum(wanted)
        counted = ops.cast(labelled > 0, dice.dtype) * ops.ones_like(dice)
        return self.reduce(
            (1 - dice) * counted, ops.sum(counted), poison, own=False
        )

    def get_config(self):
        return {**super().get_config(), "smooth": self.smooth}


@keras.saving.register_keras_serializable(package="keras_danet")
class LovaszSoftmax(RegionLoss):
    """The Lovász extension of each class's 1 - IoU, averaged.

    A convex surrogate of the mean IoU: for each class the errors (1 - p where
    it is labelled, p elsewhere) are sorted, and each is weighted by how much
    the Jaccard loss grows when its pixel is wrong as well. With no labelled
    pixel it is 0; a label that is not a class makes it NaN. Usually added to a
    cross-entropy, by `SumOfLosses`. It sorts every class's pixels, and needs
    about five times the memory of the logits.

    Reference:
        - [The Lovász-Softmax loss](https://arxiv.org/abs/1705.08790) (Berman
          et al., CVPR 2018)

    Args:
        classes: `"present"`, the mean over the classes that are labelled, or
            `"all"`. Defaults to `"present"`, as in their code.
        per_image: boolean, whether each image has a loss of its own, and the
            mean is taken over the images with a labelled pixel (theirs counts
            the others as 0). Otherwise the batch is one large image. Defaults
            to `False`, as in their code.
        ignore_label: integer. Defaults to `255`.
        reduction: as in `keras.losses.Loss`; `"sum"` is the sum over those
            classes (images with `per_image`); `"none"` gives a vector by
            class (by image) whose mean is the loss. Defaults to
            `"sum_over_batch_size"`, as `"mean"` and
            `"mean_with_sample_weight"`.
        reducer: as in `PixelCrossentropy`, with `per_image` only. Without
            `per_image` the replicas of a strategy gather the batch, and each
            sorts all of it: prefer `per_image` there.
        name: string. Defaults to `"lovasz_softmax"`.
        dtype: as in `PixelCrossentropy`.

    Call arguments:
        y_true, y_pred: as in `PixelCrossentropy`. A `sample_weight` is
            refused.

    Raises:
        ValueError: for arguments out of range, a `reducer` without
            `per_image`, or labels and logits that do not fit each other.

    Example:

    >>> loss = keras_danet.losses.LovaszSoftmax()
    >>> labels = np.array([[[0, 255]]])
    >>> logits = np.array([[[[0.0, 0.0], [0.0, 9.0]]]], "float32")
    >>> round(float(loss(labels, logits)), 4)
    0.5
    """

    def __init__(
        self,
        classes: str = "present",
        per_image: bool = False,
        ignore_label: int = 255,
        reduction: str | None = "sum_over_batch_size",
        reducer: Callable | None = None,
        name: str = "lovasz_softmax",
        dtype: Any = None,
    ) -> None:
        super().__init__(classes, ignore_label, reduction, reducer, name, dtype)
        per_image = boolean("per_image", per_image)
        if reducer is not None and not per_image:
            raise ValueError(
                "Without per_image=True LovaszSoftmax sorts the pixels of the "
                "whole batch, so a `reducer` would have no effect. Leave it "
                "out: the replicas of a strategy gather the batch."
            )
        self.per_image = per_image

    def call(self, y_true, y_pred, sample_weight=None):
        if self.per_image:
            losses, counted, poison = self._class_losses(y_true, y_pred)
            counts = ops.sum(counted, axis=1)
            losses = ops.sum(losses, axis=1) / maximum(counts, 1.0)
            labelled = ops.cast(counts > 0, losses.dtype)
            return self.reduce(losses, ops.sum(labelled), poison)
        with global_batch(y_true, y_pred) as (batch, count):
            losses, counted, poison = self._class_losses(*batch)
            whole = self.reduce(losses[0], ops.sum(counted), poison)
        return whole / count

    def _class_losses(self, y_true, y_pred):
        """Losses (images, classes), 0 if not counted; which are; a poison."""
        num_classes = y_pred.shape[-1]
        labels, known, poison = self.read_labels(y_true, num_classes)
        images, height, width = ops.shape(labels)
        # Not -1: the size cannot be inferred from an empty batch.
        pixels = height * width
        if not self.per_image:
            images, pixels = 1, images * pixels
        # (images, classes, pixels)
        scores = ops.reshape(ops.softmax(y_pred), (images, pixels, num_classes))
        scores = ops.transpose(scores, (0, 2, 1))
        labels = ops.where(known, labels, -1)
        labels = ops.reshape(labels, (images, 1, pixels))
        classes = ops.reshape(
            ops.arange(num_classes, dtype="int32"), (1, -1, 1)
        )
        wanted = labels == ops.cast(classes, "int32")
        errors = ops.where(wanted, 1 - scores, scores)
        # Ignored pixels have no error: they come last and cost nothing.
        errors = ops.where(labels >= 0, errors, 0.0)
        losses = lovasz_losses(errors, wanted)
        counted = ops.any(wanted, axis=2)
        if self.classes == "all":
            labelled = ops.any(labels >= 0, axis=2)
            counted = ops.broadcast_to(labelled, ops.shape(losses))
        counted = ops.cast(counted, losses.dtype)
        return losses * counted, counted, poison

    def get_config(self):
        return {**super().get_config(), "per_image": self.per_image}


def lovasz_losses(errors, wanted):
    """The Lovász extension of 1 - IoU, along the last axis.

    Args:
        errors: float tensor in [0, 1].
        wanted: boolean tensor of its shape, where the class is labelled.

    Returns:
        Tensor without the last axis.
    """
    order = ops.argsort(-ops.stop_gradient(errors), axis=-1)
    errors = ops.take_along_axis(errors, order, axis=-1)
    wanted = ops.take_along_axis(ops.cast(wanted, "int32"), order, axis=-1)
    # In integers, and each growth of 1 - intersection / union in closed form:
    # of a million pixels, differences of quotients would keep few digits.
    total = ops.sum(wanted, axis=-1, keepdims=True)
    found = ops.cumsum(wanted, axis=-1)
    place = ops.cumsum(ops.ones_like(wanted), axis=-1)
    left, union = (
        ops.cast(x, errors.dtype)
        for x in (total - found, total + place - found)
    )
    growth = ops.where(
        wanted > 0,
        1 / maximum(union, 1.0),
        left / (union * maximum(union - 1, 1.0)),
    )
    # For an absent class the loss is its worst pixel.
    return ops.where(
        total[..., 0] > 0, ops.sum(errors * growth, axis=-1), errors[..., 0]
    )
