"""Turns a photograph upright by its EXIF orientation."""

import itertools
import struct

import numpy as np

from keras_danet.data.png import PNG_SIGNATURE
from keras_danet.data.png import png_chunks

_EXIF_ORIENTATION = 0x0112
# Whether rows and columns are swapped, and which axes are then reversed.
TURNS = {
    1: (False, ()),
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}
# Chunks of a PNG that Pillow reads an orientation from.
_PNG_TEXTS = (b"Raw profile type", b"XML:com.adobe.xmp")
# More than a file of a gigabyte has.
_MAX_CHUNKS = 2**18


def orientation_of(image):
    """The EXIF orientation of a Pillow image; 1 if there is no valid one."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    # Pillow has no common error for broken tags.
    except Exception:
        return 1
    is_one = isinstance(orientation, int) and orientation in TURNS
    return orientation if is_one else 1


def turn(array, orientation):
    """An array (height, width, ...) upright, like `ImageOps.exif_transpose`."""
    is_transposed, reversed_axes = TURNS[orientation]
    if is_transposed:
        array = np.swapaxes(array, 0, 1)
    return np.ascontiguousarray(np.flip(array, reversed_axes))


def may_be_turned(file):
    """Whether an open image file may have an orientation; decodes nothing.

    Most files of data sets have none, and asking Pillow would decode a PNG.
    """
    start = file.read(8)
    if start == PNG_SIGNATURE:
        return _png_may(file)
    if start.startswith(b"\xff\xd8"):
        file.seek(2)
        return _jpeg_may(file)
    return True


def _png_may(file):
    for kind, length in itertools.islice(png_chunks(file), _MAX_CHUNKS):
        if kind == b"eXIf":
            return True
        is_text = kind in (b"tEXt", b"zTXt", b"iTXt")
        if is_text and file.read(min(length, 17)).startswith(_PNG_TEXTS):
            return True
    return False


def _jpeg_may(file):
    while len(header := file.read(4)) == 4:
        mark, kind, length = struct.unpack(">BBH", header)
        # After the start of the pixels there are no tags.
        if kind == 0xDA:
            return False
        # EXIF or XMP; or something unusual, which Pillow understands.
        if mark != 0xFF or kind == 0xE1 or kind < 0xC0 or kind == 0xFF:
            return True
        file.seek(length - 2, 1)
    return False
