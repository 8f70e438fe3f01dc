"""Finds the (image, label) pairs of a data set in its official layout."""

import os
from pathlib import Path
from typing import NamedTuple

from keras_danet.data.datasets import did_you_mean
from keras_danet.data.lists import read_list

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class Pair(NamedTuple):
    """Where one image and its label lie.

    Args:
        image: String, path of the image file.
        label: String, path of its label file.
    """

    image: str
    label: str


def find_pairs(dataset, root, split):
    """Finds the pairs of one split in the layout of the download.

    Where the layout has lists, they say which pairs there are, in their
    order. Otherwise all that lie in the folders are taken, by name; each
    folder is read once, and no file is asked for anything. Whether there are
    as many as officially is not checked.

    Args:
        dataset: A `Dataset`.
        root: String or path, the data set's folder or the folder in which
            its archives were unpacked.
        split: String, one of `dataset.splits`.

    Returns:
        List of `Pair`, each naming two files that exist.

    Raises:
        FileNotFoundError: if a folder, the list or a file is not there.
        ValueError: if the data set has no such split, the split is empty, an
            image has no label or a label no image, something else bears the
            name of a file, or the list is malformed, names a file twice or
            leads out of `root`.
    """
    _check_split(dataset, split)
    facts = dataset.splits[split]
    root = _find_root(dataset, Path(root), split)
    if facts.list_path is None:
        return _pairs_in_folders(dataset, root, split)
    pairs = [Pair(*paths) for paths in read_list(facts, root, split)]
    _check_listed(dataset, root / facts.list_path, pairs, split)
    return pairs


def find_splits(dataset, root, splits=None):
    """The splits of a data set that are there, complete or not.

    Args:
        dataset: A `Dataset`.
        root: String or path, as for `find_pairs`.
        splits: Iterable of strings, those that must be there. Defaults to
            `None`, which finds all that are.

    Returns:
        List of strings, names of splits.

    Raises:
        FileNotFoundError: if one that must be there is not, or none is.
        ValueError: if the data set has no split of that name.
    """
    root = Path(root)
    if splits is None:
        splits = _present_splits(dataset, root) or list(dataset.splits)[:1]
    splits = list(dict.fromkeys(splits))
    for split in splits:
        _check_split(dataset, split)
        _find_root(dataset, root, split)
    return splits


def _check_split(dataset, split):
    if split not in dataset.splits:
        raise ValueError(
            f"{dataset.title} has no split of that name."
            f"{did_you_mean(split, dataset.splits)} Expected one of "
            f"{', '.join(dataset.splits)}. Received: split={split!r}."
        )


def _present_splits(dataset, root):
    return [
        split
        for split, facts in dataset.splits.items()
        if any(_is_in(place, facts) for place in _places(dataset, root))
    ]


def _places(dataset, root):
    return [root, *(root / folder for folder in dataset.folders)]


def _needed(facts):
    return facts.list_path or _folder_of(facts.image)


def _is_in(place, facts):
    path = place / _needed(facts)
    return path.is_file() if facts.list_path else path.is_dir()


def _find_root(dataset, root, split):
    """The folder below which the paths of a split's facts lie."""
    places = _places(dataset, root)
    needs = _needed(dataset.splits[split])
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {root}. Expected the root of {dataset.title}, "
            f"the folder that holds {needs} (see {dataset.url})."
        )
    for place in places:
        if _is_in(place, dataset.splits[split]):
            return place
    present = _present_splits(dataset, root)
    kind = "list" if dataset.splits[split].list_path else "folder"
    beside = "".join(f", nor {place / needs}" for place in places[1:])
    remedy = (
        f"Use one of the splits that are there: {', '.join(present)}."
        if present
        else f"None of {dataset.title}'s splits is there; is {root} its root "
        f"(see {dataset.url})?"
    )
    raise FileNotFoundError(
        f"There is no {kind} {root / needs}{beside} for split {split!r} of "
        f"{dataset.title}. {_how_made(dataset, split)}{remedy}"
    )


def _how_made(dataset, split):
    script = dataset.splits[split].made_by
    return (
        f"{dataset.title}'s download lacks it; `python {script}` makes it, "
        "once (--help says how). "
        if script
        else ""
    )


def _folder_of(template):
    return template.partition("{")[0].rpartition("/")[0]


def _pairs_in_folders(dataset, root, split):
    facts = dataset.splits[split]
    label_folder = root / _folder_of(facts.label)
    if not label_folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {label_folder} with the labels of split "
            f"{split!r} of {dataset.title}. Unpack them there (see "
            f"{dataset.url})."
        )
    images = _scan(root, facts.image)
    labels = _scan(root, facts.label)
    if not images and not labels:
        raise ValueError(
            f"Split {split!r} of {dataset.title} is empty: no file is called "
            f"{root / facts.image}. Put the images there (see {dataset.url})."
        )
    problems = [
        f"{len(alone)} {these} have no {those}, the first is "
        f"{files[min(alone)]} (expected {_fill(root, template, min(alone))})"
        for these, files, those, alone, template in (
            ("images", images, "label", images.keys() - labels, facts.label),
            ("labels", labels, "image", labels.keys() - images, facts.image),
        )
        if alone
    ]
    if problems:
        raise ValueError(
            f"Split {split!r} of {dataset.title} is incomplete: "
            f"{'; '.join(problems)}. Add what is missing (unpack the archives "
            "again), or move the files without a partner away."
        )
    return [Pair(images[name], labels[name]) for name in sorted(images)]


def _fill(root, template, key):
    city, name = key
    return os.path.join(root, template.format(city=city, id=name))


def _scan(root, template):
    """Maps (city, name) to paths, of the files that a template describes.

    Links to folders are followed one level deep and no further, so that no
    loop of links can hold it up.
    """
    folder = os.path.join(root, _folder_of(template))
    cities = [""]
    if "{city}" in template:
        with os.scandir(folder) as entries:
            cities = [
                entry.name
                for entry in entries
                if entry.name[0] != "." and _is(entry.is_dir)
            ]
    return {
        (city, name): path
        for city in cities
        for name, path in _scan_folder(
            os.path.join(folder, city), template
        ).items()
    }


def _scan_folder(folder, template):
    before, after = template.rpartition("/")[2].split("{id}")
    start, end = len(before), -len(after)
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            file = entry.name
            if after == ".*":
                name, suffix = os.path.splitext(file)
                if suffix.lower() not in IMAGE_SUFFIXES:
                    continue
            elif file.endswith(after) and file.startswith(before):
                name = file[start:end]
            else:
                continue
            # The Finder and others leave such beside the true ones.
            if file[0] == ".":
                continue
            if not _is(entry.is_file):
                raise ValueError(
                    f"{entry.path} bears an image's name, but is "
                    f"{_describe(entry.path)}. Rename it or move it away."
                )
            if name in found:
                raise ValueError(
                    f"Both {found[name]} and {entry.path} are called {name!r}. "
                    "Expected one file of that name; move the other away."
                )
            found[name] = entry.path
    return found


def _is(question):
    try:
        return question()
    # A loop of links.
    except OSError:
        return False


def _describe(path):
    if os.path.isdir(path):
        return "a folder"
    if os.path.islink(path):
        return f"a link that leads nowhere ({os.readlink(path)!r})"
    return "no file" if os.path.exists(path) else "not there"


def _check_listed(dataset, list_path, pairs, split):
    """Checks that listed files exist, and reads each folder only once."""
    names = {}
    missing = []
    for path in (path for pair in pairs for path in pair):
        folder, name = os.path.split(path)
        if folder not in names:
            names[folder] = _file_names(folder)
        # Some file systems know a name in another spelling.
        if name not in names[folder] and not os.path.isfile(path):
            missing.append(path)
    if missing:
        only_labels = {pair.label for pair in pairs}.issuperset(missing)
        remedy = _how_made(dataset, split) if only_labels else ""
        raise FileNotFoundError(
            f"{list_path} lists {2 * len(pairs)} files and {len(missing)} of "
            f"them are not there, the first is {missing[0]} (it is "
            f"{_describe(missing[0])}). {remedy}Add them or remove their lines."
        )


def _file_names(folder):
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if _is(entry.is_file)}
    # No such folder, or none can have that name.
    except (OSError, ValueError):
        return set()
