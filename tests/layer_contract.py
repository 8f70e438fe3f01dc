"""What every layer of the package promises, whatever it computes."""

import keras
import numpy as np

POLICIES = ("float32", "float64", "bfloat16", "mixed_bfloat16", "mixed_float16")


def to_numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x), "float64")


def check_config(layer):
    """The config is the constructor's arguments, and goes round."""
    config = layer.get_config()
    copy = type(layer).from_config(config)
    assert copy.get_config() == config
    registered = keras.saving.serialize_keras_object(layer)
    assert registered["registered_name"].startswith("keras_danet>")
    again = keras.saving.deserialize_keras_object(registered)
    assert again.get_config() == config


def check_shapes(layer, shapes, **keywords):
    """The symbolic output is what a call gives, for known and unknown sizes."""
    for shape in shapes:
        x = np.random.default_rng(0).standard_normal(shape)
        given = layer(x.astype("float32"), **keywords)
        known = layer(keras.KerasTensor(shape), **keywords)
        unknown = layer(
            keras.KerasTensor(
                [
                    None if axis in _free_axes(layer) else n
                    for axis, n in enumerate(shape)
                ]
            ),
            **keywords,
        )
        outputs = keras.tree.flatten(given)
        for output, symbolic, free in zip(
            outputs,
            keras.tree.flatten(known),
            keras.tree.flatten(unknown),
            strict=True,
        ):
            assert tuple(output.shape) == tuple(symbolic.shape)
            dtype = keras.backend.standardize_dtype(output.dtype)
            assert dtype == symbolic.dtype == free.dtype
            assert len(free.shape) == len(output.shape)
            assert all(
                a in (None, b)
                for a, b in zip(free.shape, output.shape, strict=True)
            )


def _free_axes(layer):
    return (0, 2, 3) if layer.data_format == "channels_first" else (0, 1, 2)


def check_policies(make, x, **keywords):
    """Under every policy the output is finite and has the policy's dtype."""
    for name in POLICIES:
        if keras.backend.backend() == "jax" and name == "float64":
            continue  # JAX has no float64 unless it is told so at its start
        layer = make(dtype=name)
        output = layer(x, **keywords)
        policy = keras.dtype_policies.get(name)
        dtype = keras.backend.standardize_dtype(output.dtype)
        assert dtype == policy.compute_dtype
        assert np.isfinite(to_numpy(output)).all()


def value_and_gradients(
    function, arrays, upstream, compiled=False, create_graph=False
):
    """`function` of the arrays, and its gradients for one of its output.

    With `create_graph` torch lets them be differentiated; others always do.
    """
    tensors = [keras.ops.convert_to_tensor(x) for x in arrays]
    upstream = keras.ops.convert_to_tensor(upstream)
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        tensors = [
            x if x.requires_grad else x.requires_grad_() for x in tensors
        ]
        output = function(*tensors)
        gradients = torch.autograd.grad(
            output, tensors, upstream, create_graph=create_graph
        )
        return output.detach(), gradients
    if backend == "jax":
        import jax

        def both(*tensors):
            output, pull_back = jax.vjp(function, *tensors)
            return output, pull_back(upstream)

        return (jax.jit(both) if compiled else both)(*tensors)
    import tensorflow as tf

    def both(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = function(*tensors)
        return output, tape.gradient(output, tensors, upstream)

    return (tf.function(both) if compiled else both)(*tensors)
