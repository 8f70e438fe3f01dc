"""Resampling, colours and blur of a crop, as TensorFlow graph functions."""

import math

import tensorflow as tf


def resample(image, offset, inside, size, scaled):
    """The crop's part of the scaled image, from what of the image it needs.

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
    # As far as the filter reaches, and a pixel for rounding.
    reach = tf.maximum(1 / ratio, 1) + 1
    start = tf.cast(offset, tf.float64) / ratio
    end = tf.cast(offset + inside, tf.float64) / ratio
    first = tf.maximum(tf.cast(tf.floor(start - reach), tf.int64), 0)
    last = tf.minimum(tf.cast(tf.math.ceil(end + reach), tf.int64), size)
    part = image[first[0] : last[0], first[1] : last[1]]
    first = tf.cast(first, tf.float64)
    return tf.cond(
        tf.reduce_all(scaled >= size),
        lambda: _enlarge(part, start - first, end - first, ratio, inside),
        lambda: tf.raw_ops.ScaleAndTranslate(
            images=part[tf.newaxis],
            size=tf.cast(inside, tf.int32),
            scale=tf.cast(ratio, tf.float32),
            translation=tf.cast((first - start) * ratio, tf.float32),
            kernel_type="triangle",
        )[0],
    )


def _enlarge(part, start, end, ratio, inside):
    """From `start` to `end` of a part; several times faster than shrinking."""
    # The outermost pixels' centres lie beyond those of the part.
    for axis in (0, 1):
        indices = [0], [tf.shape(part)[axis] - 1]
        before, after = (tf.gather(part, index, axis=axis) for index in indices)
        part = tf.concat([before, part, after], axis)
    # The places of the first and last pixels' centres, of which the distance
    # between the part's outermost centres is the unit.
    places = tf.stack([start + 0.5 / ratio, end - 0.5 / ratio]) + 0.5
    places /= tf.cast(tf.shape(part)[:2] - 1, tf.float64)
    return tf.raw_ops.CropAndResize(
        image=part[tf.newaxis],
        boxes=tf.cast(tf.reshape(places, [1, 4]), tf.float32),
        box_ind=[0],
        crop_size=tf.cast(inside, tf.int32),
        method="bilinear",
    )[0]


def distort(image, decisions, augmentation):
    """Brightness, contrast, saturation, hue and blur, each where decided.

    Args:
        image: float32 tensor (height, width, 3), RGB in 0-255.
        decisions: A `Plan` whose fields have lost their first axis.
        augmentation: An `Augmentation`.

    Returns:
        float32 tensor of the same shape, in 0-255.
    """
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
    """A Gaussian cut off at `radius`; pixels at the edge are repeated."""
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
