"""The plan of augmentation applied without TensorFlow, with NumPy and Pillow.

The same examples as those of `pipeline.py`, for `fit` on any backend: labels
are equal, and images differ by less than a grey level but for rounding.
"""

import math

import numpy as np

from keras_danet.data.bad_files import BadFiles
from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.decoding import check_batches
from keras_danet.data.decoding import read_pair
from keras_danet.data.plan import Plan
from keras_danet.data.plan import check_integer
from keras_danet.data.plan import draw_plan
from keras_danet.data.plan import places
from keras_danet.data.read_ahead import ReadAhead
from keras_danet.data.resampling import resample
from keras_danet.data.resampling import scaled_size
from keras_danet.data.resampling import taps


class TrainingBatches(ReadAhead):
    """The endless stream of augmented batches, without TensorFlow.

    Batch `index` is a pure function of it, whoever asks and in whatever
    order: threads and processes share the work, and a run goes on where it
    stopped. Give `fit` the number of `steps_per_epoch`.

    Args:
        pairs: List of `Pair`, as `find_pairs` gives.
        dataset: A `Dataset`.
        augmentation: An `Augmentation`.
        batch_size: Integer, over all workers of `shard`, at most the number
            of pairs.
        seed: Integer, of all that is random. Defaults to `0`.
        start_epoch, start_step: Integers, where the stream starts; a step
            beyond the epoch's end counts on into the next. Default to `0`.
        shard: Pair of integers, (which, of how many) workers share each
            batch. Defaults to `(0, 1)`.
        bad_files: A `BadFiles` of the same pairs, which says what to do about
            one. Defaults to `None`, which raises an error.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size`, as of
            `keras.utils.PyDataset`. Pillow and NumPy do most of their work in
            parallel threads.

    Returns:
        From `batches[index]`, (images, labels): float32 (batch_size / workers
        of the shard, height, width, 3) RGB in 0-255 and uint8 (..., height,
        width) train ids, 255 for ignored pixels and padding.

    Raises:
        ValueError: if an argument makes no sense, and from `batches[index]`
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

    def __init__(
        self,
        pairs,
        dataset,
        augmentation,
        *,
        batch_size,
        seed=0,
        start_epoch=0,
        start_step=0,
        shard=(0, 1),
        bad_files=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pairs = pairs
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self.places = places(len(pairs), batch_size, shard)
        start_step = check_integer("start_step", start_step, least=0)
        self.start = start_epoch * len(self.places) + start_step
        self.bad_files = bad_files or BadFiles(pairs, dataset)
        self._plan = start_epoch, self._draw(start_epoch)

    def _draw(self, epoch):
        return draw_plan(self.seed, epoch, len(self.pairs), self.augmentation)

    def make_batch(self, index):
        epoch, step = divmod(self.start + index, len(self.places))
        # Of threads that are in two epochs one draws the plan again.
        drawn, plan = self._plan
        if drawn != epoch:
            plan = self._draw(epoch)
            self._plan = epoch, plan
        examples = [self._example(plan, place) for place in self.places[step]]
        return tuple(map(np.stack, zip(*examples, strict=True)))

    def _example(self, plan, place):
        decisions = Plan(*(field[place] for field in plan))
        indices = [
            int(plan.order[(place + number) % len(self.pairs)])
            for number in range(self.bad_files.num_tries)
        ]
        skipped = []
        for index in indices:
            try:
                image, label = read_pair(self.pairs[index], self.dataset)
            except (ValueError, OSError):
                skipped.append(index)
                continue
            for bad in skipped:
                self.bad_files.skip(bad)
            return apply_plan(image, label, decisions, self.augmentation)
        self.bad_files.give_up(indices[0])


class EvaluationBatches(ReadAhead):
    """Whole images and labels once, in order, without TensorFlow.

    Args:
        pairs: List of `Pair`, as `find_pairs` gives.
        dataset: A `Dataset`.
        batch_size: Integer. More than one needs images of one size within
            each batch. Defaults to `1`.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size`, as of
            `keras.utils.PyDataset`.

    Returns:
        From `batches[index]`, (images, labels): uint8 (batch, height, width,
        3) RGB and uint8 (batch, height, width) train ids, 255 for ignored
        pixels.

    Raises:
        ValueError: if there are no pairs, or images of different sizes would
            share a batch; from `batches[index]` for a bad file, which it
            names.
    """

    def __init__(self, pairs, dataset, *, batch_size=1, **kwargs):
        super().__init__(**kwargs)
        check_batches(pairs, batch_size)
        self.pairs = pairs
        self.dataset = dataset
        self.batch_size = batch_size

    def __len__(self):
        return math.ceil(len(self.pairs) / self.batch_size)

    def make_batch(self, index):
        first = index * self.batch_size
        examples = [
            read_pair(pair, self.dataset)
            for pair in self.pairs[first : first + self.batch_size]
        ]
        return tuple(map(np.stack, zip(*examples, strict=True)))


def apply_plan(image, label, decisions, augmentation):
    """Does to an image and its label what the plan decided.

    `augment.apply_plan` in NumPy; see there.

    Args:
        image: uint8 array (height, width, 3), RGB.
        label: uint8 array (height, width), train ids.
        decisions: A `Plan` whose fields have lost their first axis.
        augmentation: An `Augmentation`.

    Returns:
        float32 (crop_height, crop_width, 3) in 0-255 and uint8 (crop_height,
        crop_width).
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
    # Columns that no pixel of the crop needs are not worth their rows.
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
    """Brightness, contrast, saturation, hue and blur, each where decided."""
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
    # Each channel falls from the value by the chroma, the further its own
    # hue is away.
    channels = [
        value - value * s * np.clip(np.minimum(k, 4 - k), 0, 1)
        for k in (n + h - 6 * np.floor((n + h) / 6) for n in (5, 3, 1))
    ]
    return _clip(np.stack(channels, axis=-1))


def _blur(image, deviation, radius):
    """A Gaussian cut off at `radius`; pixels at the edge are repeated."""
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
