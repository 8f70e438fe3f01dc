"""Resampling, colours and blur of a crop, as TensorFlow graph functions."""

import math

import tensorflow as tf


def resample(image, offset, inside, size, scaled):
    """The crop's part of the scaled image, from only the pixels it needs.

    Args:
        image: uint8 tensor (height, width, 3).
        offset: int64 tensor (2,), the crop's place in the scaled image.
        inside: int64 tensor (2,), the crop's size.
        size: int64 tensor (2,), the image's size.
        scaled: int64 tensor (2,), the scaled image's size.

    Returns:
        float32 tensor (*inside, 3).
    """
    ratio = tf.cast(scaled, tf.float64) / tf.cast(size, tf.float64)
    # As far as the filter reaches, plus a pixel for rounding.
    reach = tf.maximum(1 / ratio, 1) + 1
    start = tf.cast(offset, tf.float64) / ratio
    end = tf.cast(offset + inside, tf.float64) / ratio
    first = tf.maximum(tf.cast(tf.floor(start - reach), tf.int64), 0)
    last = tf.minimum(tf.cast(tf.math.ceil(end + reach), tf.int64), size)
    part = image[first[0] : last[0], first[1] : last[1]]
    translation = (tf.cast(first, tf.float64) - start) * ratio
    for axis in (0, 1):
        part = _resample_rows(
            part, inside[axis], ratio[axis], translation[axis]
        )
        part = tf.transpose(part, [1, 0, 2])
    return part


def _resample_rows(image, height, scale, translation):
    """Resamples the first axis; the others are merged into channels.

    The operation computes channels together: several times faster than
    resampling both axes with three channels.
    """
    shape = tf.shape(image)
    rows = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, [1, shape[0], 1, -1]),
        size=tf.stack([tf.cast(height, tf.int32), 1]),
        scale=tf.stack([tf.cast(scale, tf.float32), 1.0]),
        translation=tf.stack([tf.cast(translation, tf.float32), 0.0]),
        kernel_type="triangle",
    )
    return tf.reshape(rows, [-1, shape[1], 3])


def distort(image, decisions, augmentation):
    """Brightness, contrast, saturation, hue and blur, each as decided."""
    if augmentation.brightness:
        image = _clip(image + decisions.brightness)
    if augmentation.contrast:
        factor = tf.where(decisions.contrast_last, 1.0, decisions.contrast)
        image = _clip(image * factor)
    if augmentation.saturation or augmentation.hue:
        image = tf.cond(
            (decisions.saturation != 1) | (decisions.hue != 0),
            lambda: _turn(image, decisions.saturation, decisions.hue),
            lambda: image,
        )
    if augmentation.contrast:
        factor = tf.where(decisions.contrast_last, decisions.contrast, 1.0)
        image = _clip(image * factor)
    if augmentation.blur:
        radius = math.ceil(3 * augmentation.blur)
        image = tf.cond(
            decisions.blur > 0,
            lambda: _blur(image, decisions.blur, radius),
            lambda: image,
        )
    return image


def _clip(image):
    return tf.clip_by_value(image, 0.0, 255.0)


def _turn(image, saturation, hue):
    """Multiplies the saturation and turns the hue of HSV colours."""
    red, green, blue = tf.unstack(image, axis=-1)
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    # `tf.image.rgb_to_hsv` computes this more slowly.
    h = tf.where(
        red == value,
        green - blue,
        tf.where(
            green == value,
            blue - red + 2 * chroma,
            red - green + 4 * chroma,
        ),
    )
    h = tf.math.divide_no_nan(h, 6 * chroma) + hue
    h -= tf.floor(h)
    s = tf.minimum(tf.math.divide_no_nan(chroma, value) * saturation, 1.0)
    return _clip(tf.image.hsv_to_rgb(tf.stack([h, s, value], axis=-1)))


def _blur(image, deviation, radius):
    """A Gaussian blur cut off at `radius`; edge pixels are repeated."""
    taps = tf.cast(tf.range(-radius, radius + 1), tf.float32)
    weights = tf.exp(-0.5 * tf.square(taps / deviation))
    weights /= tf.reduce_sum(weights)
    weights = tf.tile(
        weights[:, tf.newaxis, tf.newaxis, tf.newaxis], [1, 1, 3, 1]
    )
    for axis in (0, 1):
        length = tf.shape(image)[axis]
        index = tf.range(-radius, length + radius)
        image = tf.gather(
            image, tf.clip_by_value(index, 0, length - 1), axis=axis
        )
    image = image[tf.newaxis]
    for kernel in (weights, tf.transpose(weights, [1, 0, 2, 3])):
        image = tf.nn.depthwise_conv2d(image, kernel, [1, 1, 1, 1], "VALID")
    return image[0]
