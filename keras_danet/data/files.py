"""Finds the (image, label) pairs of a data set in its official layout."""

import os
import shlex
from pathlib import Path
from typing import NamedTuple

from keras_danet.arguments import did_you_mean
from keras_danet.data.lists import read_list

PACKAGE = Path(__file__).parents[1]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
# Also images, but training does not read them.
OTHER_SUFFIXES = (".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".jp2")


class Pair(NamedTuple):
    """The paths of an image and its label."""

    image: str
    label: str


def find_pairs(dataset, root, split):
    """Finds the pairs of one split in the layout of the download.

    If the layout has lists, they say which pairs there are, and in which
    order. Otherwise all those in the folders are taken, sorted by name; each
    folder is read once, and no file is opened. The number of pairs is not
    compared with the official one.

    Args:
        dataset: A `Dataset`.
        root: String or path, the data set's folder or the folder in which
            its archives were unpacked.
        split: String, one of `dataset.splits`.

    Returns:
        List of `Pair`, each naming two files that exist.

    Raises:
        FileNotFoundError: if a folder, the list or a file is missing.
        ValueError: if the data set has no such split, the split is empty, an
            image has no label or a label no image, something that is not a
            file has the name of one, or the list is malformed, names a file
            twice or leads out of `root`.
    """
    pairs, _, error = search_pairs(dataset, root, split)
    if error:
        raise error
    return pairs


def search_pairs(dataset, root, split):
    """Finds the pairs of one split, and what it lacks to be complete.

    Returns:
        (pairs, problems, error): the list of `Pair` found; a sentence for
        each file that is missing, without a partner or odd; and the exception
        that `find_pairs` raises for them, or `None`.

    Raises:
        FileNotFoundError: if there is no folder or list to search.
        ValueError: if the data set has no such split, the split is empty or
            its list malformed.
    """
    _check_split(dataset, split)
    facts = dataset.splits[split]
    if facts.images_only:
        raise ValueError(
            f"The labels of split {split!r} of {dataset.title} are not "
            "published: its server has them. Expected a split with labels, "
            "or `keras-danet evaluate ... --submission FOLDER`, which writes "
            "what the server wants."
        )
    root = _find_root(dataset, Path(root), split)
    if facts.list_path is None:
        return _search_folders(dataset, root, split)
    pairs = [Pair(*paths) for paths in read_list(facts, root, split)]
    return _search_listed(dataset, root / facts.list_path, pairs, split)


def find_images(dataset, root, split):
    """Finds the images of one split, whether they have labels or not.

    Args:
        dataset, root, split: As for `find_pairs`.

    Returns:
        List of paths that exist, sorted, or in the order of the list.

    Raises:
        FileNotFoundError: if the folder, the list or an image is missing.
        ValueError: if the data set has no such split, it is empty, or
            something that is no file has the name of an image.
    """
    _check_split(dataset, split)
    facts = dataset.splits[split]
    root = _find_root(dataset, Path(root), split)
    if facts.list_path:
        images = [image for image, _ in read_list(facts, root, split)]
        missing = [path for path in images if not os.path.isfile(path)]
        if missing:
            raise FileNotFoundError(
                f"{root / facts.list_path} lists {len(images)} images and "
                f"{len(missing)} of them are missing; the first is "
                f"{missing[0]}. Add them or remove their lines."
            )
        return images
    odd = []
    found = _scan(root, facts.image, odd)
    if odd:
        raise ValueError(odd[0])
    if not found:
        raise ValueError(
            f"Split {split!r} of {dataset.title} is empty: no file is called "
            f"{root / facts.image}. Put the images there (see {dataset.url})."
        )
    return [found[key] for key in sorted(found)]


def find_splits(dataset, root, splits=None):
    """The splits of a data set that are present, complete or not.

    A split is present if its list, or the folder of its images, and the
    folder of its labels exist.

    Args:
        dataset: A `Dataset`.
        root: String or path, as for `find_pairs`.
        splits: Iterable of strings, those that must be present. Defaults to
            `None`, which finds all that are.

    Returns:
        List of strings, names of splits.

    Raises:
        FileNotFoundError: if one that must be present is not, or none is.
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
            f"{dataset.title} has no split {split!r}; it has: "
            f"{', '.join(dataset.splits)}."
            f"{did_you_mean(split, dataset.splits)}"
        )


def _present_splits(dataset, root):
    return [
        split
        for split, facts in dataset.splits.items()
        if not facts.images_only
        and any(
            _is_in(place, facts) and (place / _folder_of(facts.label)).is_dir()
            for place in _places(dataset, root)
        )
    ]


def _places(dataset, root):
    return [root, *(root / folder for folder in dataset.folders)]


def _needed(facts):
    return facts.list_path or _folder_of(facts.image)


def _is_in(place, facts):
    path = place / _needed(facts)
    return path.is_file() if facts.list_path else path.is_dir()


def _find_root(dataset, root, split):
    """The folder that the paths in a split's facts are relative to."""
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
        f"Use one of the splits that are present: {', '.join(present)}."
        if present
        else f"None of {dataset.title}'s splits is present; is {root} its root "
        f"(see {dataset.url})?"
    )
    raise FileNotFoundError(
        f"There is no {kind} {root / needs}{beside} for split {split!r} of "
        f"{dataset.title}. {_how_made(dataset, split)}{remedy}"
    )


def _how_made(dataset, split):
    script = dataset.splits[split].made_by
    if not script:
        return ""
    # An installed package carries `training/`.
    carried = PACKAGE / "recipes" / script.removeprefix("training/")
    if carried.is_file():
        script = shlex.quote(str(carried))
    return (
        f"{dataset.title}'s download lacks it; `python {script}` makes it "
        "(--help says how). "
    )


def _folder_of(template):
    return template.partition("{")[0].rpartition("/")[0]


def _search_folders(dataset, root, split):
    facts = dataset.splits[split]
    label_folder = root / _folder_of(facts.label)
    if not label_folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {label_folder} with the labels of split "
            f"{split!r} of {dataset.title}. Unpack them there (see "
            f"{dataset.url})."
        )
    odd = []
    images = _scan(root, facts.image, odd)
    labels = {
        key: path
        for key, path in _scan(root, facts.label, odd).items()
        if not key[1].endswith(facts.beside)
    }
    if not images and not labels and not odd:
        raise ValueError(
            f"Split {split!r} of {dataset.title} is empty: no file is called "
            f"{root / facts.image}. Put the images there (see {dataset.url})."
        )
    problems, summary = list(odd), []
    for these, files, those, alone, template in (
        ("images", images, "label", images.keys() - labels, facts.label),
        ("labels", labels, "image", labels.keys() - images, facts.image),
    ):
        alone = sorted(alone)
        problems += [
            f"{files[key]} has no {those} {_fill(root, template, key)}. Add "
            "it, or move the file without a partner away."
            for key in alone
        ]
        if alone:
            summary.append(
                f"{len(alone)} {these} have no {those}, the first is "
                f"{files[alone[0]]} (expected "
                f"{_fill(root, template, alone[0])})"
            )
    error = None
    if odd:
        error = ValueError(odd[0])
    elif summary:
        error = ValueError(
            f"Split {split!r} of {dataset.title} is incomplete: "
            f"{'; '.join(summary)}. Add what is missing (unpack the archives "
            "again), or move the files without a partner away."
        )
    both = sorted(images.keys() & labels)
    return [Pair(images[key], labels[key]) for key in both], problems, error


def _fill(root, template, key):
    city, name = key
    return os.path.join(root, template.format(city=city, id=name))


def _scan(root, template, odd):
    """Maps (city, name) to the paths of the files that a template describes.

    What has such a name but cannot be used is described in `odd`. Links to
    folders are followed one level deep and no further, so that a loop of
    links cannot stall it.
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
            os.path.join(folder, city), template, odd
        ).items()
    }


def _scan_folder(folder, template, odd):
    before, after = template.rpartition("/")[2].split("{id}")
    start, end = len(before), -len(after)
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            file = entry.name
            if after == ".*":
                name, suffix = os.path.splitext(file)
                if suffix.lower() in OTHER_SUFFIXES and file[0] != ".":
                    odd.append(
                        f"{entry.path} is not a PNG or JPEG. Convert it, or "
                        "move it away."
                    )
                if suffix.lower() not in IMAGE_SUFFIXES:
                    continue
            elif file.endswith(after) and file.startswith(before):
                name = file[start:end]
            else:
                continue
            # The Finder and others leave hidden copies beside the real files.
            if file[0] == ".":
                continue
            if not _is(entry.is_file):
                odd.append(
                    f"{entry.path} has an image's name, but is "
                    f"{_describe(entry.path)}. Rename it or move it away."
                )
            elif name in found:
                odd.append(
                    f"Both {found[name]} and {entry.path} are called {name!r}. "
                    "Expected one file of that name; move one away."
                )
            else:
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
    return "not a file" if os.path.exists(path) else "not there"


def _search_listed(dataset, list_path, pairs, split):
    """Checks that listed files exist, and reads each folder only once."""
    names = {}
    missing = []
    for path in (path for pair in pairs for path in pair):
        folder, name = os.path.split(path)
        if folder not in names:
            names[folder] = _file_names(folder)
        # Some file systems also accept another spelling of a name.
        if name not in names[folder] and not os.path.isfile(path):
            missing.append(path)
    if not missing:
        return pairs, [], None
    only_labels = {pair.label for pair in pairs}.issuperset(missing)
    made = _how_made(dataset, split) if only_labels else ""
    error = FileNotFoundError(
        f"{list_path} lists {2 * len(pairs)} files and {len(missing)} of "
        f"them are missing; the first is {missing[0]} (it is "
        f"{_describe(missing[0])}). {made}Add them or remove their lines."
    )
    problems = [
        f"{list_path} lists {path}, which is {_describe(path)}. {made}Add it "
        "or remove its line."
        for path in missing
    ]
    gone = set(missing)
    return [pair for pair in pairs if not gone & {*pair}], problems, error


def _file_names(folder):
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if _is(entry.is_file)}
    # No such folder, or a name that no folder can have.
    except (OSError, ValueError):
        return set()
