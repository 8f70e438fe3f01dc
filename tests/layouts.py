"""The official layouts of data sets, laid out small in a folder."""

from keras_danet.data.datasets import get_dataset
from keras_danet.data.files import Pair

# Of each layout as it is unpacked, two pairs of a split: folder below which it
# lies, split, files (image, label), lists.
LAYOUTS = {
    "cityscapes": (
        "",
        "val",
        [
            (
                f"leftImg8bit/val/{city}/{name}_leftImg8bit.png",
                f"gtFine/val/{city}/{name}_gtFine_labelIds.png",
            )
            for city, name in (
                ("frankfurt", "frankfurt_000000_000294"),
                ("lindau", "lindau_000000_000019"),
            )
        ],
        {
            # What else the archive has, beside the labels.
            "gtFine/val/lindau/lindau_000000_000019_gtFine_color.png": "",
            "gtFine/val/lindau/lindau_000000_000019_gtFine_polygons.json": "",
            "gtFine/val/lindau/.DS_Store": "",
            "README": "",
        },
    ),
    "cityscapes train_extra": (
        "",
        "train_extra",
        [
            (
                f"leftImg8bit/train_extra/ulm/ulm_{n}_leftImg8bit.png",
                f"gtCoarse/train_extra/ulm/ulm_{n}_gtCoarse_labelIds.png",
            )
            for n in ("000000_000002", "000001_000001")
        ],
        {},
    ),
    "cityscapes train_coarse": (
        "",
        "train_coarse",
        [
            (
                "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
                "gtCoarse/train/ulm/ulm_000000_000019_gtCoarse_labelIds.png",
            )
        ],
        {},
    ),
    "voc2012": (
        "VOCdevkit/VOC2012",
        "trainval",
        [
            (f"JPEGImages/{n}.jpg", f"SegmentationClass/{n}.png")
            for n in ("2011_003271", "2007_000032")
        ],
        {
            "ImageSets/Segmentation/trainval.txt": "2011_003271\n2007_000032\n",
            "JPEGImages/2008_000008.jpg": "",
        },
    ),
    "voc2012 trainaug": (
        "VOC2012",
        "trainaug",
        [
            (f"JPEGImages/{n}.jpg", f"SegmentationClassAug/{n}.png")
            for n in ("2008_000008", "2008_000015")
        ],
        {"ImageSets/Segmentation/trainaug.txt": "2008_000008\n2008_000015"},
    ),
    "pascal_context": (
        "VOCdevkit/VOC2010",
        "val",
        [("JPEGImages/2008_2.jpg", "SegmentationClassContext/2008_2.png")],
        {"ImageSets/SegmentationContext/val.txt": "2008_2\n"},
    ),
    "coco_stuff10k": (
        "",
        "test",
        [
            (f"images/{n}.jpg", f"annotations_png/{n}.png")
            for n in (
                "COCO_train2014_000000000077",
                "COCO_train2014_000000000034",
            )
        ],
        {
            "imageLists/test.txt": "COCO_train2014_000000000077\n"
            "COCO_train2014_000000000034\n",
            "annotations/COCO_train2014_000000000034.mat": "",
        },
    ),
    "coco_stuff164k": (
        "",
        "val",
        [
            (f"images/val2017/{n}.jpg", f"annotations/val2017/{n}.png")
            for n in ("000000000139", "000000000285")
        ],
        {},
    ),
    "ade20k": (
        "ADEChallengeData2016",
        "train",
        [
            (f"images/training/{n}.jpg", f"annotations/training/{n}.png")
            for n in ("ADE_train_00000001", "ADE_train_00000002")
        ],
        {
            "sceneCategories.txt": "ADE_train_00000001 airport_terminal",
            "images/training/._ADE_train_00000001.jpg": "",
        },
    ),
}

LAYOUTS["pascal_context60"] = LAYOUTS["pascal_context"]
LAYOUTS["pascal_context60 train"] = (
    "VOCdevkit/VOC2010",
    "train",
    [
        (f"JPEGImages/{n}.jpg", f"SegmentationClassContext/{n}.png")
        for n in ("2008_000008", "2008_000015")
    ],
    {"ImageSets/SegmentationContext/train.txt": "2008_000008\n2008_000015\n"},
)
LAYOUTS["camvid"] = (
    "CamVid",
    "train",
    [
        (f"train/{n}.png", f"trainannot/{n}.png")
        for n in ("0001TP_006690", "0001TP_006720")
    ],
    {
        "train.txt": "".join(
            f"/SegNet/CamVid/train/{n}.png /SegNet/CamVid/trainannot/{n}.png\n"
            for n in ("0001TP_006690", "0001TP_006720")
        ),
    },
)


def _other_split(name, split, *changes):
    """A layout of another split: the same paths and lists with `changes`."""
    folder, _, pairs, others = LAYOUTS[name]

    def changed(text):
        for old, new in changes:
            text = text.replace(old, new)
        return text

    return (
        folder,
        split,
        [tuple(map(changed, pair)) for pair in pairs],
        {changed(path): changed(text) for path, text in others.items()},
    )


LAYOUTS |= {
    "cityscapes train": _other_split(
        *("cityscapes", "train", ("/val/", "/train/"))
    ),
    "voc2012 val": _other_split(
        *("voc2012 trainaug", "val", ("trainaug", "val"), ("ClassAug", "Class"))
    ),
    "coco_stuff10k train": _other_split(
        *("coco_stuff10k", "train", ("test.txt", "train.txt"))
    ),
    "coco_stuff164k train": _other_split(
        *("coco_stuff164k", "train", ("val2017", "train2017"))
    ),
    "ade20k val": _other_split(
        *("ade20k", "val", ("training", "validation"), ("train", "val"))
    ),
    "camvid val": _other_split("camvid", "val", ("train", "val")),
}


def lay_out(root, name):
    """Makes the files of a layout, all empty; gives its dataset and pairs."""
    folder, split, pairs, others = LAYOUTS[name]
    for path in (path for pair in pairs for path in pair):
        (root / folder / path).parent.mkdir(parents=True, exist_ok=True)
        (root / folder / path).touch()
    for path, text in others.items():
        (root / folder / path).parent.mkdir(parents=True, exist_ok=True)
        (root / folder / path).write_text(text)
    paths = [[str(root / folder / path) for path in pair] for pair in pairs]
    return get_dataset(name.split()[0]), split, [Pair(*pair) for pair in paths]
