import keras
import layer_contract
import numpy as np
import pytest
import references
from layer_contract import to_numpy

from keras_danet import BilinearResize

CASES = [
    ((2, 3, 4, 3), (9, 11)),
    ((1, 5, 5, 2), (40, 33)),
    ((1, 9, 13, 2), (4, 5)),  # shrinking
    ((1, 1, 1, 3), (6, 7)),
    ((1, 1, 6, 1), (1, 24)),
    ((1, 4, 4, 1), (1, 1)),
    ((1, 4, 4, 1), (4, 4)),
]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("shape, size", CASES)
def test_equals_the_reference(shape, size, align_corners):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    expected = references.bilinear_resize(x, *size, align_corners)
    layer = BilinearResize(align_corners, data_format="channels_last")
    np.testing.assert_allclose(
        to_numpy(layer(x, size=size)), expected, atol=1e-5
    )
    like = np.zeros((shape[0], *size, 3), "float32")
    np.testing.assert_allclose(
        to_numpy(layer(x, size=like)), expected, atol=1e-5
    )
    first = BilinearResize(align_corners, data_format="channels_first")
    np.testing.assert_allclose(
        to_numpy(first(x.transpose(0, 3, 1, 2), size=size)).transpose(
            0, 2, 3, 1
        ),
        expected,
        atol=1e-5,
    )


def test_large_maps_keep_their_precision():
    # Positions near 1023 must not lose their fraction to rounding.
    x = np.linspace(0, 1, 1024, dtype="float32").reshape(1, 1024, 1, 1)
    output = to_numpy(BilinearResize()(x, size=(3000, 1)))
    np.testing.assert_allclose(
        output.ravel(), np.linspace(0, 1, 3000), atol=1e-5
    )


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_contract(data_format):
    def layer(**kwargs):
        return BilinearResize(data_format=data_format, **kwargs)

    layer_contract.check_config(layer(align_corners=False, dtype="float16"))
    shape = (2, 3, 5, 4) if data_format == "channels_last" else (2, 4, 3, 5)
    layer_contract.check_shapes(layer(), [shape], size=(7, 9))
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    layer_contract.check_policies(layer, x, size=(7, 9))


def test_size_of_an_image_may_be_unknown():
    features = keras.KerasTensor((None, None, None, 4))
    images = keras.KerasTensor((None, None, 32, 3))
    output = BilinearResize()(features, images)
    assert output.shape == (None, None, 32, 4)
    assert BilinearResize().compute_output_shape((1, 2, 3, 4), (5, 6)) == (
        (1, 5, 6, 4)
    )


@pytest.mark.parametrize("size", [(0, 3), (2.5, 3), (3,), np.zeros((2, 2))])
def test_bad_size_is_refused(size):
    with pytest.raises(ValueError, match="`size` must be"):
        BilinearResize()(np.zeros((1, 2, 2, 1)), size=size)


def test_bad_rank_is_refused():
    with pytest.raises(ValueError, match="rank 4"):
        BilinearResize()(keras.KerasTensor((2, 2, 1)), size=(4, 4))
