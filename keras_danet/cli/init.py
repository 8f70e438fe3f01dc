"""`keras-danet init`: a recipe for your own folder."""

import json
import pathlib

# Batches of a first training.
STEPS = 8000
MOST_EPOCHS = 400
BATCH_SIZE = 8
LARGEST_CROP = 512
SMALLEST_CROP = 32
# Larger photos are scaled down, so that a crop shows more than a detail.
LARGEST_SIDE = 1280
# Files to look into: enough to find the usual size, and quick.
NUM_LOOKED_AT = 200
SPLITS = {
    "train": ("train", "training", "all"),
    "val": ("val", "valid", "validation", "test"),
}

RECIPE = '''\
"""DANet-ResNet18 on {title}.

Written by `keras-danet init` from what is in the folder; change what you
know better. `keras-danet train --help` lists every key.

Data: {counts}; images of {sizes} pixels (height x width);
    {num_classes} classes: {classes}.
Command: keras-danet train THIS_FILE.py
Hardware: any; a GPU if there is one.
Expected mean IoU: not known
Measured: not yet
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="folder",
    data_root={root!r},
    train_split={train!r},
{note}    val_split={val!r},
    epochs={epochs},
    batch_size={batch_size},
    val_every={val_every},
    augmentation={{
        # Height and width in pixels of the part of an image that is trained
        # on at a time.
        "crop_size": {crop_size},
{long_side}    }},
    model={{
        "depth": 18,
        # A network with ImageNet's weights needs far fewer images. They are
        # downloaded once:
        # "backbone_weights": "resnet18_imagenet",
    }},
    optimization={{"learning_rate": {learning_rate}}},
)
'''
UNMEASURED = (
    "    # There is no other split, so it is measured on its training data.\n"
    "    # Better to move some into images/val and masks/val.\n"
)


def add(verbs):
    verb = verbs.add_parser(
        "init",
        help="write a recipe for a folder of your own images and masks",
        description="Looks into a folder of images and masks and prints a "
        "recipe for it: keras-danet init FOLDER > recipe.py. The folder holds "
        "images/ and masks/ with the same names (or images/train/, "
        "masks/train/ and so on, or a pairs.csv) and a classes.json; if that "
        "is missing, one is proposed.",
    )
    verb.add_argument(
        "folder", metavar="FOLDER", help="folder of images and masks"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet.data.folder import CLASSES_FILE
    from keras_danet.data.folder import open_dataset

    folder = pathlib.Path(arguments.folder)
    if folder.is_dir() and not (folder / CLASSES_FILE).exists():
        raise FileNotFoundError(_proposal(folder, CLASSES_FILE))
    print(write_recipe(open_dataset("folder", folder), folder), end="")
    return 0


def write_recipe(dataset, folder):
    """The text of a recipe for your own `Dataset`."""
    import statistics

    from keras_danet.data.decoding import read_pair_size
    from keras_danet.data.files import find_pairs
    from keras_danet.recipe import TrainConfig

    train, val = _splits(dataset)
    counts = {
        split: len(find_pairs(dataset, folder, split))
        for split in dict.fromkeys((train, val))
    }
    pairs = find_pairs(dataset, folder, train)
    looked_at = pairs[:: -(-len(pairs) // NUM_LOOKED_AT)]
    sizes = sorted(map(read_pair_size, looked_at))
    is_large = statistics.median(map(max, sizes)) > LARGEST_SIDE
    batch_size = min(BATCH_SIZE, len(pairs))
    epochs = -(-STEPS // (len(pairs) // batch_size))
    epochs = max(10, min(MOST_EPOCHS, epochs))
    values = {
        "train_split": train,
        "val_split": val,
        "epochs": epochs,
        "batch_size": batch_size,
        "crop_size": _crop_size(sizes, LARGEST_SIDE if is_large else None),
        "val_every": max(1, epochs // 20),
        # In proportion to the batch, 0.01 for 8.
        "learning_rate": 0.01 * batch_size / BATCH_SIZE,
        "data_root": str(folder.absolute()),
    }
    if is_large:
        values["long_side"] = LARGEST_SIDE
    # Errors are raised here rather than by the recipe.
    TrainConfig.from_keys({"dataset": "folder", "depth": 18, **values})
    return RECIPE.format(
        title="your own folder",
        counts=_within_docstring(
            ", ".join(f"{n} pairs in {s!r}" for s, n in counts.items())
        ),
        sizes=" to ".join(
            dict.fromkeys(f"{h} x {w}" for h, w in (sizes[0], sizes[-1]))
        ),
        num_classes=dataset.num_classes,
        classes=_within_docstring(", ".join(dataset.class_names)),
        root=values["data_root"],
        train=train,
        val=val,
        note=UNMEASURED if train == val else "",
        long_side="        # The longer side at scale 1.\n"
        f'        "long_side": {LARGEST_SIDE},\n'
        if is_large
        else "",
        **{
            name: values[name]
            for name in (
                *("epochs", "batch_size", "crop_size"),
                *("val_every", "learning_rate"),
            )
        },
    )


def _splits(dataset):
    """The names of the splits to train on and to measure on."""
    found = {
        use: next((n for n in names if n in dataset.splits), None)
        for use, names in SPLITS.items()
    }
    if found["train"] is None and len(dataset.splits) == 1:
        (found["train"],) = dataset.splits
    if found["train"] is None:
        raise ValueError(
            "There is no split to train on. Expected one of "
            f"{', '.join(SPLITS['train'])}. Received: "
            f"{', '.join(dataset.splits)}. Rename one."
        )
    return found["train"], found["val"] or found["train"]


def _crop_size(sizes, long_side):
    """(height, width), multiples of 16, that nine of ten images reach."""
    if long_side:
        sizes = [[n * long_side / max(size) for n in size] for size in sizes]
    crop = []
    # With portrait and landscape photos, both sides get the shorter one.
    for sides in zip(*sizes, strict=True):
        side = min(int(sorted(sides)[len(sides) // 10]), LARGEST_CROP)
        crop.append(max(side // 16 * 16, SMALLEST_CROP))
    return tuple(crop)


def _within_docstring(text):
    # Names come from other people's files, and the recipe is run as code.
    text = text if len(text) <= 300 else text[:300] + " ..."
    return text.replace("\\", "\\\\").replace('"', "'")


def _proposal(folder, name):
    """What to write into a missing `classes.json`, going by the masks."""
    path = folder / name
    start = f"There is no {path}, which names the classes."
    masks = sorted((folder / "masks").rglob("*.png"))
    if not masks:
        return (
            f"{start} Expected it beside images/ and masks/, an entry for each "
            'class, such as {"classes": [{"name": "background", "value": 0}, '
            '{"name": "road", "value": 1}], "ignore": [255]}. Received: a '
            "folder without masks/*.png."
        )
    looked_at = masks[:: -(-len(masks) // NUM_LOOKED_AT)]
    found = set()
    for mask in looked_at:
        found |= _values(mask)
        if len(found) > 256:
            return (
                f"{start} {mask} and the masks before it have more than 256 "
                "values, so they are not masks of classes. Expected PNGs "
                "whose pixels are numbers or colours of classes."
            )
    colors = {value for value in found if isinstance(value, tuple)}
    if colors and colors != found:
        return f"{start} Some masks hold numbers of classes and others colours."
    # 255 is ignored by default.
    used = sorted(colors or found - {255})
    key = "color" if colors else "value"
    proposal = {
        "classes": [
            {"name": f"class {place}", key: value}
            for place, value in enumerate(used)
        ],
        "labels": "colors" if colors else "indices",
    }
    return (
        f"{start} Save this as {path}, with the names of your classes, and "
        f"run the command again (found in {len(looked_at)} of {len(masks)} "
        f"masks): {json.dumps(proposal)}"
    )


def _values(mask):
    """The numbers, or (red, green, blue), that are in a mask."""
    import dataclasses

    import numpy as np

    from keras_danet.data.datasets import get_dataset
    from keras_danet.data.decoding import read_raw_label

    numbers = get_dataset("scenes")
    try:
        return set(np.unique(read_raw_label(mask, numbers)).tolist())
    except ValueError:
        colors = dataclasses.replace(numbers, label_colors={(0, 0, 0): 0})
        found = np.unique(read_raw_label(mask, colors)).tolist()
        return {(c >> 16, c >> 8 & 255, c & 255) for c in found}
