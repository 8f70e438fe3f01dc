"""Checks of arguments: an integer, a number, a boolean, or several.

`integer`, `number`, `boolean`, `integers` and `numbers` return plain Python
values, which configs, JSON and `.keras` files can hold. They also accept
NumPy's scalars and arrays without dimensions. Everything else is a ValueError,
"`name` must be .... Received: name=value". A boolean is not a number.

>>> integer("filters", np.int64(8), "must be a positive integer", least=1)
8
>>> numbers("class_weights", np.array([1, 2.5], "float32"))
(1.0, 2.5)
>>> number("dropout", True)
Traceback (most recent call last):
    ...
ValueError: `dropout` must be a number. Received: dropout=True
"""

import collections.abc
import difflib
import math
from numbers import Integral
from numbers import Real

import numpy as np

# Iterable, but not sequences of values: they give letters, bytes or keys, or
# have no order.
NO_SEQUENCES = (
    str,
    bytes,
    bytearray,
    collections.abc.Mapping,
    collections.abc.Set,
)


def plain(value):
    """`value`, with a scalar of NumPy or similar as a plain Python value."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def plain_values(given):
    """Keyword arguments, each made `plain`."""
    return {key: plain(value) for key, value in given.items()}


def is_number(value):
    """Whether it is a finite real number, of Python or NumPy; not a boolean.

    >>> is_number(np.float32(0.5)), is_number("0.5"), is_number(True)
    (True, False, False)
    """
    value = plain(value)
    # Compared, because an integer may be too large for `math.isfinite`.
    return (
        isinstance(value, Real)
        and not isinstance(value, bool)
        and bool(-math.inf < value < math.inf)
    )


def is_integer(value):
    """Whether it is an integer, of Python or NumPy; not a boolean.

    >>> is_integer(np.int64(3)), is_integer(3.0), is_integer(True)
    (True, False, False)
    """
    value = plain(value)
    return isinstance(value, Integral) and not isinstance(value, bool)


def as_sequence(values):
    """The values as a tuple; `None` for what is not a sequence of values.

    A list, a tuple, an array or tensor, a generator; but not a dict, set or
    string. Numbers become plain Python values.

    >>> as_sequence(np.array([1, 5])), as_sequence({0: 1, 1: 5})
    ((1, 5), None)
    """
    if isinstance(values, NO_SEQUENCES):
        return None
    if hasattr(values, "__array__"):
        values = np.asarray(values).tolist()
    if not isinstance(values, collections.abc.Iterable):
        return None
    return tuple(map(plain, values))


def integer(name, value, must="must be an integer", **bounds):
    """`value` as an int within `bounds`, the keywords of `_within`."""
    found = plain(value)
    if not is_integer(found) or not _within(found, **bounds):
        raise refusal(name, must, value)
    return int(found)


def number(name, value, must="must be a number", **bounds):
    """`value` as a finite int or float within `bounds`."""
    found = plain(value)
    if not is_number(found) or not _within(found, **bounds):
        raise refusal(name, must, value)
    return int(found) if isinstance(found, Integral) else float(found)


def boolean(name, value):
    found = plain(value)
    if type(found) is not bool:
        raise refusal(name, "must be a boolean", value)
    return found


def choice(name, value, known):
    """`value` if it is one of the known words."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"`{name}` must be one of {', '.join(known)}."
            f"{did_you_mean(value, known)} Received: {name}={shown(value)}"
        )
    return value


def did_you_mean(name, known):
    """A sentence that suggests the known name closest to `name`, or nothing.

    >>> did_you_mean("ResNet-50", ["resnet18", "resnet50"])
    " Did you mean 'resnet50'?"
    """
    plain = {_letters(each): each for each in reversed(list(known))}
    close = difflib.get_close_matches(_letters(name), list(plain), n=1)
    return f" Did you mean {plain[close[0]]!r}?" if close else ""


def _letters(name):
    return "".join(filter(str.isalnum, str(name).lower()))


def integers(name, values, must="must be integers", length=None, **bounds):
    """The values of `as_sequence`, if they are integers; not empty."""
    return _several(integer, name, values, must, length, bounds)


def numbers(name, values, must="must be numbers", length=None, **bounds):
    """The values of `as_sequence`, if they are numbers; not empty."""
    return _several(number, name, values, must, length, bounds)


def _several(one, name, values, must, length, bounds):
    found = as_sequence(values)
    if not found or len(found) != (length or len(found)):
        raise refusal(name, must, values)
    try:
        return tuple(one(name, value, must, **bounds) for value in found)
    except ValueError:
        raise refusal(name, must, values) from None


def refusal(name, must, value):
    """The ValueError for an argument that is not what it must be."""
    return ValueError(f"`{name}` {must}. Received: {name}={shown(value)}")


def shown(value):
    """`repr` for an error, shortened: a number may have thousands of digits."""
    try:
        text = repr(value)
    except ValueError:
        return "an integer of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _within(
    value, least=-math.inf, most=math.inf, above=-math.inf, below=math.inf
):
    return least <= value <= most and above < value < below
