"""What Pillow would leave unsaid, or change for everybody else."""

import io
import threading

import numpy as np
import pytest
from conftest import one_backend
from pictures import encode
from pictures import photo
from PIL import Image
from PIL import ImageOps
from PIL import PngImagePlugin

from keras_danet.data import png
from keras_danet.data.datasets import SCENES
from keras_danet.data.decoding import DATA_FORMATS
from keras_danet.data.decoding import read_image
from keras_danet.data.decoding import read_orientation
from keras_danet.data.decoding import read_pair
from keras_danet.data.decoding import read_pair_size
from keras_danet.data.decoding import read_size
from keras_danet.data.files import Pair

pytestmark = one_backend


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_photographs_are_turned_upright(tmp_path, kind):
    for orientation in range(10):  # 1-8 mean something
        exif = Image.Exif()
        exif[0x0112] = orientation
        contents = encode(photo(), kind, exif=exif)
        path = tmp_path / "photo"
        path.write_bytes(contents)
        expected = Image.open(io.BytesIO(contents))
        expected = ImageOps.exif_transpose(expected).convert("RGB")
        np.testing.assert_array_equal(read_image(str(path)), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pairs_are_turned_each_by_its_own_tag(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    label = Image.fromarray(
        np.random.default_rng(1).integers(0, 8, (37, 53)).astype("uint8")
    )
    turned = ImageOps.exif_transpose(
        Image.open(io.BytesIO(encode(label, exif=exif)))
    )
    image_path, ours, upright = (
        tmp_path / name for name in ("a.img", "tagged.png", "upright.png")
    )
    image_path.write_bytes(encode(photo(), kind, exif=exif))
    ours.write_bytes(encode(label, exif=exif))
    upright.write_bytes(encode(turned))
    expected = ImageOps.exif_transpose(Image.open(image_path)).convert("RGB")
    for label_path in (ours, upright):
        pair = Pair(str(image_path), str(label_path))
        image, found = read_pair(pair, SCENES)
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(found, turned)
        assert read_pair_size(pair) == turned.size[::-1]
    assert read_orientation(str(image_path)) == orientation
    stored = tmp_path / "stored.png"
    stored.write_bytes(encode(label))
    pair = Pair(str(image_path), str(stored))
    if orientation > 4:
        message = rf"a\.img is turned by its EXIF orientation, {orientation}"
        with pytest.raises(ValueError, match=message):
            read_pair(pair, SCENES)
    else:
        np.testing.assert_array_equal(read_pair(pair, SCENES)[1], label)


def test_files_without_a_tag_are_not_opened_by_pillow(tmp_path, monkeypatch):
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "a painter")
    contents = [
        encode(photo(), "JPEG"),
        encode(photo(), pnginfo=info),
    ]
    monkeypatch.setattr(Image, "open", None)
    for each in contents:
        path = tmp_path / "photo"
        path.write_bytes(each)
        assert read_orientation(str(path)) == 1


@pytest.mark.parametrize(
    "exif",
    [
        b"no tags at all, and long enough",
        # The tag is a word.
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc" + bytes(5),
        # Its value lies 2 GB behind the file's end.
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x07\0"
        + b"\xff\xff\xff\x7f" * 2,
    ],
    ids=["none", "word", "far"],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_illegible_tags_turn_nothing(tmp_path, kind, exif):
    path = tmp_path / "photo"
    path.write_bytes(encode(photo(), kind, exif=exif))
    upright = read_image(str(path))
    np.testing.assert_array_equal(upright, Image.open(path).convert("RGB"))


def test_a_jpeg_without_its_end_is_for_predictions_only(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(photo(), "JPEG")[:-2])
    assert read_image(str(path)).shape == (37, 53, 3)
    with pytest.raises(ValueError, match=r"photo\.jpg .*truncated JPEG file"):
        read_image(str(path), DATA_FORMATS)


def test_threads_leave_pillows_own_limit_alone(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    photo().save(path)
    limit, real_open = Image.MAX_IMAGE_PIXELS, Image.open
    first_is_in, second_is_out = threading.Event(), threading.Event()
    seen = []

    def slow_open(*args, **kwargs):
        if threading.current_thread() is thread:
            first_is_in.set()
            assert second_is_out.wait(30)
        seen.append(Image.MAX_IMAGE_PIXELS)
        return real_open(*args, **kwargs)

    monkeypatch.setattr(Image, "open", slow_open)
    thread = threading.Thread(target=read_size, args=[str(path)])
    thread.start()
    assert first_is_in.wait(30)
    assert read_size(str(path)) == (37, 53)
    second_is_out.set()
    thread.join(30)
    # Neither met the other's, and the process has its own again.
    assert seen == [None, None]
    assert Image.MAX_IMAGE_PIXELS == limit is not None


def test_a_disk_that_fails_once_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    photo().save(path)

    class Failing(io.BytesIO):
        def read(self, *size):
            raise OSError(5, "Input/output error")

    # Pillow has its own `open`.
    monkeypatch.setattr(png, "open", lambda *_: Failing(), raising=False)
    message = r"photo\.png cannot be read: .*Input/output.*Expected.*replace"
    with pytest.raises(ValueError, match=message):
        read_image(str(path), DATA_FORMATS)


def test_a_missing_file_has_a_remedy(tmp_path):
    message = r"no\.png cannot be read: there is no such file\. Expected .*put"
    with pytest.raises(FileNotFoundError, match=message):
        read_size(str(tmp_path / "no.png"))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (9, 17), (40, 33)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_rows_are_counted_as_pillow_writes_them(tmp_path, size, mode):
    path = tmp_path / "a.png"
    Image.new(mode, size).save(path)
    png.check_png_rows(path)


def test_rows_of_passes_are_counted(tmp_path):
    """Of 9 x 9 pixels 7 passes have 2, 2, 1, 3, 2, 5 and 4 rows."""
    sizes = ((2, 2), (1, 2), (3, 1), (2, 3), (5, 2), (4, 5), (9, 4))
    expected = sum(rows * (1 + columns) for columns, rows in sizes)
    assert expected == 81 + sum(rows for _, rows in sizes)
    assert png._num_bytes(9, 9, 8, 0, interlaced=1) == expected
    assert png._num_bytes(9, 9, 1, 0, interlaced=1) == sum(
        rows * (1 + -(-columns // 8)) for columns, rows in sizes
    )
