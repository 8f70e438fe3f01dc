"""All randomness of training: what is done to each example of an epoch."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from keras_danet import arguments
from keras_danet.data.datasets import IMAGENET_MEAN

# More pixels than any crop that a network trains on.
MAX_CROP_PIXELS = 2**28
# Candidates for a crop; MMSegmentation's RandomCrop tries as many.
NUM_CROPS = 10
# The chance of each colour distortion and of blur; MMSegmentation's
# PhotoMetricDistortion and PyTorch-Encoding's transforms have the same.
DISTORTION_RATE = 0.5


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to an example, before chance decides.

    In this order: scale, crop, brightness, contrast, saturation, hue, blur,
    padding, mirror. In half of the cases contrast comes last of the four
    colour changes. Each of them, like blur, is left out of half of the
    examples, as in MMSegmentation's `PhotoMetricDistortion` and
    PyTorch-Encoding's transforms. By default colours are unchanged.

    Args:
        crop_size: pair of integers, (height, width) in pixels.
        scale_range: pair of floats, the smallest and the largest factor on an
            image's height and width. Defaults to `(0.5, 2.0)`.
        scale_step: float, distance between the factors that are used, from
            the smallest on; 0 uses any. PaddleSeg: `0.25`. Defaults to `0.0`.
        long_side: integer, pixels of an image's longer side at scale 1. With
            `short_side` as well, an image is as large as fits within both.
            PyTorch-Encoding's `base_size`. Defaults to `None`, the image's
            own.
        short_side: integer, pixels of an image's shorter side at scale 1.
            MMSegmentation's `scale=(2048, 512)` is both sides. Defaults to
            `None`, the image's own.
        max_class_share: float in (0, 1], how much of a crop's labelled pixels
            one class may have. The first of ten candidates within it is
            used, else the last. MMSegmentation: `0.75`. Defaults to `1.0`,
            which uses the first.
        flip: float in [0, 1], the chance of mirroring left to right. Defaults
            to `0.5`.
        brightness: float in [0, 255], the most levels added or subtracted.
            MMSegmentation: `32`. Defaults to `0.0`.
        contrast, saturation: floats in [0, 1], the largest difference of a
            factor from 1. MMSegmentation: `0.5`. Default to `0.0`.
        hue: float in [0, 180], the most degrees that a hue is turned by.
            MMSegmentation: `36` (18 of OpenCV's double degrees). Defaults to
            `0.0`.
        blur: float in [0, 10], the greatest standard deviation of a Gaussian
            blur, in pixels of the crop. PyTorch-Encoding: `1`. Defaults to
            `0.0`.
        mean_pixel: three floats in 0-255, RGB, the colour that a crop is
            padded with beyond the image. Defaults to ImageNet's mean, which
            a `DANet` normalises to 0.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> Augmentation((512, 1024), max_class_share=0.75, hue=36).flip
    0.5
    """

    crop_size: tuple[int, int]
    scale_range: tuple[float, float] = (0.5, 2.0)
    scale_step: float = 0.0
    long_side: int | None = None
    short_side: int | None = None
    max_class_share: float = 1.0
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    blur: float = 0.0
    mean_pixel: tuple[float, float, float] = IMAGENET_MEAN

    def __post_init__(self):
        checked = {
            "crop_size": _checked_crop_size(self.crop_size),
            "scale_range": _checked_scale_range(self.scale_range),
        }
        for name in ("long_side", "short_side"):
            if getattr(self, name) is not None:
                checked[name] = check_integer(name, getattr(self, name), 1)
        for name, most in (
            ("scale_step", math.inf),
            ("max_class_share", 1),
            ("flip", 1),
            ("brightness", 255),
            ("contrast", 1),
            ("saturation", 1),
            ("hue", 180),
            ("blur", 10),
        ):
            checked[name] = _checked_number(name, getattr(self, name), most)
        if self.max_class_share == 0:
            raise ValueError(
                "`max_class_share` must be above 0; 1 takes any crop. "
                "Received: max_class_share=0."
            )
        checked["mean_pixel"] = arguments.numbers(
            "mean_pixel",
            self.mean_pixel,
            "must be three numbers from 0 to 255",
            length=3,
            least=0,
            most=255,
        )
        for name, value in checked.items():
            object.__setattr__(self, name, value)


class Plan(NamedTuple):
    """One epoch's decisions; position k is the k-th example to be used.

    Args:
        order: int64 (num_examples,), which example it is: a permutation.
        scale: float32 (num_examples,), the factor on its height and width.
        crop_y: float32 (num_examples, 10) in [0, 1), the candidates' upper
            edges as fractions of the rows that the crop may move by.
        crop_x: float32 (num_examples, 10) in [0, 1), their left edges,
            likewise.
        flip: bool (num_examples,), whether it is mirrored left to right.
        brightness: float32 (num_examples,), the levels that are added.
        contrast, saturation: float32 (num_examples,), factors.
        hue: float32 (num_examples,), turns, 1 being 360 degrees.
        contrast_last: bool (num_examples,), whether contrast comes after
            saturation and hue.
        blur: float32 (num_examples,), the standard deviation in pixels.
    """

    order: np.ndarray
    scale: np.ndarray
    crop_y: np.ndarray
    crop_x: np.ndarray
    flip: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    hue: np.ndarray
    contrast_last: np.ndarray
    blur: np.ndarray


def draw_plan(seed, epoch, num_examples, augmentation):
    """Draws everything random about one epoch.

    A pure function: the same arguments give the same plan in any process and
    on any backend, so a checkpoint at a step is a place in the plan. Every
    field has its own random stream: another setting of one, or a new field,
    does not change the others.

    Args:
        seed: Integer in [0, 2**32), of the whole run.
        epoch: Integer in [0, 2**32).
        num_examples: Integer, at least 1.
        augmentation: An `Augmentation`.

    Returns:
        A `Plan`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> plan = draw_plan(0, 3, 4, Augmentation(crop_size=(64, 64)))
    >>> sorted(plan.order.tolist()), plan.crop_y.shape
    ([0, 1, 2, 3], (4, 10))
    """
    seed = check_integer("seed", seed, least=0)
    epoch = check_integer("epoch", epoch, least=0)
    num_examples = check_integer("num_examples", num_examples, least=1)
    fields = Plan._fields
    children = np.random.SeedSequence([seed, epoch]).spawn(len(fields))
    streams = dict(
        zip(fields, map(np.random.default_rng, children), strict=True)
    )

    # float32 throughout, so that NumPy and TensorFlow start from the same
    # bits.
    def fractions(name, *shape):
        shape = (num_examples, *shape)
        return streams[name].random(shape, dtype=np.float32)

    def differences(name, most):
        """Uniform in [-most, most] for half of the examples, else 0."""
        chance, value = fractions(name, 2).T
        return np.where(
            chance < np.float32(DISTORTION_RATE),
            np.float32(most) * (2 * value - 1),
            np.float32(0),
        )

    return Plan(
        order=streams["order"].permutation(num_examples),
        scale=_scales(fractions("scale"), augmentation),
        crop_y=fractions("crop_y", NUM_CROPS),
        crop_x=fractions("crop_x", NUM_CROPS),
        flip=fractions("flip") < np.float32(augmentation.flip),
        brightness=differences("brightness", augmentation.brightness),
        contrast=1 + differences("contrast", augmentation.contrast),
        saturation=1 + differences("saturation", augmentation.saturation),
        hue=differences("hue", augmentation.hue / 360),
        contrast_last=fractions("contrast_last") < np.float32(0.5),
        blur=np.abs(differences("blur", augmentation.blur)),
    )


def _scales(fractions, augmentation):
    low, high = augmentation.scale_range
    if not augmentation.scale_step:
        return np.float32(low) + np.float32(high - low) * fractions
    # So that rounding does not lose the last step.
    steps = int((high - low) / augmentation.scale_step + 1e-6) + 1
    step = (fractions * np.float32(steps)).astype(np.int64)
    scales = low + augmentation.scale_step * np.minimum(step, steps - 1)
    return scales.astype(np.float32)


def steps_per_epoch(num_examples, batch_size):
    """How many whole batches an epoch has; what is left over is dropped.

    Raises:
        ValueError: if there are fewer examples than a batch holds.

    Example:

    >>> steps_per_epoch(367, 8)
    45
    """
    num_examples = check_integer("num_examples", num_examples, least=1)
    batch_size = check_integer("batch_size", batch_size, least=1)
    if batch_size > num_examples:
        raise ValueError(
            f"One batch needs {batch_size} examples, but there are only "
            f"{num_examples}. Use batch_size={num_examples} or less, or more "
            f"examples."
        )
    return num_examples // batch_size


def places(num_examples, batch_size, shard=(0, 1)):
    """The places of an epoch's plan that one worker applies, batch by batch.

    Args:
        num_examples: Integer, at least `batch_size`.
        batch_size: Integer, over all workers together.
        shard: Pair of integers, (which, of how many) workers. Each takes an
            equal, contiguous share of every batch. Defaults to `(0, 1)`.

    Returns:
        int64 array (steps per epoch, batch_size / workers).

    Example:

    >>> places(num_examples=9, batch_size=4, shard=(1, 2)).tolist()
    [[2, 3], [6, 7]]
    """
    steps = steps_per_epoch(num_examples, batch_size)
    must = (
        "must be (which, of how many) workers, counted from 0, whose number "
        f"divides the batch of {batch_size}"
    )
    worker, workers = arguments.integers(
        "shard", shard, must, length=2, least=0
    )
    if worker >= workers or batch_size % workers:
        raise arguments.refusal("shard", must, shard)
    shares = np.arange(steps * batch_size).reshape(steps, workers, -1)
    return shares[:, worker]


def check_integer(name, value, least):
    """`value`, an integer of at least `least` and below 2**32."""
    # The seed sequence reads 32-bit words: a larger seed would run into the
    # epoch's word and repeat another seed's plan.
    must = f"must be an integer, at least {least} and below 2**32"
    return arguments.integer(name, value, must, least=least, below=2**32)


def _checked_number(name, value, most):
    must = f"must be a number from 0 to {most}"
    return float(arguments.number(name, value, must, least=0, most=most))


def _checked_crop_size(crop_size):
    must = (
        "must be two positive integers, (height, width), of at most "
        f"{MAX_CROP_PIXELS} pixels"
    )
    size = arguments.integers("crop_size", crop_size, must, length=2, least=1)
    if math.prod(size) > MAX_CROP_PIXELS:
        raise arguments.refusal("crop_size", must, crop_size)
    return size


def _checked_scale_range(scale_range):
    must = (
        "must be the smallest and the largest scale, two finite numbers with "
        "0 < smallest <= largest; (1, 1) keeps the size"
    )
    low, high = arguments.numbers(
        "scale_range", scale_range, must, length=2, above=0
    )
    if low > high:
        raise arguments.refusal("scale_range", must, scale_range)
    return float(low), float(high)
