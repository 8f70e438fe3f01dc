"""The files that say which image and label belong together."""

import pytest
from conftest import one_backend

from keras_danet.data import lists
from keras_danet.data.datasets import CAMVID
from keras_danet.data.datasets import VOC2012
from keras_danet.data.datasets import Split
from keras_danet.data.lists import read_list
from keras_danet.data.lists import read_table

pytestmark = one_backend

TABLE = Split("", "", list_path="pairs.csv", list_holds="table")


def read_ids(root, text):
    path = root / "ImageSets" / "Segmentation" / "val.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode())
    return read_list(VOC2012.splits["val"], root, "val")


def read_rows(root, text, split="train"):
    (root / "pairs.csv").write_bytes(text.encode())
    return read_list(TABLE, root, split)


def test_ids_keep_the_order_of_the_list(tmp_path):
    pairs = read_ids(tmp_path, "\ufeff2007_2\r\n\n  2007_1  \r")
    assert pairs == [
        (
            str(tmp_path / "JPEGImages" / f"{name}.jpg"),
            str(tmp_path / "SegmentationClass" / f"{name}.png"),
        )
        for name in ("2007_2", "2007_1")
    ]


@pytest.mark.parametrize("name", ["a b", "a\u2028b", "a\x0bb", "a\x85b", "{x}"])
def test_an_id_may_hold_what_splits_lines_elsewhere(tmp_path, name):
    ((image, _),) = read_ids(tmp_path, f"{name}\n")
    assert image == str(tmp_path / "JPEGImages" / f"{name}.jpg")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", r"val\.txt is empty: it has no pair for split 'val'.*'NAME'"),
        ("a\nb\na\n", r"val\.txt, line 3: .*a\.jpg is listed .*in line 1"),
        ("a\n./a\n", r"line 2: .*a\.jpg is listed a second time"),
        ("../../etc/passwd", r"line 1: '\.\./\.\./etc/passwd' may lead out of"),
        ("x\\..\\y", r"may lead out of"),
        ("a" * 20_000, r"line 1 has 20000 characters\. Expected one or"),
    ],
)
def test_bad_lists_of_ids(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_ids(tmp_path, text)


def test_pairs_with_spaces_in_their_names(tmp_path):
    line = "train/a b.png  trainannot/a b.png\n"
    (tmp_path / "train.txt").write_text(line)
    ((image, label),) = read_list(CAMVID.splits["train"], tmp_path, "train")
    assert image == str(tmp_path / "train" / "a b.png")
    assert label == str(tmp_path / "trainannot" / "a b.png")


def test_a_list_beyond_the_cap_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "MAX_LIST_BYTES", 10)
    read_ids(tmp_path, "a\nb\nc\nd\ne\n")
    (tmp_path / "train.txt").write_text("a\nb\nc\nd\ne\nf")
    with pytest.raises(ValueError, match=r"train\.txt has more than 10 bytes"):
        read_list(CAMVID.splits["train"], tmp_path, "train")


def test_table(tmp_path):
    text = (
        "label, image ,split\r\n"
        "m/a.png,i/a.jpg,train\r\n"
        '"m/b, c.png", "i/b, c.jpg",val\r\n'.replace(', "i', ',"i')
        + "\r\n"
        + '"m/new\nline.png","i/d.jpg",train\r\n'
    )
    assert read_rows(tmp_path, text) == [
        (str(tmp_path / "i/a.jpg"), str(tmp_path / "m/a.png")),
        (str(tmp_path / "i/d.jpg"), str(tmp_path / "m/new\nline.png")),
    ]
    assert read_rows(tmp_path, text, "val") == [
        (str(tmp_path / "i/b, c.jpg"), str(tmp_path / "m/b, c.png")),
    ]
    # Without the column every row is of every split.
    assert len(read_rows(tmp_path, "image,label\na,b\nc,d\n", "all")) == 2
    places = [where for where, _ in read_table(tmp_path / "pairs.csv")]
    assert places == ["line 2", "line 3"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", r"pairs\.csv begins with ''\. Expected the columns image,label"),
        ("a.jpg,a.png\n", r"begins with 'a\.jpg,a\.png'\. Expected .*first li"),
        ("image,label,label\n", "begins with 'image,label,label'"),
        ("image,label\n", r"is empty.*'images/NAME\.jpg,masks/NAME\.png'"),
        ("image,label,split\na,b,val\n", r"no pair for split 'train'"),
        ("image,label\na\n", r"line 2: expected image,label\. Received: 'a'"),
        ("image,label\na,b,c\n", "line 2: expected image,label"),
        ("image,label\na,\n", "line 2: expected image,label"),
        ("image,label\na,../b\n", r"line 2: '\.\./b' may lead out of"),
        ("image,label\n/a,b\n", r"line 2: '/a' is an absolute path\. Write"),
        ("image,label\na,b\na,c\n", r"line 3: .*/a is listed .* line 2"),
        (
            'image,label\n"a,b\n',
            r"pairs\.csv is not a CSV file: unexpected end",
        ),
        (
            "image,label\n" + "a" * 200_000 + ",b",
            "is not a CSV file: field larg",
        ),
    ],
)
def test_bad_tables(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(tmp_path, text)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 1000
