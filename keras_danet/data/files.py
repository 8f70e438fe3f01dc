"""Finds a data set's (image, label) pairs, and the bad file among them."""

import os
from pathlib import Path
from pathlib import PurePosixPath
from typing import NamedTuple

from keras_danet.data.datasets import did_you_mean


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
