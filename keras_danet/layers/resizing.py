"""Bilinear interpolation as two matrix products."""

from typing import Any

import keras
from keras import ops

from keras_danet import arguments
from keras_danet.layers.numerics import check_dtype
from keras_danet.layers.numerics import matmul
from keras_danet.layers.numerics import maximum
from keras_danet.layers.numerics import spatial_axes
from keras_danet.layers.numerics import standardize_data_format
from keras_danet.layers.numerics import wide_dtype


def interpolation_matrix(source, target, align_corners, dtype="float32"):
    """Weights of linear interpolation along one axis.

    Args:
        source: integer, length of the axis before, possibly symbolic.
        target: integer, length of the axis after, possibly symbolic.
        align_corners: boolean, whether the first and last samples of both
            lengths coincide; otherwise pixels are areas (half-pixel centres).
        dtype: float dtype of the weights; positions are float32 or wider.

    Returns:
        Tensor `(target, source)`; every row sums to 1.
    """
    wide = wide_dtype(dtype)
    rows = ops.arange(target, dtype=wide)
    columns = ops.arange(source, dtype=wide)
    source = ops.cast(source, wide)
    target = ops.cast(target, wide)
    if align_corners:
        # A target of one sample is the first sample, as in PyTorch.
        positions = rows * ((source - 1) / maximum(target - 1, 1))
    else:
        positions = (rows + 0.5) * (source / target) - 0.5
    # Rounding may put a position outside as well.
    positions = ops.clip(positions, 0, source - 1)
    distance = ops.abs(
        ops.expand_dims(positions, 1) - ops.expand_dims(columns, 0)
    )
    return ops.cast(maximum(1.0 - distance, 0.0), dtype)


@keras.saving.register_keras_serializable(package="keras_danet")
class BilinearResize(keras.layers.Layer):
    """Bilinear resize with aligned corners or half-pixel centres.

    Networks of the DANet family are trained with aligned corners, which
    `keras.ops.image.resize` does not offer, and sizes known only at run time,
    which it cannot export. Interpolation is linear in the image, so it is a
    matrix for the rows and a matrix for the columns:

        output = vertical @ inputs @ horizontal^T

    with (target, source) matrices of two weights a row. It runs and exports
    on every backend with fixed or dynamic sizes, and equals PyTorch's
    `interpolate(mode="bilinear")` for enlarging and shrinking (without
    antialiasing).

    Cost: `source` instead of 2 multiply-adds per axis and output value.

    Args:
        align_corners: boolean, whether the centres of the corner pixels of
            input and output coincide (the authors' code; MMSegmentation's
            769-pixel models), or the corners of the images do (half-pixel
            centres, MMSegmentation's other models). Defaults to `True`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to
            `keras.config.image_data_format()`.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: feature map of floats.
        size: `(height, width)` as positive integers, given by keyword as
            Keras requires for anything but tensors; or an image tensor of the
            same `data_format`, whose height and width are used.

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height,
        width)` with `data_format="channels_first"`.

    Output shape:
        The input's, with the height and width of `size`; dtype is the
        layer's compute dtype.

    Raises:
        ValueError: if `size` is neither two positive integers nor a tensor of
            rank 4, or the input is not of rank 4.

    Example:

    >>> layer = keras_danet.layers.BilinearResize()
    >>> x = np.array([[0.0, 2.0]], "float32").reshape((1, 1, 2, 1))
    >>> keras.ops.convert_to_numpy(layer(x, size=(1, 3))).ravel().tolist()
    [0.0, 1.0, 2.0]
    """

    def __init__(
        self,
        align_corners: bool = True,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**arguments.plain_values(kwargs))
        check_dtype(self.dtype_policy)
        self.align_corners = arguments.boolean("align_corners", align_corners)
        self.data_format = standardize_data_format(data_format)

    def _static_size(self, size):
        """`(height, width)`, each an integer or None, of either form."""
        must = (
            "must be (height, width), two positive integers, or an image "
            "tensor of rank 4 that has this size"
        )
        if isinstance(size, (tuple, list)):
            return arguments.integers("size", size, must, length=2, least=1)
        if len(getattr(size, "shape", ())) != 4:
            raise arguments.refusal("size", must, size)
        return tuple(
            size.shape[axis] for axis in spatial_axes(self.data_format)
        )

    def call(self, inputs, size):
        target = self._static_size(size)
        if not isinstance(size, (tuple, list)):
            target = tuple(
                ops.shape(size)[axis] for axis in spatial_axes(self.data_format)
            )
        shape = ops.shape(inputs)
        vertical, horizontal = (
            interpolation_matrix(
                shape[axis], length, self.align_corners, self.compute_dtype
            )
            for axis, length in zip(
                spatial_axes(self.data_format), target, strict=True
            )
        )
        if self.data_format == "channels_first":
            rows = matmul(vertical, inputs)
            output = matmul(rows, ops.transpose(horizontal))
        else:
            # Rows first: the map is still narrow.
            flat = ops.reshape(inputs, (-1, shape[1], shape[2] * shape[3]))
            rows = ops.reshape(
                matmul(vertical, flat), (-1, target[0], shape[2], shape[3])
            )
            output = matmul(horizontal, rows)
        return output

    def compute_output_spec(self, inputs, size):
        shape = self.compute_output_shape(inputs.shape, size)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape, size):
        if len(input_shape) != 4:
            raise ValueError(
                "BilinearResize expects a feature map of rank 4. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        shape = list(input_shape)
        sizes = self._static_size(size)
        for axis, length in zip(
            spatial_axes(self.data_format), sizes, strict=True
        ):
            shape[axis] = length
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "align_corners": self.align_corners,
            "data_format": self.data_format,
        }
