import keras
import layer_contract
import numpy as np
import pytest
import references
from layer_contract import to_numpy
from layer_contract import value_and_gradients

from keras_danet.layers import Conv2D
from keras_danet.layers import WinogradConv2D

# Height, width, dilation rate: even, odd, one pixel, wider than the image.
CASES = [(8, 6, 1), (7, 9, 1), (13, 6, 2), (5, 11, 4), (1, 1, 1), (2, 3, 8)]


def example(height, width, channels=5, filters=6):
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((2, height, width, channels)).astype("float32"),
        rng.standard_normal((3, 3, channels, filters)).astype("float32"),
        rng.standard_normal(filters).astype("float32"),
    )


@pytest.mark.parametrize("height, width, rate", CASES)
def test_both_equal_the_definition(height, width, rate):
    x, kernel, bias = example(height, width)
    expected = references.convolution(x, kernel, bias, rate)
    usual = Conv2D(
        6,
        3,
        padding="same",
        dilation_rate=rate,
        data_format="channels_last",
    )
    usual.build(x.shape)
    usual.set_weights([kernel, bias])
    np.testing.assert_allclose(to_numpy(usual(x)), expected, atol=2e-5)
    winograd = WinogradConv2D(6, rate)
    winograd.build(x.shape)
    winograd.set_convolution(kernel, bias)
    np.testing.assert_allclose(to_numpy(winograd(x)), expected, atol=5e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": "same", "dilation_rate": 2},
        {"kernel_size": 3, "padding": "valid", "strides": 2},
        # Padded more at the end, which torch's own padding cannot.
        {"kernel_size": 3, "padding": "same", "strides": 2},
        {"kernel_size": 2, "padding": "same"},
        {"kernel_size": 1, "groups": 2, "padding": "same"},
        {"kernel_size": 1, "strides": (3, 2), "padding": "same"},
        {"kernel_size": 1, "strides": 2, "padding": "valid"},
        {
            "kernel_size": 3,
            "padding": "same",
            "data_format": "channels_first",
        },
    ],
)
def test_is_kerass_convolution_forward_and_backward(options):
    if options.get("data_format") and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels-first convolution on a CPU")
    options = {"data_format": "channels_last", **options}
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 8))
    x = x.astype("float32")
    layers = [kind(4, **options) for kind in (Conv2D, keras.layers.Conv2D)]
    for layer in layers:
        layer.build(x.shape)
    layers[1].set_weights(layers[0].get_weights())
    upstream = to_numpy(layers[1](x)).astype("float32")[::-1].copy()
    ours, theirs = (
        value_and_gradients(layer, [x], upstream) for layer in layers
    )
    np.testing.assert_allclose(
        to_numpy(ours[0]), to_numpy(theirs[0]), atol=1e-5
    )
    np.testing.assert_allclose(
        to_numpy(ours[1][0]), to_numpy(theirs[1][0]), atol=2e-5
    )


def test_a_strided_kernel_of_one_pixel_learns_from_a_single_image():
    """Where TensorFlow's own convolution ends the process, now and then."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 64, 64, 3)).astype("float32")
    y = rng.standard_normal((1, 32, 32, 8)).astype("float32")
    layer = Conv2D(8, 1, strides=2, use_bias=False, data_format="channels_last")
    model = keras.Sequential([keras.Input((64, 64, 3)), layer])
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False)
    seen = x[:, ::2, ::2].astype("float64")
    kernel = to_numpy(layer.kernel)
    for _ in range(20):
        model.train_on_batch(x, y)
        difference = seen @ kernel[0, 0] - y
        gradient = np.einsum("nhwc,nhwf->cf", seen, difference)
        kernel -= 0.5 * 2 * gradient / y.size
    np.testing.assert_allclose(to_numpy(layer.kernel), kernel, atol=1e-5)


def test_winograd_takes_unknown_sizes_and_goes_round():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, WinogradConv2D(4, 2)(inputs))
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    x = np.random.default_rng(2).standard_normal((1, 5, 9, 3))
    received = again.predict(x, verbose=0)
    assert received.shape == (1, 5, 9, 4)
    assert np.abs(received).max() > 0.01
    np.testing.assert_allclose(received, model.predict(x, verbose=0), atol=1e-6)
    layer_contract.check_config(WinogradConv2D(4, 2, dtype="mixed_bfloat16"))
    layer_contract.check_policies(
        lambda **kwargs: WinogradConv2D(4, **kwargs), x.astype("float32")
    )
