"""The 10,582 training labels of PASCAL VOC 2012 with SBD (`trainaug`).

Reads VOC 2012 and the Semantic Boundaries Dataset (benchmark.tgz); writes
VOC2012/SegmentationClassAug/*.png (palette, class numbers) and
VOC2012/ImageSets/Segmentation/trainaug.txt.

The list is what VOC's train and SBD's train and val have together, less VOC's
val. VOC's own labels, whose borders are void, are taken where there are any.
"""

import sys

import numpy as np
from mat_labels import check_list
from mat_labels import convert_all
from mat_labels import find_folder
from mat_labels import parser
from mat_labels import read_ids
from mat_labels import read_mat
from mat_labels import run
from mat_labels import write_list
from PIL import Image

COUNT = 10_582


def make_label(path):
    """The class numbers of SBD's .mat or of VOC's palette PNG."""
    if path.suffix == ".mat":
        label = read_mat(path, "GTcls", "Segmentation", highest=20)
        return label.astype("uint8")
    try:
        with Image.open(path, formats=["PNG"]) as image:
            label = np.array(image)
    # Pillow's decoders have no common error for broken files.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Unpack VOC 2012 again."
        ) from error
    if label.ndim != 2 or not set(np.unique(label)) <= {*range(21), 255}:
        raise ValueError(
            f"{path} is no label of VOC 2012. Expected class numbers, 0-20 and "
            "255; unpack it again."
        )
    return label


def main():
    arguments = parser(
        "Makes the labels and the list of VOC 2012's split `trainaug` from "
        "SBD's .mat files.",
        "training/prepare/voc_aug.py VOCdevkit/VOC2012 benchmark_RELEASE",
    )
    arguments.add_argument(
        "voc", metavar="VOC", help="folder VOC2012, or that of VOCdevkit"
    )
    arguments.add_argument(
        "sbd", metavar="SBD", help="folder benchmark_RELEASE, or its dataset/"
    )
    arguments = arguments.parse_args()
    lists = "ImageSets/Segmentation"
    voc = find_folder(arguments.voc, lists, "VOC2012", "VOCdevkit/VOC2012")
    sbd = find_folder(
        arguments.sbd, "cls", "dataset", "benchmark_RELEASE/dataset"
    )
    train = set(read_ids(voc / lists / "train.txt"))
    val = set(read_ids(voc / lists / "val.txt"))
    both = read_ids(sbd / "train.txt", sbd / "val.txt")
    ids = sorted(train.union(both) - val)
    check_list(voc / lists / "trainaug.txt", ids)
    failed = convert_all(
        {
            name: voc / "SegmentationClass" / f"{name}.png"
            if name in train
            else sbd / "cls" / f"{name}.mat"
            for name in ids
        },
        make_label,
        voc / "SegmentationClassAug",
        arguments.jobs,
    )
    if failed:
        print("The list is not written; run this again.", file=sys.stderr)
        return 1
    write_list(voc / lists / "trainaug.txt", ids)
    print(f"{voc / lists / 'trainaug.txt'}: {len(ids)} names", end="")
    print("" if len(ids) == COUNT else f"; officially {COUNT}")
    return 0


if __name__ == "__main__":
    run(main)
