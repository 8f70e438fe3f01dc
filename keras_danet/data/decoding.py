"""Reads images and labels with Pillow, and says what is wrong with them."""

import os

import numpy as np
from PIL import Image
from PIL import ImageOps

from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.datasets import INVALID_LABEL

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


def label_table(dataset):
    """The train id of every raw value of a data set's label files.

    Args:
        dataset: A `Dataset`.

    Returns:
        uint8 array (256,); for label files of colours (2**24,), in which a
        colour's number has red in its highest byte and blue in its lowest.
        `INVALID_LABEL` for what must not occur.
    """
    if not dataset.label_colors:
        return np.array(dataset.label_map, "uint8")
    table = np.full(2**24, INVALID_LABEL, "uint8")
    for (red, green, blue), train_id in dataset.label_colors.items():
        table[red << 16 | green << 8 | blue] = train_id
    return table


def read_pair(pair, dataset):
    label = read_label(pair, dataset)
    return read_image(pair.image, upright=False), label


def check_batches(pairs, batch_size):
    """Checks that whole images can be batched.

    Args:
        pairs: List of `Pair`.
        batch_size: Integer; of more than 1, headers are asked for sizes.

    Raises:
        ValueError: if there are no pairs, or images of different sizes would
            share a batch.
    """
    if not pairs or batch_size < 1:
        raise ValueError(
            "Expected at least one pair and a batch size of at least 1. "
            f"Received: {len(pairs)} pairs, batch_size={batch_size!r}."
        )
    sizes = [read_size(pair.image) for pair in pairs] if batch_size > 1 else []
    for index, size in enumerate(sizes):
        first = index - index % batch_size
        if size != sizes[first]:
            raise ValueError(
                f"Images of different sizes cannot share a batch: "
                f"{pairs[first].image} has (height, width) {sizes[first]} and "
                f"{pairs[index].image} has {size}. Use batch_size=1."
            )
