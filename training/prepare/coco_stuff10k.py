"""Labels of COCO-Stuff 10k as PNGs.

Reads imageLists/*.txt and annotations/*.mat of the unpacked
cocostuff-10k-v1.1.zip; writes annotations_png/*.png: palette PNGs of COCO's
numbers (1-182), and 0 where nothing is labelled.
"""

from mat_labels import convert_all
from mat_labels import find_folder
from mat_labels import parser
from mat_labels import read_ids
from mat_labels import read_mat
from mat_labels import run

COUNT = 10_000
HIGHEST = 182


def make_label(path):
    return read_mat(path, "S", highest=HIGHEST).astype("uint8")


def main():
    arguments = parser(
        "Makes PNGs of the labels of COCO-Stuff 10k, which are .mat files.",
        "training/prepare/coco_stuff10k.py cocostuff-10k",
    )
    arguments.add_argument(
        "root", metavar="ROOT", help="folder with annotations and imageLists"
    )
    arguments = arguments.parse_args()
    root = find_folder(arguments.root, "imageLists")
    lists = [root / "imageLists" / f"{name}.txt" for name in ("train", "test")]
    ids = sorted(read_ids(*lists))
    failed = convert_all(
        {name: root / "annotations" / f"{name}.mat" for name in ids},
        make_label,
        root / "annotations_png",
        arguments.jobs,
    )
    print(f"{root / 'annotations_png'}: {len(ids) - failed} labels", end="")
    print("" if len(ids) - failed == COUNT else f"; officially {COUNT}")
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
