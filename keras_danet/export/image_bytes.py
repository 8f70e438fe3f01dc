"""The bytes of a JPEG or PNG to an upright image, inside a TensorFlow graph.

What a server is sent is untrusted: kind and size are read from the header and
refused before any memory is taken for pixels, and so is what decoders unpack or
go through again and again besides pixels.
"""

import tensorflow as tf

from keras_danet.data.orientation import TURNS
from keras_danet.data.png import PNG_SIGNATURE

# As much of a file as its EXIF tags lie in.
HEADER_BYTES = 2**16
# More than any encoder takes for a pixel.
MAX_BYTES_PER_PIXEL = 8
# Chunks of a PNG that unpack to up to 8 MB each, and how many may be there:
# pixels may look like one.
_PACKED, MAX_PACKED = (b"zTXt", b"iTXt", b"iCCP"), 16
# Where a scan of a JPEG begins; an encoder makes about ten at most.
_SCAN, MAX_SCANS = b"\xff\xda", 200
_ORIENTATION = 0x0112
_EXIF = b"Exif\0\0"


def size_of(contents):
    """(height, width) in the header of a JPEG or PNG, int64 scalars.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if it is neither.
    """
    start, is_png, is_jpeg = _kind(contents)
    known = tf.debugging.Assert(
        is_png | is_jpeg,
        ["This is not a JPEG or PNG. Send the bytes of a whole file."],
        name="kind",
    )
    with tf.control_dependencies([known]):
        return tf.cond(
            is_png,
            lambda: (_number(start, 20, 4), _number(start, 16, 4)),
            lambda: _jpeg_size(contents),
        )


def _kind(contents):
    start = tf.io.decode_raw(
        tf.strings.substr(contents, 0, HEADER_BYTES), tf.uint8
    )
    # So that every place that is looked at exists.
    start = tf.concat([start, tf.zeros([64], tf.uint8)], 0)
    # The decoder would skip chunks before the header, and size is read at its
    # place.
    is_png = _begins(start, PNG_SIGNATURE + b"\0\0\0\rIHDR")
    return start, is_png, _begins(start, b"\xff\xd8")


def decode_upright(contents, max_pixels):
    """The image that a photograph's bytes are meant to show.

    Args:
        contents: string tensor (), a whole file.
        max_pixels: integer; a larger image is refused.

    Returns:
        uint8 tensor (height, width, 3), RGB.

    The EXIF orientation of a JPEG is obeyed; PNGs are taken as they are.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if the bytes are not a
            JPEG or PNG of 8 bits, or too large.
    """
    start, is_png, is_jpeg = _kind(contents)
    height, width = size_of(contents)
    pixels = height * width
    small = tf.debugging.Assert(
        (pixels > 0)
        & (height <= max_pixels)
        & (width <= max_pixels)
        & (pixels <= max_pixels)
        & (
            tf.cast(tf.strings.length(contents), tf.int64)
            <= HEADER_BYTES + MAX_BYTES_PER_PIXEL * max_pixels
        ),
        [
            f"The image is empty, or larger than {max_pixels} pixels. Send a "
            "smaller one. Received (height, width):",
            height,
            width,
        ],
        name="size",
    )
    plain = tf.debugging.Assert(
        tf.cond(
            is_png,
            lambda: (
                (_number(start, 24, 1) <= 8)
                & (sum(_count(contents, p) for p in _PACKED) <= MAX_PACKED)
            ),
            lambda: _count(contents, _SCAN) <= MAX_SCANS,
        ),
        [
            "The image has 16 bits per channel, too much text, or too many "
            "scans. Save it as a plain JPEG, or a PNG of 8 bits."
        ],
        name="plain",
    )
    with tf.control_dependencies([small, plain]):
        image = tf.cond(
            is_png,
            lambda: tf.io.decode_png(contents, channels=3),
            # As Pillow decodes it.
            lambda: tf.io.decode_jpeg(
                contents, channels=3, dct_method="INTEGER_ACCURATE"
            ),
        )
    return _turned(image, tf.where(is_jpeg, _orientation(start), 1))


def _begins(start, signature):
    expected = tf.constant(list(signature), tf.uint8)
    return tf.reduce_all(start[: len(signature)] == expected)


def _count(contents, part):
    return tf.size(tf.strings.split(contents, part)) - 1


def _jpeg_size(contents):
    shape = tf.cast(tf.image.extract_jpeg_shape(contents), tf.int64)
    return shape[0], shape[1]


def _number(values, place, count, little=False):
    """The integer of `count` bytes from `place` on; places may be many."""
    places = tf.expand_dims(tf.cast(place, tf.int64), -1)
    places += tf.range(count, dtype=tf.int64)
    last = tf.size(values, tf.int64) - 1
    digits = tf.gather(values, tf.clip_by_value(places, 0, last))
    digits = tf.cast(digits, tf.int64)
    rising = tf.constant([256**i for i in range(count)], tf.int64)
    weights = tf.where(little, rising, rising[::-1])
    return tf.reduce_sum(digits * weights, -1)


def _orientation(start):
    """The EXIF orientation in a JPEG's first bytes, 1 if there is none."""
    length = tf.size(start, tf.int64)
    found = tf.reduce_all(
        tf.stack(
            [
                start[i : length - len(_EXIF) + i] == byte
                for i, byte in enumerate(_EXIF)
            ]
        ),
        axis=0,
    )
    tiff = tf.argmax(tf.cast(found, tf.uint8)) + len(_EXIF)
    little = start[tiff] == ord("I")
    table = tiff + _number(start, tiff + 4, 4, little)
    count = tf.where(tf.reduce_any(found), _number(start, table, 2, little), 0)
    # A table has about thirty entries; a broken one may claim any number.
    entries = table + 2 + 12 * tf.range(tf.minimum(count, 512))
    is_it = _number(start, entries, 2, little) == _ORIENTATION
    values = _number(start, entries + 8, 2, little)
    value = tf.reduce_sum(tf.where(is_it, values, 0))
    return tf.where((value >= 1) & (value <= len(TURNS)), value, 1)


def _turned(image, orientation):
    """`data.orientation.turn`, for an orientation that is not known yet."""
    swapped, reversed_axes = zip(*TURNS.values(), strict=True)

    def is_one_of(flags):
        return tf.constant(flags)[orientation - 1]

    image = tf.cond(
        is_one_of(swapped),
        lambda: tf.transpose(image, [1, 0, 2]),
        lambda: image,
    )
    for axis in (0, 1):
        image = tf.cond(
            is_one_of([axis in axes for axes in reversed_axes]),
            lambda image=image, axis=axis: tf.reverse(image, [axis]),
            lambda image=image: image,
        )
    return image
