"""Your own data set: a folder of images, masks and a `classes.json`.

```
my_data/
    classes.json
    images/a.jpg ...          or images/train/a.jpg, images/val/b.jpg ...
    masks/a.png ...              masks/train/a.png, masks/val/b.png ...
```

Instead of both folders there may be a `pairs.csv` with the columns `image`,
`label` and, if there are splits, `split`; its paths are relative to the
folder. Without splits there is one, called `all`.

`classes.json` says what the masks hold:

```
{
  "classes": [
    {"name": "background", "value": 0},
    {"name": "road", "value": 1, "color": [128, 64, 128]}
  ],
  "ignore": [255],
  "labels": "indices"
}
```

`labels` is `"indices"` (the default: grey or palette PNGs whose pixels are
the `value` of a class) or `"colors"` (PNGs whose pixels are the `color` of a
class). Without `value` a class has its position in the list, from 0; without
`color` it is drawn in one that differs from the others. `ignore` lists the
values, or the colours, of pixels without a class. If it is left out, 255 is
ignored unless it is a class.
"""

import dataclasses
import json
import os
from pathlib import Path

from keras_danet.arguments import did_you_mean
from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.datasets import INVALID_LABEL
from keras_danet.data.datasets import Dataset
from keras_danet.data.datasets import Split
from keras_danet.data.datasets import get_dataset
from keras_danet.data.datasets import make_label_map
from keras_danet.data.lists import read_table
from keras_danet.data.lists import read_text
from keras_danet.data.palettes import default_palette
from keras_danet.text_tables import harmless

FOLDER = "folder"
CLASSES_FILE = "classes.json"
TABLE_FILE = "pairs.csv"
# 254 classes with long names take a tenth of it.
MAX_CLASSES_BYTES = 2**20
MAX_NAME_LENGTH = 200


def open_dataset(name, root):
    """The record of a data set, whether it is official or your own.

    Args:
        name: String, a key of `DATASETS`, or `"folder"`.
        root: String or path, its folder; for `"folder"`, the one that holds
            `classes.json`.

    Returns:
        A `Dataset`.

    Raises:
        FileNotFoundError: if `classes.json`, or the images and masks of a
            folder, are missing.
        ValueError: if no data set has that name, or `classes.json` or
            `pairs.csv` cannot be used.
    """
    if name != FOLDER:
        return get_dataset(name)
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {root}. Expected one that holds "
            f"{CLASSES_FILE}, images and masks."
        )
    dataset = read_classes(root / CLASSES_FILE)
    return dataclasses.replace(dataset, splits=_find_splits(root))


def read_classes(path):
    """Reads a `classes.json` into a `Dataset` without splits.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is too large, not JSON, or not valid.
    """
    path = Path(path)
    content = _read_json(path)
    _check_keys(path, "the file", content, ("classes", "ignore", "labels"))
    labels = content.get("labels", "indices")
    if labels not in ("indices", "colors"):
        raise _wrong(path, "`labels`", "'indices' or 'colors'", labels)
    classes = content.get("classes")
    if not isinstance(classes, list) or not 0 < len(classes) < INVALID_LABEL:
        expected = f"a list of 1 to {INVALID_LABEL - 1} classes"
        raise _wrong(path, "`classes`", expected, classes)
    for number, entry in enumerate(classes):
        _check_class(path, f"class {number}", entry, labels)
    names = [entry["name"] for entry in classes]
    values = [entry.get("value", place) for place, entry in enumerate(classes)]
    given = [entry["color"] for entry in classes if "color" in entry]
    others = iter(default_palette(len(classes), taken=given).tolist())
    colors = [
        tuple(entry["color"] if "color" in entry else next(others))
        for entry in classes
    ]
    used = colors if labels == "colors" else values
    ignored = _read_ignored(path, content, labels, used)
    _check_distinct(path, "name", names)
    _check_distinct(path, labels, [*used, *ignored])
    return Dataset(
        name=FOLDER,
        title=path.absolute().parent.name or FOLDER,
        class_names=tuple(names),
        palette=tuple(colors),
        label_map=make_label_map(values, ignored)
        if labels == "indices"
        else make_label_map(range(len(names)), (IGNORE_LABEL,)),
        splits={},
        licence="unknown",
        url=str(path),
        source=str(path),
        label_colors={
            **dict(zip(colors, range(len(colors)), strict=True)),
            **dict.fromkeys(ignored, IGNORE_LABEL),
        }
        if labels == "colors"
        else None,
    )


def _read_json(path):
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. Expected a file that names the classes, such "
            'as {"classes": [{"name": "background"}, {"name": "road"}]}. '
            "`keras-danet init FOLDER` prints one made from the masks of a "
            "folder."
        )
    expected = "the names and colours of some classes"
    text = read_text(path, MAX_CLASSES_BYTES, expected)

    def once(pairs):
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"{key[:MAX_NAME_LENGTH]!r} is there twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    # RecursionError: deep nesting.
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Expected JSON in UTF-8."
        ) from error


def _check_class(path, where, entry, labels):
    _check_keys(path, where, entry, ("name", "value", "color"))
    name = entry.get("name")
    if (
        not isinstance(name, str)
        or not name.strip()
        or name != harmless(name)
        or len(name) > MAX_NAME_LENGTH
    ):
        expected = (
            f"one or more words, of at most {MAX_NAME_LENGTH} characters, "
            "without line ends or other control characters"
        )
        raise _wrong(path, f"`name` of {where}", expected, name)
    if "value" in entry and not _is_level(entry["value"]):
        expected = "an integer from 0 to 255"
        raise _wrong(path, f"`value` of {where}", expected, entry["value"])
    color = entry.get("color")
    if labels == "colors" and "color" not in entry:
        expected = "[red, green, blue], because `labels` is 'colors'"
        raise _wrong(path, f"`color` of {where}", expected, color)
    if labels == "colors" and "value" in entry:
        expected = "nothing, because `labels` is 'colors'"
        raise _wrong(path, f"`value` of {where}", expected, entry["value"])
    if "color" in entry and not _is_color(color):
        expected = "[red, green, blue], three integers from 0 to 255"
        raise _wrong(path, f"`color` of {where}", expected, color)


def _check_keys(path, where, entry, known):
    if not isinstance(entry, dict):
        expected = f"an object with the keys {', '.join(known)}"
        raise _wrong(path, where, expected, entry)
    for key in entry:
        if key not in known:
            expected = f"only the keys {', '.join(known)}"
            raise _wrong(path, where, expected, key, did_you_mean(key, known))


def _check_distinct(path, what, items):
    what = {"indices": "value", "colors": "color"}.get(what, what)
    for item in items:
        if items.count(item) > 1:
            expected = f"each `{what}` once, those to ignore included"
            raise _wrong(path, f"`{what}`", expected, item)


def _read_ignored(path, content, labels, used):
    """The values or colours to ignore."""
    if "ignore" not in content:
        free = labels == "indices" and IGNORE_LABEL not in used
        return [IGNORE_LABEL] if free else []
    ignored = content["ignore"]
    kinds = {
        "indices": (_is_level, "values, integers from 0 to 255"),
        "colors": (_is_color, "colours, each [red, green, blue]"),
    }
    fits, expected = kinds[labels]
    if not isinstance(ignored, list) or not all(map(fits, ignored)):
        raise _wrong(path, "`ignore`", f"a list of {expected}", ignored)
    # There are no more values, and 256 are quick to search.
    if len(ignored) > 256:
        raise _wrong(path, "`ignore`", "at most 256", len(ignored))
    return ignored if labels == "indices" else list(map(tuple, ignored))


def _is_level(value):
    return type(value) is int and 0 <= value <= 255


def _is_color(value):
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(map(_is_level, value))
    )


def _wrong(path, what, expected, received, hint=""):
    shown = repr(received)
    shown = shown if len(shown) <= MAX_NAME_LENGTH else shown[:99] + " ..."
    return ValueError(
        f"{path}: {what} cannot be used.{hint} Expected {expected}. "
        f"Received: {shown}."
    )


def _find_splits(root):
    table = root / TABLE_FILE
    images = root / "images"
    if table.is_file():
        if images.is_dir() and (root / "masks").is_dir():
            raise ValueError(
                f"{root} has both {TABLE_FILE} and the folders images and "
                "masks. Expected one of the two; move the other away."
            )
        names = {row.get("split", "all") for _, row in read_table(table)}
        if not names:
            raise ValueError(
                f"{table} is empty. Expected an image and its label per line."
            )
        facts = Split("", "", list_path=TABLE_FILE, list_holds="table")
        return dict.fromkeys(sorted(names), facts)
    if not images.is_dir() or not (root / "masks").is_dir():
        raise FileNotFoundError(
            f"{root} has neither {TABLE_FILE} nor the folders images and "
            "masks. Expected one of the two."
        )
    names = sorted(name for name in os.listdir(images) if name[0] != ".")
    folders = [name for name in names if (images / name).is_dir()]
    if not folders:
        return {"all": Split("images/{id}.*", "masks/{id}.*")}
    if len(folders) < len(names):
        raise ValueError(
            f"{images} holds both folders, such as {folders[0]!r}, and files. "
            "Expected either a folder for each split, or only images."
        )
    return {name: _folder_split(images, name) for name in folders}


def _folder_split(images, name):
    # Braces would be taken for placeholders.
    if "{" in name or "}" in name:
        raise ValueError(
            f"{images / name} cannot name a split: it has a brace. "
            "Rename the folder."
        )
    return Split(f"images/{name}/{{id}}.*", f"masks/{name}/{{id}}.*")
