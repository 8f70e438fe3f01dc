"""Images and logits at another size, with NumPy."""

import math

import numpy as np

from keras_danet import arguments

# More pixels than a side of any photograph has.
MAX_SIDE = 2**20
# How many pixels have all their logits computed at once.
_PIECE = 2**20


def scaled_size(size, long_side, short_side, scale=1):
    """The size that an image is resized to, keeping its aspect.

    Args:
        size: Pair of integers, the image's (height, width).
        long_side, short_side: Integers, the pixels of its sides at scale 1:
            the longer, the shorter, or, if both are given, the largest size
            that exceeds neither. `None` for both keeps the image's own size.
        scale: Float, a factor on both. Defaults to `1`.

    Returns:
        int64 array (2,), (height, width), at least 1.

    Example:

    >>> scaled_size((1200, 1600), 2048, 512).tolist()
    [512, 683]
    """
    factor = np.float64(scale)
    limits = [
        side / extreme(size)
        for side, extreme in ((long_side, max), (short_side, min))
        if side is not None
    ]
    factor *= min(limits, default=1)
    scaled = np.floor(np.float64(size) * factor + 0.5)
    return np.maximum(scaled, 1).astype(np.int64)


def standardize_sides(size):
    """The limits of the longer and the shorter side, from any form of `size`.

    Args:
        size: `None`; an integer, the longer side; or a pair of which either
            may be `None`. The greater of two integers is the longer side.

    Returns:
        (long, short), integers or `None`.

    Raises:
        ValueError: for anything else.

    Example:

    >>> standardize_sides(320), standardize_sides((512, 2048))
    ((320, None), (2048, 512))
    """
    must = (
        "must be None, the image's own; an integer, the pixels of the longer "
        "side; or (long, short), of which one may be None; each from 1 to "
        f"{MAX_SIDE}"
    )
    sides = arguments.as_sequence(size)
    if sides is None:
        sides = arguments.plain(size), None
    if len(sides) != 2 or not all(map(_is_side, sides)):
        raise arguments.refusal("size", must, size)
    return sides if None in sides else (max(sides), min(sides))


def _is_side(side):
    return side is None or (
        arguments.is_integer(side) and 1 <= side <= MAX_SIDE
    )


def resize_image(image, size):
    """Interpolates between pixels, and averages them if an image shrinks.

    As training does to its crops: half-pixel centres, bilinear, with
    antialiasing. Returns float32, or `image` itself if it has that size.
    """
    if tuple(size) == image.shape[:2]:
        return image
    for axis in (0, 1):
        image = resample(image, axis, *taps(0, size[axis], image.shape[axis]))
    return image


def taps(offset, length, size, scaled=None):
    """Which pixels of an image make up each pixel of a crop, along an axis.

    A triangle filter over the pixels of the coarser side, centred on each
    pixel's place in the source, and cut off where the image ends.

    Args:
        offset, length: Integers, the crop's place in the scaled image.
        size: Integer, the image's length.
        scaled: Integer, the scaled image's. Defaults to `None`, `length`.

    Returns:
        int64 and float32 arrays (length, number of taps): which pixels, and
        their weights.
    """
    ratio = np.float64(length if scaled is None else scaled) / size
    reach = max(1 / ratio, 1.0)
    positions = (offset + np.arange(length) + 0.5) / ratio - 0.5
    steps = np.arange(math.ceil(2 * reach) + 1)
    sources = np.ceil(positions - reach).astype(np.int64)[:, np.newaxis] + steps
    distances = np.abs(sources - positions[:, np.newaxis])
    weights = np.maximum(1 - distances / reach, 0)
    weights *= (sources >= 0) & (sources < size)
    weights /= weights.sum(axis=1, keepdims=True)
    weights = np.float32(weights)
    return np.clip(sources, 0, size - 1), weights


def resample(image, axis, sources, weights):
    """Resamples one axis of an image, as float32, with the result of `taps`."""
    result = 0
    for source, weight in zip(sources.T, weights.T, strict=True):
        if weight.any():
            weight = np.expand_dims(weight, [1, 2] if axis == 0 else [0, 2])
            result = result + weight * np.take(image, source, axis)
    return result


def resize_bilinear(image, size, corners=False):
    """Bilinear interpolation without antialiasing, as float32.

    PyTorch's `interpolate(mode="bilinear")`.

    Args:
        image: Array (height, width, channels).
        size: (height, width) of the result.
        corners: Boolean, whether the centres of the corner pixels stay where
            they are (`align_corners`), or else the image's corners. Defaults
            to `False`.
    """
    if tuple(size) == image.shape[:2]:
        return image
    result = np.empty((*size, image.shape[2]), _wide(image.dtype))
    start = 0
    for band in resize_bands([image], image.shape[:2], size, corners):
        result[start : start + len(band)] = band
        start += len(band)
    return result


def resize_logits(logits, size):
    """Bilinear interpolation with half-pixel centres, without antialiasing.

    PyTorch's `interpolate(mode="bilinear", align_corners=False)`. Returns
    float32, or `logits` themselves if they have that size.
    """
    return resize_bilinear(logits, size)


def resize_bands(bands, source, target, corners=False):
    """`resize_bilinear` of what comes, and goes, in bands of rows.

    Args:
        bands: Iterable of arrays (rows, width, channels), which together are
            a map of the size `source`. An array may change once the next one
            is asked for.
        source, target: (height, width) before and after.
        corners: Boolean, as for `resize_bilinear`.

    Yields:
        Arrays (rows, width, channels), which together have the size `target`.
    """
    if tuple(source) == tuple(target):
        yield from bands
        return
    first, second, share = _neighbours(source[0], target[0], corners)
    columns = _neighbours(source[1], target[1], corners)
    held, start, done = None, 0, 0
    for band in bands:
        held = band if held is None else np.concatenate([held, band])
        # Rows whose two neighbours have come.
        ready = int(np.searchsorted(second, start + len(held)))
        count = max(_PIECE // (target[1] * held.shape[2]), 1)
        for stop in [*range(done + count, ready, count), ready]:
            if stop > done:
                rows = slice(done, stop)
                below, above = first[rows] - start, second[rows] - start
                yield _mix_columns(
                    _mix_rows(held, below, above, share[rows]), *columns
                )
                done = stop
        if done < target[0]:
            # A smaller target may skip rows that are yet to come.
            keep = min(int(first[done]), start + len(held))
            held, start = held[keep - start :].copy(), keep


def _mix_rows(values, first, second, share):
    kind = _wide(values.dtype)
    below = values[first].astype(kind, copy=False)
    if not share.any():
        return below
    above = values[second].astype(kind, copy=False)
    above -= below
    above *= share[:, np.newaxis, np.newaxis].astype(kind, copy=False)
    return np.add(below, above, out=above)


def _mix_columns(values, first, second, share):
    if not share.any() and len(first) == values.shape[1]:
        return values
    below = np.take(values, first, 1)
    above = np.take(values, second, 1)
    above -= below
    above *= share[:, np.newaxis].astype(values.dtype, copy=False)
    return np.add(below, above, out=above)


def _wide(dtype):
    return np.dtype("float64" if dtype == "float64" else "float32")


def largest_class(logits, size):
    """The argmax of `resize_logits`, uint8, without holding all of its logits.

    If the four logits around a pixel agree on the largest class, so does
    every mixture of them; only the other pixels are interpolated, in pieces.
    """
    coarse = np.argmax(logits, axis=-1).astype("uint8")
    if tuple(size) == coarse.shape:
        return coarse
    rows, columns = (
        _neighbours(*sides) for sides in zip(coarse.shape, size, strict=True)
    )
    label = coarse[rows[0]][:, columns[0]]
    is_clear = np.ones(label.shape, bool)
    for row, column in ((0, 1), (1, 0), (1, 1)):
        is_clear &= label == coarse[rows[row]][:, columns[column]]
    unclear = np.flatnonzero(~is_clear)
    count = max(_PIECE // logits.shape[-1], 1)
    for start in range(0, len(unclear), count):
        places = unclear[start : start + count]
        row, column = np.divmod(places, size[1])
        first, second = (
            _mix(
                logits[rows[0][row], columns[side][column]],
                logits[rows[1][row], columns[side][column]],
                rows[2][row],
            )
            for side in (0, 1)
        )
        mixed = _mix(first, second, columns[2][column])
        label.flat[places] = np.argmax(mixed, axis=-1)
    return label


def _mix(first, second, share):
    first = first.astype("float32", copy=False)
    return first + share[:, np.newaxis] * (second - first)


def _neighbours(source, target, corners=False):
    """The two samples next to each new one, and the second one's share."""
    if corners:
        steps = (source - 1) / (target - 1) if target > 1 else 0.0
        positions = np.arange(target) * steps
    else:
        positions = (np.arange(target) + 0.5) * (source / target) - 0.5
    positions = np.clip(positions, 0, source - 1)
    first = positions.astype(np.int64)
    second = np.minimum(first + 1, source - 1)
    return first, second, np.float32(positions - first)
