"""Results of images that are larger than `read_image` takes."""

import contextlib
import os
import pathlib
import shutil

import numpy as np

from keras_danet.data.decoding import MAX_PIXELS
from keras_danet.data.decoding import is_larger
from keras_danet.files import PARTIAL
from keras_danet.files import make_folder
from keras_danet.files import whole_or_not
from keras_danet.inference import visualization
from keras_danet.inference.inputs import IMAGE
from keras_danet.inference.inputs import Input
from keras_danet.inference.large_images import predict_large
from keras_danet.inference.predictor import Predictor
from keras_danet.inference.tiff_windows import TIFF_ENDINGS
from keras_danet.text_tables import harmless
from keras_danet.waiting import Countdown

# What there is of them; the others would have to be held in memory.
KINDS = ("label", "confidence")
# More pixels than these become an array in a file that can be memory-mapped.
MAX_PNG_PIXELS = 2**29


def is_large(item: Input) -> bool:
    """Whether an input has to be read and predicted window by window."""
    return (
        item.kind == IMAGE
        and item.path.suffix.lower() in TIFF_ENDINGS
        and is_larger(item.path, MAX_PIXELS)
    )


def files_of(
    item: Input, output: pathlib.Path, kinds: tuple[str, ...]
) -> dict[str, pathlib.Path]:
    """Path of every result, by kind."""
    ending = ".npy" if is_larger(item.path, MAX_PNG_PIXELS) else ".png"
    endings = {"label": ending, "confidence": ".npy"}
    return {
        kind: output / f"{item.name}_{kind}{endings[kind]}"
        for kind in KINDS
        if kind in kinds or kind == "label"
    }


def predict(
    predictor: Predictor, item: Input, files: dict[str, pathlib.Path]
) -> tuple[str, ...]:
    """Writes results of a large image; returns the classes it has.

    Raises:
        ValueError: if it cannot be read, or not be predicted in windows.
        OSError: if a result cannot be written.
    """
    label = files["label"]
    make_folder(label.parent)
    with (
        _folder_of_its_own(label) as folder,
        Countdown(
            harmless(f"rows of {item.path.name}"), unit="rows"
        ) as countdown,
    ):
        partial = {kind: pathlib.Path(folder, f"{kind}.npy") for kind in files}
        found = predict_large(
            predictor,
            item.path,
            partial["label"],
            partial.get("confidence"),
            progress=countdown,
        )
        present = np.zeros(len(predictor.class_names), bool)
        for start in range(0, len(found.label), 1024):
            present[np.unique(found.label[start : start + 1024])] = True
        for kind, path in files.items():
            if path.suffix == ".png":
                visualization.save_png(path, found.label, predictor.palette)
            else:
                with whole_or_not(path) as beside:
                    os.replace(partial[kind], beside)
        del found
    names = predictor.class_names
    return tuple(names[index] for index in np.flatnonzero(present))


@contextlib.contextmanager
def _folder_of_its_own(path):
    """A folder beside a file; what a killed process left in it goes."""
    folder = path.with_name(f"{PARTIAL}{path.name}.folder")
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
