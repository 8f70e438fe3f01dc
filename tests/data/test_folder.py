"""A folder of one's own: what its `classes.json` says, and what it cannot."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet import runs
from keras_danet.cli import main
from keras_danet.data import folder
from keras_danet.data.datasets import CAMVID
from keras_danet.data.decoding import read_pair
from keras_danet.data.files import find_pairs
from keras_danet.data.folder import open_dataset
from keras_danet.data.folder import read_classes
from keras_danet.data.label_values import label_table
from keras_danet.recipe import TrainConfig

pytestmark = one_backend

TWO = {"classes": [{"name": "ground"}, {"name": "road"}]}


def write_classes(root, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "classes.json").write_text(text, encoding="utf-8")
    return root / "classes.json"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def below(root, pairs):
    return [
        tuple(Path(path).relative_to(root).as_posix() for path in pair)
        for pair in pairs
    ]


def test_official_names_need_no_folder():
    assert open_dataset("camvid", "nowhere") is CAMVID
    with pytest.raises(ValueError, match="mean 'camvid'"):
        open_dataset("camvit", "nowhere")


def test_classes_by_their_place(tmp_path):
    root = tmp_path / "my data"
    root.mkdir()
    dataset = read_classes(write_classes(root, TWO))
    assert dataset.name == "folder" and dataset.title == "my data"
    assert dataset.class_names == ("ground", "road")
    assert dataset.label_map == (0, 1, *[254] * 253, 255)
    # The first is not black, which would hide an image without telling more.
    assert dataset.palette == ((17, 119, 255), (0, 204, 0))
    assert dataset.label_colors is None


def test_classes_with_values_and_colours(tmp_path):
    content = {
        "classes": [
            {"name": "Straße", "value": 7, "color": [1, 2, 3]},
            {"name": "car", "value": 255},
        ],
        "ignore": [0, 9],
        "labels": "indices",
    }
    dataset = read_classes(write_classes(tmp_path, content))
    assert dataset.class_names == ("Straße", "car")
    # Its own colour, and one that is far from it.
    own, other = dataset.palette
    assert own == (1, 2, 3) and max(other) > 150
    expected = {0: 255, 9: 255, 7: 0, 255: 1}
    assert dataset.label_map == tuple(expected.get(n, 254) for n in range(256))
    # 255 is a class here, and no value to ignore unless it is said.
    del content["ignore"]
    dataset = read_classes(write_classes(tmp_path, content))
    assert dataset.label_map[255] == 1 and dataset.label_map[0] == 254
    content = {"classes": [{"name": "a"}], "ignore": []}
    dataset = read_classes(write_classes(tmp_path, content))
    assert dataset.label_map == (0, *[254] * 255)


@pytest.mark.parametrize(
    "name",
    [
        "\u0645\u06cc\u200c\u0634",
        "👩\u200d🌾",
        "道\u3000路",
        "रास्ता",
        "❤\ufe0f",
        "o\u0308",
    ],
)
def test_names_of_all_scripts(tmp_path, name):
    content = {"classes": [{"name": name}]}
    dataset = read_classes(write_classes(tmp_path, content))
    assert dataset.class_names == (name,)


def test_labels_of_colours(tmp_path):
    content = {
        "labels": "colors",
        "classes": [
            {"name": "road", "color": [128, 64, 128]},
            {"name": "car", "color": [0, 0, 142]},
        ],
        "ignore": [[0, 0, 0]],
    }
    dataset = read_classes(write_classes(tmp_path, content))
    assert dataset.palette == ((128, 64, 128), (0, 0, 142))
    assert dataset.label_colors == {
        (128, 64, 128): 0,
        (0, 0, 142): 1,
        (0, 0, 0): 255,
    }
    table = label_table(dataset)
    assert table[0x804080] == 0 and table[0x00008E] == 1 and table[0] == 255
    assert np.count_nonzero(table != 254) == 3
    del content["ignore"]
    dataset = read_classes(write_classes(tmp_path, content))
    assert set(dataset.label_colors.values()) == {0, 1}


def one(**entry):
    return {"classes": [{"name": "a"}, entry]}


@pytest.mark.parametrize(
    "content, message",
    [
        ("", r"classes\.json cannot be read: Expecting value.*JSON in UTF-8"),
        ("{'a': 1}", r"classes\.json cannot be read"),
        ("[" * 100_000, r"classes\.json cannot be read"),
        ('{"classes": [], "classes": []}', r"'classes' is there twice"),
        ("[]", r"the file cannot .* object with the keys classes, ignore, lab"),
        (
            {},
            r"`classes` cannot .* a list of 1 to 253 classes\. Received: None",
        ),
        ({"classes": []}, r"`classes` cannot be used\. Expected a list of 1"),
        ({"classes": [{"name": str(n)} for n in range(254)]}, "of 1 to 253"),
        ({"classes": {"a": 0}}, "`classes` cannot be used"),
        ({"clases": []}, r"mean 'classes'\? Expected only the keys classes, "),
        (
            {"classes": ["a"]},
            r"class 0 cannot .*keys name, value, color\. .*'a'",
        ),
        (one(), r"`name` of class 1 cannot .* Received: None"),
        (one(name=""), r"`name` of class 1 cannot"),
        (one(name=" "), r"`name` of class 1 cannot"),
        (one(name=3), r"`name` of class 1 cannot .* Received: 3"),
        (one(name="a\x1b[31m"), r"`name` of class 1 cannot"),
        (one(name="a\u202eb"), r"`name` of class 1 cannot"),
        (
            one(name="a\u2028b"),
            r"`name` of class 1 .* without line ends or other",
        ),
        (one(name="n" * 201), r"`name` .* at most 200 characters"),
        (one(name="a"), r"`name` cannot .* each `name` once, .*Received: 'a'"),
        (
            one(name="b", value=256),
            r"`value` of class 1 .* 0 to 255\. Rec.*256",
        ),
        (one(name="b", value=-1), r"`value` of class 1"),
        (one(name="b", value=1.0), r"`value` of class 1"),
        (one(name="b", value=True), r"`value` of class 1"),
        (one(name="b", value=0), r"each `value` once, those to ignore incl"),
        (one(name="b", color=[1, 2]), r"`color` of class 1 .* three integers"),
        (one(name="b", color="red"), r"`color` of class 1 .* Received: 'red'"),
        (one(name="b", color=[0, 0, 256]), r"`color` of class 1"),
        (one(name="b", colour=[0, 0, 0]), r"class 1 cannot .*mean 'color'"),
        ({**TWO, "labels": "rgb"}, r"`labels` .* 'indices' or 'colors'"),
        ({**TWO, "labels": ["colors"]}, r"`labels` .* 'indices' or 'colors'"),
        ({**TWO, "labels": "colors"}, r"`color` of class 0 .* is 'colors'"),
        (
            {
                "labels": "colors",
                "classes": [{"name": "a", "color": [0, 0, 0], "value": 1}],
            },
            r"`value` of class 0 .* Expected nothing",
        ),
        (
            {
                "labels": "colors",
                "classes": [
                    {"name": name, "color": [1, 2, 3]} for name in "ab"
                ],
            },
            r"each `color` once, .* Received: \(1, 2, 3\)",
        ),
        (
            {
                "labels": "colors",
                "classes": [{"name": "a", "color": [1, 2, 3]}],
                "ignore": [255],
            },
            r"`ignore` .* a list of colours, each \[red",
        ),
        ({**TWO, "ignore": 255}, r"`ignore` .* a list of values, integers"),
        ({**TWO, "ignore": [[0, 0, 0]]}, r"`ignore` .* a list of values"),
        ({**TWO, "ignore": [1]}, r"each `value` once, .* Received: 1\."),
        ({**TWO, "ignore": [5] * 300}, r"`ignore` .* at most 256"),
    ],
)
def test_bad_classes(tmp_path, content, message):
    path = write_classes(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_classes(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_as_many_classes_as_fit(tmp_path):
    content = {"classes": [{"name": str(n)} for n in range(253)]}
    dataset = read_classes(write_classes(tmp_path, content))
    assert dataset.label_map[:255] == (*range(253), 254, 254)


def test_files_that_are_no_classes(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no .*classes\.json.*\"name"):
        read_classes(tmp_path / "classes.json")
    (tmp_path / "classes.json").mkdir()
    with pytest.raises(FileNotFoundError, match=r"There is no .*classes\.json"):
        read_classes(tmp_path / "classes.json")
    (tmp_path / "classes.json").rmdir()
    (tmp_path / "classes.json").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"is not a text file: 'utf-8' codec"):
        read_classes(tmp_path / "classes.json")
    write_classes(tmp_path, TWO)
    monkeypatch.setattr(folder, "MAX_CLASSES_BYTES", 20)
    with pytest.raises(ValueError, match=r"more than 20 bytes"):
        read_classes(tmp_path / "classes.json")


def test_a_flat_folder_is_one_split(tmp_path):
    write_classes(tmp_path, TWO)
    touch(tmp_path, "images/b c.JPG", "images/a.jpeg", "images/Ä.x.png")
    touch(tmp_path, "masks/b c.png", "masks/a.png", "masks/Ä.x.PNG")
    touch(tmp_path, "images/notes.txt", "images/.hidden.jpg", "masks/Thumbs.db")
    dataset = open_dataset("folder", tmp_path)
    assert list(dataset.splits) == ["all"]
    assert below(tmp_path, find_pairs(dataset, tmp_path, "all")) == [
        ("images/a.jpeg", "masks/a.png"),
        ("images/b c.JPG", "masks/b c.png"),
        ("images/Ä.x.png", "masks/Ä.x.PNG"),
    ]
    with pytest.raises(ValueError, match=r"no split 'train'; it has: all\."):
        find_pairs(dataset, tmp_path, "train")
    touch(tmp_path, "images/a.png")
    with pytest.raises(ValueError, match=r"Both .*a\.\w+ and .* called 'a'"):
        find_pairs(dataset, tmp_path, "all")
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "masks" / "a.png").unlink()
    message = r"1 images have no label, .*a\.jpeg \(expected .*/masks/a\.\*\)"
    with pytest.raises(ValueError, match=message):
        find_pairs(dataset, tmp_path, "all")


def test_a_folder_for_each_split(tmp_path):
    write_classes(tmp_path, TWO)
    touch(tmp_path, "images/train/a.jpg", "masks/train/a.png")
    touch(tmp_path, "images/val/a.jpg", "masks/val/a.png", "images/.git/x")
    dataset = open_dataset("folder", str(tmp_path))
    assert list(dataset.splits) == ["train", "val"]
    assert below(tmp_path, find_pairs(dataset, tmp_path, "val")) == [
        ("images/val/a.jpg", "masks/val/a.png")
    ]
    assert {split.count for split in dataset.splits.values()} == {None}
    (tmp_path / "images" / "test").mkdir()
    message = r"no folder .*/masks/test with the labels of split 'test'"
    with pytest.raises(FileNotFoundError, match=message):
        dataset = open_dataset("folder", tmp_path)
        find_pairs(dataset, tmp_path, "test")
    touch(tmp_path, "images/stray.jpg")
    with pytest.raises(
        ValueError, match=r"images holds both folders, such as 'tes"
    ):
        open_dataset("folder", tmp_path)
    (tmp_path / "images" / "stray.jpg").unlink()
    (tmp_path / "images" / "a{b}").mkdir()
    with pytest.raises(ValueError, match=r"a\{b\} cannot name a split"):
        open_dataset("folder", tmp_path)


def test_a_table(tmp_path):
    write_classes(tmp_path, TWO)
    touch(tmp_path, "p/x.jpg", "m/1.png", "p/y.jpg", "m/2.png", "images/z.jpg")
    table = tmp_path / "pairs.csv"
    table.write_text(
        "image,label,split\np/y.jpg,m/2.png,val\np/x.jpg,m/1.png,train\n"
    )
    dataset = open_dataset("folder", tmp_path)
    assert list(dataset.splits) == ["train", "val"]
    assert below(tmp_path, find_pairs(dataset, tmp_path, "val")) == [
        ("p/y.jpg", "m/2.png")
    ]
    table.write_text("image,label\np/y.jpg,m/2.png\np/x.jpg,m/1.png\n")
    dataset = open_dataset("folder", tmp_path)
    assert below(tmp_path, find_pairs(dataset, tmp_path, "all")) == [
        ("p/y.jpg", "m/2.png"),
        ("p/x.jpg", "m/1.png"),
    ]
    (tmp_path / "m" / "1.png").unlink()
    message = r"pairs\.csv lists 4 files and 1 .*m/1\.png \(it is not there"
    with pytest.raises(FileNotFoundError, match=message):
        find_pairs(dataset, tmp_path, "all")
    table.write_text("image,label\n")
    with pytest.raises(ValueError, match=r"pairs\.csv is empty"):
        open_dataset("folder", tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match=r"both pairs\.csv and the folders"):
        open_dataset("folder", tmp_path)


def test_what_is_no_folder_of_ones_own(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*/no\. Expected"):
        open_dataset("folder", tmp_path / "no")
    with pytest.raises(FileNotFoundError, match=r"There is no .*classes\.json"):
        open_dataset("folder", tmp_path)
    write_classes(tmp_path, TWO)
    with pytest.raises(FileNotFoundError, match=r"neither pairs\.csv nor the"):
        open_dataset("folder", tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither pairs\.csv nor the"):
        open_dataset("folder", tmp_path)
    (tmp_path / "masks").mkdir()
    dataset = open_dataset("folder", tmp_path)
    with pytest.raises(ValueError, match=r"Split 'all' of .* is empty"):
        find_pairs(dataset, tmp_path, "all")
    os.symlink("loop", tmp_path / "images" / "loop")
    dataset = open_dataset("folder", tmp_path)
    with pytest.raises(ValueError, match=r"Split 'all' of .* is empty"):
        find_pairs(dataset, tmp_path, "all")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder of dark ground (7) and bright road (200), and its recipe."""
    root = tmp_path_factory.mktemp("workshop")
    write_classes(
        root,
        {
            "classes": [
                {"name": "ground", "value": 7, "color": [90, 60, 30]},
                {"name": "road", "value": 200},
            ],
            "ignore": [0],
        },
    )
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            mask = np.full((40, 48), 7, "uint8")
            mask[:, rng.integers(8, 40) :] = 200
            mask[:4] = 0
            image = np.stack([mask] * 3, -1) // 2 + 20
            Image.fromarray(image).save(root / f"images/{split}/{number}.png")
            Image.fromarray(mask).save(root / f"masks/{split}/{number}.png")
    (root / "tiny.py").write_text(
        "from keras_danet import TrainConfig\n"
        "config = TrainConfig(dataset='folder', epochs=1, batch_size=2,\n"
        "    augmentation={'crop_size': (32, 32)},\n"
        "    model={'depth': 18, 'filters': 8},\n"
        "    loader='numpy', jit_compile=False)\n"
    )
    return root


def test_labels_are_mapped(workshop):
    dataset = open_dataset("folder", workshop)
    pair = find_pairs(dataset, workshop, "train")[0]
    label, raw = (
        read_pair(pair, dataset)[1],
        np.array(Image.open(pair.label)),
    )
    assert (label[raw == 0] == 255).all()
    assert (label[raw == 7] == 0).all() and (label[raw == 200] == 1).all()
    assert set(np.unique(label)) == {0, 1, 255}


def test_the_whole_way(workshop, tmp_path, monkeypatch, capsys):
    recipe, run = str(workshop / "tiny.py"), str(tmp_path / "run")
    assert main(["train", recipe, "--output", run]) == 2
    assert "KERAS_DANET_FOLDER" in capsys.readouterr().err
    # Where it lies may be told by the environment alone.
    monkeypatch.setenv("KERAS_DANET_FOLDER", str(workshop))
    assert main(["train", recipe, "--output", run]) == 0
    monkeypatch.delenv("KERAS_DANET_FOLDER")
    assert runs.open_model(run)[0].num_classes == 2
    assert main(["evaluate", run]) == 0
    report = json.loads(Path(run, "report.json").read_text())
    assert report["dataset"] == "folder" and report["num_images"] == 2
    assert list(report["class_iou"]) == ["ground", "road"]
    # The top rows are to be ignored.
    assert np.sum(report["confusion_matrix"]) == 2 * 36 * 48

    photo = str(workshop / "images" / "val" / "0.png")
    kept = read_classes(Path(run, "classes.json"))
    assert kept.palette[0] == (90, 60, 30)
    # Prediction needs the run alone.
    monkeypatch.setattr(runs, "find_data", None)
    out = tmp_path / "pictures"
    assert main(["predict", run, photo, "--output", str(out)]) == 0
    assert (out / "0_overlay.png").is_file()


def test_a_run_is_held_to_its_classes(workshop, tmp_path):
    run, root = tmp_path / "run", tmp_path / "data"
    run.mkdir()
    touch(root, "images/a.png", "masks/a.png")
    write_classes(run, TWO)
    write_classes(root, TWO)
    config = TrainConfig(
        "folder", 1, 1, {"crop_size": (32, 32)}, data_root=str(root)
    )
    assert runs.find_data(config, run)[0].class_names == ("ground", "road")
    write_classes(root, {"classes": TWO["classes"][::-1]})
    message = r"data/classes\.json has other classes .* ground, road\. Received"
    with pytest.raises(ValueError, match=message):
        runs.find_data(config, run)
    config = dataclasses.replace(config, dataset="camvid")
    assert runs.find_data(config, run)[0] is CAMVID


def test_images_that_training_does_not_read_are_named(tmp_path):
    write_classes(tmp_path, TWO)
    touch(tmp_path, "images/a.png", "masks/a.png", "images/b.tif")
    dataset = open_dataset("folder", tmp_path)
    with pytest.raises(
        ValueError, match=r"b\.tif is not a PNG or JPEG. Convert"
    ):
        find_pairs(dataset, tmp_path, "all")
