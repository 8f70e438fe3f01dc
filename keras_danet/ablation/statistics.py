"""Means over seeds, and intervals of differences between paired runs."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

METHOD = (
    "Mean and sample standard deviation are over seeds. A gain is the mean "
    "of the differences between runs of the same seed; its 95 % interval is "
    "Student's t of these differences (seeds - 1 degrees of freedom). It "
    "covers what the seed decides, not which images are measured, and is not "
    "widened for the number of classes."
)
# 97.5 % points of Student's t for 1 to 30 degrees of freedom, as printed in
# every table of it; with more the last one is a little wide.
STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Spread(NamedTuple):
    """A mean over seeds.

    Args:
        mean: float.
        deviation: float, the sample's; NaN for one seed.
        seeds: integer, how many.
    """

    mean: float
    deviation: float
    seeds: int


class Gain(NamedTuple):
    """A mean difference over paired seeds, and its 95 % interval.

    Args:
        mean, low, high: floats; the interval is NaN for one seed.
        seeds: integer, how many both have.
    """

    mean: float
    low: float
    high: float
    seeds: int


def spread(values: Mapping[int, float]) -> Spread:
    """The mean over seeds of a dict of seed to value; NaNs are left out.

    >>> spread({0: 1.0, 1: 3.0}).mean
    2.0
    """
    known = [value for value in values.values() if not math.isnan(value)]
    if not known:
        return Spread(math.nan, math.nan, 0)
    deviation = np.std(known, ddof=1) if len(known) > 1 else math.nan
    return Spread(float(np.mean(known)), float(deviation), len(known))


def gain(values: Mapping[int, float], base: Mapping[int, float]) -> Gain:
    """How much more `values` are than `base`, by the seeds of both."""
    mean, deviation, count = spread(
        {s: values[s] - base[s] for s in values if s in base}
    )
    if count < 2:
        return Gain(mean, math.nan, math.nan, count)
    student = STUDENT_T[min(count - 1, len(STUDENT_T)) - 1]
    half = student * deviation / math.sqrt(count)
    return Gain(mean, mean - half, mean + half, count)
