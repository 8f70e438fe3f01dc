"""Losses that are a mean over pixels, and the first of them."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_danet.arguments import number
from keras_danet.arguments import numbers
from keras_danet.arguments import refusal
from keras_danet.layers.numerics import matmul
from keras_danet.losses.pixels import PixelLoss
from keras_danet.losses.pixels import crossentropy


class PixelMean(PixelLoss):
    """A mean over the labelled pixels, in which classes may have weights.

    Subclasses change the loss of every pixel, a cross-entropy, by
    `pixel_losses` and `smoothed`, or leave pixels out of the mean by `kept`.
    """

    def __init__(self, class_weights, *of_pixel_loss):
        super().__init__(*of_pixel_loss)
        self.class_weights = _checked_weights(class_weights)

    def call(self, y_true, y_pred, sample_weight=None):
        num_classes = y_pred.shape[-1]
        labels, known, poison = self.read_labels(y_true, num_classes)
        entropies = crossentropy(labels, y_pred)
        kept = self.kept(entropies, known)
        shares = ops.cast(kept, entropies.dtype)
        pixels, weights = self.pixel_losses(entropies), None
        if self.class_weights is not None:
            weights = self._weight_tensor(num_classes, entropies.dtype)
            of_pixels = ops.take(weights, labels, axis=0)
            pixels, shares = pixels * of_pixels, shares * of_pixels
        pixels = self.smoothed(pixels, y_pred, weights)
        pixels = ops.where(kept, pixels, 0.0)
        if sample_weight is not None:
            pixels = pixels * sample_weight
            if self.reduction == "mean_with_sample_weight":
                shares = shares * sample_weight
        return self.reduce(pixels, ops.sum(shares), poison)

    def pixel_losses(self, entropies):
        """Each pixel's loss, before its class's weight."""
        return entropies

    def smoothed(self, pixels, logits, weights):
        """The pixels' losses, with what label smoothing adds to them."""
        return pixels

    def kept(self, entropies, known):
        """Which of the `known` pixels, those labelled with a class, count."""
        return known

    def _weight_tensor(self, num_classes, dtype):
        if len(self.class_weights) != num_classes:
            raise ValueError(
                f"`class_weights` has {len(self.class_weights)} weights and "
                f"the logits {num_classes} classes. Give one per class."
            )
        return ops.convert_to_tensor(self.class_weights, dtype)

    def get_config(self):
        return {**super().get_config(), "class_weights": self.class_weights}


@keras.saving.register_keras_serializable(package="keras_danet")
class PixelCrossentropy(PixelMean):
    """Softmax cross-entropy of logits, averaged over the labelled pixels.

    With V the pixels whose label is not `ignore_label`,

        loss = sum over V of (weight * -log softmax(logits)[label]) / |V|

    so that a batch counts the same however much of it is unlabelled; with no
    labelled pixel it is 0. (MMSegmentation divides by all pixels, which
    shrinks the gradient of sparsely labelled crops.) A label that is neither
    a class nor `ignore_label` makes the loss NaN on every backend; Keras's
    own loss fails, or counts it as 0, depending on the backend and device.
    It is computed in float32 (or float64) under every dtype policy.

    With `class_weights` w it is what PyTorch's `CrossEntropyLoss(weight=w)`
    is: each pixel counts w[label] times, and |V| becomes the sum of w[label]
    over V. With `label_smoothing` s, as PyTorch's too, a pixel's loss is

        (1 - s) * w[label] * -log p[label] + s / C * sum_c w[c] * -log p[c]

    for C classes, and the divisor stays. (Where that is 0, so is the loss;
    PyTorch's is NaN.)

    Reference:
        - [Dual Attention Network for Scene Segmentation](
          https://arxiv.org/abs/1809.02983), the authors' loss of 2018
        - [torch.nn.CrossEntropyLoss](
          https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html)

    Args:
        ignore_label: integer, the label of pixels to leave out. Defaults to
            `255`.
        reduction: as in `keras.losses.Loss`. `"sum_over_batch_size"`, or
            `"mean"`, is the formula above; `"sum"` leaves the divisor out;
            with `"mean_with_sample_weight"` sample weights count in the
            divisor as well; `"none"` gives a map whose mean is the formula.
            Defaults to `"sum_over_batch_size"`.
        reducer: function from a tensor to its sum over all replicas, so that
            |V| is that of the global batch. It is not saved. Defaults to
            `None`: the sum over the `tf.distribute` strategy in force, if
            any.
        class_weights: tuple, list or array of one number, not negative, per
            class, such as `keras-danet class-weights` prints. Defaults to
            `None`, all 1.
        label_smoothing: float in [0, 1). Defaults to `0.0`.
        name: string. Defaults to `"pixel_crossentropy"`.
        dtype: dtype of the computation. Defaults to `None`: float64 where
            the logits or `keras.config.floatx()` are, else float32.

    Call arguments:
        y_true: labels `(batch, height, width)` or `(batch, height, width,
            1)`, of any integer or float dtype.
        y_pred: logits `(batch, height, width, num_classes)`. Pixels that
            their Keras mask excludes are left out.
        sample_weight: one weight per pixel, shaped like the labels, or one
            per image, `(batch,)`. They weight the sum, not |V|.

    Returns:
        A scalar, or a map `(batch, height, width)` with reduction `"none"`.
        In a replica it is that replica's part of the loss of the global
        batch: the sum over replicas is the loss.

    Raises:
        ValueError: if labels, logits or weights do not fit each other.

    Example:

    >>> loss = keras_danet.PixelCrossentropy()
    >>> labels = np.array([[[0, 255]]])
    >>> logits = np.array([[[[0.0, 0.0], [9.0, 0.0]]]], "float32")
    >>> round(float(loss(labels, logits)), 4)  # log(2): one valid pixel
    0.6931
    """

    def __init__(
        self,
        ignore_label: int = 255,
        reduction: str | None = "sum_over_batch_size",
        reducer: Callable | None = None,
        class_weights: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        name: str = "pixel_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            class_weights, ignore_label, reduction, reducer, name, dtype
        )
        must = "must be in [0, 1)"
        self.label_smoothing = float(
            number("label_smoothing", label_smoothing, must, least=0, below=1)
        )

    def smoothed(self, pixels, logits, weights):
        if not self.label_smoothing:
            return pixels
        num_classes = logits.shape[-1]
        if weights is None:
            weights = ops.ones((num_classes,), pixels.dtype)
        share = self.label_smoothing / num_classes
        # A product with a vector: no map of weighted classes is made.
        of_all = -matmul(ops.log_softmax(logits), weights)
        return (1 - self.label_smoothing) * pixels + share * of_all

    def get_config(self):
        config = super().get_config()
        return {**config, "label_smoothing": self.label_smoothing}


def _checked_weights(class_weights):
    if class_weights is None:
        return None
    must = (
        "must be one number per class, 0 or more and not all 0, in the order "
        "of the classes: a tuple, list or array, such as (1.0, 5.0, 2.0)"
    )
    weights = numbers("class_weights", class_weights, must, least=0)
    if not any(weights):
        raise refusal("class_weights", must, class_weights)
    return tuple(map(float, weights))
