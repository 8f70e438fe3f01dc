"""Checks of the arguments that pictures take: see `visualization`."""

import numpy as np


def describe(array):
    return f"shape {array.shape}, dtype {array.dtype}"


def as_image(image, name):
    image = np.asarray(image)
    numeric = image.dtype == np.uint8 or image.dtype.kind == "f"
    if not numeric or image.shape[2:] != (3,) or not image.size:
        raise ValueError(
            f"`{name}` must be a non-empty uint8 or float array (height, "
            f"width, 3), RGB. Received: {describe(image)}"
        )
    if image.dtype == np.uint8:
        return image
    # Written so that NaN fails it too.
    if not (image.min() >= 0 and image.max() <= 255):
        raise ValueError(
            f"`{name}` must be in 0-255. Received values from "
            f"{image.min()} to {image.max()}"
        )
    return np.rint(image).astype("uint8")


def as_label(label, num_classes, ignore_label):
    """The label in few bytes, with `num_classes` for ignored pixels."""
    label = np.asarray(label)
    if label.ndim != 2 or label.dtype.kind not in "iu" or not label.size:
        raise ValueError(
            "A label map must be a non-empty integer array (height, width). "
            f"Received: {describe(label)}"
        )
    ignored = label == ignore_label
    wrong = label[~ignored & ((label < 0) | (label >= num_classes))]
    if wrong.size:
        raise ValueError(
            f"A label map holds the value {wrong[0]} ({wrong.size} pixels are "
            f"out of range). Expected 0 to {num_classes - 1}, for which the "
            f"palette has colours, or {ignore_label} for 'ignore'. Map the "
            "values to class indices, or pass this data set's palette."
        )
    label = label.astype(np.min_scalar_type(num_classes))
    label[ignored] = num_classes
    return label


def as_palette(palette):
    palette = np.asarray(palette)
    valid = palette.dtype.kind in "iu" and palette.shape[1:] == (3,)
    if not valid or not palette.size or np.any(palette != palette & 255):
        raise ValueError(
            "`palette` must hold at least one colour of three integers in "
            f"0-255, shape (num_classes, 3). Received: {palette.tolist()}"
        )
    return palette.astype("uint8")


def check_same_length(**pair):
    (first, a), (second, b) = pair.items()
    if len(a) != len(b):
        raise ValueError(
            f"`{first}` and `{second}` must have the same length. "
            f"Received: {len(a)} and {len(b)}"
        )


def check_same_size(image, label):
    if image.shape[:2] != label.shape:
        raise ValueError(
            "The image and its label map must have the same height and width. "
            f"Received: image {image.shape[:2]}, label {label.shape}"
        )


def as_values(values, name):
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "iuf" or not values.size:
        raise ValueError(
            f"`{name}` must be non-empty real arrays (height, width). "
            f"Received: {describe(values)}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite. Received: NaN or infinity")
    return values.astype("float64")
