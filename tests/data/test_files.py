"""Finding pairs, and one clear sentence for everything that may be wrong."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.data.datasets import CAMVID
from keras_danet.data.datasets import get_dataset
from keras_danet.data.decoding import check_pair
from keras_danet.data.decoding import read_size
from keras_danet.data.files import find_pairs

pytestmark = one_backend

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
CAMVID_ROOT = Path(
    os.environ.get("KERAS_DANET_CAMVID", SHARED / "data" / "camvid")
)


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
            r"4 files and 2 of them are not there, .*trainannot/x\.png",
        ),
        # An absolute path of one name stays below the root.
        ("/etc /x.png", FileNotFoundError, r"first is /.+/etc\. Add"),
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
    with pytest.raises(ValueError, match=r"mean 'train'.*train, val, test"):
        find_pairs(CAMVID, root, "trian")
    with pytest.raises(FileNotFoundError, match=r"val\.txt.*there: train\."):
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
        check_pair(pairs[0], CAMVID)
    photo.save(pairs[0].image, "JPEG")
    check_pair(pairs[0], CAMVID)


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
            check_pair(pair, CAMVID)
    assert Image.MAX_IMAGE_PIXELS == limit


def test_values_of_the_data_set_are_listed_from_its_map(root):
    pairs = find_pairs(CAMVID, root, "train")
    _set_value(pairs[0])
    message = r"drawn street scenes has 0\.\.7, and 255 for void"
    with pytest.raises(ValueError, match=message):
        check_pair(pairs[0], get_dataset("scenes"))


@pytest.mark.skipif(
    not CAMVID_ROOT.is_dir(), reason=f"CamVid is not in {CAMVID_ROOT}"
)
def test_camvid_itself():
    for split in ("train", "val"):
        pairs = find_pairs(CAMVID, CAMVID_ROOT, split)
        assert len(pairs) == CAMVID.splits[split]
        assert len(set(pairs)) == len(pairs)
        assert read_size(pairs[0].image) == (360, 480)
        for pair in pairs[:5]:
            check_pair(pair, CAMVID)
