"""What happens to one example, as TensorFlow graph functions.

`numpy_batches.py` does the same without TensorFlow; tests compare the two.
"""

import zlib

import numpy as np
import tensorflow as tf

from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.datasets import INVALID_LABEL
from keras_danet.data.decoding import MAX_PIXELS
from keras_danet.data.orientation import TURNS
from keras_danet.data.plan import NUM_CROPS
from keras_danet.data.png import COLOR
from keras_danet.data.png import GREY
from keras_danet.data.png import PALETTE
from keras_danet.data.png import PNG_SIGNATURE
from keras_danet.data.tensorflow_images import distort
from keras_danet.data.tensorflow_images import resample

# XOR this into the checksum of a PNG's header when the colour type, followed
# by three bytes, changes from palette to grey: CRC-32 is linear.
_PALETTE_TO_GREY = zlib.crc32(bytes([PALETTE, 0, 0, 0])) ^ zlib.crc32(bytes(4))

# With more exceptions, looking up every pixel is faster.
_MAX_EXCEPTIONS = 4


def decode_image(contents):
    """Decodes the bytes of a PNG or JPEG file to the pixels that Pillow reads.

    Grey images get three equal channels, palettes become their colours and
    transparency is dropped, as in Pillow's `convert("RGB")`.
    """

    def jpeg():
        shape = tf.image.extract_jpeg_shape(contents)
        check = tf.debugging.Assert(
            shape[2] < 4, ["A JPEG has the colours of print (CMYK)."]
        )
        with tf.control_dependencies([check]), _checked_size(shape[:2]):
            # The default method is faster, but differs from Pillow's by one
            # level in half of all pixels.
            return tf.io.decode_jpeg(
                contents, channels=3, dct_method="INTEGER_ACCURATE"
            )

    def png():
        depth, _ = _png_kind(contents)
        check = tf.debugging.Assert(
            depth <= 8, ["An image file has more than 8 bits per channel."]
        )
        with tf.control_dependencies([check]):
            return tf.io.decode_png(contents, channels=3)

    return tf.cond(tf.io.is_jpeg(contents), jpeg, png)


def turn(image, orientation):
    """Turns an image or label upright by its EXIF orientation, 1 to 8."""
    others = list(range(2, image.shape.rank))

    def turned():
        is_transposed, *is_reversed = (
            tf.constant([flag(number) for number in sorted(TURNS)])[
                orientation - 1
            ]
            for flag in (
                lambda number: TURNS[number][0],
                lambda number: 0 in TURNS[number][1],
                lambda number: 1 in TURNS[number][1],
            )
        )
        upright = tf.cond(
            is_transposed,
            lambda: tf.transpose(image, [1, 0, *others]),
            lambda: image,
        )
        return tf.raw_ops.Reverse(
            tensor=upright, dims=[*is_reversed, *[False] * len(others)]
        )

    return tf.cond(orientation == 1, lambda: image, turned)


def decode_label(contents):
    """Decodes the bytes of a label file of numbers, a grey or palette PNG.

    The numbers are those in the file: indices of the palette, not its
    colours, and not stretched where they have 1, 2 or 4 bits. Every other
    kind of PNG is refused.
    """
    depth, kind = _png_kind(contents)
    check = tf.debugging.Assert(
        ((kind == GREY) | (kind == PALETTE)) & (depth <= 8),
        ["A label file is not a grey or palette PNG of at most 8 bits."],
    )
    with tf.control_dependencies([check]):
        contents = tf.cond(
            kind == PALETTE, lambda: _as_grey(contents), lambda: contents
        )
    label = tf.io.decode_png(contents, channels=1)[..., 0]
    # The decoder stretches the values of fewer bits over 0-255.
    return tf.cond(
        depth == 8,
        lambda: label,
        lambda: label // tf.cast(255 // (2**depth - 1), tf.uint8),
    )


def decode_color_label(contents):
    """Decodes the bytes of a label file of colours to RGB."""
    depth, kind = _png_kind(contents)
    check = tf.debugging.Assert(
        ((kind == COLOR) | (kind == PALETTE)) & (depth <= 8),
        ["A label file is not a PNG of colours with 8 bits per channel."],
    )
    with tf.control_dependencies([check]):
        return tf.io.decode_png(contents, channels=3)


def _png_kind(contents):
    """Bits per channel and colour type, once it is a PNG of possible size."""
    is_png = tf.strings.substr(contents, 0, 8) == PNG_SIGNATURE
    is_whole = tf.strings.length(contents) > 33
    check = tf.debugging.Assert(
        is_png & is_whole, ["A file is not a PNG, nor, for images, a JPEG."]
    )
    with tf.control_dependencies([check]):
        header = _bytes(contents, 16, 10)
    places = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
    size = tf.linalg.matvec(tf.reshape(header[:8], [2, 4]), places)
    with _checked_size(size):
        return tf.cast(header[8], tf.int32), tf.cast(header[9], tf.int32)


def _checked_size(size):
    pixels = tf.reduce_prod(tf.cast(size, tf.float64))
    check = tf.debugging.Assert(
        pixels <= MAX_PIXELS, [f"An image has more than {MAX_PIXELS} pixels."]
    )
    return tf.control_dependencies([check])


def _bytes(contents, start, count):
    part = tf.io.decode_raw(tf.strings.substr(contents, start, count), tf.uint8)
    return tf.cast(tf.ensure_shape(part, [count]), tf.int64)


def _as_grey(contents):
    """A palette PNG with its indices declared to be grey levels.

    TensorFlow has no decoder that ignores the palette.
    """
    checksum = _bytes(contents, 29, 4)
    change = tf.constant(list(_PALETTE_TO_GREY.to_bytes(4, "big")), tf.int64)
    characters = tf.constant([bytes([value]) for value in range(256)])
    changed = tf.gather(characters, tf.bitwise.bitwise_xor(checksum, change))
    return tf.strings.join(
        [
            tf.strings.substr(contents, 0, 25),
            characters[GREY],
            tf.strings.substr(contents, 26, 3),
            tf.strings.reduce_join(changed),
            tf.strings.substr(contents, 33, -1),
        ]
    )


def to_train_ids(raw, label_table):
    """Maps the raw values or colours of a label file to train ids.

    Args:
        raw: uint8 tensor, (height, width) numbers or (height, width, 3)
            colours.
        label_table: uint8 tensor (256,), or (2**24,) for colours whose
            number is red, green, blue from the highest byte down.
    """
    code = tf.cast(raw, tf.int32)
    if raw.shape.rank == 3:
        code = (code[..., 0] * 256 + code[..., 1]) * 256 + code[..., 2]
    label = tf.gather(label_table, code)
    check = tf.debugging.Assert(
        tf.reduce_all(label != INVALID_LABEL),
        ["A label value that the data set does not have."],
    )
    with tf.control_dependencies([check]):
        return tf.identity(label)


def check_values(raw, label_table):
    """Refuses a label with a value that its table does not have.

    `to_train_ids` does so too, but maps each pixel: ten times the work.
    """
    known = label_table != INVALID_LABEL
    # Usually the known values are one range, if 0 follows 255.
    starts = np.flatnonzero(known & ~np.roll(known, 1))
    ends = np.flatnonzero(known & ~np.roll(known, -1))
    if len(starts) and ends[0] < starts[0]:
        ends = np.roll(ends, -1)
    is_known = known.all()
    for start, end in zip(starts, ends, strict=True):
        length = np.uint8((end - start) % 256)
        is_known |= raw - np.uint8(start) <= length
    check = tf.debugging.Assert(
        tf.reduce_all(is_known),
        ["A label value that the data set does not have."],
    )
    with tf.control_dependencies([check]):
        return tf.identity(raw)


def _map_values(raw, label_table):
    """`to_train_ids` of values that are known, several times faster.

    In most data sets all train ids are the raw values minus the same number,
    modulo 256, with few exceptions.
    """
    values = np.arange(256, dtype=np.uint8)
    known = values[label_table != INVALID_LABEL]
    shifts = (label_table - values)[known]
    shift = np.bincount(shifts).argmax().astype(np.uint8)
    exceptions = known[shifts != shift]
    if len(exceptions) > _MAX_EXCEPTIONS:
        return tf.gather(label_table, tf.cast(raw, tf.int32))
    label = raw + shift if shift else raw
    for value in exceptions:
        label = tf.where(raw == value, label_table[value], label)
    return label


def apply_plan(image, label, decisions, augmentation, label_table=None):
    """Applies the plan's decisions to an image and its label.

    Only the crop is resampled, coloured and blurred, not the whole scaled
    image. Half-pixel centres in both keep image and label aligned; the image
    is interpolated bilinearly, with antialiasing when it shrinks (as Pillow's
    resize does), the label takes its nearest neighbour. An image smaller than
    the crop is padded below and to the right.

    Args:
        image: uint8 tensor (height, width, 3), RGB.
        label: uint8 tensor (height, width), train ids.
        decisions: A `Plan` for one example: its fields lack the first axis.
        augmentation: An `Augmentation`.
        label_table: uint8 array (256,), the train ids of a label of raw
            values, which are mapped in the crop alone. Defaults to `None`.

    Returns:
        float32 (crop_height, crop_width, 3) in 0-255, padded with the mean
        pixel, and uint8 (crop_height, crop_width) train ids, 255 for ignored
        pixels and padding.
    """
    crop_size = augmentation.crop_size
    size = tf.shape(label, out_type=tf.int64)
    scaled = _scaled_size(size, decisions.scale, augmentation)
    free = tf.cast(tf.maximum(scaled - crop_size, 0) + 1, tf.float64)
    fractions = tf.stack([decisions.crop_y, decisions.crop_x], axis=-1)
    # Fractions below 1 in float32 reach each of free + 1 places equally.
    offsets = tf.cast(tf.cast(fractions, tf.float64) * free, tf.int64)
    inside = tf.minimum(scaled, tf.constant(crop_size, tf.int64))

    def crop_label(offset):
        rows, columns = (
            _nearest(offset[axis], inside[axis], size[axis], scaled[axis])
            for axis in (0, 1)
        )
        part = label[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # Whole rows are gathered several times faster than columns.
        part = tf.transpose(tf.gather(part, rows - rows[0]))
        return tf.transpose(tf.gather(part, columns - columns[0]))

    offset, crop = _choose_crop(
        offsets, crop_label, augmentation.max_class_share, label_table
    )
    if label_table is not None:
        crop = _map_values(crop, label_table)
    image = resample(image, offset, inside, size, scaled)
    image = distort(image, decisions, augmentation)
    image, crop = _pad(image, crop, augmentation)
    return tf.cond(
        decisions.flip,
        lambda: (tf.reverse(image, [1]), tf.reverse(crop, [1])),
        lambda: (image, crop),
    )


def _scaled_size(size, scale, augmentation):
    # In float64 NumPy and TensorFlow round alike.
    size = tf.cast(size, tf.float64)
    factor = tf.cast(scale, tf.float64)
    limits = [
        side / extreme(size)
        for side, extreme in (
            (augmentation.long_side, tf.reduce_max),
            (augmentation.short_side, tf.reduce_min),
        )
        if side is not None
    ]
    if limits:
        factor *= tf.reduce_min(limits)
    return tf.cast(tf.maximum(tf.floor(size * factor + 0.5), 1), tf.int64)


def _nearest(offset, length, size, scaled):
    """The nearest source pixel of each crop pixel along one axis.

    In integers, so that no rounding can move a label's border.
    """
    position = offset + tf.range(length)
    return tf.minimum((2 * position + 1) * size // (2 * scaled), size - 1)


def _choose_crop(offsets, crop_label, max_class_share, label_table):
    """The first candidate that keeps to the class share, else the last."""
    if max_class_share == 1:
        return offsets[0], crop_label(offsets[0])

    def is_unbalanced(label):
        counts = tf.math.bincount(tf.cast(label, tf.int32), minlength=256)
        if label_table is not None:
            counts = tf.math.unsorted_segment_sum(
                counts, tf.cast(label_table, tf.int32), 256
            )
        counts = tf.cast(counts[:IGNORE_LABEL], tf.float64)
        most = tf.constant(max_class_share, tf.float64) * tf.reduce_sum(counts)
        return tf.reduce_max(counts) >= most

    number, label = tf.while_loop(
        lambda number, label: (number < NUM_CROPS - 1) & is_unbalanced(label),
        lambda number, label: (number + 1, crop_label(offsets[number + 1])),
        (0, crop_label(offsets[0])),
        parallel_iterations=1,
    )
    return offsets[number], label


def _pad(image, label, augmentation):
    height, width = augmentation.crop_size

    def pad(image, label):
        below, right = height - tf.shape(label)[0], width - tf.shape(label)[1]
        label = tf.pad(
            label, [[0, below], [0, right]], constant_values=IGNORE_LABEL
        )
        mean = tf.constant(augmentation.mean_pixel, tf.float32)
        rest = tf.broadcast_to(mean, [tf.shape(image)[0], right, 3])
        image = tf.concat([image, rest], axis=1)
        rest = tf.broadcast_to(mean, [below, width, 3])
        return tf.concat([image, rest], axis=0), label

    image, label = tf.cond(
        tf.reduce_all(tf.shape(label) == [height, width]),
        lambda: (image, label),
        lambda: pad(image, label),
    )
    image = tf.ensure_shape(image, [height, width, 3])
    return image, tf.ensure_shape(label, [height, width])
