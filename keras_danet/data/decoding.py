"""Reads images and labels with Pillow, and says what is wrong with them."""

import contextlib
import io
import os
import stat
import threading

import numpy as np
from PIL import Image

from keras_danet.data.label_values import color_code
from keras_danet.data.label_values import to_train_ids
from keras_danet.data.orientation import may_be_turned
from keras_danet.data.orientation import orientation_of
from keras_danet.data.orientation import turn
from keras_danet.data.png import COLOR
from keras_danet.data.png import GREY
from keras_danet.data.png import PALETTE
from keras_danet.data.png import PNG_KINDS
from keras_danet.data.png import check_png_rows
from keras_danet.data.png import read_png_kind

# Formats of data sets, which TensorFlow decodes; photos may have others.
DATA_FORMATS = ("PNG", "JPEG")
# By the ending of the file name.
PHOTO_ENDINGS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
}
PHOTO_FORMATS = tuple(dict.fromkeys(PHOTO_ENDINGS.values()))
# More pixels than any photograph has, and more bytes than those take
# uncompressed; larger files are refused before they are decoded.
MAX_PIXELS = 2**28
MAX_BYTES = 2**30
_JPEG_END = b"\xff\xd9"
_pillow_limit = {"lock": threading.Lock(), "lifted": 0, "pixels": None}


def read_pair(pair, dataset):
    """Reads and checks an image and its label, each turned upright.

    Returns:
        uint8 arrays: image (height, width, 3), RGB, and label (height,
        width), train ids, 255 for ignored pixels.

    Raises:
        ValueError: if a file is unreadable, truncated, empty or absurdly
            large, the image is not an 8-bit PNG or JPEG, the label is not a
            PNG of class numbers (or of colours, if the data set has them),
            the two differ in size or the label has a value that the data
            set does not.
    """
    image, raw = read_raw_pair(pair, dataset)
    return image, to_train_ids(raw, dataset, pair.label)


def read_raw_pair(pair, dataset):
    """`read_pair`, but with the label as `read_raw_label` returns it."""
    read_pair_size(pair)
    image = read_image(pair.image, DATA_FORMATS)
    return image, read_raw_label(pair.label, dataset)


def read_pair_size(pair):
    """The (height, width) in the headers of an image and its label.

    Raises:
        ValueError: as `read_size` does, and if the two differ.
    """
    image_size, label_size = read_size(pair.image), read_size(pair.label)
    if image_size == label_size:
        return image_size
    turned = [path for path in pair if read_orientation(path) != 1]
    note = (
        f" {turned[0]} is turned by its EXIF orientation, "
        f"{read_orientation(turned[0])}: save it upright, without one."
        if turned
        else ""
    )
    raise ValueError(
        f"Image and label differ in size: {pair.image} has (height, width) "
        f"{image_size} and {pair.label} has {label_size}.{note} Expected a "
        "label for each pixel; replace the wrong one of the two."
    )


def read_image(path, formats=PHOTO_FORMATS):
    """Reads an image as it is meant to be seen, turned by its orientation.

    Args:
        path: String, path of an image file.
        formats: Names of Pillow's formats that it may have. Defaults to
            `PHOTO_FORMATS`.

    Returns:
        uint8 array (height, width, 3), RGB.

    Raises:
        ValueError: if it is unreadable, truncated, absurdly large or of more
            than 8 bits per channel.
    """
    image = _load(path, formats)
    if image.mode == "CMYK" and formats == DATA_FORMATS:
        raise ValueError(
            f"{path} is a JPEG in print colours (CMYK), which every decoder "
            "converts to different screen colours. Expected RGB or grey; "
            "convert it once and for all."
        )
    return turn(_as_rgb(image), orientation_of(image))


def read_open_image(image):
    """`read_image` of a Pillow image, the bytes of a file, or an open file."""
    name = "The image"
    if not isinstance(image, Image.Image):
        if hasattr(image, "read"):
            image = image.read(MAX_BYTES + 1)
        if not isinstance(image, (bytes, bytearray, memoryview)):
            raise ValueError(
                "An image file must be open for reading bytes. Received: "
                f"one of {type(image).__name__}."
            )
        if len(image) > MAX_BYTES:
            raise _unreadable(name, f"it has more than {MAX_BYTES} bytes")
        try:
            with _without_pillow_limit():
                image = Image.open(io.BytesIO(image), formats=PHOTO_FORMATS)
        # Pillow has no common error for broken headers.
        except Exception as error:
            raise _unreadable(name, error, PHOTO_FORMATS) from error
    _check_size(image, name)
    # Once an image is loaded, only its file still shows the depth.
    file = getattr(image, "filename", "")
    if image.format == "PNG" and file and os.path.isfile(file):
        depth, _ = _png_kind(file)
        if depth > 8:
            raise _too_deep(name, f"a PNG of {depth}")
    _check_depth(image, name)
    try:
        image.load()
    # Pillow's decoders have no common error for broken files.
    except Exception as error:
        raise _unreadable(name, error, PHOTO_FORMATS) from error
    return turn(_as_rgb(image), orientation_of(image))


def _check_size(image, name):
    width, height = image.size
    if not width or not height:
        raise ValueError(
            f"{name} is empty: {height} x {width} pixels (height x width)."
        )
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} is too large: {height} x {width} pixels (height x "
            f"width). Expected at most {MAX_PIXELS} pixels; cut it into "
            "pieces or leave it out."
        )


def _check_depth(image, name):
    """Refuses what Pillow would silently cut to 8 bits."""
    # What it is about to decode.
    tiles = [tile[3] for tile in getattr(image, "tile", [])]
    modes = [str(t[0] if isinstance(t, tuple) else t) for t in tiles]
    deep = [m for m in modes for bits in (12, 16, 32) if f";{bits}" in m]
    if deep or image.mode.startswith(("I", "F")):
        modes = ", ".join(dict.fromkeys([image.mode, *deep]))
        raise _too_deep(name, f"Pillow mode {modes}")


def _too_deep(name, what):
    return ValueError(
        f"{name} has more than 8 bits per channel ({what}). Expected 0-255; "
        "scale and save it as 8-bit."
    )


def _as_rgb(image):
    # Colours multiplied by their opacity, which Pillow can only convert back.
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode == "P":
        # Straight to RGB, Pillow warns of a palette with transparency.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_raw_label(path, dataset):
    """Reads the numbers of a label file, whatever they mean.

    Returns:
        Array (height, width): uint8 class numbers as they are stored, neither
        a palette's colours nor the stretched values of fewer than 8 bits;
        int32 for a data set with `label_colors`, each colour's red in the
        highest of three bytes and blue in the lowest.

    Raises:
        ValueError: if the file is unreadable or not a PNG of that kind.
    """
    _check_file(path)
    depth, kind = _png_kind(path)
    allowed = (COLOR, PALETTE) if dataset.label_colors else (GREY, PALETTE)
    if kind not in allowed or depth > 8:
        found = f"a {PNG_KINDS.get(kind, 'unknown')} PNG of depth {depth}"
        raise ValueError(
            f"Label {path} is {found if depth else 'not a PNG'}. Expected "
            + (
                f"the colours of {dataset.title}: a colour or palette PNG of "
                "8 bits per channel, without transparency."
                if dataset.label_colors
                else "a PNG of class numbers, grey or with a palette, of at "
                "most 8 bits; save the class numbers themselves (Pillow mode "
                "'L'), not their colours."
            )
        )
    image = _load(path, DATA_FORMATS, is_label=True)
    orientation = orientation_of(image)
    if dataset.label_colors:
        colors = turn(_as_rgb(image), orientation)
        return color_code(*np.moveaxis(colors.astype("int32"), -1, 0))
    raw = turn(np.array(image, "uint8"), orientation)
    # Pillow stretches 2 and 4 bits over 0-255, but not a single bit.
    return (
        raw // (255 // (2**depth - 1))
        if depth in (2, 4) and kind == GREY
        else raw
    )


def read_size(path, formats=DATA_FORMATS):
    """The (height, width) of an upright image; decodes nothing.

    Raises:
        ValueError: if it is not a readable file of these formats, or has
            more than `MAX_PIXELS` pixels.
    """
    with _open(path, formats) as image:
        width, height = image.size
    if read_orientation(path, formats) > 4:
        return width, height
    return height, width


def is_larger(path, pixels):
    """Whether an image claims more pixels; `False` if it cannot be read."""
    try:
        check_is_file(path)
        with _without_pillow_limit():
            with Image.open(path, formats=PHOTO_FORMATS) as image:
                return image.width * image.height > pixels
    # Pillow has no common error for broken headers.
    except Exception:
        return False


def read_orientation(path, formats=DATA_FORMATS):
    """An image's EXIF orientation, from 1, upright, to 8."""
    _check_file(path)
    try:
        with open(path, "rb") as file:
            if not may_be_turned(file):
                return 1
    # The error of a failing disk does not name the file.
    except OSError as error:
        raise _unreadable(path, error) from error
    with _open(path, formats) as image:
        # Pillow turns these itself.
        return 1 if image.format == "TIFF" else orientation_of(image)


@contextlib.contextmanager
def _open(path, formats):
    _check_file(path)
    try:
        with _without_pillow_limit():
            image = Image.open(path, formats=formats)
    # Pillow has no common error for broken headers.
    except Exception as error:
        raise _unreadable(path, error, formats) from error
    with image:
        _check_size(image, path)
        yield image


@contextlib.contextmanager
def _without_pillow_limit():
    """Lifts Pillow's own limit, which warns before ours is reached.

    Opening reads no pixels. The limit is global to the process: the first of
    several threads that read at a time lifts it, the last one restores it.
    """
    with _pillow_limit["lock"]:
        if not _pillow_limit["lifted"]:
            _pillow_limit["pixels"] = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = None
        _pillow_limit["lifted"] += 1
    try:
        yield
    finally:
        with _pillow_limit["lock"]:
            _pillow_limit["lifted"] -= 1
            if not _pillow_limit["lifted"]:
                Image.MAX_IMAGE_PIXELS = _pillow_limit["pixels"]


def check_is_file(path):
    """Refuses what would hang a reader, or is empty; gives its `os.stat`."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} cannot be read: there is no such file. Expected a file "
            "of this name: correct it, put the file back, or leave it out."
        ) from error
    # ValueError: a name that no file can have.
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a file"
        raise _unreadable(path, f"it is {kind}")
    if not status.st_size:
        raise _unreadable(path, "it is empty (0 bytes)")
    return status


def _check_file(path):
    """Refuses what would hang a reader, fill its memory or is empty."""
    status = check_is_file(path)
    if status.st_size > MAX_BYTES:
        raise _unreadable(
            path, f"it has {status.st_size} bytes, more than {MAX_BYTES}"
        )


def _load(path, formats, is_label=False):
    # `load` overlooks a broken end that `verify` (and TensorFlow) does not.
    for read in ("verify", "load"):
        with _open(path, formats) as image:
            # Labels have a check of their own.
            if not is_label:
                _check_depth(image, path)
            try:
                if read == "verify" and formats == DATA_FORMATS:
                    _check_jpeg_end(image)
                getattr(image, read)()
                if read == "load" and formats == DATA_FORMATS:
                    check_png_rows(path)
            # Pillow's decoders have no common error for broken files.
            except Exception as error:
                raise _unreadable(path, error, formats) from error
    return image


def _check_jpeg_end(image):
    # TensorFlow requires the end marker, Pillow does not: without this check
    # one would train on a file that the other refuses.
    if image.format in ("JPEG", "MPO") and _JPEG_END not in image.fp.read():
        raise EOFError("truncated JPEG file")


def _unreadable(path, error, formats=DATA_FORMATS):
    return ValueError(
        f"{path} cannot be read: {error}. Expected a complete file of the "
        f"kind {' or '.join(formats)}; replace it, or leave it out."
    )


def _png_kind(path):
    try:
        return read_png_kind(path)
    # The error of a failing disk does not name the file.
    except OSError as error:
        raise _unreadable(path, error) from error
