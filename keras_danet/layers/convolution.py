"""Convolution without needless copies, and how its kernels start."""

import contextlib
import contextvars
import math
import sys

import keras
from keras import ops

from keras_danet import arguments
from keras_danet.layers.numerics import check_dtype

_blank = contextvars.ContextVar("blank", default=None)
_budget = contextvars.ContextVar("budget", default=None)


@contextlib.contextmanager
def blank_kernels(but=()):
    """Kernels made inside start at zero, because a file replaces them.

    JAX would compile a random initializer for each of their shapes.

    Args:
        but: names of layers that are initialized as usual. Defaults to none.
    """
    token = _blank.set(but)
    try:
        yield
    finally:
        _blank.reset(token)


@contextlib.contextmanager
def no_larger_than(held, spare=0):
    """Refuses kernels made inside if they need more numbers than a file holds.

    They are counted before their memory is allocated.

    Args:
        held: integer, how many the file holds; `None` for no limit.
        spare: integer, how many more are allowed. Defaults to `0`.
    """
    token = _budget.set(None if held is None else [held, held + spare, 0])
    try:
        yield
    finally:
        _budget.reset(token)


def _count(layer, channels):
    """Adds a layer's kernel to those made under `no_larger_than`."""
    if budget := _budget.get():
        budget[2] += math.prod(layer.kernel_size) * channels * layer.filters
        held, most, count = budget
        if count > most:
            raise ValueError(
                f"The file does not fit the model: it holds {held} numbers, "
                f"and such a network has {count} or more. Expected the "
                "weights of this network, all of them."
            )


@keras.saving.register_keras_serializable(package="keras_danet")
class Conv2D(keras.layers.Conv2D):
    """Keras's convolution, faster on torch and safe on TensorFlow.

    torch's convolutions read a channels-last tensor without a copy, as its
    `channels_last` memory format. Keras 3.15 copies it to the other format
    and back, and again in the backward pass.

    TensorFlow 2.21's oneDNN writes beyond its memory in the backward pass of
    a strided 1x1 kernel and a single image. So there the pixels that the
    kernel sees are sliced out first.

    When Keras 3.15 loads a layer with adapters (LoRA), it sets both of their
    factors to zero, and neither ever gets a gradient. Here the first one is
    initialized again.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(
            *map(arguments.plain, args),
            **arguments.plain_values(kwargs),
        )

    def build(self, input_shape):
        check_dtype(self.dtype_policy)
        first = self.data_format == "channels_first"
        _count(self, input_shape[1 if first else 3])
        given = self.kernel_initializer
        but = _blank.get()
        if but is not None and self.name not in but:
            self.kernel_initializer = keras.initializers.Zeros()
        super().build(input_shape)
        # A copy made from the configuration is initialized as usual.
        self.kernel_initializer = given

    def load_own_variables(self, store):
        super().load_own_variables(store)
        if self.lora_enabled:
            factor = self.lora_kernel_a
            start = keras.initializers.HeUniform()
            factor.assign(start(factor.shape, factor.dtype))

    def convolution_op(self, inputs, kernel):
        backend = keras.backend.backend()
        if self.data_format != "channels_last":
            return super().convolution_op(inputs, kernel)
        rows, columns = self.strides
        if backend == "tensorflow" and max(self.kernel_size) == 1 < max(
            rows, columns
        ):
            return ops.conv(
                inputs[:, ::rows, ::columns],
                kernel,
                data_format="channels_last",
            )
        if backend != "torch" or not self._pads_alike:
            return super().convolution_op(inputs, kernel)
        output = sys.modules["torch"].nn.functional.conv2d(
            inputs.permute(0, 3, 1, 2),
            ops.convert_to_tensor(kernel).permute(3, 2, 0, 1),
            stride=self.strides,
            padding=[
                rate * (size - 1) // 2 if self.padding == "same" else 0
                for rate, size in zip(
                    self.dilation_rate, self.kernel_size, strict=True
                )
            ],
            dilation=self.dilation_rate,
            groups=self.groups,
        )
        return output.permute(0, 2, 3, 1)

    @property
    def _pads_alike(self):
        """Whether the padding is the same on both sides."""
        return self.padding == "valid" or (
            self.padding == "same"
            and max(self.strides) == 1
            and all(size % 2 for size in self.kernel_size)
        )
