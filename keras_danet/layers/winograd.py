"""A 3x3 convolution with fewer multiplications."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_danet import arguments
from keras_danet.layers.numerics import check_dtype
from keras_danet.layers.numerics import matmul

# Winograd's F(2x2, 3x3): the kernel's transform. Those of inputs and outputs
# have no factors but 1 and -1 and are written out as sums.
KERNEL_TRANSFORM = np.array(
    [
        [1.0, 0.0, 0.0],
        [0.5, 0.5, 0.5],
        [0.5, -0.5, 0.5],
        [0.0, 0.0, 1.0],
    ]
)


@keras.saving.register_keras_serializable(package="keras_danet")
class WinogradConv2D(keras.layers.Layer):
    """A 3x3 convolution with 16 multiplications where 36 are usual.

    Four outputs of a 3x3 kernel, 2 by 2, need 36 products; Winograd's
    minimal filtering needs 16, of sums of inputs with sums of weights. With
    hundreds of channels the products are nearly all of the work. Rounding
    errors are several times those of the usual sum. A dilated kernel sees
    interleaved images, and each of them is convolved separately. For
    inference on CPUs: the weights are kept transformed, in 16/9 of the
    memory.

    Reference:
        - [Fast Algorithms for Convolutional Neural Networks](
          https://arxiv.org/abs/1509.09308), section 4.1

    Args:
        filters: integer, channels of the output.
        dilation_rate: integer. Defaults to `1`.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Input shape:
        `(batch, height, width, channels)`

    Output shape:
        `(batch, height, width, filters)`: strides of 1, zeros around the
        input.

    Example:

    >>> layer = keras_danet.layers.WinogradConv2D(4)
    >>> tuple(layer(np.ones((1, 5, 7, 3), "float32")).shape)
    (1, 5, 7, 4)
    """

    def __init__(
        self, filters: int, dilation_rate: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(**arguments.plain_values(kwargs))
        check_dtype(self.dtype_policy)
        must = "must be a positive integer"
        self.filters = arguments.integer("filters", filters, must, least=1)
        self.dilation_rate = arguments.integer(
            "dilation_rate", dilation_rate, must, least=1
        )

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel", shape=(16, input_shape[-1], self.filters)
        )
        self.bias = self.add_weight(
            name="bias", shape=(self.filters,), initializer="zeros"
        )

    def set_convolution(self, kernel, bias):
        """Takes the weights of a convolution.

        Args:
            kernel: float array `(3, 3, channels, filters)`.
            bias: float array `(filters,)`.
        """
        kernel = np.einsum(
            "ip,jq,pqcf->ijcf", KERNEL_TRANSFORM, KERNEL_TRANSFORM, kernel
        )
        self.kernel.assign(kernel.reshape(self.kernel.shape))
        self.bias.assign(bias)

    def call(self, inputs):
        _, height, width, channels = ops.shape(inputs)
        rate = self.dilation_rate
        step = 2 * rate
        rows, columns = (height + step - 1) // step, (width + step - 1) // step
        x = ops.pad(
            inputs,
            (
                (0, 0),
                (rate, (rows + 1) * step - rate - height),
                (rate, (columns + 1) * step - rate - width),
                (0, 0),
            ),
        )
        # Along an axis: tile, place in the tile, interleaved image.
        x = ops.reshape(
            x, (-1, rows + 1, 2, rate, (columns + 1) * step, channels)
        )
        tiles = []
        for sums in _input_transform(x[:, :, 0], x[:, :, 1], axis=1):
            x = ops.reshape(
                sums, (-1, rows, rate, columns + 1, 2, rate, channels)
            )
            tiles += _input_transform(x[..., 0, :, :], x[..., 1, :, :], axis=3)
        tiles = ops.stack([ops.reshape(tile, (-1, channels)) for tile in tiles])
        products = matmul(tiles, self.kernel)
        products = ops.reshape(
            products, (4, 4, -1, rows, rate, columns, rate, self.filters)
        )
        # (batch, rows, place, rate, columns, place, rate, filters)
        pairs = _output_transform(products)
        outputs = ops.stack(
            [ops.stack(_output_transform(pair), axis=4) for pair in pairs],
            axis=2,
        )
        outputs = ops.reshape(
            outputs, (-1, rows * step, columns * step, self.filters)
        )
        return outputs[:, :height, :width] + self.bias

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "dilation_rate": self.dilation_rate,
        }


def _input_transform(even, odd, axis):
    """Four sums of each tile's four inputs, two of them the next tile's."""
    before = [slice(None)] * axis + [slice(None, -1)]
    after = [slice(None)] * axis + [slice(1, None)]
    first, second = even[tuple(before)], odd[tuple(before)]
    third, fourth = even[tuple(after)], odd[tuple(after)]
    return [first - third, second + third, third - second, second - fourth]


def _output_transform(products):
    """Two outputs of each tile's four products."""
    first, second, third, fourth = (products[index] for index in range(4))
    return [first + second + third, second - third - fourth]
