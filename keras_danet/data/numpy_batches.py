"""The plan of augmentation applied without TensorFlow, with NumPy and Pillow.

Gives the same examples as `tensorflow_batches`, for `fit` on any backend:
labels are equal, and images differ by less than a grey level.
"""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.decoding import read_pair
from keras_danet.data.plan import Plan
from keras_danet.data.resampling import resample
from keras_danet.data.resampling import scaled_size
from keras_danet.data.resampling import taps
from keras_danet.data.stream import Stream

BATCHES_AHEAD = 10


class TrainingBatches(keras.utils.PyDataset):
    """The batches of a `Stream`, read and augmented without TensorFlow.

    Batch `index` is a pure function of the index, in any order and for any
    caller. Threads prepare batches ahead. Keras's own workers are not used:
    they lose the batch that `fit` reads to learn shapes, so training would
    begin with the second batch.

    Args:
        *data, **options: Those of `Stream`.
        workers: Integer, the number of threads. With 1 or less each batch is
            made when it is requested. Pillow and NumPy do most of their work
            in parallel threads. Defaults to `1`.

    Returns:
        From `batches[index]`, (images, labels): float32 (batch_size / workers
        of the shard, height, width, 3) RGB in 0-255 and uint8 (..., height,
        width) train ids, 255 for ignored pixels and padding.

    Raises:
        ValueError: if an argument is not valid, and from `batches[index]`
            for a bad file, which it names.

    Example:

    ```python
    pairs = find_pairs(CAMVID, "CamVid", "train")
    batches = TrainingBatches(
        pairs, CAMVID, Augmentation((240, 320)), batch_size=8, workers=4
    )
    model.fit(batches, steps_per_epoch=steps_per_epoch(len(pairs), 8))
    ```
    """

    # Endless: `fit` takes `steps_per_epoch` of them.
    num_batches = None

    def __init__(self, *data, workers=1, **options):
        super().__init__()
        self.stream = Stream(*data, **options)
        epoch, _ = self.stream.start
        # A wrong seed raises here.
        self._plan = epoch, self.stream.draw(epoch)
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None
        self._lock = threading.Lock()
        self._made = {}

    def __getitem__(self, index):
        if self._pool is None:
            return self._make(index)
        with self._lock:
            # Batches left from another place in the stream are dropped.
            made, self._made = self._made, {}
            for number in range(index, index + BATCHES_AHEAD):
                future = made.pop(number, None)
                self._made[number] = future or self._pool.submit(
                    self._make, number
                )
            for future in made.values():
                future.cancel()
            future = self._made.pop(index)
        return future.result()

    def _make(self, index):
        epoch, step = self.stream.start
        passed, step = divmod(step + index, self.stream.steps)
        epoch += passed
        # If threads are in two epochs, one of them draws the plan again.
        drawn, plan = self._plan
        if drawn != epoch:
            plan = self.stream.draw(epoch)
            self._plan = epoch, plan
        first = step * self.stream.share
        fields = (field[first : first + self.stream.share] for field in plan)
        examples = [
            self._example(Plan(*decisions))
            for decisions in zip(*fields, strict=True)
        ]
        return tuple(map(np.stack, zip(*examples, strict=True)))

    def _example(self, decisions):
        stream = self.stream
        skipped = []
        for index in decisions.order.tolist():
            try:
                image, label = read_pair(stream.pairs[index], stream.dataset)
            except (ValueError, OSError):
                skipped.append(index)
                continue
            for bad in skipped:
                stream.bad_files.skip(bad)
            return apply_plan(image, label, decisions, stream.augmentation)
        stream.bad_files.give_up(skipped[0])


def apply_plan(image, label, decisions, augmentation):
    """Applies the plan's decisions to an image and its label.

    `augment.apply_plan` in NumPy; see there.
    """
    size = label.shape
    scaled = scaled_size(
        size, augmentation.long_side, augmentation.short_side, decisions.scale
    )
    inside = np.minimum(scaled, augmentation.crop_size)
    offset, crop = _choose_crop(
        label, scaled, inside, decisions, augmentation.max_class_share
    )
    rows, columns = (
        taps(offset[axis], inside[axis], size[axis], scaled[axis])
        for axis in (0, 1)
    )
    # Columns that no pixel of the crop needs are cut off first.
    first, last = columns[0].min(), columns[0].max()
    image = resample(image[:, first : last + 1], 0, *rows)
    image = resample(image, 1, columns[0] - first, columns[1])
    image = _distort(image, decisions, augmentation)
    pixels = np.empty((*augmentation.crop_size, 3), np.float32)
    pixels[:] = augmentation.mean_pixel
    pixels[: inside[0], : inside[1]] = image
    labels = np.full(augmentation.crop_size, IGNORE_LABEL, np.uint8)
    labels[: inside[0], : inside[1]] = crop
    if decisions.flip:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    return pixels, labels


def _choose_crop(label, scaled, inside, decisions, max_class_share):
    """The first candidate that keeps to the class share, else the last."""
    free = np.maximum(scaled - inside, 0) + 1
    fractions = np.stack([decisions.crop_y, decisions.crop_x], axis=-1)
    offsets = (np.float64(fractions) * free).astype(np.int64)
    for offset in offsets if max_class_share < 1 else offsets[:1]:
        rows, columns = (
            np.minimum(
                (2 * (offset[axis] + np.arange(inside[axis])) + 1)
                * label.shape[axis]
                // (2 * scaled[axis]),
                label.shape[axis] - 1,
            )
            for axis in (0, 1)
        )
        crop = label[rows[:, np.newaxis], columns]
        counts = np.bincount(crop.ravel(), minlength=256)[:IGNORE_LABEL]
        if counts.max() < np.float64(max_class_share) * counts.sum():
            break
    return offset, crop


def _distort(image, decisions, augmentation):
    """Brightness, contrast, saturation, hue and blur, each as decided."""
    if augmentation.brightness:
        image = _clip(image + decisions.brightness)
    if augmentation.contrast and not decisions.contrast_last:
        image = _clip(image * decisions.contrast)
    if decisions.saturation != 1 or decisions.hue != 0:
        image = _turn(image, decisions.saturation, decisions.hue)
    if augmentation.contrast and decisions.contrast_last:
        image = _clip(image * decisions.contrast)
    if decisions.blur > 0:
        image = _blur(image, decisions.blur, math.ceil(3 * augmentation.blur))
    return image


def _clip(image):
    return np.clip(image, 0, 255)


def _turn(image, saturation, hue):
    """Multiplies the saturation and turns the hue of HSV colours."""
    red, green, blue = np.moveaxis(image, -1, 0)
    # Faster than along an axis of three.
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    grey = chroma == 0
    h = np.where(
        red == value,
        green - blue,
        np.where(
            green == value, blue - red + 2 * chroma, red - green + 4 * chroma
        ),
    )
    h = 6 * (h / np.where(grey, 1, 6 * chroma) + hue)
    s = np.minimum(chroma / np.where(grey, 1, value) * saturation, 1)
    # Each channel is below the value by up to the chroma, the more the
    # farther away its own hue is.
    channels = [
        value - value * s * np.clip(np.minimum(k, 4 - k), 0, 1)
        for k in (n + h - 6 * np.floor((n + h) / 6) for n in (5, 3, 1))
    ]
    return _clip(np.stack(channels, axis=-1))


def _blur(image, deviation, radius):
    """A Gaussian blur cut off at `radius`; edge pixels are repeated."""
    taps = np.arange(-radius, radius + 1, dtype=np.float32)
    weights = np.exp(-0.5 * np.square(taps / deviation))
    weights /= weights.sum()
    for axis in (0, 1):
        width = [(0, 0)] * 3
        width[axis] = (radius, radius)
        wide = np.pad(image, width, mode="edge")
        length = image.shape[axis]
        image = sum(
            weight * np.take(wide, np.arange(tap, tap + length), axis)
            for tap, weight in enumerate(weights)
        )
    return image
