"""Every form of an image as one array."""

import os
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_danet.data.decoding import MAX_PIXELS
from keras_danet.data.decoding import read_image
from keras_danet.data.decoding import read_open_image


def as_array(image: Any) -> np.ndarray:
    """`image` in any accepted form as a `(height, width, 3)` array."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    is_file = isinstance(image, (bytes, bytearray, memoryview))
    if is_file or isinstance(image, Image.Image) or hasattr(image, "read"):
        return read_open_image(image)
    image = _as_numpy(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(
            "An image must have the shape (height, width, 3), RGB in "
            f"0-255. Received: shape {image.shape}{_reshaping(image.shape)}"
        )
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ValueError(
            f"An image may have at most {MAX_PIXELS} pixels. Received: "
            f"shape {image.shape}. Cut it into pieces."
        )
    if image.dtype.kind not in "iuf":
        raise ValueError(
            "An image must be uint8 or float, RGB in 0-255. Received: "
            f"dtype {image.dtype}"
        )
    # Written so that NaN fails it too.
    if not 0 <= image.min() <= image.max() <= 255:
        raise ValueError(
            "An image must be in 0-255. Received: values from "
            f"{image.min()} to {image.max()}"
        )
    return image if image.dtype == "uint8" else image.astype("float32")


def _as_numpy(image):
    """An array from an array, a tensor or nested lists."""
    if keras.ops.is_tensor(image):
        image = keras.ops.convert_to_numpy(image)
    elif hasattr(image, "detach"):
        # A torch tensor on another backend.
        image = image.detach().cpu().float()
    try:
        image = np.asarray(image)
    # Rows of different lengths.
    except ValueError as error:
        raise ValueError(
            "An image must be an array (height, width, 3), RGB in 0-255. "
            f"Received: one of {type(image).__name__} ({error})"
        ) from error
    # NumPy has no native bfloat16.
    return image.astype("float32") if image.dtype.name == "bfloat16" else image


def _reshaping(shape):
    """A hint how to turn this shape into an image, if that is clear."""
    if len(shape) == 4:
        return ". Give one image of the batch at a time."
    if len(shape) == 3 and shape[0] == 3:
        return ". Put channels last: image.transpose(1, 2, 0)."
    if len(shape) == 2:
        return ". Grey needs three channels: np.stack([image] * 3, -1)."
    return ""
