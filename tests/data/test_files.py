"""Finding pairs, and one clear sentence for everything that may be wrong."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from conftest import SHARED
from conftest import one_backend
from layouts import LAYOUTS
from layouts import lay_out
from PIL import Image

from keras_danet.data import files
from keras_danet.data.datasets import CAMVID
from keras_danet.data.datasets import DATASETS
from keras_danet.data.datasets import get_dataset
from keras_danet.data.decoding import read_pair
from keras_danet.data.decoding import read_size
from keras_danet.data.files import find_pairs
from keras_danet.data.label_values import label_table

pytestmark = one_backend

CAMVID_ROOT = Path(
    os.environ.get("KERAS_DANET_CAMVID", SHARED / "data" / "camvid")
)


@pytest.mark.parametrize("name", LAYOUTS)
def test_official_layouts(tmp_path, name):
    dataset, split, expected = lay_out(tmp_path, name)
    assert find_pairs(dataset, tmp_path, split) == expected
    # The root may be the set's own folder, or any on the way there.
    folder = LAYOUTS[name][0]
    for depth in range(folder.count("/") + 1 if folder else 0):
        inner = tmp_path.joinpath(*folder.split("/")[: depth + 1])
        assert find_pairs(dataset, str(inner), split) == expected


# A label of these raw values, and what they mean.
READ = {
    "cityscapes": ([7, 8, 0, 33, 255], [0, 1, 255, 18, 255]),
    "cityscapes train_extra": ([4, 24, 26, 6, 32], [255, 11, 13, 255, 17]),
    "cityscapes train_coarse": ([7, 0, 19, 18, 31], [0, 255, 6, 255, 16]),
    "voc2012": ([0, 1, 20, 255, 15], [0, 1, 20, 255, 15]),
    "voc2012 trainaug": ([0, 1, 20, 255, 15], [0, 1, 20, 255, 15]),
    "pascal_context": ([0, 1, 59, 2, 3], [255, 0, 58, 1, 2]),
    "pascal_context60": ([0, 1, 59, 2, 3], [0, 1, 59, 2, 3]),
    "coco_stuff10k": ([0, 1, 13, 92, 182], [255, 0, 11, 80, 170]),
    "coco_stuff164k": ([0, 12, 91, 181, 255], [0, 11, 80, 170, 255]),
    "ade20k": ([0, 1, 150, 7, 8], [255, 0, 149, 6, 7]),
}


@pytest.mark.parametrize("name", READ)
def test_labels_of_the_layouts_are_read(tmp_path, name):
    dataset, split, pairs = lay_out(tmp_path, name)
    raw, expected = (np.array([values], "uint8") for values in READ[name])
    Image.fromarray(np.zeros((1, 5, 3), "uint8")).save(pairs[0].image)
    Image.fromarray(raw).save(pairs[0].label)
    (first, *_) = find_pairs(dataset, tmp_path, split)
    np.testing.assert_array_equal(read_pair(first, dataset)[1], expected)
    np.testing.assert_array_equal(label_table(dataset)[raw], expected)


# What has no class in these label files, though its neighbours do.
@pytest.mark.parametrize(
    "name, value",
    [
        ("cityscapes", 34),
        ("pascal_context", 60),
        ("coco_stuff10k", 12),
        ("coco_stuff10k", 183),
        ("coco_stuff164k", 11),
        ("ade20k", 151),
    ],
)
def test_labels_of_the_layouts_are_held_to_the_map(tmp_path, name, value):
    dataset, _, pairs = lay_out(tmp_path, name)
    Image.fromarray(np.zeros((1, 1, 3), "uint8")).save(pairs[0].image)
    Image.fromarray(np.full((1, 1), value, "uint8")).save(pairs[0].label)
    with pytest.raises(ValueError, match=f"Label value {value} in "):
        read_pair(pairs[0], dataset)


def test_images_and_labels_without_a_partner(tmp_path):
    dataset, split, pairs = lay_out(tmp_path, "ade20k")
    Path(pairs[1].label).unlink()
    message = (
        r"^Split 'train' of ADE20K is incomplete: 1 images have no label, the "
        r"first is .*/ADE_train_00000002\.jpg \(expected .*/training/"
        r"ADE_train_00000002\.png\)\. Add"
    )
    with pytest.raises(ValueError, match=message):
        find_pairs(dataset, tmp_path, split)
    Path(pairs[0].image).unlink()
    message = r"1 images .*00002\.jpg .*; 1 labels have no image, .*00001\.png"
    with pytest.raises(ValueError, match=message):
        find_pairs(dataset, tmp_path, split)


def test_a_city_is_part_of_the_name(tmp_path):
    dataset, split, pairs = lay_out(tmp_path, "cityscapes")
    wrong = Path(pairs[0].label).parents[1] / "ulm" / Path(pairs[0].label).name
    wrong.parent.mkdir()
    Path(pairs[0].label).rename(wrong)
    message = r"expected .*/gtFine/val/frankfurt/frankfurt_000000_000294_gtFine"
    with pytest.raises(ValueError, match=message):
        find_pairs(dataset, tmp_path, split)


def _folder(path):
    path.unlink()
    path.mkdir()


def _dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


def _loop(path):
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    "spoil, what",
    [
        (_folder, "a folder"),
        (_dangling, r"a link that leads nowhere \('nowhere'\)"),
        (_loop, r"a link that leads nowhere"),
    ],
)
def test_what_only_bears_the_name_of_a_file(tmp_path, spoil, what):
    dataset, split, pairs = lay_out(tmp_path, "coco_stuff164k")
    spoil(Path(pairs[0].image))
    message = rf"000000000139\.jpg has .*, but is {what}"
    with pytest.raises(ValueError, match=message):
        find_pairs(dataset, tmp_path, split)
    dataset, split, pairs = lay_out(tmp_path, "voc2012")
    spoil(Path(pairs[1].label))
    message = rf"4 files and 1 .*2007_000032\.png \(it is {what}"
    with pytest.raises(FileNotFoundError, match=message):
        find_pairs(dataset, tmp_path, split)


def test_links_are_followed_and_loops_of_folders_are_not(tmp_path):
    real = tmp_path / "elsewhere"
    dataset, split, pairs = lay_out(real, "cityscapes")
    root = tmp_path / "root"
    root.mkdir()
    for name in ("leftImg8bit", "gtFine"):
        (root / name).symlink_to(real / name)
        (real / name / "val" / "loop").symlink_to(real / name / "val")
        (real / name / "val" / "self").symlink_to("self")
    Path(pairs[1].image).rename(real / "photo.png")
    Path(pairs[1].image).symlink_to(real / "photo.png")
    found = find_pairs(dataset, root, split)
    assert [Path(pair.image).resolve() for pair in found] == [
        Path(pairs[0].image),
        real / "photo.png",
    ]


@pytest.mark.parametrize(
    "name", ["with two  spaces", "Köln 東京 🚋", "new\nline", "a{b}%s", " - "]
)
def test_any_name_can_be_found(tmp_path, name):
    for path in (f"images/training/{name}.jpg", f"annotations/training/{name}"):
        path = (tmp_path / path).with_suffix(
            ".jpg" if path.endswith("jpg") else ".png"
        )
        path.parent.mkdir(parents=True)
        path.touch()
    ((image, label),) = find_pairs(get_dataset("ade20k"), tmp_path, "train")
    assert os.path.isfile(image) and os.path.isfile(label)
    assert os.path.basename(image) == f"{name}.jpg"
    if "\n" in name:
        return
    dataset, split, pairs = lay_out(tmp_path, "voc2012")
    for path in pairs[0]:
        os.rename(path, Path(path).with_stem(name.strip()))
    list_path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    (list_path / "trainval.txt").write_text(f"{name}\r\n", encoding="utf-8")
    ((image, _),) = find_pairs(dataset, tmp_path, split)
    assert os.path.basename(image) == f"{name.strip()}.jpg"


def test_a_name_that_is_no_text(tmp_path):
    for path in (b"images/training/\xff.jpg", b"annotations/training/\xff.png"):
        path = os.path.join(os.fsencode(tmp_path), path)
        os.makedirs(os.path.dirname(path))
        open(path, "w").close()
    ((image, _),) = find_pairs(get_dataset("ade20k"), tmp_path, "train")
    assert os.path.isfile(image)


def test_pairs_of_folders_come_sorted(tmp_path):
    dataset, split, pairs = lay_out(tmp_path, "coco_stuff164k")
    folders = [Path(path).parent for path in pairs[0]]
    for number in (7, 3, 285000, 11):
        for folder, suffix in zip(folders, (".jpg", ".png"), strict=True):
            (folder / f"{number:012d}{suffix}").touch()
    found = find_pairs(dataset, tmp_path, split)
    names = [int(Path(pair.image).stem) for pair in found]
    assert names == [3, 7, 11, 139, 285, 285000]
    assert all(Path(i).stem == Path(m).stem for i, m in found)


def test_an_empty_split(tmp_path):
    for folder in ("images", "annotations"):
        (tmp_path / folder / "validation").mkdir(parents=True)
    message = (
        r"Split 'val' of ADE20K is empty: no file is called .*/images/"
        r"validation/\{id\}\.jpg\. Put"
    )
    with pytest.raises(ValueError, match=message):
        find_pairs(get_dataset("ade20k"), tmp_path, "val")


def test_missing_folders_say_what_was_looked_for(tmp_path):
    dataset = get_dataset("voc2012")
    message = (
        r"no list .*/ImageSets/Segmentation/val\.txt, nor .*/VOC2012/"
        r"ImageSets/.*, nor .*/VOCdevkit/VOC2012/ImageSets/.* for split 'val' "
        r"of PASCAL VOC 2012\. None .* is .* its root \(see http"
    )
    with pytest.raises(FileNotFoundError, match=message):
        find_pairs(dataset, tmp_path, "val")
    lay_out(tmp_path, "voc2012")
    with pytest.raises(FileNotFoundError, match=r"are present: trainval\."):
        find_pairs(dataset, tmp_path, "val")
    message = r"`python training/prepare/voc_aug\.py` makes it"
    with pytest.raises(FileNotFoundError, match=message):
        find_pairs(dataset, tmp_path, "trainaug")
    (tmp_path / "leftImg8bit" / "val").mkdir(parents=True)
    message = r"no folder .*/gtFine/val with the labels of split 'val'.*https:"
    with pytest.raises(FileNotFoundError, match=message):
        find_pairs(get_dataset("cityscapes"), tmp_path, "val")
    # A file in a folder's place.
    (tmp_path / "images").touch()
    with pytest.raises(FileNotFoundError, match=r"no folder .*/images/train"):
        find_pairs(get_dataset("ade20k"), tmp_path, "train")


def test_labels_that_are_to_be_made(tmp_path):
    dataset, split, pairs = lay_out(tmp_path, "coco_stuff10k")
    for pair in pairs:
        Path(pair.label).unlink()
    message = (
        r"test\.txt lists 4 files and 2 of them are missing; .* download "
        r"lacks it; `python training/prepare/coco_stuff10k\.py` makes it"
    )
    with pytest.raises(FileNotFoundError, match=message):
        find_pairs(dataset, tmp_path, split)
    Path(pairs[0].image).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        find_pairs(dataset, tmp_path, split)
    assert "prepare" not in str(caught.value)


def test_an_installed_script_is_named_where_it_is(tmp_path, monkeypatch):
    """A wheel has no `training/`, but carries it as `recipes/`."""
    carried = tmp_path / "a package" / "recipes" / "prepare"
    carried.mkdir(parents=True)
    (carried / "voc_aug.py").touch()
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "a package")
    lay_out(tmp_path, "voc2012")
    message = f"`python '{carried}/voc_aug.py'` makes it"
    with pytest.raises(FileNotFoundError, match=message):
        find_pairs(get_dataset("voc2012"), tmp_path, "trainaug")


def test_scripts_that_make_labels_exist():
    scripts = {
        split.made_by
        for dataset in DATASETS.values()
        for split in dataset.splits.values()
    }
    assert len(scripts) == 4
    for script in scripts - {None}:
        assert (ROOT / script).is_file(), script


def test_a_failing_disk_names_the_folder(tmp_path, monkeypatch):
    dataset, split, _ = lay_out(tmp_path, "ade20k")

    def fail(path):
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match=r"Input/output error.*images/training"):
        find_pairs(dataset, tmp_path, split)


def test_each_folder_is_read_once_and_no_file_asked_for(tmp_path, monkeypatch):
    dataset, split, _ = lay_out(tmp_path, "ade20k")
    scans, scandir = [], os.scandir

    def watch(path, *rest, stat=os.stat, **named):
        assert not str(path).endswith((".jpg", ".png")), path
        return stat(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(
            os, "scandir", lambda path: (scans.append(path), scandir(path))[1]
        )
        patch.setattr(os, "stat", watch)
        assert len(find_pairs(dataset, tmp_path, split)) == 2
    assert len(scans) == len(set(scans)) == 2


@pytest.fixture
def root(tmp_path):
    """A CamVid of three pairs, 6x8 pixels, listed out of order."""
    draw = np.random.default_rng(0)
    lines = []
    for name in ("b", "a", "c"):
        for folder, shape, high in (
            ("train", (6, 8, 3), 256),
            ("trainannot", (6, 8), 12),
        ):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            pixels = draw.integers(0, high, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        lines.append(f"train/{name}.png trainannot/{name}.png")
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_pairs_come_in_the_order_of_the_list(root):
    pairs = find_pairs(CAMVID, root, "train")
    assert [Path(pair.image).name for pair in pairs] == [
        "b.png",
        "a.png",
        "c.png",
    ]
    assert pairs[1].image == str(root / "train" / "a.png")
    assert pairs[1].label == str(root / "trainannot" / "a.png")


@pytest.mark.parametrize(
    "line",
    [
        "/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png\r\n",
        "\ufefftrain/a.png trainannot/a.png",
        "\n  train/a.png\ttrainannot/a.png  \n\n",
        "C:\\CamVid\\train\\a.png C:\\CamVid\\trainannot\\a.png",
    ],
    ids=["official", "byte order mark", "blanks", "windows"],
)
def test_listed_paths_are_taken_from_the_root(root, line):
    (root / "train.txt").write_bytes(line.encode())
    (pair,) = find_pairs(CAMVID, str(root), "train")
    assert pair.image == str(root / "train" / "a.png")
    assert pair.label == str(root / "trainannot" / "a.png")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ValueError, r"train\.txt is empty.*'train/NAME\.png trainannot"),
        (" \n\n", ValueError, r"train\.txt is empty"),
        (
            "train/a.png trainannot/a.png\ntrain/b.png\n",
            ValueError,
            r"train\.txt, line 2: expected .* Received: 'train/b\.png'",
        ),
        ("a b c", ValueError, r"line 1: expected an image and its label"),
        ("/ train/a.png", ValueError, r"line 1: expected an image"),
        (
            "../train/a.png trainannot/a.png",
            ValueError,
            r"line 1: '\.\./train/a\.png' may lead out",
        ),
        ("..\\a.png trainannot/a.png", ValueError, "may lead out"),
        ("train/a.png x/../trainannot/a.png", ValueError, "may lead out"),
        (
            "train/a.png trainannot/a.png\n/x/train/a.png trainannot/b.png",
            ValueError,
            r"line 2: .*train/a\.png is listed .* second.* in line 1",
        ),
        (
            "train/a.png trainannot/a.png\ntrain/b.png trainannot/a.png",
            ValueError,
            r"line 2: .*trainannot/a\.png is listed",
        ),
        (
            "train/a.png trainannot/x.png\ntrain/y.png trainannot/b.png",
            FileNotFoundError,
            r"4 files and 2 of them are missing; .*trainannot/x\.png",
        ),
        # An absolute path of one name stays below the root.
        ("/etc /x.png", FileNotFoundError, r"first is /.+/etc \(it is not"),
    ],
)
def test_bad_lists(root, text, error, message):
    (root / "train.txt").write_text(text)
    with pytest.raises(error, match=message) as caught:
        find_pairs(CAMVID, root, "train")
    assert str(root) in str(caught.value)


def test_a_list_that_is_no_text(root):
    (root / "train.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"train\.txt is not a text file"):
        find_pairs(CAMVID, root, "train")


def test_missing_root_split_and_list(root):
    with pytest.raises(FileNotFoundError, match=r"no folder .*/no.*train\.txt"):
        find_pairs(CAMVID, root / "no", "train")
    with pytest.raises(ValueError, match=r"train, val, test.*mean 'train'"):
        find_pairs(CAMVID, root, "trian")
    with pytest.raises(FileNotFoundError, match=r"val\.txt.*present: train\."):
        find_pairs(CAMVID, root, "val")
    (root / "train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"is .* its root"):
        find_pairs(CAMVID, root, "train")


def test_good_pairs_pass(root):
    pairs = find_pairs(CAMVID, root, "train")
    assert read_size(pairs[0].image) == (6, 8)
    # Any photo that converts to RGB is an image.
    photo = Image.open(pairs[0].image)
    for mode in ("L", "RGBA", "P"):
        photo.convert(mode).save(pairs[0].image)
        read_pair(pairs[0], CAMVID)
    photo.save(pairs[0].image, "JPEG")
    read_pair(pairs[0], CAMVID)


def _set_value(pair):
    label = np.asarray(Image.open(pair.label)).copy()
    label[2, 3] = 37
    Image.fromarray(label).save(pair.label)


def _resize(pair):
    Image.open(pair.label).resize((7, 6)).save(pair.label)


def _cut(path, keep):
    contents = Path(path).read_bytes()
    Path(path).write_bytes(contents[: int(len(contents) * keep)])


def _huge(path):
    """A PNG header of 2^14 x (2^14 + 1) pixels, and next to no data."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2**14 + 1, 2**14, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ]
    Path(path).write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data))
            + kind
            + data
            + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


def _convert_label(mode):
    return lambda pair: Image.open(pair.label).convert(mode).save(pair.label)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _set_value,
            r"^Label value 37 in .*trainannot/a\.png \(1 pixels; 1 wrong .*"
            r"CamVid has 0\.\.10, and 11, 255 for void\.",
        ),
        (_resize, r"train/a\.png .* \(6, 8\) .*trainannot/a\.png .* \(6, 7\)"),
        (
            lambda p: _cut(p.image, 0.5),
            r"train/a\.png cannot be read: Truncated",
        ),
        (lambda p: _cut(p.label, 0.9), r"trainannot/a\.png cannot be read"),
        (lambda p: _cut(p.image, 0), r"train/a\.png cannot .* empty \(0 by"),
        (lambda p: _cut(p.label, 0), r"trainannot/a\.png .*it is empty"),
        (lambda p: Path(p.image).write_text("hello"), "a.png cannot be read"),
        (lambda p: Path(p.image).unlink(), "train/a.png cannot be read"),
        (lambda p: _huge(p.image), r"16384 x 16385 .* at most 268435456"),
        (_convert_label("RGB"), r"a\.png is a colour PNG of depth 8"),
        (_convert_label("LA"), "is a grey and transparency PNG of depth 8"),
        (
            lambda p: Image.open(p.label).save(p.label, "JPEG"),
            r"trainannot/a\.png is not a PNG\. Expected a PNG of class numbers",
        ),
    ],
)
def test_bad_files_are_explained(root, spoil, message):
    pairs = find_pairs(CAMVID, root, "train")
    spoil(pairs[1])
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises((ValueError, OSError), match=message):
        for pair in pairs:
            read_pair(pair, CAMVID)
    assert Image.MAX_IMAGE_PIXELS == limit


def test_values_of_the_data_set_are_listed_from_its_map(root):
    pairs = find_pairs(CAMVID, root, "train")
    _set_value(pairs[0])
    message = r"drawn street scenes has 0\.\.7, and 255 for void"
    with pytest.raises(ValueError, match=message):
        read_pair(pairs[0], get_dataset("scenes"))


@pytest.mark.skipif(
    not CAMVID_ROOT.is_dir(), reason=f"CamVid is not in {CAMVID_ROOT}"
)
def test_camvid_itself():
    for split in ("train", "val"):
        pairs = find_pairs(CAMVID, CAMVID_ROOT, split)
        assert len(pairs) == CAMVID.splits[split].count
        assert len(set(pairs)) == len(pairs)
        assert read_size(pairs[0].image) == (360, 480)
        for pair in pairs[:5]:
            read_pair(pair, CAMVID)
