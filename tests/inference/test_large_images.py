import contextlib
import errno
import io
import os
import tracemalloc

import keras
import numpy as np
import pytest
from conftest import one_backend

from keras_danet import Predictor
from keras_danet.inference import predict_large
from keras_danet.inference import tiff_windows
from keras_danet.inference.tiff_windows import open_tiff


@pytest.fixture(scope="module")
def model():
    """Shift-equivariant: a pixel depends on those up to 4 away."""
    keras.utils.set_random_seed(0)
    images = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 64, -2.0)(images)
    for filters, size in ((8, 5), (8, 3)):
        x = keras.layers.Conv2D(filters, size, padding="same")(x)
        x = keras.layers.Activation("tanh")(x)
    x = keras.layers.Conv2D(4, 3, padding="same")(x)
    return keras.Model(images, 3 * x)


def photo(height, width):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3)).astype("uint8")


@pytest.mark.parametrize("blend", ["gaussian", "cosine"])
def test_blended_windows_are_the_whole_image(model, blend):
    """No seams: windows of 40 every 24, a quarter of the overlap is 4."""
    image = photo(90, 101)
    whole = Predictor(model).probabilities(image)
    assert len(np.unique(whole.argmax(-1))) == 4
    settings = {"window": 40, "stride": 24, "average": "logits"}
    found = Predictor(model, blend=blend, **settings).probabilities(image)
    np.testing.assert_allclose(found, whole, atol=1e-5)
    # Windows of equal weights have seams.
    cut = Predictor(model, **settings).probabilities(image)
    assert np.abs(cut - whole).max() > 1e-2


@pytest.mark.parametrize("mirror", [False, True])
def test_a_large_array_into_files(model, tmp_path, mirror):
    image = photo(70, 83)
    np.save(tmp_path / "image.npy", image)
    predictor = Predictor(
        model, window=40, stride=24, blend="cosine", mirror=mirror
    )
    rows = []
    found = predict_large(
        predictor,
        tmp_path / "image.npy",
        tmp_path / "label.npy",
        tmp_path / "sure.npy",
        lambda *done: rows.append(done),
    )
    label, confidence = predictor.label_and_confidence(image)
    np.testing.assert_allclose(found.confidence, confidence, atol=1e-5)
    assert (found.label == label).mean() > 0.999
    assert isinstance(found.label, np.memmap)
    assert rows[-1] == (70, 70) and rows == sorted(rows)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("image.npy", "label.npy", "sure.npy")
    }
    again = predict_large(predictor, image, tmp_path / "label.npy")
    np.testing.assert_array_equal(again.label, found.label)
    assert again.confidence is None


@one_backend
@pytest.mark.parametrize("form", ["tiles", "strips", "grey", "one piece"])
def test_tiffs_are_read_piece_by_piece(tmp_path, form, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    image = photo(70, 83)
    options = {
        "tiles": {"tile": (16, 32), "compression": "zlib"},
        "strips": {"rowsperstrip": 9, "compression": "zlib"},
        "grey": {"tile": (32, 16)},
        "one piece": {},
    }[form]
    stored = image[..., 0] if form == "grey" else image
    kind = "minisblack" if form == "grey" else "rgb"
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, stored, photometric=kind, **options)
    if form == "grey":
        image = np.repeat(image[..., :1], 3, -1)
    # Less than all pieces.
    monkeypatch.setattr(tiff_windows, "CACHE_BYTES", 4 * 16 * 32 * 3)
    with open_tiff(path) as found:
        assert found.shape == (70, 83, 3)
        for top, bottom, left, right in (
            (0, 70, 0, 83),
            (5, 6, 80, 83),
            (17, 64, 31, 65),
        ):
            np.testing.assert_array_equal(
                found[top:bottom, left:right], image[top:bottom, left:right]
            )


@one_backend
def test_a_tile_that_was_left_out_is_black(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path, image = tmp_path / "image.tif", photo(32, 32)
    tifffile.imwrite(
        path,
        iter([image, None, image, None]),
        shape=(64, 64, 3),
        dtype="uint8",
        tile=(32, 32),
        photometric="rgb",
        compression="zlib",
    )
    with open_tiff(path) as found:
        np.testing.assert_array_equal(found[32:64, 0:32], image)
        assert not found[0:64, 32:64].any()


@one_backend
def test_a_tiff_is_predicted(model, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    image = photo(70, 83)
    tifffile.imwrite(
        tmp_path / "image.tif", image, photometric="rgb", tile=(32, 32)
    )
    predictor = Predictor(model, window=40, blend="gaussian")
    found = predict_large(
        predictor, tmp_path / "image.tif", tmp_path / "label.npy"
    )
    np.testing.assert_array_equal(found.label, predictor(image))


@one_backend
def test_tiffs_that_ask_for_too_much_are_refused(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "image.tif"

    def refused(message, *shape, **options):
        tifffile.imwrite(path, np.zeros(shape, "uint8"), **options)
        with (
            pytest.raises(ValueError, match=message),
            open_tiff(path) as image,
        ):
            image[0:1, 0:1]

    rgb = {"photometric": "rgb", "compression": "zlib"}
    tiles = {"tile": (32, 32), **rgb}
    with monkeypatch.context() as patch:
        patch.setattr(tiff_windows, "MAX_LARGE_PIXELS", 64 * 64 - 1)
        refused("64 x 64 pixels. At most", 64, 64, 3, **tiles)
    with monkeypatch.context() as patch:
        patch.setattr(tiff_windows, "MAX_PIECE_BYTES", 1000)
        refused("Save it with tiles", 64, 64, 3, **rgb)
    refused("other pixels than 8-bit", 64, 64, 4, **tiles)
    tifffile.imwrite(path, np.zeros((64, 64), "uint16"))
    with pytest.raises(ValueError, match="uint16"), open_tiff(path):
        pass
    # Data of a larger picture in the place of a tile.
    tifffile.imwrite(path, photo(64, 64), tile=(32, 32), photometric="rgb")
    with pytest.raises(ValueError, match="image.tif is cut off"):
        path.write_bytes(path.read_bytes()[:-900])
        with open_tiff(path):
            pass
    for content in (b"", b"II*\0", b"no tiff at all", b"II*\0" + b"\xff" * 90):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="image.tif"), open_tiff(path):
            pass


@one_backend
@pytest.mark.parametrize("tag", ["TileOffsets", "TileWidth"])
def test_tags_of_another_type_are_refused(tmp_path, tag):
    """Floating-point numbers, where there should be integers."""
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, photo(32, 32), tile=(32, 32), photometric="rgb")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].tags[tag].offset
    # DOUBLE, at the end of the file.
    data[offset + 2 : offset + 4] = (12).to_bytes(2, "little")
    data[offset + 8 : offset + 12] = len(data).to_bytes(4, "little")
    path.write_bytes(data + np.float64(8.5).tobytes())
    with pytest.raises(ValueError, match="image.tif"), open_tiff(path) as image:
        image[0:32, 0:32]


@one_backend
def test_a_tile_that_unpacks_to_more_is_refused(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "image.tif"
    tifffile.imwrite(
        path,
        np.zeros((64, 64, 3), "uint8"),
        tile=(32, 32),
        photometric="rgb",
        compression="zlib",
    )
    with open_tiff(path) as image:
        monkeypatch.setattr(
            tiff_windows.TiffImage, "_piece_bytes", 32 * 32 * 3 - 1
        )
        with pytest.raises(ValueError, match="unpacks to more than its size"):
            image[0:4, 0:4]


@one_backend
@pytest.mark.parametrize("form", ["lzw", "packbits", "zstd", "jpeg"])
def test_a_tile_that_unpacks_to_more_takes_no_memory(tmp_path, form):
    tifffile = pytest.importorskip("tifffile")
    imagecodecs = pytest.importorskip("imagecodecs")
    path = tmp_path / "image.tif"
    options = {"tile": (32, 32), "photometric": "rgb", "compression": form}
    tifffile.imwrite(path, photo(64, 64), **options)
    with open_tiff(path) as image:
        assert image[0:64, 0:64].any()
    with open_tiff(path) as image:
        shape = (4096, 4096, 3)
        encode = getattr(imagecodecs, f"{form}_encode")
        data = encode(np.zeros(shape if form == "jpeg" else 2**20, "uint8"))
        image._file = io.BytesIO(data)
        image._page.dataoffsets = [0]
        image._page.databytecounts = [len(data)]
        tracemalloc.start()
        # Some codecs stop where the tile is full, others raise.
        with contextlib.suppress(ValueError):
            assert not image[0:32, 0:32].any()
            assert form != "jpeg"
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < len(data) + 2**19


@one_backend
@pytest.mark.parametrize("form", ["lzma", "png", "jpeg2000"])
def test_other_compressions_are_refused(tmp_path, form):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    path = tmp_path / "image.tif"
    options = {"tile": (32, 32), "photometric": "rgb", "compression": form}
    tifffile.imwrite(path, photo(64, 64), **options)
    message = f"(?i)compressed by {form}.*Convert it"
    with pytest.raises(ValueError, match=message), open_tiff(path):
        pass


@one_backend
@pytest.mark.parametrize(
    "source",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), "uint8"), np.zeros((0, 4, 3), "u1")],
)
def test_what_is_no_large_image(model, source, tmp_path):
    with pytest.raises(ValueError, match="must be a uint8 array"):
        predict_large(Predictor(model), source, tmp_path / "label.npy")
    assert not list(tmp_path.iterdir())


@one_backend
def test_a_large_image_has_one_scale(model, tmp_path):
    for settings in ({"scales": (0.5, 1)}, {"size": 64}):
        with pytest.raises(ValueError, match="at its own size"):
            predict_large(
                Predictor(model, **settings), photo(9, 9), tmp_path / "a.npy"
            )


def test_mirror_images_of_a_large_one_need_one_average(model, tmp_path):
    predictor = Predictor(
        model, size=None, mirror=True, average=("logits", "softmax")
    )
    path = tmp_path / "label.npy"
    with pytest.raises(ValueError, match="one word for `average`"):
        predict_large(predictor, photo(50, 60), path)
    assert not path.exists()


@one_backend
def test_a_prediction_that_fails_leaves_no_file(model, tmp_path):
    predictor = Predictor(model, window=8, stride=8)
    forward, count = predictor._forward, []

    def failing(batch):
        count.append(1)
        if len(count) > 2:
            raise RuntimeError("no more memory")
        return forward(batch)

    predictor._forward = failing
    (tmp_path / "label.npy").write_bytes(b"before")
    with pytest.raises(RuntimeError, match="no more memory"):
        predict_large(predictor, photo(64, 8), tmp_path / "label.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["label.npy"]
    assert (tmp_path / "label.npy").read_bytes() == b"before"


@one_backend
def test_results_replace_neither_the_image_nor_each_other(model, tmp_path):
    np.save(tmp_path / "a.npy", photo(9, 9))
    predictor = Predictor(model, size=None)
    a, b = tmp_path / "a.npy", tmp_path / "b.npy"
    for files in ((a, a), (a, b, b)):
        with pytest.raises(ValueError, match="would replace"):
            predict_large(predictor, *files)
    assert np.load(a).shape == (9, 9, 3) and not b.exists()


@one_backend
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not there")
def test_room_is_reserved_before_anything_is_predicted(
    model, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    predictor = Predictor(model, size=None)
    with pytest.raises(OSError, match="a.npy cannot be written: No space"):
        predict_large(predictor, photo(9, 9), tmp_path / "a.npy")
    assert not list(tmp_path.iterdir())
