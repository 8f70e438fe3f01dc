"""The scripts that make labels, run as users run them, on small downloads."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from conftest import one_backend
from PIL import Image

from keras_danet.data.class_tables import spread_color
from keras_danet.data.datasets import get_dataset
from keras_danet.data.decoding import read_pair
from keras_danet.data.files import find_pairs

scipy_io = pytest.importorskip("scipy.io")

PREPARE = ROOT / "training" / "prepare"
sys.path.append(str(PREPARE))
import mat_labels  # noqa: E402
import pascal_context  # noqa: E402

pytestmark = one_backend


def run(script, *arguments):
    done = subprocess.run(
        [
            sys.executable,
            str(PREPARE / f"{script}.py"),
            "--jobs=1",
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def save_mat(path, name, label, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(path, {name: label, "more": "x"}, **options)


def save_sbd(path, label):
    # MATLAB's struct arrays; SBD has a field of boundaries as well.
    save_mat(
        path,
        "GTcls",
        {"Segmentation": label, "Boundaries": np.zeros(3)},
        do_compression=True,
    )


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def noise(high, shape=(5, 7), dtype="uint8"):
    return np.random.default_rng(high).integers(0, high, shape, dtype)


@pytest.fixture
def voc(tmp_path):
    """VOC and SBD: what each of them has of a to g."""
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    write(lists / "train.txt", "a\nb\n")
    write(lists / "val.txt", "c\nd\n")
    sbd = tmp_path / "benchmark_RELEASE/dataset"
    write(sbd / "train.txt", "b\nc\nf\n")
    write(sbd / "val.txt", "d\ne\n")
    for name in "bcdef":
        save_sbd(sbd / f"cls/{name}.mat", noise(21))
    labels = tmp_path / "VOCdevkit/VOC2012/SegmentationClass"
    labels.mkdir()
    for name in "abcd":
        image = Image.fromarray(noise(20), "P")
        image.putpalette([c for n in range(256) for c in spread_color(n)])
        image.putpixel((0, 0), 255)
        image.save(labels / f"{name}.png")
    images = tmp_path / "VOCdevkit/VOC2012/JPEGImages"
    images.mkdir()
    for name in "abcdef":
        (images / f"{name}.jpg").touch()
    return tmp_path


def test_voc_aug(voc):
    before = contents(voc)
    done = run("voc_aug", voc, voc)
    assert done.returncode == 0, done.stderr
    assert "trainaug.txt: 4 names; officially 10582" in done.stdout
    assert "4/4 made" in done.stderr
    after = contents(voc)
    # Nothing else came, nothing that was there changed.
    folder = "VOCdevkit/VOC2012"
    assert after.keys() - before.keys() == {
        f"{folder}/ImageSets/Segmentation/trainaug.txt",
        *(f"{folder}/SegmentationClassAug/{name}.png" for name in "abef"),
    }
    assert before.items() <= after.items()
    pairs = find_pairs(get_dataset("voc2012"), voc, "trainaug")
    assert [Path(pair.image).stem for pair in pairs] == list("abef")
    labels = {Path(p.label).stem: Image.open(p.label) for p in pairs}
    assert {label.mode for label in labels.values()} == {"P"}
    # A viewer shows VOC's colours.
    shown = labels["a"].convert("RGB").getpixel((1, 1))
    assert shown == spread_color(labels["a"].getpixel((1, 1)))
    # VOC's own with their void borders, SBD's for the rest.
    own = noise(20)
    own[0, 0] = 255
    for name, expected in zip(
        "abef", (own, own, *[noise(21)] * 2), strict=True
    ):
        np.testing.assert_array_equal(labels[name], expected)


def test_voc_aug_names_bad_files_and_goes_on(voc):
    bad = voc / "benchmark_RELEASE/dataset/cls/e.mat"
    good = bad.read_bytes()
    bad.write_bytes(good[:200])
    (voc / "VOCdevkit/VOC2012/SegmentationClass/a.png").write_bytes(b"no")
    done = run("voc_aug", voc / "VOCdevkit/VOC2012", bad.parents[1])
    assert done.returncode == 1
    assert "cls/e.mat cannot be read" in done.stderr
    assert "SegmentationClass/a.png cannot be read" in done.stderr
    assert "4/4 made, 2 failed" in done.stderr
    made = voc / "VOCdevkit/VOC2012/SegmentationClassAug"
    assert sorted(p.name for p in made.iterdir()) == ["b.png", "f.png"]
    trainaug = made.parent / "ImageSets/Segmentation/trainaug.txt"
    assert not trainaug.exists()

    # Once mended, only what is missing is made; a cut file is missing.
    bad.write_bytes(good)
    Image.fromarray(noise(20)).save(made.parent / "SegmentationClass/a.png")
    kept = (made / "b.png").stat().st_mtime_ns
    (made / "f.png").write_bytes((made / "f.png").read_bytes()[:-3])
    done = run("voc_aug", voc, voc)
    assert done.returncode == 0
    assert "1 of them there already" in done.stderr
    assert (made / "b.png").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(Image.open(made / "f.png"), noise(21))
    assert trainaug.read_text() == "a\nb\ne\nf\n"

    done = run("voc_aug", voc, voc)
    assert done.returncode == 0
    assert "4 of them there already" in done.stderr
    trainaug.write_text("a\n")
    done = run("voc_aug", voc, voc)
    assert done.returncode == 2
    assert "trainaug.txt exists and lists other names (1, not the 4" in (
        done.stderr
    )
    assert trainaug.read_text() == "a\n"


def test_folders_that_are_not_there(tmp_path):
    done = run("voc_aug", tmp_path, tmp_path)
    assert done.returncode == 2
    for place in ("ImageSets/Segmentation", "VOC2012/ImageSets/Segmentation"):
        assert f"{tmp_path}/{place}" in done.stderr
    done = run("coco_stuff10k", tmp_path)
    assert done.returncode == 2 and "imageLists" in done.stderr
    assert run("coco_stuff10k").returncode == 2
    done = run("coco_stuff10k", "--help")
    assert done.returncode == 0
    assert "python training/prepare/coco_stuff10k.py cocostuff" in done.stdout


def test_coco_stuff10k(tmp_path):
    names = [f"COCO_train2014_{n:012d}" for n in (77, 34, 9)]
    write(tmp_path / "imageLists/train.txt", f"{names[0]}\n{names[1]}\n")
    write(tmp_path / "imageLists/test.txt", f"{names[2]}\n")
    raw = noise(183)
    raw[raw == 12] = 13
    for name, label in zip(
        names, (raw, raw.astype("uint16"), raw.astype("float64")), strict=True
    ):
        save_mat(tmp_path / f"annotations/{name}.mat", "S", label)
    before = contents(tmp_path)
    done = run("coco_stuff10k", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "annotations_png: 3 labels; officially 10000" in done.stdout
    assert before.items() <= contents(tmp_path).items()
    for name in names:
        label = Image.open(tmp_path / f"annotations_png/{name}.png")
        assert label.mode == "P"
        np.testing.assert_array_equal(label, raw)
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / f"images/{name}.jpg").touch()
    dataset = get_dataset("coco_stuff10k")
    assert len(find_pairs(dataset, tmp_path, "train")) == 2
    assert len(find_pairs(dataset, tmp_path, "test")) == 1


@pytest.fixture
def context(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2010"
    write(root / "ImageSets/Main/train.txt", "2008_000002\n2008_000003\n")
    write(root / "ImageSets/Main/val.txt", "2008_000007\n")
    (root / "JPEGImages").mkdir()
    for name in ("2008_000002", "2008_000003", "2008_000007"):
        image = Image.fromarray(np.zeros((5, 4, 3), "uint8"))
        image.save(root / f"JPEGImages/{name}.jpg")
    return root


def test_pascal_context_from_mat(context):
    raw = np.array([[0, 2, 9, 458], [1, 431, 459, 454]] * 2 + [[2] * 4])
    for name in ("2008_000002", "2008_000003", "2008_000007"):
        save_mat(
            context / f"trainval/{name}.mat", "LabelMap", raw.astype("uint16")
        )
    before = contents(context)
    done = run("pascal_context", context.parents[1])
    assert done.returncode == 0, done.stderr
    assert "train.txt: 2 names; officially 4998" in done.stdout
    assert "val.txt: 1 names; officially 5105" in done.stdout
    assert before.items() <= contents(context).items()
    sixty, fifty_nine = (
        get_dataset(f"pascal_context{suffix}") for suffix in ("60", "")
    )
    assert len(find_pairs(sixty, context, "train")) == 2
    (pair,) = find_pairs(fifty_nine, context, "val")
    np.testing.assert_array_equal(
        read_pair(pair, sixty)[1],
        [[0, 1, 2, 59], [0, 0, 0, 58]] * 2 + [[1] * 4],
    )
    np.testing.assert_array_equal(
        read_pair(pair, fifty_nine)[1],
        [[255, 0, 1, 58], [255, 255, 255, 57]] * 2 + [[0] * 4],
    )


# What pycocotools 2.0 writes for these masks: one by chance, one whose runs are
# long and grow and shrink.
CHANCE = [
    [0, 1, 1, 1, 0],
    [0, 0, 0, 0, 0],
    [0, 1, 0, 1, 0],
    [1, 0, 0, 1, 0],
    [1, 1, 0, 0, 0],
    [1, 0, 0, 0, 0],
    [0, 1, 1, 0, 0],
]
BLOCKS = np.zeros((60, 50), "uint8")
BLOCKS[10:40, 5:30] = BLOCKS[0, 0] = BLOCKS[30:, 45:] = 1
BLOCKS_COUNTS = f"01e9m0YG{'0' * 47}hl00XSO0000000"


@pytest.mark.parametrize(
    "counts, mask", [("331N00000140L09", CHANCE), (BLOCKS_COUNTS, BLOCKS)]
)
def test_masks_are_read_as_pycocotools_writes_them(counts, mask):
    size = list(np.shape(mask))
    decoded = pascal_context.decode_mask({"size": size, "counts": counts})
    np.testing.assert_array_equal(decoded.T, np.array(mask, bool))


@pytest.mark.parametrize(
    "size, counts",
    [
        ([7, 5], ""),
        ([7, 5], "331N00000140L0"),
        ([7, 6], "331N00000140L09"),
        ([0, 5], "331N00000140L09"),
        ([2**20, 2**20], "331N00000140L09"),
        ([7, 5], "331N00000140L0é"),
        ([7, 5], "331N00000140L0\x7f"),
        ([7, 5], "P" * 9 + "0"),
        ([7, 5], "ooooooo0"),
        ([7, 5], "3P"),
    ],
)
def test_broken_masks(size, counts):
    with pytest.raises(ValueError):
        pascal_context.decode_mask({"size": size, "counts": counts})


def encode(mask):
    """Run lengths of a small mask, each below 16 so that it is one group."""
    flat = np.asarray(mask).T.ravel()
    borders = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    runs = np.diff(np.concatenate([[0], borders])).tolist()
    steps = [
        run - (runs[place - 2] if place > 2 else 0)
        for place, run in enumerate(runs)
    ]
    assert all(-16 <= step < 16 for step in steps)
    return "".join(chr(48 + step % 32) for step in steps)


def test_pascal_context_from_json(context):
    def annotation(number, image, category, rows):
        mask = np.zeros((5, 4), int)
        mask[rows] = 1
        segmentation = {"size": [5, 4], "counts": encode(mask)}
        return {
            "id": number,
            "image_id": image,
            "category_id": category,
            "segmentation": segmentation,
        }

    def image(number, phase):
        name = f"2008_{number:06d}.jpg"
        size = {"height": 5, "width": 4}
        return {"image_id": number, "file_name": name, "phase": phase, **size}

    detail = {
        "images": [image(7, "val"), image(2, "train"), image(3, "test")],
        "annos_segmentation": [
            annotation(1, 2, 458, slice(0, 3)),
            # Over the first one; then a number that is none of the 59.
            annotation(2, 2, 2, slice(2, 4)),
            annotation(3, 2, 1, slice(3, 4)),
        ],
    }
    path = context / "trainval_merged.json"
    path.write_text(json.dumps(detail))
    done = run("pascal_context", context)
    assert done.returncode == 0, done.stderr
    lists = context / "ImageSets/SegmentationContext"
    assert (lists / "train.txt").read_text() == "2008_000002\n"
    assert (lists / "val.txt").read_text() == "2008_000007\n"
    labels = {
        path.stem: np.array(Image.open(path))
        for path in (context / "SegmentationClassContext").iterdir()
    }
    rows = np.array([59, 59, 1, 0, 0])[:, np.newaxis]
    np.testing.assert_array_equal(labels["2008_000002"], rows.repeat(4, 1))
    np.testing.assert_array_equal(labels["2008_000007"], np.zeros((5, 4)))
    assert len(labels) == 2

    # Another annotation would give the lists another meaning.
    detail["images"][0]["phase"] = "train"
    path.write_text(json.dumps(detail))
    done = run("pascal_context", context)
    assert done.returncode == 2
    assert "train.txt exists and lists other names" in done.stderr

    detail["annos_segmentation"][0]["segmentation"]["counts"] = "9"
    path.write_text(json.dumps(detail))
    for file in [*lists.iterdir(), *path.parent.glob("*Context/*.png")]:
        file.unlink()
    done = run("pascal_context", context, "--annotation", path)
    assert done.returncode == 1
    assert "2008_000002: " in done.stderr and "does not fill" in done.stderr


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is broken: Expecting property"),
        ("{}", "is another file (KeyError: 'annos_segmentation')"),
        ('{"annos_segmentation": 3, "images": []}', "is another file (TypeErr"),
        (
            '{"annos_segmentation": [], "images": [{"file_name": "a b.jpg"}]}',
            "holds 'a b'. Expected names of files",
        ),
    ],
)
def test_json_that_is_something_else(context, text, message):
    path = context / "trainval_merged.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        pascal_context.read_detail(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_pascal_context_without_annotation(context):
    done = run("pascal_context", context)
    assert done.returncode == 2
    assert "trainval_merged.json" in done.stderr
    assert "trainval.tar.gz" in done.stderr


def bomb(path, size):
    """A .mat whose one variable unpacks to `size` zeros."""
    packed = zlib.compress(bytes(size), 9)
    header = b"MATLAB 5.0".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    path.write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: p.write_bytes(b""), "cannot be read"),
        (lambda p: p.write_bytes(noise(256, 3000).tobytes()), "cannot be read"),
        (
            lambda p: p.write_bytes(b"\x89HDF\r\n" + bytes(600)),
            "cannot be read",
        ),
        (lambda p: save_mat(p, "T", noise(3)), "KeyError: 'S'"),
        (lambda p: save_mat(p, "S", "text"), "is no label but <U4"),
        (lambda p: save_mat(p, "S", noise(3, (2, 3, 4))), "of shape (2, 3, 4)"),
        (lambda p: save_mat(p, "S", noise(3, (0, 4))), "of shape (0, 4)"),
        (lambda p: save_mat(p, "S", noise(3) * 1j), "is no label but complex"),
        (lambda p: save_mat(p, "S", {"a": 1}), "is no label but"),
        (
            lambda p: save_mat(p, "S", noise(9) + 175),
            "to 183. Expected whole num",
        ),
        (lambda p: save_mat(p, "S", noise(9) - 1.0), "from -1.0 to"),
        (lambda p: save_mat(p, "S", noise(9) + 0.5), "Expected whole numbers"),
        (lambda p: save_mat(p, "S", noise(9) * np.nan), "from nan to nan"),
        (lambda p: bomb(p, 2**28 + 2**21), "unpacks to more than 268435456"),
    ],
)
def test_bad_mat_files(tmp_path, make, message):
    path = tmp_path / "a.mat"
    make(path)
    with pytest.raises(ValueError) as caught:
        mat_labels.read_mat(path, "S", highest=182)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_struct_without_the_field(tmp_path):
    save_mat(tmp_path / "a.mat", "GTcls", {"other": noise(3)})
    with pytest.raises(
        ValueError, match=r"a\.mat cannot .* GTcls\.Segmentatio"
    ):
        mat_labels.read_mat(
            tmp_path / "a.mat", "GTcls", "Segmentation", highest=20
        )


def test_sizes_are_capped(tmp_path, monkeypatch):
    save_mat(tmp_path / "a.mat", "S", noise(9))
    assert mat_labels.read_mat(tmp_path / "a.mat", "S", highest=9).max() == 8
    monkeypatch.setattr(mat_labels, "MAX_MAT_BYTES", 100)
    with pytest.raises(ValueError, match=r"a\.mat is too large"):
        mat_labels.read_mat(tmp_path / "a.mat", "S", highest=9)
    write(tmp_path / "a.txt", "a\nb\n")
    assert mat_labels.read_ids(tmp_path / "a.txt") == ["a", "b"]
    monkeypatch.setattr(mat_labels, "MAX_LIST_BYTES", 3)
    with pytest.raises(ValueError, match=r"a\.txt is empty or has more than 3"):
        mat_labels.read_ids(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["../a", "a/b", ".a", "-a", "a" * 101, "\x07"])
def test_names_that_lead_elsewhere(tmp_path, name):
    write(tmp_path / "list.txt", f"fine\n{name}\n")
    with pytest.raises(ValueError, match=r"list\.txt holds .* Expected names"):
        mat_labels.read_ids(tmp_path / "list.txt")


def test_labels_fit_their_records():
    """What the scripts write is what the records' label files are."""
    for name, values in (
        ("pascal_context60", range(60)),
        ("voc2012", range(21)),
        ("coco_stuff10k", (0, 1, 182)),
    ):
        label_map = get_dataset(name).label_map
        assert all(label_map[value] != 254 for value in values), name
