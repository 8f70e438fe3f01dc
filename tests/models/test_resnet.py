import keras
import numpy as np
import pytest
from conftest import one_backend

from keras_danet import DilatedResNet

PUBLISHED_PARAMETERS = {
    # torchvision's models without their last layer (1000 * (width + 1)).
    18: 11_689_512 - 513_000,
    34: 21_797_672 - 513_000,
    50: 25_557_032 - 2_049_000,
    101: 44_549_160 - 2_049_000,
    152: 60_192_808 - 2_049_000,
}


def convolutions(model):
    return {
        layer.name: layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    }


@one_backend
@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_parameters_are_the_published_ones(depth):
    # Width 8 counts as width 64 does, block by block; one full network.
    model = DilatedResNet(depth, filters=64 if depth in (18, 50) else 8)
    if depth in (18, 50):
        trainable = sum(
            int(np.prod(v.shape)) for v in model.trainable_variables
        )
        assert trainable == PUBLISHED_PARAMETERS[depth]
    num_blocks = sum("_add" in layer.name for layer in model.layers)
    assert num_blocks == {18: 8, 34: 16, 50: 16, 101: 33, 152: 50}[depth]


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("depth", [18, 50])
def test_sizes_round_up_at_each_stride(depth, stride):
    model = DilatedResNet(depth, output_stride=stride, filters=8)
    for height, width in ((65, 97), (64, 33), (1, 70)):
        features = model(np.zeros((1, height, width, 3), "float32"))
        sizes = []
        h, w = height, width
        for _ in range(5):
            h, w = -(-h // 2), -(-w // 2)
            sizes.append((h, w))
        limit = {8: 2, 16: 3, 32: 4}[stride]
        expected = [sizes[min(k, limit)] for k in (1, 2, 3, 4)]
        assert list(features) == ["stage1", "stage2", "stage3", "stage4"]
        got = [tuple(features[f"stage{k}"].shape[1:3]) for k in (1, 2, 3, 4)]
        assert got == expected
    expansion = 4 if depth == 50 else 1
    widths = [output.shape[-1] for output in model.output.values()]
    assert widths == [8 * expansion * 2**k for k in range(4)]


def test_dilation_of_bottlenecks():
    rates = {
        name: layer.dilation_rate[0]
        for name, layer in convolutions(DilatedResNet(50, filters=8)).items()
        if name.endswith("conv2") and layer.kernel_size == (3, 3)
    }
    stage = {
        k: [rates[f"stage{k}_block{b}_conv2"] for b in range(n)]
        for k, n in ((1, 3), (2, 4), (3, 6), (4, 3))
    }
    assert stage == {
        1: [1] * 3,
        2: [1] * 4,
        3: [1, 2, 2, 2, 2, 2],
        4: [2, 4, 4],
    }


def test_dilation_of_basic_blocks():
    layers = convolutions(DilatedResNet(18, filters=8))
    assert [
        [layers[f"stage{k}_block{b}_conv{c}"].dilation_rate[0] for c in (1, 2)]
        for k, b in ((3, 0), (3, 1), (4, 0), (4, 1))
    ] == [[1, 2], [2, 2], [2, 4], [4, 4]]


def test_output_stride_16_and_multi_grid():
    layers = convolutions(DilatedResNet(50, output_stride=16, filters=8))
    assert [
        layers[f"stage4_block{b}_conv2"].dilation_rate[0] for b in range(3)
    ] == [1, 2, 2]
    assert layers["stage3_block0_conv2"].strides == (2, 2)
    assert layers["stage3_block5_conv2"].dilation_rate == (1, 1)
    layers = convolutions(DilatedResNet(50, multi_grid=(4, 8, 16), filters=8))
    assert [
        layers[f"stage4_block{b}_conv2"].dilation_rate[0] for b in range(3)
    ] == [4, 8, 16]
    assert layers["stage3_block1_conv2"].dilation_rate == (2, 2)


@pytest.mark.parametrize("depth", [18, 50])
def test_dilation_keeps_the_features_at_the_old_grid(depth):
    """The rule's reason: every second feature is the undilated network's."""
    dense = DilatedResNet(depth, output_stride=8, filters=8)
    sparse = DilatedResNet(depth, output_stride=32, filters=8)
    sparse.set_weights(dense.get_weights())
    images = np.random.default_rng(0).standard_normal((1, 257, 257, 3))
    images = images.astype("float32")
    fine = keras.ops.convert_to_numpy(dense(images)["stage4"])
    coarse = keras.ops.convert_to_numpy(sparse(images)["stage4"])
    # Away from the borders, where padding stands at other distances.
    inner = slice(3, 6)
    same = fine[0, ::4, ::4][inner, inner]
    expected = coarse[0, inner, inner]
    assert expected.std() > 0.1
    np.testing.assert_allclose(same, expected, atol=1e-3 * expected.std())


def test_stems():
    plain = convolutions(DilatedResNet(18, filters=8))
    assert plain["stem_conv1"].kernel_size == (7, 7)
    deep = convolutions(DilatedResNet(18, filters=8, stem_filters=(4, 4, 6)))
    assert [deep[f"stem_conv{k}"].filters for k in (1, 2, 3)] == [4, 4, 6]
    assert [deep[f"stem_conv{k}"].strides[0] for k in (1, 2, 3)] == [2, 1, 1]


def test_config_goes_round():
    model = DilatedResNet(
        50,
        output_stride=16,
        multi_grid=[2, 4],
        stem_filters=(4, 4, 8),
        filters=8,
        name="mine",
        dtype="mixed_bfloat16",
    )
    copy = DilatedResNet.from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    assert copy.name == "mine"
    assert copy.get_layer("stage4_block1_conv2").dilation_rate == (4, 4)
    assert copy.get_layer("stem_conv1").compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


@one_backend
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"depth": 51}, "`depth` must be one of"),
        ({"depth": 18, "output_stride": 4}, "`output_stride` must be one of"),
        ({"depth": 18, "filters": 0}, "`filters` must be"),
        ({"depth": 18, "multi_grid": (0, 1)}, "`multi_grid` must be"),
        ({"depth": 18, "multi_grid": 4}, "`multi_grid` must be"),
        (
            {"depth": 18, "multi_grid": (2,), "output_stride": 32},
            "none with output_stride=32",
        ),
        ({"depth": 18, "stem_filters": (32, 64)}, "`stem_filters` must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DilatedResNet(**arguments)
