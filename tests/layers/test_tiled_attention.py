import keras
import numpy as np
import pytest
import references
from keras import ops
from layer_contract import to_numpy
from layer_contract import value_and_gradients

from keras_danet import PositionAttention
from keras_danet.layers import tiled_attention

BACKEND = keras.backend.backend()
# Of the largest entry of its kind: float32 sums of some hundred terms.
TOLERANCE = 1e-5


def example(positions, depth=8, channels=24, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    query, key, value, upstream = (
        rng.standard_normal((2, positions, width)).astype("float32")
        for width in (depth, depth, channels, channels)
    )
    return scale * query, key, value, upstream


def assert_close(received, expected, tolerance=TOLERANCE):
    received = to_numpy(received)
    assert received.shape == expected.shape
    error = np.abs(received - expected).max() / np.abs(expected).max()
    assert error <= tolerance  # a NaN fails this, too


def assert_equals_the_definition(
    function, arrays, compiled=False, tolerance=TOLERANCE
):
    output, gradients = value_and_gradients(
        function, arrays[:3], arrays[3], compiled
    )
    expected, expected_gradients = references.attention_gradients(*arrays)
    assert_close(output, expected, tolerance)
    for received, gradient in zip(gradients, expected_gradients, strict=True):
        assert_close(received, gradient, tolerance)


# One block; blocks that fit; the last one padded by one, and by many.
@pytest.mark.parametrize("positions", [16, 64, 63, 65, 17])
@pytest.mark.parametrize("compiled", [False, True])
def test_tiles_equal_the_definition_forward_and_backward(positions, compiled):
    def attention(query, key, value):
        return tiled_attention.tiled_attention(query, key, value, 16)

    assert_equals_the_definition(attention, example(positions), compiled)


@pytest.mark.parametrize(
    "function",
    [
        tiled_attention.dense_attention,
        lambda *args: tiled_attention.unrolled_attention(*args, 16),
        tiled_attention.fused_attention,
    ],
    ids=["dense", "unrolled", "fused"],
)
def test_the_other_ways_equal_the_definition(function):
    assert_equals_the_definition(function, example(65))


@pytest.mark.parametrize("scale", [-300.0, 300.0])
def test_energies_of_hundreds_are_no_trouble(scale):
    # All energies far below 0: a padded key with energy 0 would take all.
    query, key, value, upstream = example(21, scale=0.1)
    query[..., 0], key[..., 0] = abs(scale) ** 0.5, np.sign(scale) * 17.0
    arrays = query, key, value, upstream
    # float32 knows an energy of 300 to 3e-5.
    assert_equals_the_definition(
        lambda *args: tiled_attention.tiled_attention(*args, 8),
        arrays,
        tolerance=1e-4,
    )


def test_padding_is_below_any_energy():
    query = np.full((1, 9, 1), 1e16, "float32")
    key = -np.arange(1e15, 1e16, 1e15, dtype="float32").reshape(1, 9, 1)
    value = np.arange(9.0, dtype="float32").reshape(1, 9, 1)
    output = tiled_attention.tiled_attention(
        *map(ops.convert_to_tensor, (query, key, value)), 8
    )
    # Energies of -1e31 and lower: the highest takes all.
    np.testing.assert_array_equal(to_numpy(output), np.zeros((1, 9, 1)))


def test_second_derivatives_are_right_or_refused():
    arrays = example(17, depth=3, channels=6)

    def squared_gradients(attention):
        def of_query(query):
            _, (gradient, *_) = value_and_gradients(
                attention, [query, *arrays[1:3]], arrays[3], create_graph=True
            )
            return ops.sum(gradient**2)

        one = np.float32(1)
        return to_numpy(value_and_gradients(of_query, arrays[:1], one)[1][0])

    def tiles(*args):
        return tiled_attention.tiled_attention(*args, 8)

    if BACKEND == "jax":
        expected = squared_gradients(tiled_attention.dense_attention)
        assert_close(squared_gradients(tiles), expected)
    else:
        with pytest.raises(NotImplementedError, match="second derivatives"):
            squared_gradients(tiles)


def test_no_image_gives_no_image():
    query, key, value, _ = example(17)
    output = tiled_attention.attend(query[:0], key[:0], value[:0], 8)
    assert tuple(output.shape) == (0, 17, 24)


def test_bfloat16_values_are_multiplied_as_such_and_summed_in_float32():
    query, key, value, _ = example(300)
    value = value + 3  # a sum kept in bfloat16 would lose what comes late
    output = tiled_attention.tiled_attention(
        *map(ops.convert_to_tensor, (query, key)),
        ops.cast(value, "bfloat16"),
        16,
    )
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    expected, _ = references.attention_gradients(query, key, value, value)
    # bfloat16 has 8 bits, and so have weights, values and products.
    assert_close(output, expected, 2**-7)


def layer_pair(block_size):
    """A tiled layer and a dense one of the same weights, gamma 0.7."""
    layers = [
        PositionAttention(
            4, block_size=size, data_format="channels_last", name="attention"
        )
        for size in (block_size, 10**6)
    ]
    for layer in layers:
        layer.build((None, None, None, 16))
        rng = np.random.default_rng(0)
        for variable in layer.variables:
            variable.assign(rng.normal(0, 0.4, variable.shape))
        layer.gamma.assign(0.7)
    return layers


@pytest.mark.parametrize("jit_compile", [True, False])
def test_trains_at_unknown_sizes_as_the_dense_layer(jit_compile):
    if BACKEND == "torch" and jit_compile:
        pytest.skip("Keras compiles nothing on torch unless it is told to")
    weights = []
    for layer in layer_pair(16):
        inputs = keras.Input((None, None, 16))
        model = keras.Model(inputs, layer(inputs))
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
        for shape in ((2, 5, 7, 16), (1, 9, 4, 16)):
            x = np.random.default_rng(1).standard_normal(shape)
            model.train_on_batch(x.astype("float32"), np.ones(shape))
        weights.append([to_numpy(variable) for variable in layer.variables])
    initial = [to_numpy(v) for v in layer_pair(16)[0].variables]
    for tiled, dense, before in zip(*weights, initial, strict=True):
        np.testing.assert_allclose(tiled, dense, atol=1e-5)
        # The bias of `key` has no gradient: softmax is blind to it.
        assert before.shape == (4,) or np.abs(dense - before).max() > 1e-4


def test_the_choice_of_a_way(monkeypatch):
    taken = []
    for way in ("dense", "tiled", "unrolled", "fused"):
        monkeypatch.setattr(
            tiled_attention,
            f"{way}_attention",
            lambda *args, way=way: taken.append(way),
        )
    arrays = [ops.convert_to_tensor(x) for x in example(17)[:3]]
    tiled_attention.attend(*arrays)
    tiled_attention.attend(*arrays, 17)
    tiled_attention.attend(*arrays, 16)
    with tiled_attention.unrolled_blocks():
        tiled_attention.attend(*arrays, 16)
    monkeypatch.setattr(
        tiled_attention, "_has_fused_kernel", lambda *args: True
    )
    tiled_attention.attend(*arrays, 16)
    assert taken == ["dense", "dense", "tiled", "unrolled", "fused"]


@pytest.mark.skipif(BACKEND != "jax", reason="JAX tells what it allocates")
def test_memory_grows_with_the_number_of_positions():
    import jax

    def needed(positions, backward):
        def attention(query, key, value):
            return tiled_attention.tiled_attention(query, key, value, 64)

        def gradients(query, key, value, upstream):
            return jax.vjp(attention, query, key, value)[1](upstream)

        arrays = example(positions)
        function = jax.jit(gradients if backward else attention)
        arrays = arrays if backward else arrays[:3]
        analysis = function.lower(*arrays).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    for backward in (False, True):
        small, large = needed(2048, backward), needed(4096, backward)
        assert 0 < large <= 2.2 * small
        assert large < 4096 * 4096 * 4 / 4


@pytest.mark.skipif(BACKEND != "torch", reason="torch lists its allocations")
def test_no_allocation_is_as_large_as_the_map():
    import torch

    arrays = example(1024)
    with torch.profiler.profile(profile_memory=True) as profile:
        value_and_gradients(
            lambda *args: tiled_attention.tiled_attention(*args, 64),
            arrays[:3],
            arrays[3],
        )
    largest = max(event.cpu_memory_usage for event in profile.events())
    # Backward keeps some (batch, positions, channels); a map has 8 MiB.
    assert 2 * 1024 * 24 * 4 <= largest < 2 * 1024 * 1024 * 4 / 8


@pytest.mark.skipif(BACKEND != "torch", reason="torch.export is torch's")
@pytest.mark.parametrize("free", [False, True])
def test_exports_from_torch(free):
    import torch

    layer = layer_pair(16)[0]

    class Module(torch.nn.Module):
        def forward(self, x):
            return layer(x)

    sides = [torch.export.Dim(side, min=2) for side in ("height", "width")]
    program = torch.export.export(
        Module(),
        (torch.randn(1, 6, 7, 16),),
        dynamic_shapes={"x": dict(enumerate(sides, 1)) if free else None},
    )
    for size in [(6, 7), (9, 4)] if free else [(6, 7)]:
        x = torch.randn(1, *size, 16)
        expected, _ = layer(x, return_attention_scores=True)
        assert_close(program.module()(x).detach(), to_numpy(expected.detach()))
    names = {str(node.target) for node in program.graph.nodes}
    assert any("softmax" in name for name in names)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TFLite is TensorFlow's")
@pytest.mark.parametrize("quantised", [False, True])
def test_converts_to_tflite(quantised, tmp_path):
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    layer = layer_pair(16)[0]
    inputs = keras.Input((6, 7, 16), batch_size=1)
    model = keras.Model(inputs, layer(inputs))
    x = np.random.default_rng(2).uniform(-1, 1, (1, 6, 7, 16))
    x = x.astype("float32")
    with tiled_attention.unrolled_blocks():
        model.export(tmp_path / "model", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "model")
    )
    if quantised:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([x] for _ in range(4))
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        ]
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    names = {op["op_name"] for op in interpreter._get_ops_details()}
    assert "WHILE" not in names and not any("Flex" in name for name in names)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    received = interpreter.get_tensor(
        interpreter.get_output_details()[0]["index"]
    )
    expected = to_numpy(layer(x, return_attention_scores=True)[0])
    # int8 has 256 steps for the range of each tensor on the way.
    assert_close(received, expected, 0.05 if quantised else TOLERANCE)
