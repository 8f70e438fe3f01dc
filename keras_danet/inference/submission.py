"""Label files as the servers of data sets want them."""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_danet.data.datasets import Dataset
from keras_danet.data.decoding import read_image
from keras_danet.files import make_folder
from keras_danet.files import read_json
from keras_danet.files import save_text
from keras_danet.inference.digests import digest_of
from keras_danet.inference.records import stamp_of_files
from keras_danet.inference.visualization import save_png
from keras_danet.runs import versions
from keras_danet.waiting import answering

# What a file's name must look like, by data set. Cityscapes' server finds the
# truth by city, sequence and frame; ADE20K's by the image's whole name.
NAMES = {
    "cityscapes": (r"[^_]+_\d{6}_\d{6}_", "CITY_SEQUENCE_FRAME_..."),
    "ade20k": (r".", "any name"),
}


def write_submission(
    predictor: Callable[[np.ndarray], np.ndarray],
    images: Sequence[str],
    dataset: Dataset,
    folder: str | os.PathLike[str],
    split: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Predicts images and writes a PNG for each, all in one folder.

    Pixels are the numbers of the data set's own label files: labelIds of
    Cityscapes, 1 to 150 of ADE20K. A file has its image's name. Beside the
    folder, `FOLDER.json` says what made the files; with the same model,
    protocol and images, those that are there are not made again.

    Args:
        predictor: a `Predictor`, or a function from an image to a label map.
        images: list of paths, as from `data.files.find_images`.
        dataset: `data.datasets.Dataset`, Cityscapes or ADE20K.
        folder: path, new or empty, or from the same call before.
        split: string.
        progress: function of (number done, total number). Defaults to
            `None`.

    Returns:
        List of paths of the files.

    Raises:
        FileExistsError: if the folder holds something else.
        ValueError: if the data set has no such server, an image cannot be
            read, or its name is not the data set's.
    """
    if dataset.name not in NAMES:
        raise ValueError(
            f"There is no form of submission for {dataset.title}. Expected "
            f"one of {', '.join(NAMES)}: choose it with --dataset, or leave "
            "out --submission."
        )
    folder = pathlib.Path(folder)
    paths = _paths(images, dataset, folder)
    _begin(folder, _header(predictor, images, dataset, split))
    # Raw value of each class; the inverse of what labels are read by.
    values = [dataset.label_map.index(k) for k in range(dataset.num_classes)]
    table = np.array(values, "uint8")
    missing = [
        (image, path)
        for image, path in zip(images, paths, strict=True)
        if not path.exists()
    ]
    done = len(paths) - len(missing)
    for image, path in missing:
        label = np.asarray(predictor(answering(read_image, image)))
        save_png(path, table[label])
        done += 1
        if progress:
            progress(done, len(paths))
    return [str(path) for path in paths]


def _paths(images, dataset, folder):
    pattern, expected = NAMES[dataset.name]
    found: dict[pathlib.Path, str] = {}
    for image in images:
        name = pathlib.Path(image).stem
        path = folder / f"{name}.png"
        if not re.match(pattern, name):
            raise ValueError(
                f"{image} has no name that {dataset.title}'s server knows. "
                f"Expected {expected}; give the files their names back."
            )
        if path in found:
            raise ValueError(
                f"{image} and {found[path]} have the same name, and the "
                "server wants all files in one folder. Rename one of them."
            )
        found[path] = image
    return list(found)


def _header(predictor, images, dataset, split) -> dict[str, Any]:
    protocol = getattr(predictor, "protocol", "unknown")
    stamps = [stamp_of_files([pathlib.Path(image)]) for image in images]
    return {
        "dataset": dataset.name,
        "split": split,
        "images": hashlib.sha256(json.dumps(stamps).encode()).hexdigest(),
        "protocol": str(protocol),
        "settings": protocol.as_dict()
        if hasattr(protocol, "as_dict")
        else None,
        "weights": digest_of(predictor),
        "versions": versions(),
    }


def _begin(folder, header):
    """Makes the folder, or resumes one that the same call has begun."""
    # Absolute: `.` has no name to put beside.
    whole = pathlib.Path(os.path.abspath(folder))
    note = whole.with_name(f"{whole.name}.json")
    text = json.dumps(header, indent=1) + "\n"
    old = _read(note)
    if os.path.lexists(note) and (old is None or old.keys() != header.keys()):
        raise FileExistsError(
            f"{note} is in the way of the note about {folder}: it was not "
            "written by --submission. Choose another folder, or move it away."
        )
    is_same = header["weights"] is not None and old == json.loads(text)
    if not is_same and folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder} holds files of another model, protocol or version, or "
            "of other images (FOLDER.json beside it says which). Choose "
            "another folder for --submission, or empty it."
        )
    make_folder(folder)
    save_text(text, note)


def _read(note):
    """What an earlier call has written, or `None`."""
    try:
        content = read_json(note)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
