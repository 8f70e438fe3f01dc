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

from keras_danet.data import png
from keras_danet.data.decoding import DATA_FORMATS
from keras_danet.data.decoding import read_image
from keras_danet.data.decoding import read_size

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
        read_image(str(path), DATA_FORMATS, upright=False)


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
        read_image(str(path))


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
