"""What the replicas of a TensorFlow strategy exchange to compute a loss.

A replica holds its share of the batch, and Keras adds up the gradients of the
replicas' own losses. So each replica returns its part of the loss of the
global batch, and the parts add up to it. On one device and on JAX, whose
devices see the global batch, the part is the whole.
"""

import contextlib
import contextvars
import sys

import keras
from keras import ops

from keras_danet.distribution.keras_fixes import unscaled_losses

# Whether every replica computes the same result from the global batch.
_sees_all = contextvars.ContextVar("sees_all", default=False)


def _replica():
    """The context of one replica among several, if this runs in one."""
    if keras.backend.backend() != "tensorflow" or _sees_all.get():
        return None
    context = sys.modules["tensorflow"].distribute.get_replica_context()
    several = context is not None and context.num_replicas_in_sync > 1
    return context if several else None


def num_replicas():
    """How many replicas share a batch here; 1 if none do."""
    replica = _replica()
    return replica.num_replicas_in_sync if replica else 1


def sum_over_replicas(total):
    """The sum of a tensor over the replicas of the current strategy.

    Gradients flow through it. It is `total` itself outside replicas and on
    other backends: JAX's devices see the global batch.
    """
    replica = _replica()
    return replica.all_reduce("SUM", total) if replica else total


def share_value(part):
    """A replica's part of a loss, with the mean of all parts as its value.

    The gradient stays that of the part. Keras logs the mean of the parts,
    weighted by the images of each replica: for an uneven batch this would not
    be the mean of the parts.
    """
    replica = _replica()
    if replica is None:
        return part
    own = ops.stop_gradient(part)
    return part + ops.stop_gradient(replica.all_reduce("MEAN", own) - own)


def part_of(loss, y_true, y_pred, sample_weight=None):
    """This replica's part of the loss of the global batch.

    The parts of all replicas add up to it. This package's losses handle
    replicas themselves. Any other loss, which may be any function of the
    batch, is given the labels, logits and weights of all replicas.
    """
    if _replica() is None or getattr(loss, "knows_replicas", False):
        return loss(y_true, y_pred, sample_weight)
    given = (y_true, y_pred)
    if sample_weight is not None:
        given += (sample_weight,)
    with global_batch(*given) as (whole, count):
        return loss(*whole) / count


@contextlib.contextmanager
def global_batch(*tensors):
    """Gives every replica the tensors of all.

    Yields:
        (tensors, number of replicas that compute the same from them).
    """
    replica = _replica()
    if replica is None:
        yield tensors, 1
        return
    # One by one: labels have no gradient.
    tensors = [_gather(replica, tensor) for tensor in tensors]
    token = _sees_all.set(True)
    try:
        with unscaled_losses():
            yield tensors, replica.num_replicas_in_sync
    finally:
        _sees_all.reset(token)


def _gather(replica, tensor):
    """The tensors of all replicas along the first axis, in their dtype."""
    tensor = ops.convert_to_tensor(tensor)
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    # Not every device can gather uint8 labels or half precision.
    if dtype != "float64":
        wide = "float32" if "float" in dtype else "int64"
        tensor = ops.cast(tensor, wide)
    gathered = ops.cast(replica.all_gather(tensor, axis=0), dtype)
    if tensor.shape.rank is not None:
        # Gathering forgets the static shape, such as the number of classes.
        gathered.set_shape([None, *tensor.shape[1:]])
    return gathered
