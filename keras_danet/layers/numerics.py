"""Which precision is computed in, and operations that keep float64.

On JAX and torch Keras 3.15 promotes float64 beside another dtype, or a
number, to float32 (`keras.backend.result_type`). What is here does not, and
is Keras's own for every other dtype.
"""

import sys

import keras
from keras import ops


def wide_dtype(dtype):
    """The dtype of energies, softmax, sums and losses: float32 or wider."""
    return "float64" if is_float64(dtype) else "float32"


def is_float64(dtype):
    return keras.backend.standardize_dtype(dtype) == "float64"


def check_dtype(dtype):
    """Refuses float64 on JAX where it would take float32, with warnings.

    Args:
        dtype: a dtype, or a dtype policy.

    Raises:
        ValueError: if JAX was not told to compute in float64.
    """
    policy = keras.dtype_policies.get(dtype)
    if (
        keras.backend.backend() == "jax"
        and "float64" in (policy.compute_dtype, policy.variable_dtype)
        and not sys.modules["jax"].config.jax_enable_x64
    ):
        raise ValueError(
            "JAX computes in float64 only where it is told to. Received: "
            "dtype='float64'. Set the environment variable JAX_ENABLE_X64=1, "
            "or take dtype='float32'."
        )


def matmul(x, y):
    """`ops.matmul`."""
    # TensorFlow's `@` knows no vectors, and its Keras keeps float64.
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
