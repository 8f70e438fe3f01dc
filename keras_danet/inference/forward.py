"""A network's pass over a batch of images, on every backend."""

import sys

import keras
import numpy as np

from keras_danet.distribution.keras_distributions import num_shares
from keras_danet.layers import Normalization

# JAX compiles a network anew for every size of image. Convolutions, nearly
# all of the time, are a library's: what LLVM does to the rest takes long and
# gains nothing. The results are the same but for rounding.
CPU_OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def make_forward(model):
    """A function from a batch of images to all of their logits, NumPy.

    Args:
        model: `DANet`, or a functional model of images to logits.

    Returns:
        Function of an array (batch, height, width, 3) to an array (batch,
        height, width, num_classes), which may be read-only.
    """
    strategy = getattr(model, "distribute_strategy", None)
    if getattr(strategy, "num_replicas_in_sync", 1) > 1:
        return _forward_on_one_replica(model)
    if keras.backend.backend() != "jax":
        return lambda batch: _predict_on_batch(model, batch)
    # `predict_on_batch` donates the weights' memory to JAX while it runs, so
    # that other readers, such as `attention_maps`, would find none.
    network = getattr(model, "inference_model", model)
    variables = network.variables

    def call(values, batch):
        mapping = zip(variables, values, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            return network(batch, training=False)

    options = CPU_OPTIONS if computes_on_cpu() else None
    compiled = sys.modules["jax"].jit(call, compiler_options=options)

    def forward(batch):
        # The options of `compile` apply here, too.
        is_eager = model.run_eagerly or not model.jit_compile
        # During an epoch `fit` keeps the weights elsewhere.
        model.jax_state_sync()
        values = [_nearest(variable.value) for variable in variables]
        output = (call if is_eager else compiled)(values, batch)
        if not output.is_fully_addressable:
            from jax.experimental import multihost_utils

            output = multihost_utils.process_allgather(output, tiled=True)
        return np.asarray(output)

    return forward


def _forward_on_one_replica(model):
    """`make_forward` for a model on several replicas of a strategy.

    `predict_on_batch` computes on all replicas and gathers the results: each
    worker would wait until all others have an image of this size, too.
    """
    network = getattr(model, "inference_model", model)

    def call(batch):
        return network(batch, training=False)

    compiled = sys.modules["tensorflow"].function(call, reduce_retracing=True)

    def forward(batch):
        output = (call if model.run_eagerly else compiled)(batch)
        return keras.ops.convert_to_numpy(output)

    return forward


def _nearest(value):
    """This process's copy of a weight, to compute without the others."""
    if value.is_fully_addressable or not value.is_fully_replicated:
        return value
    return value.addressable_data(0)


def _predict_on_batch(model, batch):
    # A batch must divide among the devices: each gets the same images.
    shares = num_shares()
    batch = np.repeat(batch, shares, axis=0) if shares > 1 else batch
    return model.predict_on_batch(batch)[::shares]


def computes_on_cpu():
    """Whether there is no accelerator."""
    # The backend puts it on the model's device.
    return "CPU" in str(keras.ops.zeros(1).device).upper()


def gives_logits(model):
    """Whether a model maps an image to a map of the image's size."""
    shape = getattr(getattr(model, "input", None), "shape", ())
    if len(shape) != 4 or shape[-1] != 3:
        return False
    # Odd sides, which no rounding of a downsampled size can give.
    size = tuple(
        side or other for side, other in zip(shape[1:3], (33, 49), strict=True)
    )
    output = model.compute_output_shape((1, *size, 3))
    return len(output) == 4 and tuple(output[1:3]) == size


def mean_pixel(model):
    """The (red, green, blue) that the network sees as 0, float32.

    Grey if it does not normalise images.
    """
    network = getattr(model, "inference_model", model)
    for layer in network.layers:
        if isinstance(layer, Normalization) and len(layer.mean) in (1, 3):
            return np.broadcast_to(np.float32(layer.mean), 3)
    return np.full(3, 127.5, "float32")
