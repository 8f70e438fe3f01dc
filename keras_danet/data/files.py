"""Finds a data set's (image, label) pairs, and the bad file among them."""

import os
from pathlib import Path
from pathlib import PurePosixPath
from typing import NamedTuple

from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.datasets import INVALID_LABEL
from keras_danet.data.datasets import did_you_mean

# What data sets hold, which TensorFlow decodes; photos may be more.
DATA_FORMATS = ("PNG", "JPEG")
PHOTO_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
# More pixels than any photograph has; refused before they are decoded.
MAX_PIXELS = 2**28
_PNG_KINDS = {
    0: "grey",
    2: "colour",
    3: "palette",
    4: "grey and transparency",
    6: "colour and transparency",
}


class Pair(NamedTuple):
    """Where one image and its label lie.

    Args:
        image: String, path of the image file.
        label: String, path of its label file.
    """

    image: str
    label: str


def find_pairs(dataset, root, split):
    """Finds the pairs of one split, in the order of its list file.

    The list has one pair a line, `<image> <label>`. Of each path the last two
    components count, taken from `root`: CamVid's own lists hold absolute
    paths of the machine they were made on.

    Args:
        dataset: A `Dataset`.
        root: String or path, the data set's folder.
        split: String, one of `dataset.splits`.

    Returns:
        List of `Pair`, each naming two files that exist.

    Raises:
        FileNotFoundError: if the folder, the list or a listed file is not
            there.
        ValueError: if the data set has no such split, or the list is empty,
            malformed, names a file twice or leads out of `root`.
    """
    if split not in dataset.splits:
        raise ValueError(
            f"{dataset.title} has no split of that name."
            f"{did_you_mean(split, dataset.splits)} Expected one of "
            f"{', '.join(dataset.splits)}. Received: split={split!r}."
        )
    list_path = _find_list(dataset, Path(root), split)
    try:
        lines = list_path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{list_path} is not a text file: {error}.") from error

    pairs = []
    first_line = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{list_path}, line {number}"
        pair = _parse_line(line, dataset, split, Path(root), where)
        for path in pair:
            if path in first_line:
                raise ValueError(
                    f"{where}: {path} is listed for the second time, first "
                    f"in line {first_line[path]}. Remove one of the lines."
                )
            first_line[path] = number
        pairs.append(pair)
    if not pairs:
        raise ValueError(
            f"{list_path} is empty. Expected one pair a line: "
            f"{_expected_line(dataset, split)!r}."
        )
    _check_existence(list_path, pairs)
    return pairs


def _find_list(dataset, root, split):
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {root}. Expected the root of {dataset.title}, "
            f"the folder that holds {dataset.list_path.format(split=split)} "
            f"(see {dataset.url})."
        )
    path = root / dataset.list_path.format(split=split)
    if path.is_file():
        return path
    present = [
        name
        for name in dataset.splits
        if (root / dataset.list_path.format(split=name)).is_file()
    ]
    remedy = (
        f"Use one of the splits that are there: {', '.join(present)}."
        if present
        else f"None of {dataset.title}'s splits is there; is {root} its root?"
    )
    raise FileNotFoundError(
        f"There is no list {path} for split {split!r} of {dataset.title}. "
        f"{remedy}"
    )


def _parse_line(line, dataset, split, root, where):
    # A list written on Windows has backslashes.
    paths = [PurePosixPath(path) for path in line.replace("\\", "/").split()]
    if len(paths) != 2 or any(path.name == "" for path in paths):
        raise ValueError(
            f"{where}: expected an image and its label, as in "
            f"{_expected_line(dataset, split)!r}. Received: {line!r}."
        )
    for path in paths:
        if ".." in path.parts:
            raise ValueError(
                f"{where}: {str(path)!r} may lead out of {root}. Write the "
                "path without '..'."
            )
    below_root = [path.relative_to(path.anchor).parts for path in paths]
    image, label = (str(root.joinpath(*parts[-2:])) for parts in below_root)
    return Pair(image, label)


def _expected_line(dataset, split):
    line = f"{dataset.image_path} {dataset.label_path}"
    return line.format(split=split, id="NAME")


def _check_existence(list_path, pairs):
    paths = [path for pair in pairs for path in pair]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise FileNotFoundError(
            f"{list_path} lists {len(paths)} files and {len(missing)} of them "
            f"are not there, the first is {missing[0]}. Add them or remove "
            "their lines."
        )


def explain_data_error(pairs, dataset):
    """Finds the file that a pipeline stumbled over, and says what is wrong.

    It decodes every file until one is bad: call it after something failed.

    Args:
        pairs: Iterable of `Pair`.
        dataset: A `Dataset`.

    Raises:
        ValueError: for the first bad pair, as `check_pair` does.
    """
    for pair in pairs:
        check_pair(pair, dataset)


def check_pair(pair, dataset):
    """Checks that a pair can be decoded and fits its data set.

    Args:
        pair: A `Pair`.
        dataset: A `Dataset`.

    Raises:
        ValueError: if a file is unreadable, truncated, empty or absurdly
            large, the label is not an 8-bit grey PNG, the two differ in size
            or the label has a value that the data set does not.
    """
    image_size = read_size(pair.image)
    label_size = read_size(pair.label)
    _check_label_kind(pair.label)
    if image_size != label_size:
        raise ValueError(
            f"Image and label differ in size: {pair.image} has (height, "
            f"width) {image_size} and {pair.label} has {label_size}. Expected "
            "a label for each pixel; replace the wrong one of the two."
        )
    _load(pair.image)
    counts = _load(pair.label).histogram()
    wrong = [
        value
        for value, train_id in enumerate(dataset.label_map)
        if counts[value] and train_id == INVALID_LABEL
    ]
    if wrong:
        raise ValueError(
            f"Label value {wrong[0]} in {pair.label} ({counts[wrong[0]]} "
            f"pixels; {len(wrong)} wrong value(s) in all); {dataset.title} has "
            f"{_describe_values(dataset)}. Correct the label, or map its "
            "values in the data set's `label_map`."
        )


def read_image(path, upright=True):
    """Reads an image as it is meant to be seen.

    Args:
        path: String, path of an image file.
        upright: Boolean, whether to turn it by its EXIF tag. A data set's
            labels lie over the pixels as they are stored. Defaults to
            `True`.

    Returns:
        uint8 array (height, width, 3), RGB.

    Raises:
        ValueError: if it is unreadable, truncated, absurdly large or of more
            than 8 bits per channel.
    """
    import numpy as np
    from PIL import ImageOps

    read_size(path, PHOTO_FORMATS)
    image = _load(path, PHOTO_FORMATS)
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{path} has more than 8 bits per channel (Pillow mode "
            f"{image.mode}). Expected 0-255; scale and save it as 8-bit."
        )
    if upright:
        image = ImageOps.exif_transpose(image)
    return np.array(image.convert("RGB"))


def read_label(pair, dataset):
    """Reads and checks the label of a pair.

    Args:
        pair: A `Pair`.
        dataset: A `Dataset`.

    Returns:
        uint8 array (height, width) of train ids, 255 for ignored pixels.

    Raises:
        ValueError: as `check_pair` does.
    """
    import numpy as np

    check_pair(pair, dataset)
    return np.array(dataset.label_map, "uint8")[np.array(_load(pair.label))]


def read_size(path, formats=DATA_FORMATS):
    """Reads an image's (height, width) from its header, decoding nothing.

    Args:
        path: String, path of a PNG or JPEG file.

    Returns:
        Tuple of integers (height, width).

    Raises:
        ValueError: if it is no readable PNG or JPEG file, or has more than
            `MAX_PIXELS` pixels.
    """
    with _open(path, formats) as image:
        width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{path} is too large: {height} x {width} pixels (height x "
            f"width). Expected at most {MAX_PIXELS} pixels; cut it into "
            "pieces or remove it from the split list."
        )
    return height, width


def _open(path, formats):
    from PIL import Image

    if os.path.isfile(path) and not os.path.getsize(path):
        raise _unreadable(path, "it is empty (0 bytes)")
    limit = Image.MAX_IMAGE_PIXELS
    # Pillow's own limit warns before ours is reached; opening reads no pixel.
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(path, formats=formats)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} cannot be read: there is no such file."
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _load(path, formats=DATA_FORMATS):
    # `load` overlooks a broken end that `verify` (and TensorFlow) does not.
    for read in ("verify", "load"):
        with _open(path, formats) as image:
            try:
                getattr(image, read)()
            # Pillow's decoders have no common error for broken files.
            except Exception as error:
                raise _unreadable(path, error) from error
    return image


def _unreadable(path, error):
    return ValueError(
        f"{path} cannot be read: {error}. Expected a complete PNG, JPEG or "
        "other known image file; replace it, or leave it out."
    )


def _check_label_kind(path):
    with open(path, "rb") as file:
        header = file.read(26)
    if not header.startswith(b"\x89PNG"):
        kind = "not a PNG"
    elif header[24:26] != b"\x08\x00":
        colours = _PNG_KINDS.get(header[25], "unknown")
        kind = f"a {colours} PNG of depth {header[24]}"
    else:
        return
    raise ValueError(
        f"Label {path} is {kind}. Expected an 8-bit grey PNG with one channel "
        "whose values are class numbers; save the class numbers themselves "
        "(Pillow mode 'L'), not their colours."
    )


def _describe_values(dataset):
    """The raw values a label may have, as in "0..10, and 11, 255 for void"."""
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
