"""The layout and precision of layers, and operations that keep float64.

On JAX and torch Keras 3.15 turns float64 into float32 where it meets another
dtype or a number (`keras.backend.result_type`). The operations here do not;
for every other dtype they are Keras's own.
"""

import contextlib
import sys

import keras
from keras import ops

from keras_danet.arguments import choice

DATA_FORMATS = ("channels_last", "channels_first")


def standardize_data_format(data_format):
    """`data_format`, or Keras's global one for None; refuses anything else."""
    if data_format is None:
        return keras.config.image_data_format()
    return choice("data_format", data_format, DATA_FORMATS)


def spatial_axes(data_format):
    """The axes of height and width in a batch of feature maps."""
    return (1, 2) if data_format == "channels_last" else (2, 3)


def wide_dtype(dtype):
    """The dtype of energies, softmax, sums and losses: float32 or wider."""
    return "float64" if is_float64(dtype) else "float32"


def is_float64(dtype):
    return keras.backend.standardize_dtype(dtype) == "float64"


def check_dtype(dtype):
    """Refuses float64 on JAX without x64, which would compute in float32.

    Args:
        dtype: a dtype, or a dtype policy.

    Raises:
        ValueError: for float64 on JAX without x64.
    """
    policy = keras.dtype_policies.get(dtype)
    if (
        keras.backend.backend() == "jax"
        and "float64" in (policy.compute_dtype, policy.variable_dtype)
        and not sys.modules["jax"].config.jax_enable_x64
    ):
        raise ValueError(
            "JAX computes in float64 only if it is told to. Received: "
            "dtype='float64'. Set the environment variable JAX_ENABLE_X64=1, "
            "or use dtype='float32'."
        )


@contextlib.contextmanager
def dtype_policy_scope(dtype):
    """Makes `dtype` the policy of the layers made inside; yields the policy."""
    policy = keras.dtype_policies.get(dtype)
    check_dtype(policy)
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield policy
    finally:
        keras.config.set_dtype_policy(previous)


def matmul(x, y):
    """`ops.matmul` of two tensors."""
    # On TensorFlow Keras keeps float64, and `@` does not accept vectors.
    if keras.backend.backend() == "tensorflow" or not is_float64(x.dtype):
        return ops.matmul(x, y)
    return x @ y


def maximum(x, y):
    """`ops.maximum` of a tensor and a tensor or number."""
    if not is_float64(x.dtype):
        return ops.maximum(x, y)
    return ops.where(x < y, ops.convert_to_tensor(y, x.dtype), x)


def minimum(x, y):
    """`ops.minimum` of a tensor and a tensor or number."""
    if not is_float64(x.dtype):
        return ops.minimum(x, y)
    return ops.where(x > y, ops.convert_to_tensor(y, x.dtype), x)


def segment_sum(values, segments, num_segments):
    """`ops.segment_sum`, which Keras 3.15 adds in float32 on torch."""
    if keras.backend.backend() != "torch" or not is_float64(values.dtype):
        return ops.segment_sum(values, segments, num_segments=num_segments)
    total = ops.zeros((num_segments,), values.dtype)
    return total.index_add(0, segments, values)
