"""The passes of an image through a network, and their mean.

Each pass (a scale, mirrored or not) comes back in bands of rows of the
image's own size and is added to one sum: no pass is held whole but what the
network itself returns.
"""

from typing import NamedTuple

import numpy as np

from keras_danet.data.resampling import largest_class
from keras_danet.data.resampling import resize_bands
from keras_danet.data.resampling import resize_bilinear
from keras_danet.data.resampling import resize_image
from keras_danet.inference.windows import Windows
from keras_danet.inference.windows import normalize
from keras_danet.inference.windows import pad
from keras_danet.inference.windows import softmax
from keras_danet.models.memory import host_memory
from keras_danet.models.memory import shown_bytes
from keras_danet.waiting import answering

# Values that are computed on at a time: they fit into a processor's cache.
PIECE = 2**17
# A sum of logits, of which e to its power is near the largest float64, and of
# its negative near the smallest. What is added up of them stays finite.
HIGHEST = 690.0


class Uncertainty(NamedTuple):
    """A label map and how far to trust it, arrays (height, width).

    Args:
        label: uint8.
        confidence: float32, the probability of the label.
        entropy: float32, of the class probabilities, in nats.
        spread: float32, root of the sum of the class probabilities' variances
            over scales and mirror images.
    """

    label: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray
    spread: np.ndarray


class Passes:
    """All passes of one image.

    Args:
        image: array (height, width, 3).
        protocol: `InferenceProtocol`.
        pixel: what windows are padded with.
        forward: function of a batch of images to their logits.
        batch_size: function of `Windows` to how many go through at a time.
        num_classes: integer.
    """

    def __init__(
        self, image, protocol, pixel, forward, batch_size, num_classes
    ):
        self.protocol = protocol
        self.num_classes = num_classes
        self.pixel = pixel
        self.forward = forward
        self.batch_size = batch_size
        self.size = image.shape[:2]
        self.image = image
        self.first, self.second = protocol.average
        if protocol.window is None and self.first == "softmax":
            # Nothing overlaps: logits are what is resized.
            self.first = "logits"

    @property
    def is_plain(self):
        """Whether the network's logits only have to be resized."""
        return (
            self.protocol.num_passes == 1
            and self.first == "logits"
            and self.protocol.window is None
            and self.protocol.canvas is None
            and self.protocol.score_resizing == "bilinear"
        )

    @property
    def num_sums(self):
        """Sums of the image's size with all classes: none of one pass."""
        return int(self.protocol.num_passes > 1)

    @property
    def has_logits(self):
        """Whether the mean is one of logits."""
        once = self.protocol.num_passes == 1
        return self.first == "logits" and (once or self.second == "logits")

    def whole_logits(self):
        """The logits of a plain pass, at the size that the network sees."""
        (image,) = self._resized()
        return np.asarray(self.forward(image[np.newaxis]))[0]

    def labels(self):
        """(height, width) uint8."""
        self.check_room(self.num_sums)
        label = np.empty(self.size, "uint8")
        _, source = self._averages()
        for rows, values in source:
            label[rows] = values.argmax(axis=-1)
        return label

    def label_and_confidence(self):
        self.check_room(self.num_sums)
        label = np.empty(self.size, "uint8")
        confidence = np.empty(self.size, "float32")
        for rows, found, values in self._finished():
            label[rows], confidence[rows] = found, _of(values, found)
        return label, confidence

    def probabilities(self):
        """(height, width, num_classes) float32."""
        return self.label_and_probabilities()[1]

    def label_and_probabilities(self):
        self.check_room(self.num_sums + 1)
        label = np.empty(self.size, "uint8")
        result = np.empty((*self.size, self.num_classes), "float32")
        for rows, found, values in self._finished():
            label[rows], result[rows] = found, values
        return label, result

    def uncertainty(self):
        spread = _Spread() if self.protocol.num_passes > 1 else None
        self.check_room(2 * self.num_sums)
        shape = self.size
        label, confidence = np.empty(shape, "uint8"), np.empty(shape, "float32")
        entropy = np.empty(shape, "float32")
        for rows, found, values in self._finished(spread):
            label[rows], confidence[rows] = found, _of(values, found)
            # 0 log 0 is 0.
            logs = np.log(np.maximum(values, np.finfo(values.dtype).tiny))
            entropy[rows] = -np.einsum("hwc,hwc->hw", values, logs)
        entropy = np.maximum(entropy, 0)
        if spread is None:
            return Uncertainty(
                label, confidence, entropy, np.zeros_like(entropy)
            )
        deviation = np.sqrt(spread.squares / self.protocol.num_passes)
        return Uncertainty(label, confidence, entropy, deviation)

    def windowed_labels(self):
        """Labels and confidence from windows at the image's own size.

        Mirror images are those of each window.

        Yields:
            (slice of rows, uint8 labels, float32 confidence), from top to
            bottom.
        """
        windows = Windows(self.size, self.protocol, self.pixel)
        self.check_room(0)

        def read(top, bottom, left, right):
            return self.image[top:bottom, left:right]

        def values(batch):
            found = self.values(batch)
            if self.protocol.mirror and self.first != "exponentials":
                mirrored = self.values(batch[:, :, ::-1])
                found = (found + mirrored[:, :, ::-1]) / 2
            return found

        bands = windows.bands(read, values, self.batch_size(windows))
        for rows, found in self._pieces(bands):
            # Softmax may make a tie of what was none.
            label = found.argmax(axis=-1)
            if self.first == "logits":
                found = softmax(found)
            else:
                found = normalize(found.copy())
            yield rows, label, _of(found, label)

    def mean(self):
        """(height, width, num_values), of what is averaged."""
        self.check_room(1)
        total = self._sum()
        total /= self.protocol.num_passes
        return total

    def check_room(self, num_maps):
        """Refuses an image whose maps of all classes memory has no room for.

        Args:
            num_maps: integer, maps of the image's size that are held at a
                time.
        """
        height, width = self.size
        values = height * width * num_maps
        if self.protocol.window:
            # A band of windows.
            sizes = self.protocol.network_sizes(height, width)
            values += self.protocol.window[0] * max(size[1] for size in sizes)
        size = 8 if "exponentials" in self.protocol.average else 4
        needed, free = values * self.num_classes * size, host_memory()
        if needed > free:
            raise ValueError(
                f"An image of {height} x {width} pixels takes "
                f"{shown_bytes(needed)} of memory beside the network, for "
                f"{self.num_classes} classes of each pixel, and "
                f"{shown_bytes(free)} are available. Resize it or cut it into "
                "pieces; labels in windows at one scale take the least "
                "(`inference.predict_large`)."
            )

    def resize(self, image, size):
        """An image at the size of a pass."""
        if tuple(size) == image.shape[:2]:
            return image
        kind = self.protocol.image_resizing
        if kind == "antialiased":
            image = answering(resize_image, image, size)
        else:
            corners = kind == "corners"
            image = answering(resize_bilinear, image, size, corners)
        if self.protocol.round_pixels:
            image = np.rint(image).astype("uint8")
        return image

    def _averages(self, spread=None):
        """Their kind, and (rows, values) of them."""
        if self.protocol.num_passes == 1:
            return self.first, self._pieces(next(self._each_pass()))
        total = self._sum(spread)
        if self.second == "logits":
            # Their softmax depends on a factor.
            total /= self.protocol.num_passes
        return self.second, pieces(total, slice(0, self.size[0]))

    def _finished(self, spread=None):
        """Rows, their labels and their probabilities.

        The labels are those of a label map alone, also where rounding of the
        probabilities makes a tie: what is measured is what is predicted.
        """
        label = None
        if self.is_plain:
            logits = self.whole_logits()
            label = largest_class(logits, self.size)
            bands = resize_bands([logits], logits.shape[:2], self.size)
            kind, source = "logits", self._pieces(bands)
        else:
            kind, source = self._averages(spread)
        for rows, values in source:
            found = values.argmax(axis=-1) if label is None else label[rows]
            if kind == "logits":
                values = softmax(values)
            else:
                values = normalize(values.copy())
            yield rows, found, values

    def _sum(self, spread=None):
        total = None
        for bands in self._each_pass():
            if spread is not None:
                spread.begin()
            for rows, values in self._pieces(bands):
                if self.first == "logits" and self.second == "softmax":
                    if self.protocol.num_passes > 1:
                        values = softmax(values)
                if total is None:
                    shape = *self.size, values.shape[-1]
                    total = np.zeros(shape, values.dtype)
                if spread is not None:
                    spread.add(rows, values, self.second, self.size)
                total[rows] += values
        return total

    def _pieces(self, bands):
        """The rows of the image itself, few at a time."""
        start = 0
        for band in bands:
            stop = min(start + len(band), self.size[0])
            band = band[: max(stop - start, 0), : self.size[1]]
            yield from pieces(band, slice(start, stop))
            start = stop

    def _each_pass(self):
        """Per pass, its values in bands of rows, at the canvas's size."""
        mirrors = [False]
        if self.protocol.mirror and self.second != "exponentials":
            mirrors = [False, True]
        for image in self._resized():
            for mirrored in mirrors:
                yield self._bands(image, mirrored)

    def _bands(self, image, mirrored):
        size = image.shape[:2]
        source = image[:, ::-1] if mirrored else image
        windows = Windows(size, self.protocol, self.pixel)

        def read(top, bottom, left, right):
            return source[top:bottom, left:right]

        bands = windows.bands(read, self.values, self.batch_size(windows))
        if mirrored:
            bands = (band[:, ::-1] for band in bands)
        corners = self.protocol.score_resizing == "corners"
        target = self._canvas(self.size)
        return resize_bands(bands, size, target, corners)

    def values(self, batch):
        """What is averaged where windows overlap, of a batch of windows."""
        logits = self.forward(batch)
        if self.first == "softmax":
            return softmax(logits)
        if self.first == "logits":
            wide = "float64" if logits.dtype == "float64" else "float32"
            return logits.astype(wide, copy=False)
        logits = logits.astype("float64")
        if self.protocol.mirror:
            logits += self.forward(batch[:, :, ::-1])[:, :, ::-1]
        return np.exp(
            np.clip(logits, -HIGHEST, HIGHEST, out=logits), out=logits
        )

    def padded(self):
        """The image, filled up to the protocol's canvas."""
        return pad(self.image, self._canvas(self.size), self.pixel)

    def _canvas(self, size):
        least = self.protocol.canvas or size
        return tuple(map(max, size, least))

    def _resized(self):
        """The image at each scale, the largest first.

        It needs the most memory, and there is no sum yet.
        """
        image = self.padded()
        sizes = self.protocol.network_sizes(*self.size)
        if self.protocol.chained:
            images = []
            for size in sizes:
                image = self.resize(image, size)
                images.append(image)
            yield from sorted(images, key=lambda each: -each.size)
            return
        for size in sorted(sizes, key=lambda each: -each[0] * each[1]):
            yield self.resize(image, size)


class _Spread:
    """Squared deviations of the passes' probabilities from their mean.

    Welford's running sums: exact to rounding even where passes agree.
    """

    def __init__(self):
        self.count = 0
        self.mean = None
        self.squares = None

    def begin(self):
        self.count += 1

    def add(self, rows, values, kind, size):
        if kind == "logits":
            values = softmax(values)
        elif kind == "exponentials":
            values = normalize(values.copy())
        if self.mean is None:
            self.mean = np.zeros((*size, values.shape[-1]), "float32")
            self.squares = np.zeros(size, "float32")
        mean = self.mean[rows]
        before = values - mean
        mean += before / np.float32(self.count)
        after = values - mean
        self.squares[rows] += np.einsum("hwc,hwc->hw", before, after)


def pieces(values, rows):
    """(slice of rows, values) for few rows at a time."""
    count = max(PIECE // max(values[:1].size, 1), 1)
    for start in range(0, len(values), count):
        part = values[start : start + count]
        first = rows.start + start
        yield slice(first, first + len(part)), part


def _of(values, label):
    index = label[..., np.newaxis].astype("int64")
    return np.take_along_axis(values, index, axis=-1)[..., 0]
