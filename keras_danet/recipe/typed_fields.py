"""Fields of dataclasses that are what their annotations say."""

import dataclasses
import inspect
import math
import os
import re
import types
import typing

from keras_danet import arguments
from keras_danet.arguments import did_you_mean

# How a docstring says a type, before what is said of the value.
TYPE_IN_WORDS = re.compile(
    r"^(pair of |three )?(boolean|float|integer|string)s?( or path)?"
    r"(, | (?=in ))"
)


def check_fields(record, ranges):
    """Refuses fields that are not of their annotated types, or out of range.

    Lists become tuples, paths strings, whole numbers floats where the type is
    float, and NumPy's scalars Python's own.

    Args:
        record: a frozen dataclass, in its `__post_init__`.
        ranges: dict of field name to `(at least, below)`.
    """
    for field in dataclasses.fields(record):
        name, kind = field.name, field.type
        value = _as_written(getattr(record, name), kind)
        object.__setattr__(record, name, value)
        if not _fits(value, kind):
            words = _words(kind) if isinstance(value, str) else ()
            raise ValueError(
                f"`{name}` must be {_type_name(kind)}."
                f"{did_you_mean(value, words)} Received: {name}={value!r}"
            )
        least, below = ranges.get(name, (-math.inf, math.inf))
        # Written so that NaN fails it too.
        if name in ranges and value is not None and not least <= value < below:
            most = f" and below {below}" if below < math.inf else ""
            raise ValueError(
                f"`{name}` must be at least {least}{most}. Received: "
                f"{name}={value!r}"
            )


def describe_fields(kind):
    """The fields of a dataclass, as (name, type, default, meaning).

    The type is in words. The default is as it is written in Python, `None`
    where there is none. The meaning comes from the class's docstring, without
    the type and the default that it gives, and is empty where Python was told
    to leave docstrings out.
    """
    meanings = {}
    described = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2]
    described = described.partition("\n\n")[0]
    for entry in re.split(r"\n {4}(?! )", f"\n{described}"):
        names, _, text = entry.strip().partition(": ")
        text = re.sub(r" Defaults? to .*", "", " ".join(text.split()))
        text = TYPE_IN_WORDS.sub("", text)
        for name in names.split(","):
            meanings[name.strip()] = text
    return [
        (
            field.name,
            _type_name(field.type),
            None
            if field.default is dataclasses.MISSING
            else repr(field.default),
            meanings.get(field.name, ""),
        )
        for field in dataclasses.fields(kind)
    ]


def _type_name(kind):
    """A type as an error says it: `int`, `'auto' or bool`, `(int, int)`."""
    if kind is types.NoneType:
        return "None"
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        several = "..." if Ellipsis in inner else ""
        names = [_type_name(each) for each in inner if each is not Ellipsis]
        return f"({', '.join([*names, *([several] if several else [])])})"
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    options = _options(kind)
    if len(options) > 1:
        return " or ".join(map(_type_name, options))
    return kind.__name__


def _words(kind):
    """The words that a field may be, if any."""
    return [
        word
        for option in _options(kind)
        if typing.get_origin(option) is typing.Literal
        for word in typing.get_args(option)
    ]


def _as_written(value, kind):
    """Lists as tuples, paths as strings, whole numbers as floats.

    The latter two where `kind` has strings or floats. NumPy's values are
    written as Python's: JSON holds no others.
    """
    options = _options(kind)
    value = arguments.plain(value)
    if isinstance(value, os.PathLike) and str in options:
        return os.fspath(value)
    if getattr(value, "ndim", 0) == 1 and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        kinds = [item for option in options for item in typing.get_args(option)]
        item = float if float in kinds else None
        return tuple(_as_written(part, item) for part in value)
    if float not in options or type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _options(kind):
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return typing.get_args(kind)
    return (kind,)


def _fits(value, kind):
    """Whether `value` is of the annotated type `kind`."""
    options = _options(kind)
    if len(options) > 1:
        return any(_fits(value, option) for option in options)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return value in arguments
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        return len(value) == len(arguments) and all(
            map(_fits, value, arguments)
        )
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
