"""Labels and lists of PASCAL Context, of 60 classes (0 is the background).

Reads VOC 2010 and one of
- trainval_merged.json, PASCAL in Detail's annotation, which the published
  results use: the masks of the annotations (run lengths as COCO writes them)
  over each other in the order of the file, the last one on top, as the package
  `detail` draws them; which image is for training is said there;
- trainval/*.mat, the first release (trainval.tar.gz: LabelMap, 459 numbers),
  with VOC 2010's ImageSets/Main/{train,val}.txt.

Writes VOC2010/SegmentationClassContext/*.png (palette, 0-59; the 400 other
numbers are background) and ImageSets/SegmentationContext/{train,val}.txt.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np
from mat_labels import check_list
from mat_labels import check_name
from mat_labels import convert_all
from mat_labels import find_folder
from mat_labels import parser
from mat_labels import read_ids
from mat_labels import read_mat
from mat_labels import run
from mat_labels import write_list

COUNTS = {"train": 4998, "val": 5105}
HIGHEST = 459
MAX_JSON_BYTES = 2**32
MAX_PIXELS = 2**26
_SHAPE_ERROR = "Expected the `trainval_merged.json` of PASCAL in Detail."


def decode_mask(segmentation):
    """The pixels of a mask in COCO's compressed run lengths.

    Runs of 0 and 1 take turns, column by column. Each length is written in
    groups of five bits, the lowest first, one group a character from "0" on;
    the sixth bit says that another follows. From the fourth length on it is
    the difference to the last but one that is written, which may be negative.

    Args:
        segmentation: Dict of `size`, (height, width), and `counts`, a string.

    Returns:
        Boolean array (width, height), which is transposed.

    Raises:
        ValueError: if it is something else.
    """
    height, width = segmentation["size"]
    codes = np.frombuffer(segmentation["counts"].encode("ascii"), "uint8")
    codes = codes.astype("int64") - 48
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    groups = ends - starts + 1
    if (
        not 0 < height * width <= MAX_PIXELS
        or ((codes < 0) | (codes > 63)).any()
        or not len(ends)
        or ends[-1] != len(codes) - 1
        or groups.max() > 8
    ):
        raise ValueError("a mask is broken")
    place = np.arange(len(codes)) - np.repeat(starts, groups)
    runs = np.add.reduceat((codes & 31) << 5 * place, starts)
    runs -= np.where(codes[ends] & 16, 1 << 5 * groups, 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError("a mask does not fill its image")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height)


def label_of_masks(classes, source):
    """A label from (where, size, annotations) of one image."""
    where, size, annotations = source
    try:
        height, width = size
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"an image of {height} x {width} pixels")
        label = np.zeros((width, height), "uint8")
        for category, segmentation in annotations:
            mask = decode_mask(segmentation)
            if mask.shape != label.shape:
                raise ValueError(f"a mask is {mask.shape[::-1]}, not {size}")
            label[mask] = classes[category]
    # Whatever may be where numbers and texts were expected.
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{where}: {type(error).__name__}: {error}. {_SHAPE_ERROR}"
        ) from error
    return np.ascontiguousarray(label.T)


def label_of_mat(classes, path):
    return classes[read_mat(path, "LabelMap", highest=HIGHEST)]


def read_detail(path):
    """Sources by image, and lists by split, of trainval_merged.json."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(
            f"{path} has more than {MAX_JSON_BYTES} bytes. {_SHAPE_ERROR}"
        )
    print(f"Reading {path} ...", file=sys.stderr)
    try:
        content = json.loads(path.read_bytes())
        annotations = {}
        # As in the package `detail`, the later of the same id counts.
        by_id = {entry["id"]: entry for entry in content["annos_segmentation"]}
        for entry in by_id.values():
            annotations.setdefault(entry["image_id"], []).append(
                (entry["category_id"], entry["segmentation"])
            )
        sources = {}
        lists = {split: [] for split in COUNTS}
        for image in content["images"]:
            name = Path(image["file_name"]).stem
            check_name(name, path)
            if image["phase"] not in lists:
                continue
            lists[image["phase"]].append(name)
            sources[name] = (
                str(path),
                (image["height"], image["width"]),
                annotations.get(image["image_id"], []),
            )
    except (KeyError, TypeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is another file ({type(error).__name__}: {error}). "
            f"{_SHAPE_ERROR}"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is broken: {error}. Fetch it again."
        ) from error
    return sources, lists


def read_mats(folder, voc):
    """Sources by image, and lists by split, of trainval/*.mat."""
    lists = {
        split: read_ids(voc / "ImageSets" / "Main" / f"{split}.txt")
        for split in COUNTS
    }
    names = [name for ids in lists.values() for name in ids]
    return {name: folder / f"{name}.mat" for name in names}, lists


def find_annotation(voc, given):
    """The annotation that was named, or lies in VOC 2010's folder."""
    names = ("trainval_merged.json", "trainval")
    for path in [Path(given)] if given else [voc / name for name in names]:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"There is no annotation {given or voc / names[0]}. Fetch "
        f"{names[0]} (PASCAL in Detail) or unpack trainval.tar.gz "
        "(https://cs.stanford.edu/~roozbeh/pascal-context) there, or name it "
        "with --annotation."
    )


def main():
    arguments = parser(
        "Makes the labels and lists of PASCAL Context from "
        "trainval_merged.json or from trainval/*.mat.",
        "training/prepare/pascal_context.py VOCdevkit/VOC2010",
    )
    arguments.add_argument(
        "voc", metavar="VOC", help="folder VOC2010, or that of VOCdevkit"
    )
    arguments.add_argument(
        "--annotation",
        metavar="PATH",
        help="trainval_merged.json, or the folder of trainval.tar.gz "
        "(default: where it lies in VOC2010)",
    )
    arguments = arguments.parse_args()
    # It takes its time.
    from keras_danet.data.class_tables import CONTEXT_RAW_IDS

    classes = np.zeros(HIGHEST + 1, "uint8")
    classes[list(CONTEXT_RAW_IDS)] = range(len(CONTEXT_RAW_IDS))
    voc = find_folder(
        arguments.voc, "JPEGImages", "VOC2010", "VOCdevkit/VOC2010"
    )
    annotation = find_annotation(voc, arguments.annotation)
    if annotation.is_dir():
        sources, lists = read_mats(annotation, voc)
        make_label = label_of_mat
    else:
        sources, lists = read_detail(annotation)
        make_label = label_of_masks
    folder = voc / "ImageSets" / "SegmentationContext"
    for split, ids in lists.items():
        check_list(folder / f"{split}.txt", ids)
    failed = convert_all(
        sources,
        functools.partial(make_label, classes),
        voc / "SegmentationClassContext",
        arguments.jobs,
    )
    if failed:
        print("The lists are not written; run this again.", file=sys.stderr)
        return 1
    for split, ids in lists.items():
        write_list(folder / f"{split}.txt", ids)
        print(f"{folder / split}.txt: {len(ids)} names", end="")
        official = COUNTS[split]
        print("" if len(ids) == official else f"; officially {official}")
    return 0


if __name__ == "__main__":
    run(main)
