"""Means over pixels in which hard ones count more: OHEM and focal."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_danet.arguments import integer
from keras_danet.arguments import number
from keras_danet.layers.numerics import maximum
from keras_danet.losses.crossentropy import PixelMean


@keras.saving.register_keras_serializable(package="keras_danet")
class OhemCrossentropy(PixelMean):
    """Cross-entropy of the hard pixels only: online hard example mining.

    With p the probability that the network gives a pixel's label, a labelled
    pixel is kept if

        p < threshold, or it is among its image's min_kept pixels of lowest p

    (or ties with the last of them), and the loss is the mean of -log p over
    what is kept. No gradient flows through the choice.

    It is the rule of MMSegmentation's `OHEMPixelSampler(thresh, min_kept)`,
    which takes its `min_kept * batch` lowest from the batch of one GPU
    together. Here each image has its own `min_kept`, so that the pixels kept
    do not depend on the number of devices; with one image a GPU both are the
    same. (Of an image with fewer labelled pixels than `min_kept` theirs
    leaves out the easiest one.) Their cross-entropy divides by all pixels;
    this one by those kept, as HRNet's `OhemCrossEntropy` does.

    Reference:
        - [Training Region-based Object Detectors with Online Hard Example
          Mining](https://arxiv.org/abs/1604.03540)
        - [MMSegmentation](https://github.com/open-mmlab/mmsegmentation),
          `OHEMPixelSampler`

    Args:
        threshold: float in (0, 1]. Defaults to `0.7`.
        min_kept: integer, pixels per image. Defaults to `100_000`, theirs; a
            crop of fewer pixels is kept whole, so lower it for small crops.
        class_weights: as in `PixelCrossentropy`; they do not change what is
            kept. Defaults to `None`.
        ignore_label, reduction, reducer, name, dtype: as in
            `PixelCrossentropy`.

    Call arguments:
        y_true, y_pred, sample_weight: as in `PixelCrossentropy`.

    Raises:
        ValueError: for arguments out of range, or labels, logits or weights
            that do not fit each other.

    Example:

    >>> loss = keras_danet.losses.OhemCrossentropy(min_kept=0)
    >>> labels = np.array([[[0, 0]]])
    >>> logits = np.array([[[[0.0, 0.0], [9.0, 0.0]]]], "float32")
    >>> round(float(loss(labels, logits)), 4)  # the second pixel is easy
    0.6931
    """

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: int = 100_000,
        class_weights: ArrayLike | None = None,
        ignore_label: int = 255,
        reduction: str | None = "sum_over_batch_size",
        reducer: Callable | None = None,
        name: str = "ohem_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            class_weights, ignore_label, reduction, reducer, name, dtype
        )
        must = "must be a probability in (0, 1]"
        self.threshold = float(
            number("threshold", threshold, must, above=0, most=1)
        )
        must = "must be a number of pixels, 0 or more"
        self.min_kept = integer("min_kept", min_kept, must, least=0)

    def kept(self, entropies, known):
        entropies = ops.stop_gradient(entropies)
        hard = entropies > -math.log(self.threshold)
        if self.min_kept:
            # No entropy is below 0.
            ranked = ops.where(known, entropies, -1.0)
            batch, height, width = ops.shape(ranked)
            ranked = ops.sort(ops.reshape(ranked, (batch, height * width)))
            # Under a half-precision `floatx` Keras turns integers into int16.
            place = ops.convert_to_tensor(height * width, "int32")
            place = place - self.min_kept
            place = ops.maximum(place, ops.zeros_like(place))
            lowest = ops.take(ranked, place, axis=1)
            lowest = ops.reshape(lowest, (batch, 1, 1))
            hard = ops.logical_or(hard, entropies >= lowest)
        return ops.logical_and(known, hard)

    def get_config(self):
        return {
            **super().get_config(),
            "threshold": self.threshold,
            "min_kept": self.min_kept,
        }


@keras.saving.register_keras_serializable(package="keras_danet")
class FocalLoss(PixelMean):
    """Cross-entropy in which easy pixels count less, by softmax.

    With p the probability that the network gives a pixel's label, w its
    class's weight and V the labelled pixels,

        loss = sum over V of (w * (1 - p)**gamma * -log p) / sum over V of w

    With `gamma` 0 it is `PixelCrossentropy`, divisor and all.

    Reference:
        - [Focal Loss for Dense Object Detection](
          https://arxiv.org/abs/1708.02002), equation 5, whose alpha are the
          class weights

    Args:
        gamma: float, 0 or more. Defaults to `2.0`, the paper's.
        class_weights, ignore_label, reduction, reducer, name, dtype: as in
            `PixelCrossentropy`.

    Call arguments:
        y_true, y_pred, sample_weight: as in `PixelCrossentropy`.

    Raises:
        ValueError: for arguments out of range, or labels, logits or weights
            that do not fit each other.

    Example:

    >>> loss = keras_danet.losses.FocalLoss(gamma=1.0)
    >>> labels = np.array([[[0]]])
    >>> logits = np.array([[[[0.0, 0.0]]]], "float32")
    >>> round(float(loss(labels, logits)), 4)  # log(2) / 2
    0.3466
    """

    def __init__(
        self,
        gamma: float = 2.0,
        class_weights: ArrayLike | None = None,
        ignore_label: int = 255,
        reduction: str | None = "sum_over_batch_size",
        reducer: Callable | None = None,
        name: str = "focal_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            class_weights, ignore_label, reduction, reducer, name, dtype
        )
        must = "must be a number, 0 or more"
        self.gamma = float(number("gamma", gamma, must, least=0))

    def pixel_losses(self, entropies):
        if not self.gamma:
            return entropies
        # The root of 0 would have an infinite gradient.
        missed = maximum(-ops.expm1(-entropies), 1e-12)
        return entropies * missed**self.gamma

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma}
