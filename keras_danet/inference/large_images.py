"""Label maps of images that are larger than memory."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_danet.data.decoding import check_is_file
from keras_danet.files import reserve
from keras_danet.files import whole_or_not
from keras_danet.inference.images import as_array
from keras_danet.inference.predictor import Predictor
from keras_danet.inference.tiff_windows import MAX_LARGE_PIXELS
from keras_danet.inference.tiff_windows import TIFF_ENDINGS
from keras_danet.inference.tiff_windows import open_tiff

WINDOW, STRIDE = 1024, 768


class LargePrediction(NamedTuple):
    """Memory-mapped arrays (height, width) of the files that were written.

    Args:
        label: uint8 class indices.
        confidence: float32 probabilities of the labels, or `None`.
    """

    label: np.ndarray
    confidence: np.ndarray | None


def predict_large(
    predictor: Predictor,
    source: Any,
    output: str | os.PathLike[str],
    confidence: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LargePrediction:
    """Predicts an image in windows, read and written a band at a time.

    Memory is that of one band of windows with all classes (window height x
    image width x classes x 4 bytes) and of the network; the whole image is
    never held where the file allows that: a TIFF of tiles or strips, or a
    memory-mapped array.

    Args:
        predictor: `Predictor`. Its windows and weights are used, or without
            windows those of 1024 x 1024 every 768 pixels with Gaussian
            weights. With `mirror` each window's mirror image is seen as well.
        source: path of a TIFF (its tiles or strips are read one by one; needs
            the extra `tiff`), of a `.npy` file or of any other image, which
            is read whole; or an array (height, width, 3), uint8.
        output: path of the `.npy` file of labels, whole or not at all.
        confidence: path of the `.npy` file of the labels' probabilities.
            Defaults to `None`, none.
        progress: function of (rows done, rows), called after each band.
            Defaults to `None`.

    Returns:
        `LargePrediction`.

    Raises:
        ValueError: if the image is none that can be read, a result would
            replace it, or the predictor has several scales or another size
            than the image's own.
        OSError: if there is no room for the results; nothing is left.
    """
    protocol = _checked(predictor)
    files = [output] if confidence is None else [output, confidence]
    _check_files(source, files)
    with contextlib.ExitStack() as stack:
        image = stack.enter_context(_opened(source))
        height, width = image.shape[:2]
        maps = []
        for path, kind in zip(files, ("uint8", "float32"), strict=False):
            partial = stack.enter_context(whole_or_not(path))
            maps.append(_new_file(partial, kind, (height, width)))
        _predict(predictor, protocol, image, maps, progress)
        for each in maps:
            each.flush()
        del maps
    opened = [np.load(path, mmap_mode="r") for path in files]
    return LargePrediction(*[*opened, None][:2])


def _predict(predictor, protocol, image, maps, progress):
    passes = predictor.passes(image, protocol)
    for rows, label, sure in passes.windowed_labels():
        for found, kept in zip((label, sure), maps, strict=False):
            kept[rows] = found
        if progress:
            progress(rows.stop, image.shape[0])


def _checked(predictor):
    """The predictor's protocol, with windows."""
    protocol = predictor.protocol
    if (
        protocol.scales != (1.0,)
        or protocol.canvas
        or protocol.size != (None, None)
    ):
        raise ValueError(
            "A large image is seen at its own size. Expected a Predictor with "
            "size=None (--size image) and scales=(1.0,). Received: "
            f"{protocol}"
        )
    if protocol.mirror and protocol.average == ("logits", "softmax"):
        # Each window's mirror image is averaged with it, before overlaps.
        raise ValueError(
            "In a large image mirror images are averaged as overlapping "
            "windows are. Expected one word for `average`, such as "
            f"'softmax', or no mirror images. Received: {protocol}"
        )
    if protocol.window:
        return protocol
    return dataclasses.replace(
        protocol,
        name=None,
        window=(WINDOW, WINDOW),
        stride=(STRIDE, STRIDE),
        blend="gaussian",
    )


@contextlib.contextmanager
def _opened(source):
    """What can be indexed as an array (height, width, 3) of uint8."""
    if isinstance(source, (str, os.PathLike)):
        check_is_file(source)
        ending = os.path.splitext(source)[1].lower()
        if ending in TIFF_ENDINGS:
            with open_tiff(source) as image:
                yield image
            return
        if ending == ".npy":
            source = np.load(source, mmap_mode="r", allow_pickle=False)
        else:
            source = as_array(source)
    shape, kind = getattr(source, "shape", ()), getattr(source, "dtype", None)
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or kind != np.uint8:
        raise ValueError(
            "A large image must be a uint8 array (height, width, 3), RGB, or "
            "a file of one. Received: "
            f"{type(source).__name__} of shape {shape}, dtype {kind}"
        )
    if shape[0] * shape[1] > MAX_LARGE_PIXELS:
        raise ValueError(
            f"An image may have at most {MAX_LARGE_PIXELS} pixels. Received: "
            f"shape {shape}. Cut it into pieces."
        )
    yield source


def _new_file(path, kind, shape):
    array = np.lib.format.open_memmap(path, "w+", kind, shape)
    reserve(path, os.path.getsize(path))
    return array


def _check_files(source, files):
    named = [source] if isinstance(source, (str, os.PathLike)) else []
    real = [os.path.realpath(path) for path in (*named, *files)]
    if len(set(real)) < len(real):
        raise ValueError(
            "A result would replace the image or another result. Expected "
            f"files of different names. Received: {', '.join(real)}"
        )
