"""Checks of the networks' arguments."""

import operator

from keras_danet import arguments

ATTENTIONS = ("position", "channel")

# Facts about the data set, which a model only stores.
FACTS = ("class_names", "palette", "test_size")

# Can be squared in float32; pixels are in 0-255.
MAX_PIXEL = 1e18

# Label 255 means "ignore", so it cannot be a class.
MAX_CLASSES = 255


def one_of(name, value, known):
    """`value` if it is one of the known integers."""
    must = f"must be one of {sorted(known)}"
    found = arguments.integer(name, value, must)
    if found not in known:
        raise arguments.refusal(name, must, value)
    return found


def standardize_rates(multi_grid):
    """Dilation rates, or None, as they are kept."""
    if multi_grid is None:
        return None
    must = "must be None or positive dilation rates such as (4, 8, 16)"
    return arguments.integers("multi_grid", multi_grid, must, least=1)


def standardize_stem(stem_filters):
    """Widths of the deep stem, or None, as they are kept."""
    if stem_filters is None:
        return None
    must = (
        "must be None (one 7x7 convolution) or the widths of three 3x3 "
        "convolutions such as (32, 32, 64)"
    )
    return arguments.integers("stem_filters", stem_filters, must, 3, least=1)


def checked_num_classes(num_classes):
    num_classes = arguments.integer("num_classes", num_classes)
    if num_classes < 2:
        raise ValueError(
            "`num_classes` must be at least 2: the network decides between "
            "classes by softmax, so foreground and background are two. "
            f"Received: num_classes={num_classes}"
        )
    if num_classes > MAX_CLASSES:
        raise ValueError(
            f"`num_classes` must be at most {MAX_CLASSES}: labels are one "
            "byte, and 255 means 'ignore'. "
            f"Received: num_classes={num_classes}"
        )
    return num_classes


def checked_names(names, num_classes):
    if names is None:
        return None
    found = arguments.as_sequence(names) or ()
    if (
        not all(isinstance(name, str) and name for name in found)
        or not len(found) == len(set(found)) == num_classes
    ):
        raise ValueError(
            f"`class_names` must be {num_classes} different strings, one per "
            f"class. Received: class_names={arguments.shown(names)}"
        )
    return found


def checked_palette(palette, num_classes):
    if palette is None:
        return None
    try:
        colors = tuple(
            tuple(map(operator.index, arguments.as_sequence(color) or ()))
            for color in arguments.as_sequence(palette) or ()
        )
    except TypeError:
        colors = ()
    if len(colors) != num_classes or not all(
        len(color) == 3 and 0 <= min(color) <= max(color) <= 255
        for color in colors
    ):
        raise ValueError(
            f"`palette` must be {num_classes} colors, one per class, each "
            "(red, green, blue) in 0-255. Received: "
            f"palette={arguments.shown(palette)}"
        )
    return colors


def standardize_attention(attention):
    names = (attention,) if isinstance(attention, str) else attention
    names = arguments.as_sequence(names)
    if names is None or len(names) > len(ATTENTIONS):
        raise _no_attention(attention)
    for name in names:
        arguments.choice("attention", name, ATTENTIONS)
    if len(set(names)) < len(names):
        raise _no_attention(attention)
    # One fixed order: layer order is weight order.
    return tuple(name for name in ATTENTIONS if name in names)


def _no_attention(attention):
    must = f"must name each of {ATTENTIONS} at most once; () uses none"
    return arguments.refusal("attention", must, attention)


def per_channel(argument, value):
    must = (
        "must be one finite number or three (red, green, blue), of at most "
        f"{MAX_PIXEL:g}"
    )
    bounds = {"least": -MAX_PIXEL, "most": MAX_PIXEL}
    if getattr(value, "ndim", 0) == 0 and not hasattr(value, "__len__"):
        return (float(arguments.number(argument, value, must, **bounds)),) * 3
    values = arguments.numbers(argument, value, must, length=3, **bounds)
    return tuple(map(float, values))
