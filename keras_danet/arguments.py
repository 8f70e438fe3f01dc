"""What an argument is: a number, an integer, or some of them in an order."""

import collections.abc
import math
import numbers

import numpy as np

# Python iterates over them, too: over letters, bytes, keys, or in any order.
NO_SEQUENCES = (
    str,
    bytes,
    bytearray,
    collections.abc.Mapping,
    collections.abc.Set,
)


def is_number(value):
    """Whether it is a finite real number, of Python or NumPy; no boolean.

    >>> is_number(np.float32(0.5)), is_number("0.5"), is_number(True)
    (True, False, False)
    """
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def is_integer(value):
    """Whether it is an integer, of Python or NumPy; no boolean.

    >>> is_integer(np.int64(3)), is_integer(3.0), is_integer(True)
    (True, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def as_sequence(values):
    """The values as a tuple; `None` for what holds none in an order.

    A list, a tuple, an array or tensor, a generator; but no dict, set or
    string. Numbers come as Python's own.

    >>> as_sequence(np.array([1, 5])), as_sequence({0: 1, 1: 5})
    ((1, 5), None)
    """
    if isinstance(values, NO_SEQUENCES):
        return None
    if hasattr(values, "__array__"):
        values = np.asarray(values).tolist()
    if not isinstance(values, collections.abc.Iterable):
        return None
    return tuple(v.item() if isinstance(v, np.generic) else v for v in values)


def as_numbers(values):
    """`as_sequence` of finite numbers alone, as floats; else `None`.

    >>> as_numbers([1, np.float32(0.5)]), as_numbers("152"), as_numbers(["1"])
    ((1.0, 0.5), None, None)
    """
    values = as_sequence(values)
    if values is None or not all(map(is_number, values)):
        return None
    return tuple(map(float, values))
