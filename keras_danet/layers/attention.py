"""Position attention and channel attention, the two halves of DANet.

They are duals: the first compares positions across channels, the second
channels across positions. Each adds `gamma` times what it gathered to its
input, and `gamma` starts at 0, so both begin as identities.
"""

from typing import Any

import keras
from keras import ops

from keras_danet import arguments
from keras_danet.layers.convolution import Conv2D
from keras_danet.layers.numerics import check_dtype
from keras_danet.layers.numerics import matmul
from keras_danet.layers.numerics import spatial_axes
from keras_danet.layers.numerics import standardize_data_format
from keras_danet.layers.numerics import wide_dtype
from keras_danet.layers.tiled_attention import attend
from keras_danet.layers.tiled_attention import attention_scores
from keras_danet.layers.tiled_attention import softmax


class _Attention(keras.layers.Layer):
    """What both modules share: input checks, `gamma`, rows, shapes."""

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**arguments.plain_values(kwargs))
        check_dtype(self.dtype_policy)
        self.data_format = standardize_data_format(data_format)

    def _channels(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(
                f"{type(self).__name__} attends over feature maps of shape "
                "(batch, height, width, channels), or (batch, channels, "
                "height, width) with data_format='channels_first'. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        channels = input_shape[1 if self._channels_first else 3]
        if channels is None:
            raise ValueError(
                f"{type(self).__name__} needs a known number of channels "
                f"(data_format={self.data_format!r}). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        return channels

    @property
    def _channels_first(self):
        return self.data_format == "channels_first"

    def build(self, input_shape):
        self._channels(input_shape)
        self.gamma = self.add_weight(
            name="gamma", shape=(), initializer="zeros"
        )

    def _channels_last(self, x):
        return ops.transpose(x, (0, 2, 3, 1)) if self._channels_first else x

    def _to_rows(self, x):
        """(batch, positions, channels) of a channels-last map, row-major."""
        _, height, width, channels = ops.shape(x)
        return ops.reshape(x, (-1, height * width, channels))

    def _add_to_input(self, inputs, rows):
        """`gamma * rows + inputs`, in the layout and dtype of `inputs`."""
        rows = ops.cast(rows, inputs.dtype)
        if self._channels_first:
            rows = ops.transpose(rows, (0, 2, 1))
        attended = ops.reshape(rows, (-1, *ops.shape(inputs)[1:]))
        return ops.cast(self.gamma, inputs.dtype) * attended + inputs

    def _output_spec(self, inputs, map_size, return_attention_scores):
        output = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return output
        scores = keras.KerasTensor(
            (inputs.shape[0], map_size, map_size),
            dtype=wide_dtype(self.compute_dtype),
        )
        return output, scores

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "data_format": self.data_format}


@keras.saving.register_keras_serializable(package="keras_danet")
class PositionAttention(_Attention):
    """Lets every position gather features from all positions like it.

    A convolution sees a neighbourhood; two ends of one road, or a car and its
    half behind a pole, share nothing until something compares them. With
    `query`, `key` and `value` 1x1 convolutions with bias of the input, and
    N = height * width positions,

        scores[i, j] = softmax over j of (query[i] . key[j])
        output[i] = gamma * sum over j of scores[i, j] * value[j] + input[i]

    There is no 1/sqrt(depth) in front of the energies, as in the paper and
    the authors' code. Energies and softmax are computed in float32 under
    every dtype policy. `gamma` is one trainable scalar that starts at 0. The
    bias of `key` has no effect on the output (it cancels in the softmax); it
    is kept because trained checkpoints hold one.

    Cost per image: 2 * N**2 * (channels + channels / reduction) operations.
    The N x N map is computed in tiles, forward and backward, and is never
    whole (unless N is at most `block_size`, the scores are asked for, or torch
    exports the layer for free sizes), so that memory grows with N. A GPU's
    fused kernel is used where there is one. Second derivatives of tiles are
    computed by JAX and refused by TensorFlow and torch.

    Reference:
        - [Dual Attention Network for Scene Segmentation, section 3.2](
          https://arxiv.org/abs/1809.02983)

    Args:
        reduction: integer, how many times fewer channels `query` and `key`
            have than the input. Defaults to `8`.
        block_size: integer, the positions along either side of a tile. It
            changes memory and speed, not what is computed. Defaults to
            `None`, which is 1024, and 2048 on torch.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to
            `keras.config.image_data_format()`.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: feature map of floats.
        return_attention_scores: boolean, whether to return `(output,
            scores)`. Defaults to `False`.

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height,
        width)` with `data_format="channels_first"`.

    Output shape:
        That of the input. `scores` is `(batch, N, N)`, float32 (float64 if
        the layer computes in it); each row sums to 1 and positions count row
        by row.

    Raises:
        ValueError: if `reduction` or `block_size` is not a positive integer,
            `reduction` is larger than the number of channels, or the input
            is not of rank 4.

    Example:

    >>> layer = keras_danet.layers.PositionAttention(reduction=4)
    >>> output, scores = layer(
    ...     np.ones((1, 2, 3, 8), "float32"), return_attention_scores=True)
    >>> tuple(output.shape), tuple(scores.shape)
    ((1, 2, 3, 8), (1, 6, 6))
    """

    def __init__(
        self,
        reduction: int = 8,
        block_size: int | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        must = "must be a positive integer"
        self.reduction = arguments.integer(
            "reduction", reduction, must, least=1
        )
        if block_size is not None:
            block_size = arguments.integer(
                "block_size", block_size, must, least=1
            )
        self.block_size = block_size

    def build(self, input_shape):
        channels = self._channels(input_shape)
        if channels < self.reduction:
            raise ValueError(
                f"`reduction` must not exceed the {channels} channels of the "
                f"input. Received: reduction={self.reduction}"
            )
        super().build(input_shape)
        depth = channels // self.reduction
        self.query = self._projection(depth, "query", channels)
        self.key = self._projection(depth, "key", channels)
        self.value = self._projection(channels, "value", channels)

    def _projection(self, filters, name, channels):
        layer = Conv2D(
            filters,
            1,
            # TensorFlow has no channels-first convolution on a CPU.
            data_format="channels_last",
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build((None, None, None, channels))
        return layer

    def call(self, inputs, return_attention_scores=False):
        if not return_attention_scores:
            # Without names for the projections, they are freed before the sum.
            rows = attend(*self._projections(inputs), self.block_size)
            return self._add_to_input(inputs, rows)
        query, key, value = self._projections(inputs)
        scores = ops.cast(attention_scores(query, key), query.dtype)
        rows = matmul(scores, ops.cast(value, query.dtype))
        return self._add_to_input(inputs, rows), scores

    def _projections(self, inputs):
        wide = wide_dtype(self.compute_dtype)
        x = self._channels_last(inputs)
        return (
            ops.cast(self._to_rows(self.query(x)), wide),
            ops.cast(self._to_rows(self.key(x)), wide),
            self._to_rows(self.value(x)),
        )

    def compute_output_spec(self, inputs, return_attention_scores=False):
        self._channels(inputs.shape)
        sides = [inputs.shape[axis] for axis in spatial_axes(self.data_format)]
        positions = None if None in sides else sides[0] * sides[1]
        return self._output_spec(inputs, positions, return_attention_scores)

    def get_config(self):
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "block_size": self.block_size,
        }


@keras.saving.register_keras_serializable(package="keras_danet")
class ChannelAttention(_Attention):
    """Lets every channel gather the channels most unlike it.

    Channels of a deep feature map answer to classes; channel attention lets
    them inform one another. With X the input as a matrix of `channels` rows
    and N = height * width columns, and no projections,

        energy = X X^T
        scores[c, d] = softmax over d of (max(energy[c]) - energy[c, d])
        output[c] = gamma * sum over d of scores[c, d] * X[d] + input[c]

    The subtraction from the row's maximum is the authors' released code: it
    weights *dissimilar* channels most, where the formula printed in the paper
    (equation 3) would weight similar ones. Checkpoints need it. Energies,
    softmax and sums are computed in float32 under every dtype policy.
    `gamma` is one trainable scalar that starts at 0.

    Cost per image: 4 * N * channels**2 operations and a channels x channels
    map.

    Reference:
        - [Dual Attention Network for Scene Segmentation, section 3.3](
          https://arxiv.org/abs/1809.02983)

    Args:
        data_format: `"channels_last"` or `"channels_first"`. Defaults to
            `keras.config.image_data_format()`.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: feature map of floats.
        return_attention_scores: boolean, whether to return `(output,
            scores)`. Defaults to `False`.

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height,
        width)` with `data_format="channels_first"`.

    Output shape:
        That of the input. `scores` is `(batch, channels, channels)`, float32
        (float64 if the layer computes in it); each row sums to 1.

    Raises:
        ValueError: if the input is not of rank 4 or its number of channels
            is unknown.

    Example:

    >>> layer = keras_danet.layers.ChannelAttention()
    >>> output, scores = layer(
    ...     np.ones((1, 2, 3, 8), "float32"), return_attention_scores=True)
    >>> tuple(output.shape), tuple(scores.shape)
    ((1, 2, 3, 8), (1, 8, 8))
    """

    def call(self, inputs, return_attention_scores=False):
        wide = wide_dtype(self.compute_dtype)
        rows = ops.cast(self._to_rows(self._channels_last(inputs)), wide)

        energy = matmul(ops.transpose(rows, (0, 2, 1)), rows)
        # softmax subtracts each row's maximum itself, so softmax(-energy) is
        # softmax(max - energy) without a second pass over the map.
        scores = ops.cast(softmax(-energy), wide)
        attended = matmul(rows, ops.transpose(scores, (0, 2, 1)))
        output = self._add_to_input(inputs, attended)
        return (output, scores) if return_attention_scores else output

    def compute_output_spec(self, inputs, return_attention_scores=False):
        channels = self._channels(inputs.shape)
        return self._output_spec(inputs, channels, return_attention_scores)
