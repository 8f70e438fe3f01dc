"""The loss that Keras lacks: cross-entropy over the valid pixels."""

import keras
from keras import ops

from keras_danet.layers.attention import wide_dtype


@keras.saving.register_keras_serializable(package="keras_danet")
class PixelCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of logits, averaged over the labelled pixels.

    With V the pixels whose label is not `ignore_label`,

        loss = sum over V of (weight * -log softmax(logits)[label]) / |V|

    so that a batch counts the same however much of it is unlabelled; with no
    labelled pixel it is 0. (MMSegmentation divides by all pixels, which
    shrinks the gradient of sparsely labelled crops.) A label that is neither
    a class nor `ignore_label` makes the loss NaN on every backend; Keras's
    own loss fails, or counts it as 0, depending on the backend and device.
    It is computed in float32 (or float64) under every dtype policy.

    Reference:
        - [Dual Attention Network for Scene Segmentation](
          https://arxiv.org/abs/1809.02983), the authors' loss of 2018

    Args:
        ignore_label: integer, the label of pixels to leave out. Defaults to
            `255`.
        reduction: as in `keras.losses.Loss`. `"sum_over_batch_size"` is the
            formula above; `"none"` gives a map whose mean it is. Defaults to
            `"sum_over_batch_size"`.
        reducer: function from a scalar tensor to its sum over all replicas
            (`distribution.sum_over_replicas`), by which |V| is that of the
            global batch. It is not saved. Defaults to `None`: one replica,
            or an engine that shows every device the global batch, as JAX's.
        name: string. Defaults to `"pixel_crossentropy"`.
        dtype: dtype of the computation. Defaults to `keras.config.floatx()`,
            but never to a half precision.

    Call arguments:
        y_true: labels `(batch, height, width)` or `(batch, height, width,
            1)`, of any integer or float dtype.
        y_pred: logits `(batch, height, width, num_classes)`.
        sample_weight: one weight per pixel, shaped like the labels, or one
            per image, `(batch,)`. They weight the sum, not |V|.

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
        ignore_label=255,
        reduction="sum_over_batch_size",
        reducer=None,
        name="pixel_crossentropy",
        dtype=None,
    ):
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

    def call(self, y_true, y_pred):
        labels = ops.cast(y_true, "int32")
        # Keras hands labels on as floats; a fraction is no label.
        whole = ops.equal(ops.cast(labels, y_true.dtype), y_true)
        ignored = ops.logical_and(whole, labels == self.ignore_label)
        valid = ops.logical_not(ignored)
        known = ops.logical_and(labels >= 0, labels < y_pred.shape[-1])
        known = ops.logical_and(known, whole)
        # As rows of logits: of a map torch would make a copy, classes first.
        pixels = ops.sparse_categorical_crossentropy(
            ops.reshape(ops.where(known, labels, 0), (-1,)),
            ops.reshape(y_pred, (-1, y_pred.shape[-1])),
            from_logits=True,
        )
        pixels = ops.reshape(pixels, ops.shape(labels))
        pixels = ops.where(known, pixels, float("nan"))
        pixels = ops.where(valid, pixels, 0.0)
        # Scaled so that the plain mean over all pixels, which Keras takes
        # (and shares among replicas), is the mean over the valid ones.
        num_valid = self.reducer(ops.sum(ops.cast(valid, pixels.dtype)))
        num_pixels = self.reducer(ops.sum(ops.ones_like(pixels)))
        return pixels * (num_pixels / ops.maximum(num_valid, 1.0))

    def get_config(self):
        return {**super().get_config(), "ignore_label": self.ignore_label}


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
