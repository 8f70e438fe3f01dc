"""What happens to one example, as TensorFlow graph functions."""

import tensorflow as tf

from keras_danet.data.datasets import IGNORE_LABEL

# ImageNet's mean, RGB in 0-255: a model that normalises with it sees padding
# as zeros.
MEAN_PIXEL = (123.675, 116.28, 103.53)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def decode_image(contents):
    """Decodes a PNG or JPEG file to the pixels that Pillow reads.

    Grey images get three equal channels, palettes become their colours and
    transparency is dropped, as by Pillow's `convert("RGB")`.

    Args:
        contents: Scalar string tensor, the bytes of the file.

    Returns:
        uint8 tensor (height, width, 3), RGB.
    """
    return tf.cond(
        tf.io.is_jpeg(contents),
        # The default method is faster and differs from Pillow's by a level
        # on half of all pixels.
        lambda: tf.io.decode_jpeg(
            contents, channels=3, dct_method="INTEGER_ACCURATE"
        ),
        lambda: tf.io.decode_png(contents, channels=3),
    )


def decode_label(contents):
    """Decodes a label file: an 8-bit grey PNG whose values are raw ids.

    Every other kind of PNG is refused, because the decoder would turn a
    palette or colours into luminance and stretch 1, 2 and 4 bits over 0-255.

    Args:
        contents: Scalar string tensor, the bytes of the file.

    Returns:
        uint8 tensor (height, width), the raw values.
    """
    header = tf.strings.substr(contents, 0, 26)
    signature = tf.strings.substr(header, 0, 8)
    depth_and_colour_type = tf.strings.substr(header, 24, 2)
    is_grey_8_bit = tf.logical_and(
        tf.equal(signature, _PNG_SIGNATURE),
        tf.equal(depth_and_colour_type, b"\x08\x00"),
    )
    check = tf.debugging.Assert(
        is_grey_8_bit, ["A label file is not an 8-bit grey PNG."]
    )
    with tf.control_dependencies([check]):
        return tf.io.decode_png(contents, channels=1)[..., 0]


def apply_plan(image, label, scale, crop_y, crop_x, flip, crop_size):
    """Scales, crops or pads, and mirrors an image and its label alike.

    Only the crop is resampled, not the whole scaled image. Half-pixel
    centres in both keep image and label aligned; the image is interpolated
    bilinearly, with antialiasing when it shrinks (as Pillow's resize does),
    the label takes its nearest neighbour. An image smaller than the crop is
    padded below and to the right.

    Args:
        image: uint8 tensor (height, width, 3), RGB.
        label: uint8 tensor (height, width).
        scale: Scalar float32, the factor on height and width.
        crop_y: Scalar float32 in [0, 1), of the free rows.
        crop_x: Scalar float32 in [0, 1), of the free columns.
        flip: Scalar bool, whether to mirror left to right.
        crop_size: Pair of integers (height, width).

    Returns:
        float32 (crop_height, crop_width, 3) in 0-255, padded with the mean
        pixel, and uint8 (crop_height, crop_width), padded with 255.
    """
    size = tf.shape(label, out_type=tf.int64)
    scaled = tf.cast(tf.round(tf.cast(size, tf.float32) * scale), tf.int64)
    scaled = tf.maximum(scaled, 1)
    free = tf.maximum(scaled - crop_size, 0)
    # A fraction below 1 of free + 1 places reaches each of them equally.
    offset = tf.cast(
        tf.stack([crop_y, crop_x]) * tf.cast(free + 1, tf.float32), tf.int64
    )
    rows, row_inside = _sources(crop_size[0], offset[0], size[0], scaled[0])
    columns, column_inside = _sources(
        crop_size[1], offset[1], size[1], scaled[1]
    )
    inside = row_inside[:, None] & column_inside[None, :]

    resampled = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=crop_size,
        scale=tf.cast(scaled / size, tf.float32),
        translation=-tf.cast(offset, tf.float32),
        kernel_type="triangle",
    )[0]
    image = tf.where(inside[..., None], resampled, MEAN_PIXEL)
    label = tf.gather(tf.gather(label, rows), columns, axis=1)
    label = tf.where(inside, label, tf.constant(IGNORE_LABEL, tf.uint8))
    return tf.cond(
        flip,
        lambda: (tf.reverse(image, [1]), tf.reverse(label, [1])),
        lambda: (image, label),
    )


def _sources(length, offset, size, scaled):
    """The nearest source pixel of each crop pixel along one axis.

    In integers, so that no rounding can move a label's border.
    """
    position = offset + tf.range(length, dtype=tf.int64)
    source = (2 * position + 1) * size // (2 * scaled)
    return tf.minimum(source, size - 1), position < scaled
