"""All randomness of training: what happens to each example of an epoch."""

import math
from numbers import Integral
from numbers import Real
from typing import NamedTuple

import numpy as np


class Plan(NamedTuple):
    """One epoch's decisions; position k is the k-th example to be used.

    Args:
        order: int64 (num_examples,), which example it is: a permutation.
        scale: float32 (num_examples,), the factor on its height and width.
        crop_y: float32 (num_examples,) in [0, 1), the crop's upper edge as a
            fraction of the rows that the scaled image leaves free.
        crop_x: float32 (num_examples,) in [0, 1), its left edge, likewise.
        flip: bool (num_examples,), whether it is mirrored left to right.
    """

    order: np.ndarray
    scale: np.ndarray
    crop_y: np.ndarray
    crop_x: np.ndarray
    flip: np.ndarray


def draw_plan(seed, epoch, num_examples, scale_range=(0.5, 2.0)):
    """Draws everything random about one epoch.

    A pure function: the same arguments give the same plan in any process and
    on any backend, so a checkpoint at a step is a place in the plan. Every
    field has a random stream of its own; a new field leaves the others alone.

    Args:
        seed: Integer in [0, 2**32), of the whole run.
        epoch: Integer in [0, 2**32).
        num_examples: Integer, at least 1.
        scale_range: Pair of floats, the least and the greatest scale, both
            above 0. Defaults to `(0.5, 2.0)`.

    Returns:
        A `Plan`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> plan = draw_plan(seed=0, epoch=3, num_examples=4)
    >>> sorted(plan.order.tolist()), plan.scale.shape
    ([0, 1, 2, 3], (4,))
    """
    _check_integer("seed", seed, least=0)
    _check_integer("epoch", epoch, least=0)
    _check_integer("num_examples", num_examples, least=1)
    low, high = _check_scale_range(scale_range)
    streams = [
        np.random.default_rng(sequence)
        for sequence in np.random.SeedSequence([seed, epoch]).spawn(5)
    ]
    # float32 throughout, so that NumPy and TensorFlow, which works in it,
    # turn a fraction into the same pixel.
    fractions = [
        stream.random(num_examples, dtype=np.float32) for stream in streams[1:]
    ]
    return Plan(
        order=streams[0].permutation(num_examples),
        scale=np.float32(low) + np.float32(high - low) * fractions[0],
        crop_y=fractions[1],
        crop_x=fractions[2],
        flip=fractions[3] < 0.5,
    )


def steps_per_epoch(num_examples, batch_size):
    """How many whole batches an epoch has; what is left over is dropped.

    Args:
        num_examples: Integer, at least 1.
        batch_size: Integer from 1 to `num_examples`.

    Returns:
        Integer, at least 1.

    Raises:
        ValueError: if there are fewer examples than a batch holds.

    Example:

    >>> steps_per_epoch(367, 8)
    45
    """
    _check_integer("num_examples", num_examples, least=1)
    _check_integer("batch_size", batch_size, least=1)
    if batch_size > num_examples:
        raise ValueError(
            f"One batch needs {batch_size} examples and there are only "
            f"{num_examples}. Use batch_size={num_examples} or less, or more "
            f"examples."
        )
    return num_examples // batch_size


def _check_integer(name, value, least):
    # The seed sequence reads 32-bit words: a larger seed would run into the
    # epoch's word and repeat another seed's plan.
    if not isinstance(value, Integral) or not least <= value < 2**32:
        raise ValueError(
            f"`{name}` must be an integer, at least {least} and below 2**32. "
            f"Received: {name}={value!r}."
        )


def _check_scale_range(scale_range):
    match scale_range:
        case [Real() as low, Real() as high] if 0 < low <= high < math.inf:
            return low, high
    raise ValueError(
        "`scale_range` must be the least and the greatest scale, two finite "
        "numbers with 0 < least <= greatest; (1, 1) keeps the size. "
        f"Received: scale_range={scale_range!r}."
    )
