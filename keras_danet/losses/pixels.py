"""What every loss over label maps has in common, and their sum."""

import copy
from collections.abc import Sequence

import keras
from keras import ops

from keras_danet.arguments import as_sequence
from keras_danet.arguments import integer
from keras_danet.arguments import is_number
from keras_danet.distribution.replicas import num_replicas
from keras_danet.distribution.replicas import part_of
from keras_danet.distribution.replicas import sum_over_replicas
from keras_danet.layers.numerics import check_dtype
from keras_danet.layers.numerics import is_float64
from keras_danet.layers.numerics import wide_dtype


class PixelLoss(keras.losses.Loss):
    """Reads label maps: (batch, height, width), with pixels to leave out.

    Subclasses compute values and a divisor in `call`, and return `reduce` of
    them.

    Args:
        ignore_label: integer, the label of pixels to leave out.
        reduction: as in `keras.losses.Loss`.
        reducer: function from a tensor to its sum over all replicas, or
            `None` for the sum over the strategy in force.
        name: string.
        dtype: dtype of the computation. Defaults to `None`: float64 where
            the logits or `keras.config.floatx()` are, else float32.
    """

    knows_replicas = True

    def __init__(self, ignore_label, reduction, reducer, name, dtype):
        self._follows_logits = dtype is None
        if dtype is None:
            dtype = wide_dtype(keras.config.floatx())
        check_dtype(dtype)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.ignore_label = integer("ignore_label", ignore_label)
        self.reducer = reducer or sum_over_replicas

    def __call__(self, y_true, y_pred, sample_weight=None):
        if self._follows_logits and self.dtype != "float64":
            if is_float64(ops.convert_to_tensor(y_pred).dtype):
                wider = copy.copy(self)
                wider._dtype = "float64"
                return wider(y_true, y_pred, sample_weight)
        mask = getattr(y_pred, "_keras_mask", None)
        with keras.name_scope(self.name):
            y_pred = ops.convert_to_tensor(y_pred, self.dtype)
            y_true = ops.convert_to_tensor(y_true, self.dtype)
            y_true = _one_per_pixel(y_true, y_pred, "labels")
            if mask is not None:
                void = ops.convert_to_tensor(self.ignore_label, self.dtype)
                y_true = ops.where(mask, y_true, void)
            if sample_weight is not None:
                sample_weight = weights_of_pixels(
                    ops.convert_to_tensor(sample_weight, self.dtype), y_pred
                )
            # Not Keras's `__call__`, which divides by all pixels.
            return self.call(y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred, sample_weight=None):
        raise NotImplementedError

    def read_labels(self, y_true, num_classes):
        """Classes (0 where there is none), where there is one, and a poison.

        The poison is a scalar: 0, or NaN if a label is neither a class nor
        ignored. It is computed, not selected from NaNs by a mask, so that a
        debugger finds no NaN while the labels are right.
        """
        labels = ops.cast(y_true, "int32")
        # Labels are read as floats; a fraction is not a label.
        whole = ops.equal(ops.cast(labels, y_true.dtype), y_true)
        ignored = ops.logical_and(whole, labels == self.ignore_label)
        known = ops.logical_and(labels >= 0, labels < num_classes)
        known = ops.logical_and(known, whole)
        known = ops.logical_and(known, ops.logical_not(ignored))
        right = ops.all(ops.logical_or(known, ignored))
        poison = ops.sqrt(ops.cast(right, y_true.dtype) - 1)
        return ops.where(known, labels, 0), known, poison

    def reduce(self, values, divisor, poison=0.0, own=True):
        """The loss, or this replica's part of it, by `reduction`.

        Args:
            values: tensor that is summed; `reduction` "none" only scales it.
            divisor: scalar that makes a mean of the sum.
            poison: that of `read_labels`.
            own: boolean, whether `values` and `divisor` are this replica's
                own, not the same on all replicas.
        """
        several = num_replicas()
        if self.reduction == "sum":
            total = ops.sum(values) + poison
            return total if own else total / several
        replicas = 1.0
        if own:
            # Both in one exchange.
            both = ops.stack([divisor, ops.ones_like(divisor)])
            divisor, replicas = ops.unstack(self.reducer(both), 2)
        something = divisor > 0
        scale = replicas / ops.where(something, divisor, 1.0)
        scale = ops.where(something, scale, 0.0) + poison
        if self.reduction in (None, "none"):
            # Multiplied by their number, so that their mean is the loss.
            count = ops.prod(ops.convert_to_tensor(ops.shape(values), "int32"))
            return values * (scale * ops.cast(count, values.dtype))
        return ops.sum(values) * scale / several

    def get_config(self):
        config = {**super().get_config(), "ignore_label": self.ignore_label}
        return (
            config if self._follows_logits else config | {"dtype": self.dtype}
        )


def crossentropy(labels, logits):
    """-log softmax(logits)[label] of every pixel."""
    # As rows of logits: torch would copy a map, to put the classes first.
    pixels = ops.sparse_categorical_crossentropy(
        ops.reshape(labels, (-1,)),
        ops.reshape(logits, (-1, logits.shape[-1])),
        from_logits=True,
    )
    return ops.reshape(pixels, ops.shape(labels))


def of_known_shape(labels, logits, sample_weight=None):
    """Labels and sample weights of unknown rank, as one value per pixel.

    Keras's own losses and metrics need a known rank. What has one stays as
    it is.
    """
    if _is_unknown(labels):
        labels = _one_per_pixel(labels, logits, "labels")
    if _is_unknown(sample_weight):
        sample_weight = weights_of_pixels(sample_weight, logits)
    return labels, sample_weight


def _is_unknown(values):
    return ops.is_tensor(values) and _rank(values) is None


def weights_of_pixels(weights, logits):
    """Sample weights by pixel or by image, to be multiplied with a map."""
    rank = _rank(weights)
    if rank == 1:
        return ops.reshape(weights, (-1, 1, 1))
    if rank is not None:
        return _one_per_pixel(weights, logits, "sample weights")
    # One weight per image or one per pixel: only the step can tell which.
    batch, height, width = ops.shape(logits)[:-1]
    each = ops.size(weights) // ops.maximum(batch, 1)
    weights = ops.reshape(weights, (batch, ops.maximum(each, 1)))
    weights = weights * ops.ones((batch, height * width), weights.dtype)
    return ops.reshape(weights, (batch, height, width))


def _one_per_pixel(values, logits, what):
    """`values` as `(batch, height, width)`, refused if it does not fit."""
    if _rank(values) is not None:
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


def _rank(values):
    """None where a TensorFlow function met values of several ranks."""
    if keras.backend.backend() == "tensorflow":
        return values.shape.rank
    return len(values.shape)


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

    knows_replicas = True

    def __init__(
        self,
        losses: Sequence[tuple[float, keras.losses.Loss]],
        name: str = "sum_of_losses",
    ) -> None:
        super().__init__(name=name)
        self.losses = _checked_pairs(losses)

    def __call__(self, y_true, y_pred, sample_weight=None):
        return sum(
            weight * part_of(loss, y_true, y_pred, sample_weight)
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


def _checked_pairs(losses):
    pairs = [as_sequence(pair) or () for pair in as_sequence(losses) or ()]
    if not pairs or not all(
        len(pair) == 2
        and is_number(pair[0])
        and isinstance(pair[1], keras.losses.Loss)
        for pair in pairs
    ):
        raise ValueError(
            "`losses` must be pairs of a number and a loss, such as "
            f"[(1.0, PixelCrossentropy())]. Received: losses={losses!r}"
        )
    return [(float(weight), loss) for weight, loss in pairs]
