import keras
import numpy as np
import pytest
from layer_contract import to_numpy
from layer_contract import value_and_gradients

from keras_danet.layers import BatchNormalization


def trained(kind, axis=-1, **options):
    layer = kind(axis=axis, epsilon=1e-5, momentum=0.9, **options)
    layer.build((None, 5, 6, 4) if axis == -1 else (None, 4, 5, 6))
    rng = np.random.default_rng(0)
    for variable in layer.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return layer


def example(axis=-1):
    x = np.random.default_rng(1).normal(2, 3, (2, 5, 6, 4)).astype("float32")
    return x if axis == -1 else x.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_definition(training):
    layer, x = trained(BatchNormalization), example()
    gamma, beta, mean, variance = (to_numpy(w) for w in layer.weights)
    batch = x.astype("float64").reshape(-1, 4)
    output = to_numpy(layer(x, training=training))
    if training:
        # The biased variance, where PyTorch keeps the unbiased one.
        kept_mean = 0.9 * mean + 0.1 * batch.mean(0)
        kept_variance = 0.9 * variance + 0.1 * batch.var(0)
        mean, variance = batch.mean(0), batch.var(0)
    else:
        kept_mean, kept_variance = mean, variance
    expected = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(output, expected, atol=1e-5)
    np.testing.assert_allclose(
        to_numpy(layer.moving_mean), kept_mean, atol=1e-5
    )
    np.testing.assert_allclose(
        to_numpy(layer.moving_variance), kept_variance, atol=1e-5
    )


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
def test_is_kerass_batch_norm_forward_and_backward(axis, training, options):
    x = example(axis)
    upstream = x[::-1] ** 2
    layers = [
        trained(kind, axis, **options)
        for kind in (BatchNormalization, keras.layers.BatchNormalization)
    ]
    ours, theirs = (
        value_and_gradients(
            lambda x, layer=layer: layer(x, training=training), [x], upstream
        )
        for layer in layers
    )
    np.testing.assert_allclose(
        to_numpy(ours[0]), to_numpy(theirs[0]), atol=2e-5
    )
    np.testing.assert_allclose(
        to_numpy(ours[1][0]), to_numpy(theirs[1][0]), atol=1e-4
    )


def test_frozen_it_keeps_its_statistics():
    layer = trained(BatchNormalization)
    layer.trainable = False
    before = [to_numpy(w) for w in layer.weights]
    output = to_numpy(layer(example(), training=True))
    np.testing.assert_array_equal(output, to_numpy(layer(example())))
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), value)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_normalised_in_float32(policy):
    layer = trained(BatchNormalization, dtype=policy)
    x = example() + 100  # squares beyond float16
    output = layer(x, training=True)
    half = policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(output.dtype) == half
    gamma, beta = (to_numpy(w) for w in layer.weights[:2])
    x = to_numpy(keras.ops.cast(x, half))
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(to_numpy(output), expected, atol=0.05)
    assert keras.backend.standardize_dtype(layer.moving_mean.dtype) == "float32"


@pytest.mark.parametrize("options", [{"renorm": True}, {"epsilon": 0.0}])
def test_what_torchs_own_has_not_is_kerass(options):
    x = example()
    x[..., 0] = 2.0
    outputs = []
    for kind in (BatchNormalization, keras.layers.BatchNormalization):
        layer = kind(**{"epsilon": 1e-5, "momentum": 0.9, **options})
        outputs.append(to_numpy(layer(x, training=True))[..., 1:])
        outputs.extend(to_numpy(weight) for weight in layer.weights)
    half = len(outputs) // 2
    for ours, theirs in zip(outputs[:half], outputs[half:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
