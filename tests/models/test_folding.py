import keras
import numpy as np
import pytest
from layer_contract import to_numpy

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import optimize_for_inference
from keras_danet.layers import WinogradConv2D
from keras_danet.models import folding


@pytest.fixture(autouse=True)
def seeded_kernels():
    """How much half precision rounds away depends on them."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def winograd_everywhere(monkeypatch):
    monkeypatch.setattr(folding, "MIN_WINOGRAD_CHANNELS", 1)


def trained(model, seed=0):
    """`model` with gammas, statistics and biases that are not the first."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        name = variable.path.rpartition("/")[2]
        if name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif name in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


def images(height=33, width=49):
    rng = np.random.default_rng(1)
    return rng.uniform(0, 255, (1, height, width, 3)).astype("float32")


def batch_norms(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from batch_norms(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            yield layer


@pytest.mark.parametrize("winograd, depth", [(False, 18), (True, 50)])
def test_computes_the_same_logits(winograd, depth, winograd_everywhere):
    model = trained(DANet(5, DilatedResNet(depth, filters=8), auxiliary=True))
    fast = optimize_for_inference(model, winograd=winograd)
    assert not list(batch_norms(fast))
    backbone = next(x for x in fast.layers if isinstance(x, keras.Model))
    kinds = [isinstance(x, WinogradConv2D) for x in backbone.layers]
    assert any(kinds) == winograd
    expected = model.predict(images(), verbose=0)
    received = fast.predict(images(), verbose=0)
    # Fifty layers of float32, and attention that amplifies.
    assert np.abs(received - expected).max() <= 1e-4 * expected.std()
    # The copy is its own.
    trained(model, seed=2)
    np.testing.assert_array_equal(fast.predict(images(), verbose=0), received)


def test_small_convolutions_keep_the_usual_products():
    model = DANet(5, DilatedResNet(18, filters=8))
    fast = optimize_for_inference(model, winograd=True)
    inside = [x for x in fast.layers if isinstance(x, keras.Model)]
    assert len(inside) == 1
    for network in (fast, *inside):
        assert not any(isinstance(x, WinogradConv2D) for x in network.layers)


class Standardized(keras.layers.Conv2D):
    """A convolution that does more with its kernel."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - keras.ops.mean(kernel))


def assert_copy_computes_the_same(inputs, outputs, shape=(4, 6)):
    model = trained(keras.Model(inputs, outputs))
    fast = optimize_for_inference(model)
    expected, received = (
        network.predict(images(*shape), verbose=0) for network in (model, fast)
    )
    np.testing.assert_allclose(
        received, expected, atol=1e-5 * np.abs(expected).max()
    )
    return fast


def test_what_only_looks_foldable_stays():
    inputs = keras.Input((4, 6, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    # Of the rows, of which there are as many as channels.
    x = keras.layers.BatchNormalization(axis=1)(x)
    x = Standardized(4, 3, padding="same")(x)
    x = keras.layers.BatchNormalization()(x)
    adapted = keras.layers.Conv2D(4, 1)
    x = adapted(x)
    adapted.enable_lora(1)
    x = keras.layers.BatchNormalization()(x)
    fast = assert_copy_computes_the_same(inputs, x)
    # But the adapter, which becomes a part of the kernel, is folded with it.
    assert len(list(batch_norms(fast))) == 2


def test_names_and_models_are_used_twice():
    image = keras.Input((4, 6, 3))
    y = keras.layers.Conv2D(3, 1, name="c")(image)
    inner = keras.Model(image, keras.layers.BatchNormalization()(y), name="in")
    inputs = keras.Input((4, 6, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", name="c")
    first, second = (keras.layers.BatchNormalization() for _ in range(2))
    x = inner(second(shared(first(shared(inner(inputs))))))
    x = keras.layers.Conv2D(3, 1, name="c_folded")(x)
    fast = assert_copy_computes_the_same(inputs, x)
    assert not list(batch_norms(fast))
    assert sum(isinstance(x, keras.Model) for x in fast.layers) == 1


def test_folds_what_can_be_folded_of_any_functional_model():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="with_bias")(inputs)
    x = keras.layers.BatchNormalization(scale=False)(x)
    y = keras.layers.Conv2D(4, 1, activation="relu", name="activated")(x)
    y = keras.layers.BatchNormalization(name="after_relu")(y)
    y = keras.layers.DepthwiseConv2D(3, padding="same")(y)
    y = keras.layers.BatchNormalization(center=False)(y)
    outputs = {"sum": keras.layers.Add()([x, y])}
    model = trained(keras.Model(inputs, outputs))
    fast = optimize_for_inference(model)
    assert len(list(batch_norms(fast))) == 2
    expected, received = (
        to_numpy(network.predict(images(8, 9), verbose=0)["sum"])
        for network in (model, fast)
    )
    np.testing.assert_allclose(
        received, expected, atol=1e-5 * np.abs(expected).max()
    )


def test_a_convolution_that_is_read_elsewhere_stays():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="read_twice")(inputs)
    y = keras.layers.BatchNormalization()(x)
    model = trained(keras.Model(inputs, keras.layers.Add()([x, y])))
    fast = optimize_for_inference(model)
    np.testing.assert_allclose(
        fast.predict(images(8, 8), verbose=0),
        model.predict(images(8, 8), verbose=0),
        rtol=1e-5,
        atol=1e-3,
    )


def test_layers_that_are_used_twice_are_copied_once():
    inputs = keras.Input((8, 8, 3))
    convolution = keras.layers.Conv2D(3, 3, padding="same")
    norm, alone = (keras.layers.BatchNormalization() for _ in range(2))
    x = norm(convolution(norm(convolution(inputs))))
    model = trained(keras.Model(inputs, alone(alone(x))))
    fast = optimize_for_inference(model)
    assert len(fast.layers) == 3
    expected = model.predict(images(8, 8), verbose=0)
    received = fast.predict(images(8, 8), verbose=0)
    np.testing.assert_allclose(
        received, expected, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="JAX has no float64 unless it is told to",
)
def test_double_precision_stays():
    inputs = keras.Input((4, 6, 3), dtype="float64")
    x = keras.layers.Conv2D(4, 3, dtype="float64")(inputs)
    x = keras.layers.BatchNormalization(dtype="float64")(x)
    model = trained(keras.Model(inputs, x))
    batch = images(4, 6).astype("float64")
    received = to_numpy(optimize_for_inference(model)(batch))
    # In NumPy, because Keras on torch rounds float64 batch norms to float32.
    kernel, bias, gamma, beta, mean, variance = map(to_numpy, model.weights)
    windows = np.lib.stride_tricks.sliding_window_view(batch, (3, 3), (1, 2))
    x = np.einsum("bhwcij,ijcf->bhwf", windows, kernel) + bias
    norm = model.layers[-1]
    expected = gamma * (x - mean) / np.sqrt(variance + norm.epsilon) + beta
    assert received.dtype == "float64"
    np.testing.assert_allclose(
        received, expected, rtol=0, atol=1e-12 * np.abs(expected).max()
    )


def test_half_precision_stays():
    model = trained(
        DANet(
            5,
            DilatedResNet(18, filters=8, dtype="mixed_bfloat16"),
            dtype="mixed_bfloat16",
        )
    )
    fast = optimize_for_inference(model)
    layer = fast.get_layer("position_in_folded")
    assert layer.compute_dtype == "bfloat16"
    expected = model.predict(images(), verbose=0)
    received = fast.predict(images(), verbose=0)
    # 8 bits, through 18 layers.
    assert np.abs(received - expected).mean() <= 0.05 * expected.std()


@pytest.mark.parametrize("model", [None, "danet", keras.layers.ReLU()])
def test_other_things_are_refused(model):
    with pytest.raises(ValueError, match="functional"):
        optimize_for_inference(model)
