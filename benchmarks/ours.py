"""What keras_danet enters: each function returns a call to be timed.

The backend is that of `KERAS_BACKEND`. `jit` is XLA on TensorFlow and JAX;
torch runs eagerly.
"""

import keras
import numpy as np
from keras import ops

from keras_danet import DANet
from keras_danet import optimize_for_inference
from keras_danet.layers import PositionAttention

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    import torch

# The network of MMSegmentation's danet_r50-d8 and r101-d8.
SETTINGS = {
    "num_classes": 19,
    "stem_filters": (32, 32, 64),
    "align_corners": False,
}


def finished(result):
    """`result`, once it is there: JAX and GPUs answer before they are done."""
    if BACKEND == "jax":
        jax.block_until_ready(result)
    elif BACKEND == "torch" and torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def state(layer):
    """Values of trainable and of other variables, as JAX is handed them."""
    return (
        [variable.value for variable in layer.trainable_variables],
        [variable.value for variable in layer.non_trainable_variables],
    )


def forward_call(layer, inputs, jit):
    """A call of a layer or model, compiled as `predict` compiles it."""
    inputs = ops.convert_to_tensor(inputs)
    if BACKEND == "tensorflow":
        function = tf.function(layer, jit_compile=jit)
    elif BACKEND == "jax":
        variables = state(layer)
        stateless = jax.jit(
            lambda variables, x: layer.stateless_call(*variables, x)[0]
        )

        def function(x):
            return stateless(variables, x)
    else:
        function = torch.no_grad()(layer)

    return lambda: finished(function(inputs))


def gradient_call(layer, inputs, upstream, jit):
    """A call for the gradients of inputs and weights, given the output's."""
    inputs = ops.convert_to_tensor(inputs)
    upstream = ops.convert_to_tensor(upstream)
    trainable, rest = state(layer)
    if BACKEND == "tensorflow":

        @tf.function(jit_compile=jit)
        def function():
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                output = layer(inputs)
            return tape.gradient(output, [inputs, *trainable], upstream)
    elif BACKEND == "jax":

        @jax.jit
        def gradients(trainable, inputs, upstream):
            def output(trainable, x):
                return layer.stateless_call(trainable, rest, x)[0]

            return jax.vjp(output, trainable, inputs)[1](upstream)

        def function():
            return gradients(trainable, inputs, upstream)
    else:
        inputs.requires_grad_()

        def function():
            output = layer(inputs)
            return torch.autograd.grad(output, [inputs, *trainable], upstream)

    return lambda: finished(function())


def attention(height, width, jit, backward=False, dtype=None):
    """Position attention over 512 channels."""
    layer = PositionAttention(data_format="channels_last", dtype=dtype)
    inputs, upstream = np.random.default_rng(0).standard_normal(
        (2, 1, height, width, 512), "float32"
    )
    layer.build(inputs.shape)
    layer.gamma.assign(0.5)
    if backward:
        return gradient_call(layer, inputs, upstream, jit)
    return forward_call(layer, inputs, jit)


def inference_model(depth, dtype=None, optimized=False, winograd=False):
    model = DANet(backbone=f"resnet{depth}", dtype=dtype, **SETTINGS)
    if not optimized:
        return model.inference_model
    return optimize_for_inference(model, winograd)


def forward(depth, height, width, jit, **options):
    """The network, from an image to logits of its size."""
    images = np.random.default_rng(0).uniform(0, 255, (1, height, width, 3))
    return forward_call(
        inference_model(depth, **options), images.astype("float32"), jit
    )


def training(depth, height, width, batch, jit, dtype=None):
    """A step: three losses, their gradients, SGD with momentum, the metric."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch, height, width, 3)).astype("float32")
    labels = rng.integers(0, 19, (batch, height, width), "uint8")
    model = DANet(backbone=f"resnet{depth}", dtype=dtype, **SETTINGS)
    model.compile(total_steps=80_000, jit_compile=jit)
    return lambda: finished(model.train_on_batch(images, labels))
