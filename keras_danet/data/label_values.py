"""What the numbers in label files mean, and what wrong ones suggest."""

import functools
from collections.abc import Mapping

import numpy as np

from keras_danet.data.datasets import DATASETS
from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.datasets import INVALID_LABEL

# Colours mixed by a resize or a JPEG are between, or near, true ones.
_NEAR = 40
# So many classes that never occur are not the accident of a small data set.
_MANY_CLASSES = 5
# A smaller share of all pixels is a slip of the pen, not a mapping.
_STRAY = 1e-3
# Fewer values may be close to those of a palette by chance.
_FEW_VALUES = 4


@functools.lru_cache(maxsize=2)
def label_table(dataset):
    """The train id of every raw value of a data set's label files.

    Returns:
        uint8 array (256,), read-only; for label files of colours (2**24,), by
        the numbers of `read_raw_label`. `INVALID_LABEL` for what must not
        occur.
    """
    if dataset.label_colors:
        table = np.full(2**24, INVALID_LABEL, "uint8")
        for color, train_id in dataset.label_colors.items():
            table[color_code(*color)] = train_id
    else:
        table = np.array(dataset.label_map, "uint8")
    table.setflags(write=False)
    return table


def to_train_ids(raw, dataset, path):
    """Maps what `read_raw_label` returns for `path` to train ids, uint8.

    Raises:
        ValueError: if a value is not in the data set's map.
    """
    label = label_table(dataset)[raw]
    wrong = label == INVALID_LABEL
    if wrong.any():
        first, *others = np.unique(raw[wrong]).tolist()
        shown = _color(first) if dataset.label_colors else first
        counts = zip(*np.unique(raw, return_counts=True), strict=True)
        guess = guess_mapping(
            {int(value): int(count) for value, count in counts}, dataset
        )
        raise ValueError(
            f"Label value {shown} in {path} "
            f"({np.count_nonzero(raw == first)} pixels; {len(others) + 1} "
            f"wrong value(s) in all); {dataset.title} has "
            f"{_describe_values(dataset)}. "
            + (
                guess
                or "Correct the label, or map its values in the data set's "
                "record."
            )
        )
    return label


def _describe_values(dataset):
    """The raw values a label may have, as in "0..10, and 11, 255 for void"."""
    if dataset.label_colors:
        return f"{len(dataset.label_colors)} colours"
    void = []
    classes = []
    for value, train_id in enumerate(dataset.label_map):
        if train_id == IGNORE_LABEL:
            void.append(value)
        elif train_id != INVALID_LABEL:
            classes.append(value)
    return f"{_ranges(classes)}, and {_ranges(void)} for void"


def _ranges(values):
    starts = [value for value in values if value - 1 not in values]
    ends = [value for value in values if value + 1 not in values]
    return ", ".join(
        str(start) if start == end else f"{start}..{end}"
        for start, end in zip(starts, ends, strict=True)
    )


def guess_mapping(values, dataset):
    """Which mapping was probably forgotten, judging by the values seen.

    Args:
        values: Raw values that occur in label files, both wrong and right
            ones: an iterable, or a mapping from each to its number of pixels.
            Nothing is guessed from a few stray pixels.
        dataset: The `Dataset` that they were read as.

    Returns:
        A sentence or two with the remedy; `None` if all values are in the map
        and look right, or if no guess fits.
    """
    pixels = values if isinstance(values, Mapping) else dict.fromkeys(values, 1)
    values = set(pixels)
    table = label_table(dataset)
    wrong = {value for value in values if table[value] == INVALID_LABEL}
    share = sum(pixels[value] for value in wrong) / max(sum(pixels.values()), 1)
    if wrong and share < _STRAY:
        return None
    if dataset.label_colors:
        return _guess_colors(wrong, dataset) if wrong else None
    guesses = _guesses if wrong else _suspicions
    return next((text for fits, text in guesses(values, dataset) if fits), None)


def _guess_colors(wrong, dataset):
    known = np.array(list(dataset.label_colors))
    colors = np.array([_color(value) for value in sorted(wrong)])
    turned = {tuple(color) for color in colors[:, ::-1].tolist()}
    if turned <= dataset.label_colors.keys():
        return (
            "Read backwards, as (blue, green, red), the wrong colours are the "
            "data set's: they were saved with OpenCV, which expects that "
            "order. Reverse the channels of the labels or of the classes."
        )
    # A few of many colours are enough to judge by.
    some = colors[:: max(len(colors) // 256, 1)]
    distances = np.abs(some[:, np.newaxis] - known).max(axis=-1).min(axis=1)
    if np.mean(distances <= _NEAR) > 0.5:
        return (
            "The wrong colours are close to the data set's: the labels were "
            "probably saved as JPEG or resized with interpolation. Make them "
            "again as PNG, and resize only by nearest neighbour."
        )
    return None


def _guesses(values, dataset):
    """(whether it fits, what was done) for labels with wrong values."""
    count = dataset.num_classes
    ids = set(range(count))
    own = _class_values(dataset)
    yield _mask_guess(values, dataset)
    if own == ids:
        yield (
            values - {IGNORE_LABEL} <= ids | {count} and count in values,
            f"The values go up to {count}, but {count} classes should count "
            "from 0: they seem to count from 1"
            + (
                ", with 0 for pixels without a class (elsewhere called "
                "`reduce_zero_label`), or a class is missing from the list. "
                "In the first case subtract 1 from them, so that 0 becomes "
                "255, or say so with `value` and `ignore` in classes.json."
                if 0 in values
                else ". Subtract 1 from them, or say so with `value` in "
                "classes.json."
            ),
        )
    else:
        yield (
            values <= ids | {IGNORE_LABEL},
            f"The values look like train ids already (0..{count - 1}), but "
            f"{dataset.title} is read from its original label files. Use "
            "these, or open yours as your own folder (dataset='folder').",
        )
    for other in DATASETS.values():
        yield (
            other is not dataset
            and other.num_classes == count
            and _class_values(other) != own
            and values <= {n for n in range(256) if _knows(other, n)},
            f"The values fit the original label files of {other.title}: use "
            f"dataset={other.name!r}, or map them as its record does.",
        )
    greys = {
        (19595 * r + 38470 * g + 7471 * b + 2**15) >> 16
        for r, g, b in dataset.palette
    }
    yield (
        len(values) >= _FEW_VALUES
        and values <= {g + d for g in greys | {0, 255} for d in (-1, 0, 1)},
        "The values are the brightness of the classes' colours: a palette or "
        "colour label was converted to grey. Save the class numbers "
        "themselves.",
    )
    yield (
        len(values) > 2 * len(own) + 8,
        f"There are {len(values)} different values, more than classes: the "
        "labels were probably saved as JPEG, resized with interpolation, or "
        "are not labels. Make them again as PNG, and resize only by nearest "
        "neighbour.",
    )


def _suspicions(values, dataset):
    """The same for values that are all in the map, but look wrong."""
    ids = set(range(dataset.num_classes))
    own = _class_values(dataset)
    higher = own - ids
    yield _mask_guess(values, dataset)
    yield (
        # The numbers of your own folder mean what classes.json says.
        dataset.name in DATASETS
        and bool(higher)
        and values <= ids | {IGNORE_LABEL}
        and len(values) > dataset.num_classes / 2
        and (
            len(higher) >= _MANY_CLASSES
            or (IGNORE_LABEL in values and dataset.label_map[0] not in ids)
        ),
        f"No value above {max(ids)} occurs: the labels look like train ids "
        f"already, but {dataset.title} is read from its original label "
        "files, in which the same numbers mean other classes. Use these, or "
        "open yours as your own folder (dataset='folder').",
    )


def _mask_guess(values, dataset):
    return (
        values == {0, 255} and _class_values(dataset) == {0, 1},
        "Only 0 and 255 occur, as in a black and white mask. Save "
        'class 1 as 1, or give it `"value": 255` in classes.json.',
    )


def _class_values(dataset):
    return {
        value
        for value, train_id in enumerate(dataset.label_map)
        if train_id < dataset.num_classes
    }


def _knows(dataset, value):
    return dataset.label_map[value] != INVALID_LABEL


def color_code(red, green, blue):
    """The number of a colour in `label_table`."""
    return red << 16 | green << 8 | blue


def _color(code):
    return code >> 16, code >> 8 & 255, code & 255
