"""What every loss over label maps has in common, and their sum."""

import math

import keras
from keras import ops

from keras_danet.layers.attention import wide_dtype


class PixelLoss(keras.losses.Loss):
    """Reads label maps: (batch, height, width), with pixels to leave out.

    Args:
        ignore_label: integer, the label of pixels to leave out.
        reduction: as in `keras.losses.Loss`.
        reducer: function from a tensor to its sum over all replicas, or
            `None` for one replica.
        name: string.
        dtype: dtype of the computation. Defaults to `keras.config.floatx()`,
            but never to a half precision.
    """

    def __init__(self, ignore_label, reduction, reducer, name, dtype=None):
        if dtype is None:
            dtype = wide_dtype(keras.config.floatx())
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if type(ignore_label) is not int:
            raise ValueError(
                "`ignore_label` must be an integer. "
                f"Received: ignore_label={ignore_label!r}"
            )
        self.ignore_label = ignore_label
        self.reducer = reducer or (lambda total: total)

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_true = _one_per_pixel(y_true, y_pred, "labels")
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, self.dtype)
            if len(sample_weight.shape) == 1:
                sample_weight = ops.reshape(sample_weight, (-1, 1, 1))
            else:
                sample_weight = _one_per_pixel(
                    sample_weight, y_pred, "sample weights"
                )
        return super().__call__(y_true, y_pred, sample_weight)

    def read_labels(self, y_true, num_classes):
        """Classes (0 where there is none), what is labelled, what a class."""
        labels = ops.cast(y_true, "int32")
        # Keras hands labels on as floats; a fraction is no label.
        whole = ops.equal(ops.cast(labels, y_true.dtype), y_true)
        ignored = ops.logical_and(whole, labels == self.ignore_label)
        known = ops.logical_and(labels >= 0, labels < num_classes)
        known = ops.logical_and(known, whole)
        known = ops.logical_and(known, ops.logical_not(ignored))
        return ops.where(known, labels, 0), ops.logical_not(ignored), known

    def get_config(self):
        return {**super().get_config(), "ignore_label": self.ignore_label}


def crossentropy(labels, logits):
    """-log softmax(logits)[label] of every pixel."""
    # As rows of logits: of a map torch would make a copy, classes first.
    pixels = ops.sparse_categorical_crossentropy(
        ops.reshape(labels, (-1,)),
        ops.reshape(logits, (-1, logits.shape[-1])),
        from_logits=True,
    )
    return ops.reshape(pixels, ops.shape(labels))


def _one_per_pixel(values, logits, what):
    """`values` as `(batch, height, width)`, refused if it does not fit."""
    values = ops.convert_to_tensor(values)
    # A TensorFlow function that met both forms of labels knows no rank.
    if getattr(values.shape, "rank", 0) is not None:
        received = tuple(values.shape)
        expected = tuple(logits.shape[:-1])
        squeezed = received[:3] if received[3:] == (1,) else received
        fits = len(squeezed) == len(expected) == 3 and all(
            None in pair or pair[0] == pair[1]
            for pair in zip(squeezed, expected, strict=True)
        )
        if not fits:
            raise ValueError(
                f"The {what} must have one value per pixel of the logits: "
                f"shape {expected} or {(*expected, 1)}. Received: shape "
                f"{received} beside logits of shape {tuple(logits.shape)}. "
                "Labels are class indices, not one-hot vectors."
            )
    return ops.reshape(values, ops.shape(logits)[:-1])


@keras.saving.register_keras_serializable(package="keras_danet")
class SumOfLosses(keras.losses.Loss):
    """Several losses of the same logits, added with weights.

    `compile` gives every output one loss; this makes one of several.

    Args:
        losses: list of (weight, loss).
        name: string. Defaults to `"sum_of_losses"`.

    Call arguments:
        y_true, y_pred: those of the losses.
        sample_weight: is handed to every loss.

    Raises:
        ValueError: for anything but pairs of a finite number and a loss.

    Example:

    >>> loss = keras_danet.losses.SumOfLosses([
    ...     (1.0, keras_danet.losses.PixelCrossentropy()),
    ...     (0.5, keras_danet.losses.DiceLoss()),
    ... ])
    >>> model.compile(loss=loss)  # doctest: +SKIP
    """

    def __init__(self, losses, name="sum_of_losses"):
        super().__init__(name=name)
        pairs = [tuple(pair) for pair in losses]
        if not pairs or not all(
            len(pair) == 2
            and type(pair[0]) in (int, float)
            and math.isfinite(pair[0])
            and isinstance(pair[1], keras.losses.Loss)
            for pair in pairs
        ):
            raise ValueError(
                "`losses` must be pairs of a number and a loss, such as "
                f"[(1.0, PixelCrossentropy())]. Received: losses={losses!r}"
            )
        self.losses = pairs

    def __call__(self, y_true, y_pred, sample_weight=None):
        return sum(
            weight * loss(y_true, y_pred, sample_weight)
            for weight, loss in self.losses
        )

    def get_config(self):
        return {
            "name": self.name,
            "losses": [
                (weight, keras.saving.serialize_keras_object(loss))
                for weight, loss in self.losses
            ],
        }

    @classmethod
    def from_config(cls, config):
        losses = [
            (weight, keras.saving.deserialize_keras_object(loss))
            for weight, loss in config["losses"]
        ]
        return cls(**{**config, "losses": losses})
