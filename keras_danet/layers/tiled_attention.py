"""`softmax(query @ key^T) @ value` without the map of all pairs.

Arguments are (batch, positions, depth); the energies of the N positions with
one another are N x N numbers, 4 GiB for a street scene of 1024x2048. `attend`
chooses how to do without.
"""

import contextlib
import contextvars
import math
import sys
from collections.abc import Iterator

import keras
from keras import ops

from keras_danet.layers.numerics import matmul
from keras_danet.layers.numerics import maximum

# Tiles of 1024 x 1024 energies, 4 MiB, stay in the caches of a CPU. torch runs
# every operation separately, and was sometimes faster with larger tiles.
BLOCK_SIZE = 2048 if keras.backend.backend() == "torch" else 1024
# The energy of a position that is padding, below any other. exp() of it is 0;
# unlike -inf it survives the subtraction of a maximum that is as low.
PADDING_ENERGY = -1e38

_unrolled = contextvars.ContextVar("unrolled", default=False)


@contextlib.contextmanager
def unrolled_blocks() -> Iterator[None]:
    """Attentions of known size that are traced inside contain no loop.

    Their blocks of queries are written out one after another instead, each
    with all keys. Full int8 quantisation for TFLite needs this, and so does
    ONNX from torch. It is not for training, and under XLA it saves no memory.
    """
    token = _unrolled.set(True)
    try:
        yield
    finally:
        _unrolled.reset(token)


def attend(query, key, value, block_size=None):
    """`softmax(query @ key^T) @ value`, in the way that fits.

    Args:
        query, key: float32 (or float64) tensors `(batch, positions, depth)`.
        value: float tensor `(batch, positions, channels)`. A bfloat16 one is
            multiplied in bfloat16 in the forward pass, a float16 one only by
            a fused kernel: unscaled sums of float16 overflow.
        block_size: integer, how many positions one side of a tile has.
            Defaults to `None`: 1024, on torch 2048.

    Returns:
        Tensor `(batch, positions, channels)`.
    """
    block_size = block_size or BLOCK_SIZE
    batch_size, positions, _ = query.shape
    known = isinstance(positions, int)
    # (torch has no maximum over an empty batch.)
    if known and (positions <= block_size or batch_size == 0):
        return dense_attention(query, key, value)
    if _has_fused_kernel(query, value):
        return fused_attention(query, key, value)
    if _dtype(value) == "float16":
        value = ops.cast(value, query.dtype)
    if _unrolled.get() or _is_exporting():
        # If torch does not know the size, a slice would become a constant.
        return (
            unrolled_attention(query, key, value, block_size)
            if known
            else dense_attention(query, key, value)
        )
    return tiled_attention(query, key, value, block_size)


def softmax(energy):
    """Softmax over the last axis."""
    # Of one element it is 1, but Keras would warn of a mistake.
    if not _is_exporting() and energy.shape[-1] == 1:
        return ops.ones_like(energy)
    return ops.softmax(energy, axis=-1)


def attention_scores(query, key):
    """The map: who gathers from whom, `(batch, positions, positions)`."""
    return softmax(matmul(query, _transposed(key)))


def dense_attention(query, key, value):
    """The definition: the whole map, then its product with the values."""
    scores = attention_scores(query, key)
    return matmul(scores, ops.cast(value, scores.dtype))


def unrolled_attention(query, key, value, block_size):
    """Blocks of queries beside all keys, written out; for exports."""
    positions = query.shape[1]
    return ops.concatenate(
        [
            dense_attention(query[:, start : start + block_size], key, value)
            for start in range(0, positions, block_size)
        ],
        axis=1,
    )


def fused_attention(query, key, value):
    """The library's own kernel.

    It needs values as deep as the keys, so they are split into heads that
    share query and key: exact, but each head computes the energies again.
    """
    depth = query.shape[-1]
    heads = value.shape[-1] // depth
    query, key = (
        ops.repeat(ops.expand_dims(ops.cast(x, value.dtype), 2), heads, axis=2)
        for x in (query, key)
    )
    _, positions, channels = ops.shape(value)
    value = ops.reshape(value, (-1, positions, heads, depth))
    rows = ops.dot_product_attention(query, key, value, scale=1.0)
    return ops.reshape(rows, (-1, positions, channels))


def _has_fused_kernel(query, value):
    """Whether an accelerator has a kernel for these that holds no map."""
    depth = query.shape[-1]
    if value.shape[-1] % depth:
        return False
    backend = keras.backend.backend()
    if backend == "torch":
        # In float64 it computes the whole map.
        return query.device.type == "cuda" and _dtype(query) != "float64"
    if backend == "jax" and sys.modules["jax"].default_backend() == "gpu":
        # For other dtypes and depths JAX computes the whole map.
        half = _dtype(value) in ("float16", "bfloat16")
        return half and depth % 8 == 0 and depth <= 128
    return False


def _dtype(x):
    return keras.backend.standardize_dtype(x.dtype)


def _is_exporting():
    if keras.backend.backend() != "torch":
        return False
    torch = sys.modules["torch"]
    # Keras uses the older tracer for ONNX with free sizes.
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def tiled_attention(query, key, value, block_size):
    """Tiles of block_size x block_size energies, forward and backward.

    The softmax is computed online. Each query keeps its largest energy so
    far, the sum of the exponentials relative to it, and the values weighted
    by them; all are rescaled when a larger energy comes. The backward pass
    computes each tile's energies again. Of the softmax it needs two numbers
    per query, its largest energy and its sum (as one logarithm they would be
    rounded at the scale of the energies). Memory grows with the number of
    positions. Only JAX has second derivatives; TensorFlow and torch refuse
    them.

    Reference:
        - [FlashAttention-2](https://arxiv.org/abs/2307.08691), algorithms 1
          and 2
    """
    positions = ops.shape(query)[1]
    number = (positions + block_size - 1) // block_size
    # Blocks as even as possible: one position more than two blocks hold makes
    # three of two thirds. (JAX cannot know that a symbolic length is > 0.)
    length = block_size
    if isinstance(positions, int) or keras.backend.backend() == "tensorflow":
        length = (positions + number - 1) // number
    if not isinstance(positions, int) or positions % number:
        # One more feature: 1 in queries, 0 in keys, PADDING_ENERGY in padding.
        # It masks without a pass over the energies.
        query = _with_feature(query, 1.0)
        key = _with_feature(key, 0.0)

    # In bits on torch, whose exp() takes longer than exp2() does on CPUs, and
    # much longer where it underflows.
    unit = math.log2(math.e) if keras.backend.backend() == "torch" else 1.0

    @ops.custom_gradient
    def attention(query, key, value):
        queries = _blocks(query, number, length)
        keys = _blocks(key, number, length, PADDING_ENERGY)
        values = _blocks(value, number, length)
        gathered, tops, totals = ops.map(
            lambda block: _gather(block, keys, values, number), queries
        )
        output = kept = _rows(gathered, positions)
        if keras.backend.backend() == "torch":
            # Otherwise the output would refer to itself and never be freed.
            kept = output.detach()

        @_differentiable_once
        def gradients_of(queries, keys, values, upstream):
            means = ops.sum(upstream * kept, axis=-1, keepdims=True)
            # The weights stay unnormalised; their sums divide their factors.
            return _gradients(
                (queries, tops),
                (keys, ops.cast(values, query.dtype)),
                _blocks(upstream, number, length) / totals,
                _blocks(means, number, length) / totals,
                number,
            )

        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            gradients = gradients_of(queries, keys, values, upstream)
            grad_query, grad_key, grad_value = (
                _rows(blocks, positions) for blocks in gradients
            )
            return (
                grad_query / unit,
                grad_key / unit,
                ops.cast(grad_value, value.dtype),
            )

        return output, gradient

    return attention(query * unit, key, value)


def _gather(query, keys, values, number):
    """What a block of queries gathers from all, its top energies and sums."""

    def add_keys(index, carry):
        top, total, gathered = carry
        index = _in_turn(index, top)
        energy = matmul(query, _transposed(keys[index]))
        new_top = maximum(top, ops.max(energy, axis=-1, keepdims=True))
        weights = _power(energy - new_top)
        rescale = _power(top - new_top)
        total = total * rescale + ops.sum(weights, axis=-1, keepdims=True)
        product = matmul(ops.cast(weights, values.dtype), values[index])
        gathered = gathered * rescale + ops.cast(product, gathered.dtype)
        return new_top, total, gathered

    zeros = 0 * query[..., :1]
    top, total, gathered = ops.fori_loop(
        0,
        number,
        add_keys,
        (
            zeros + PADDING_ENERGY,
            zeros,
            ops.zeros_like(values[0], dtype=query.dtype),
        ),
    )
    return gathered / total, top, total


def _gradients(queries, keys, upstreams, means, number):
    """Gradients of the blocks of queries, keys and values."""
    queries, tops = queries
    keys, values = keys

    def add_block_of_keys(index, carry):
        grad_queries, grad_keys, grad_values = carry
        key, value = keys[index], values[index]

        def add_queries(i, carry):
            grad_queries, grad_key, grad_value = carry
            i = _in_turn(i, grad_queries)
            query, upstream = queries[i], upstreams[i]
            energy = matmul(query, _transposed(key))
            weights = _power(energy - tops[i])
            grad_value = grad_value + matmul(_transposed(weights), upstream)
            grad_weights = matmul(upstream, _transposed(value))
            grad_energy = weights * (grad_weights - means[i])
            grad_key = grad_key + matmul(_transposed(grad_energy), query)
            grad_query = grad_queries[i] + matmul(grad_energy, key)
            grad_queries = _updated(grad_queries, i, grad_query)
            return grad_queries, grad_key, grad_value

        grad_queries, grad_key, grad_value = ops.fori_loop(
            0,
            number,
            add_queries,
            (grad_queries, ops.zeros_like(key), ops.zeros_like(value)),
        )
        grad_keys = _updated(grad_keys, index, grad_key)
        grad_values = _updated(grad_values, index, grad_value)
        return grad_queries, grad_keys, grad_values

    return ops.fori_loop(
        0,
        number,
        add_block_of_keys,
        (ops.zeros_like(queries), ops.zeros_like(keys), ops.zeros_like(values)),
    )


def _power(x):
    """exp(x), or 2**x on torch."""
    return ops.exp2(x) if keras.backend.backend() == "torch" else ops.exp(x)


def _differentiable_once(function):
    """`function` of tensors; its own gradient is an error, not a wrong one."""

    def refuse(*args, **kwargs):
        raise NotImplementedError(
            "Position attention in tiles has no second derivatives on the "
            f"{keras.backend.backend()} backend. Use a `block_size` of at "
            "least height * width, or the jax backend."
        )

    if keras.backend.backend() == "tensorflow":
        return ops.custom_gradient(lambda *args: (function(*args), refuse))
    if keras.backend.backend() == "torch":
        # The backward pass is recorded only if it is to be differentiated.
        recorded = sys.modules["torch"].is_grad_enabled
        return lambda *args: refuse() if recorded() else function(*args)
    return function


def _in_turn(index, carry):
    """`index`, but only once `carry` is computed.

    TensorFlow runs up to ten iterations of a loop at once, each with its own
    tiles, unless they wait for one another.
    """
    if keras.backend.backend() != "tensorflow":
        return index
    first = ops.ravel(carry)[0]
    return index + 0 * ops.cast(ops.equal(first, first), "int32")


def _transposed(x):
    return ops.transpose(x, (0, 2, 1))


def _with_feature(x, value):
    """`x` with one more feature of one value."""
    return ops.pad(x, [[0, 0], [0, 0], [0, 1]], constant_values=value)


def _blocks(x, number, length, last_of_padding=None):
    """(batch, positions, depth) to (number, batch, length, depth).

    The last block is filled up with zeros, and `last_of_padding` as their
    last feature.
    """
    _, positions, depth = ops.shape(x)
    missing = number * length - positions
    if not isinstance(missing, int) or missing:
        rows = [[0, 0], [0, missing], [0, 0]]
        if last_of_padding is None:
            x = ops.pad(x, rows)
        else:
            last = ops.pad(x[..., -1:], rows, constant_values=last_of_padding)
            x = ops.concatenate([ops.pad(x[..., :-1], rows), last], axis=-1)
    x = ops.reshape(x, (-1, number, length, depth))
    return ops.transpose(x, (1, 0, 2, 3))


def _rows(blocks, positions):
    """(number, batch, length, depth) to (batch, positions, depth)."""
    number, _, length, depth = ops.shape(blocks)
    rows = ops.transpose(blocks, (1, 0, 2, 3))
    return ops.reshape(rows, (-1, number * length, depth))[:, :positions]


def _updated(blocks, index, block):
    return ops.slice_update(blocks, (index, 0, 0, 0), ops.expand_dims(block, 0))
