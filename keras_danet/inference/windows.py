"""Windows over an image: where they lie, and how their answers become one.

What windows make of an image is finished from top to bottom, and leaves in
bands of rows: no more than a band is held at a time.
"""

import math

import numpy as np


def window_starts(side, window, stride, last="shifted"):
    """Where windows start along an axis: at multiples of the stride.

    Args:
        side, window, stride: Integers, pixels.
        last: String; where the last one would reach over the border, it is
            `"shifted"` back to it, or stays and is `"padded"`.

    Returns:
        List of integers.

    Example:

    >>> window_starts(2049, 769, 513)
    [0, 513, 1026, 1280]
    >>> window_starts(1024, 768, 512, "padded")
    [0, 512]
    """
    count = math.ceil(max(side - window, 0) / stride) + 1
    starts = [stride * index for index in range(count)]
    if last == "shifted":
        starts[-1] = max(min(starts[-1], side - window), 0)
    return starts


def window_weights(starts, side, window, stride, blend="uniform"):
    """The share of each window in each pixel along an axis.

    Weights that fall towards a window's border are 0 in the outermost quarter
    of its overlap with the next window: what the network makes of pixels
    within that distance of a cut does not count. The image's own border is no
    cut.

    Args:
        starts: List of integers, as `window_starts` gives.
        side, window, stride: Integers, pixels.
        blend: String, `"uniform"`, `"gaussian"` or `"cosine"`.

    Returns:
        float64 array (number of windows, window). Over each pixel of the
        image they sum to 1.

    Example:

    >>> window_weights([0, 2], side=6, window=4, stride=2)
    array([[1. , 1. , 0.5, 0.5],
           [0.5, 0.5, 1. , 1. ]])
    """
    place = (np.arange(window) + 0.5) / window
    profile = {
        # A standard deviation of an eighth of the window.
        "gaussian": np.exp(-0.5 * ((place - 0.5) * 8) ** 2),
        "cosine": np.sin(np.pi * place) ** 2,
        "uniform": np.ones(window),
    }[blend]
    weights = np.tile(profile, (len(starts), 1))
    margin = 0 if blend == "uniform" else (window - stride) // 4
    total = np.zeros(starts[-1] + window)
    for start, weight in zip(starts, weights, strict=True):
        if margin and start > 0:
            weight[:margin] = 0
        if margin and start + window < side:
            weight[-margin:] = 0
        total[start : start + window] += weight
    for start, weight in zip(starts, weights, strict=True):
        weight /= total[start : start + window]
    return weights


class Windows:
    """The windows over an image of one size.

    Args:
        size: (height, width) of the image.
        protocol: `InferenceProtocol`.
        pixel: the (red, green, blue) that fills a window up.
    """

    def __init__(self, size, protocol, pixel=(0, 0, 0)):
        self.size = tuple(size)
        self.shape = tuple(protocol.window or size)
        stride = protocol.stride or self.shape
        if protocol.padding == "none":
            self.shape = tuple(map(min, self.shape, size))
            stride = tuple(map(min, stride, self.shape))
        self.pixel = np.float32(pixel)
        self.starts, self.weights = [], []
        for side, window, step in zip(size, self.shape, stride, strict=True):
            starts = window_starts(side, window, step, protocol.last_window)
            self.starts.append(starts)
            self.weights.append(
                window_weights(starts, side, window, step, protocol.blend)
            )

    @property
    def count(self):
        return len(self.starts[0]) * len(self.starts[1])

    def batch_size(self, most):
        """The largest divisor of a row's windows that is at most `most`."""
        count = len(self.starts[1])
        return max(
            size
            for size in range(1, count + 1)
            if size <= max(most, 1)
            if count % size == 0
        )

    def bands(self, read, values, batch_size=1):
        """The image's values, in bands of rows from top to bottom.

        Args:
            read: function of the (top, bottom, left, right) of a piece of the
                image to its pixels, an array (height, width, 3).
            values: function of a batch of windows to an array (batch, height,
                width, num_values).
            batch_size: integer, windows that are given to `values` at a time.

        Yields:
            Arrays (rows, width, num_values), each until the next is asked for.
        """
        tops, lefts = self.starts
        held = None
        for index, top in enumerate(tops):
            for first in range(0, len(lefts), batch_size):
                chosen = range(first, min(first + batch_size, len(lefts)))
                batch = np.stack(
                    [self._cut(read, top, lefts[column]) for column in chosen]
                )
                results = values(batch)
                if self.count == 1:
                    yield results[0, : self.size[0], : self.size[1]]
                    return
                if held is None:
                    shape = self.shape[0], self.size[1], results.shape[-1]
                    held = np.zeros(shape, results.dtype)
                for column, result in zip(chosen, results, strict=True):
                    self._add(held, result, index, column)
                del batch, results
            is_last = index + 1 == len(tops)
            done = (self.size[0] if is_last else tops[index + 1]) - top
            yield held[:done]
            if not is_last:
                held[:-done] = held[done:]
                held[-done:] = 0

    def _cut(self, read, top, left):
        bottom = min(top + self.shape[0], self.size[0])
        right = min(left + self.shape[1], self.size[1])
        return pad(read(top, bottom, left, right), self.shape, self.pixel)

    def _add(self, held, result, row, column):
        left = self.starts[1][column]
        rows = min(self.shape[0], self.size[0] - self.starts[0][row])
        columns = min(self.shape[1], self.size[1] - left)
        weights = np.outer(
            self.weights[0][row, :rows], self.weights[1][column, :columns]
        ).astype(held.dtype)
        part = held[:rows, left : left + columns]
        part += result[:rows, :columns] * weights[..., np.newaxis]


def pad(image, size, pixel):
    """`image`, filled up to at least `size` at its lower right."""
    height, width = image.shape[:2]
    if height >= size[0] and width >= size[1]:
        return image
    shape = max(height, size[0]), max(width, size[1]), image.shape[2]
    exact = image.dtype == "uint8" and np.all(pixel == np.rint(pixel))
    padded = np.empty(shape, "uint8" if exact else "float32")
    padded[...] = pixel
    padded[:height, :width] = image
    return padded


def softmax(logits):
    """The probabilities of classes, over the last axis; a new array."""
    kind = "float64" if logits.dtype == "float64" else "float32"
    highest = logits.max()
    # Subtracting each pixel's maximum takes time, and is for large logits.
    if -50 < logits.min() and highest < 50:
        result = np.exp(logits, dtype=kind)
    else:
        result = logits - logits.max(axis=-1, keepdims=True)
        result = np.exp(result, out=result)
    return normalize(result)


def normalize(values):
    """Positive values, in place, so that they sum to 1 over the last axis."""
    ones = np.ones(values.shape[-1], values.dtype)
    values /= (values @ ones)[..., np.newaxis]
    return values
