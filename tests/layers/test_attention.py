import keras
import layer_contract
import numpy as np
import pytest
import references
from layer_contract import to_numpy

from keras_danet import ChannelAttention
from keras_danet import PositionAttention

SHAPES = [(2, 5, 7, 16), (1, 1, 9, 16), (3, 8, 1, 16), (1, 1, 1, 16)]
# float32 sums of some hundred terms, against float64.
TOLERANCE = 2e-5


def example(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype("float32")


def trained(layer, x, seed=1):
    """`layer`, with weights and gamma that are not the initial ones."""
    layer.build(x.shape)
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        variable.assign(rng.normal(0, 0.4, variable.shape))
    layer.gamma.assign(0.7 if isinstance(layer, PositionAttention) else -0.6)
    return layer


def reference(layer, x):
    gamma = float(to_numpy(layer.gamma))
    x = x.astype("float64")
    if isinstance(layer, ChannelAttention):
        return references.channel_attention(x, gamma)
    projections = [
        (to_numpy(part.kernel)[0, 0], to_numpy(part.bias))
        for part in (layer.query, layer.key, layer.value)
    ]
    return references.position_attention(x, *projections, gamma)


@pytest.mark.parametrize("make", [PositionAttention, ChannelAttention])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(make, shape):
    # Small features: channel energies are sums of squares, and a softmax
    # that has become one-hot would compare nothing.
    x = 0.5 * example(shape)
    layer = trained(make(data_format="channels_last"), x)
    output, scores = layer(x, return_attention_scores=True)
    expected, expected_scores = reference(layer, x)
    np.testing.assert_allclose(
        to_numpy(scores), expected_scores, atol=TOLERANCE
    )
    np.testing.assert_allclose(to_numpy(output), expected, atol=TOLERANCE)
    np.testing.assert_allclose(to_numpy(scores).sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(to_numpy(layer(x)), to_numpy(output))
    if shape[1] * shape[2] > 1:
        assert np.abs(expected - x).max() > 0.05  # attention does something


@pytest.mark.parametrize("make", [PositionAttention, ChannelAttention])
def test_channels_first_is_the_transposed_channels_last(make):
    x = 0.5 * example((2, 3, 5, 16))
    last = trained(make(data_format="channels_last"), x)
    first = make(data_format="channels_first")
    transposed = x.transpose(0, 3, 1, 2)
    first.build(transposed.shape)
    for ours, theirs in zip(first.variables, last.variables, strict=True):
        ours.assign(theirs)
    output, scores = first(transposed, return_attention_scores=True)
    expected, expected_scores = last(x, return_attention_scores=True)
    np.testing.assert_allclose(
        to_numpy(output).transpose(0, 2, 3, 1), to_numpy(expected), atol=1e-5
    )
    np.testing.assert_allclose(
        to_numpy(scores), to_numpy(expected_scores), atol=1e-5
    )


@pytest.mark.parametrize("make", [PositionAttention, ChannelAttention])
def test_starts_as_identity(make):
    x = example((2, 4, 3, 16))
    np.testing.assert_array_equal(to_numpy(make()(x)), x)


@pytest.mark.parametrize("make", [PositionAttention, ChannelAttention])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_contract(make, data_format):
    def layer(**kwargs):
        return make(data_format=data_format, **kwargs)

    layer_contract.check_config(layer(name="some_name", dtype="mixed_bfloat16"))
    shape = (2, 5, 7, 16) if data_format == "channels_last" else (2, 16, 5, 7)
    layer_contract.check_shapes(layer(), [shape])
    layer_contract.check_shapes(layer(), [shape], return_attention_scores=True)
    layer_contract.check_policies(layer, example(shape))


@pytest.mark.parametrize("make", [PositionAttention, ChannelAttention])
@pytest.mark.parametrize(
    "policy, expected", [("float64", "float64"), ("mixed_float16", "float32")]
)
def test_scores_are_never_half(make, policy, expected):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is told to")
    layer = make(dtype=policy, data_format="channels_last")
    x = keras.ops.convert_to_tensor(example((1, 3, 4, 16)))
    _, scores = layer(x, return_attention_scores=True)
    assert keras.backend.standardize_dtype(scores.dtype) == expected


def test_reduction_is_the_projections_depth():
    layer = PositionAttention(reduction=4, data_format="channels_last")
    layer.build((None, None, None, 16))
    assert layer.query.kernel.shape == layer.key.kernel.shape == (1, 1, 16, 4)
    assert layer.value.kernel.shape == (1, 1, 16, 16)
    assert layer.get_config()["reduction"] == 4


@pytest.mark.parametrize("make", [PositionAttention, ChannelAttention])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_large_activations_do_not_overflow_a_half_precision(make, policy):
    # Channel energies of these are 4096 * 30 ** 2, far beyond float16.
    x = 30 * example((1, 64, 64, 16))
    layer = make(dtype=policy, data_format="channels_last")
    trained(layer, x)
    if make is PositionAttention:
        # Energies of a few units; rounding the inputs of larger ones to a
        # half precision changes which position wins.
        layer.query.kernel.assign(layer.query.kernel * 0.001)
    output, scores = layer(x, return_attention_scores=True)
    assert np.isfinite(to_numpy(output)).all()
    np.testing.assert_allclose(to_numpy(scores).sum(-1), 1, atol=1e-3)
    expected, _ = reference(layer, x)
    # Half precisions keep 8 (bfloat16) to 11 bits of what goes in and out.
    error = np.abs(to_numpy(output) - expected).max() / np.abs(expected).max()
    assert error < 0.03


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: PositionAttention(reduction=0), "positive integer"),
        (lambda: PositionAttention(reduction=2.0), "positive integer"),
        (lambda: PositionAttention(data_format="NHWC"), "channels_last"),
        (lambda: PositionAttention()(np.zeros((2, 4, 4, 4))), "exceed the 4"),
        (lambda: ChannelAttention()(np.zeros((4, 4, 4))), r"height, width"),
        (
            lambda: ChannelAttention()(keras.KerasTensor((1, 4, 4, None))),
            "known number of channels",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
