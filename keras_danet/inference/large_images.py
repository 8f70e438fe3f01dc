"""Label maps of images that are larger than memory."""

import contextlib
import os
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np
from PIL import Image

from keras_danet import arguments
from keras_danet.files import whole_or_not
from keras_danet.inference.images import as_array
from keras_danet.inference.predictor import Predictor
from keras_danet.inference.tiff_windows import TIFF_ENDINGS
from keras_danet.inference.tiff_windows import open_tiff
from keras_danet.inference.windows import Windows

# Pixels of an image in a file, 40 times what a `Predictor` takes whole.
MAX_LARGE_PIXELS = 2**33
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
        ValueError: if the image is none that can be read, or the predictor
            has several scales or another size than the image's own.
    """
    protocol = _checked(predictor)
    files = [output] if confidence is None else [output, confidence]
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
    passes = predictor.passes_of(image, protocol)
    start, height = 0, image.shape[0]
    for rows, label, sure in passes.windowed_labels(image):
        for found, kept in zip((label, sure), maps, strict=False):
            kept[rows] = found
        start = rows.stop
        if progress:
            progress(start, height)


def _checked(predictor):
    protocol = predictor.protocol
    if protocol.scales != (1.0,) or protocol.canvas:
        raise ValueError(
            "A large image is seen at one scale. Expected scales=(1.0,) and "
            f"no canvas. Received: {protocol}"
        )
    return protocol


@contextlib.contextmanager
def _opened(source):
    if isinstance(source, (str, os.PathLike)):
        if str(source).lower().endswith(TIFF_ENDINGS):
            with open_tiff(source) as image:
                yield image
            return
        if str(source).lower().endswith(".npy"):
            source = np.load(source, mmap_mode="r", allow_pickle=False)
    yield source


def _new_file(path, kind, shape):
    return np.lib.format.open_memmap(path, "w+", kind, shape)
