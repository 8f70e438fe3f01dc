import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.data import resampling
from keras_danet.data.resampling import largest_class
from keras_danet.data.resampling import resize_bands
from keras_danet.data.resampling import resize_bilinear
from keras_danet.data.resampling import resize_image
from keras_danet.data.resampling import resize_logits
from keras_danet.data.resampling import scaled_size
from keras_danet.data.resampling import standardize_sides

pytestmark = one_backend


@pytest.mark.parametrize(
    "size, sides, expected",
    [
        ((1200, 1600), (320, None), (240, 320)),
        # MMSegmentation's rescale_size to (2048, 512).
        ((1200, 1600), (2048, 512), (512, 683)),
        ((100, 1600), (2048, 512), (128, 2048)),
        ((30, 20), (None, 608), (912, 608)),
        ((1, 5000), (100, None), (1, 100)),
        ((33, 47), (None, None), (33, 47)),
    ],
)
def test_sizes(size, sides, expected):
    assert tuple(scaled_size(size, *sides)) == expected


@pytest.mark.parametrize(
    "size, sides",
    [
        (None, (None, None)),
        (320, (320, None)),
        (np.int64(320), (320, None)),
        ((512, 2048), (2048, 512)),
        ([2048, 512], (2048, 512)),
        ((None, 608), (None, 608)),
        ((608, None), (608, None)),
    ],
)
def test_forms_of_a_size(size, sides):
    assert standardize_sides(size) == sides


@pytest.mark.parametrize(
    "size", [0, -1, True, 3.5, "320", (1, 2, 3), (0, None), (True, 2), 2**21]
)
def test_what_is_no_size(size):
    with pytest.raises(ValueError, match="`size` must be None"):
        standardize_sides(size)


@pytest.mark.parametrize("size", [(20, 31), (97, 64), (120, 130)])
def test_images_are_resized_as_pillow_does(size):
    image = np.random.default_rng(0).integers(0, 256, (97, 64, 3), "uint8")
    bands = [
        Image.fromarray(image[..., band].astype("float32")).resize(
            size[::-1], Image.Resampling.BILINEAR
        )
        for band in range(3)
    ]
    resized = resize_image(image, size)
    np.testing.assert_allclose(resized, np.stack(bands, -1), atol=1e-3)


@pytest.mark.parametrize("size", [(5, 7), (40, 61), (3, 20), (1, 1), (13, 9)])
def test_logits_are_resized_as_torch_does(size, monkeypatch):
    torch = pytest.importorskip("torch")
    # Several pieces.
    monkeypatch.setattr(resampling, "_PIECE", 100)
    logits = np.random.default_rng(0).normal(size=(13, 9, 6)).astype("float32")
    logits[:6, :6, 2] += 5
    expected = torch.nn.functional.interpolate(
        torch.tensor(logits.transpose(2, 0, 1)[None]),
        size,
        mode="bilinear",
        align_corners=False,
    )[0].numpy()
    resized = resize_logits(logits, size)
    np.testing.assert_allclose(resized, expected.transpose(1, 2, 0), atol=1e-5)
    label = largest_class(logits, size)
    assert label.dtype == "uint8"
    np.testing.assert_array_equal(label, resized.argmax(-1))


def test_one_class_for_a_whole_neighbourhood_needs_no_logits(monkeypatch):
    logits = np.zeros((6, 8, 150), "float32")
    logits[..., 7] = 1
    monkeypatch.setattr(resampling, "_mix", None)
    assert (largest_class(logits, (600, 800)) == 7).all()


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("target", [1, 3, 5, 9, 19, 20, 43])
@pytest.mark.parametrize("rows", [1, 3, 7, 20])
def test_bands_become_the_whole_map_at_another_size(rows, target, corners):
    # Down to a small size, rows are skipped that lie in bands to come.
    values = np.random.default_rng(0).normal(size=(20, 4, 2)).astype("float32")
    bands = [values[top : top + rows] for top in range(0, 20, rows)]
    found = [*resize_bands(bands, (20, 4), (target, 5), corners)]
    whole = resize_bilinear(values, (target, 5), corners)
    np.testing.assert_array_equal(np.concatenate(found), whole)
