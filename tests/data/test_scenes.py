"""The drawn scenes: repeatable, apart by split, and not told by colour."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.data import scenes
from keras_danet.data.class_tables import SCENES_CLASSES
from keras_danet.data.scene_drawing import PAVEMENT
from keras_danet.data.scene_drawing import ROAD
from keras_danet.data.scene_drawing import SKY

pytestmark = one_backend


def digest(seed, index, size=(96, 128)):
    image, label = scenes.draw_scene(seed, index, size)
    return hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()


def read(path):
    with Image.open(path) as image:
        return image.mode, np.array(image)


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn():
    """Eighty scenes as two arrays, images and labels."""
    pairs = [scenes.draw_scene(0, index) for index in range(80)]
    images, labels = zip(*pairs, strict=True)
    return np.stack(images), np.stack(labels)


@pytest.mark.parametrize("size", [(96, 128), (32, 32), (33, 200), (150, 41)])
def test_shapes_types_and_values(size):
    image, label = scenes.draw_scene(3, 5, size)
    assert image.shape == (*size, 3)
    assert label.shape == size
    assert image.dtype == label.dtype == np.uint8
    assert set(np.unique(label)) <= {*range(8), 255}
    assert image.std() > 10


def test_a_scene_depends_on_seed_and_index_alone():
    first = digest(0, 1)
    others = {digest(1, 1), digest(0, 2), digest(1, 0), digest(0, 2**32)}
    assert digest(0, 1) == first
    assert len(others) == 4 and first not in others
    assert digest(np.int64(0), np.uint8(1)) == first


def test_a_scene_is_the_same_in_another_process():
    code = (
        "import hashlib, runpy, sys; "
        "draw_scene = runpy.run_path(sys.argv[1])['draw_scene']; "
        "image, label = draw_scene(4, 2); "
        "data = image.tobytes() + label.tobytes(); "
        "print(hashlib.sha256(data).hexdigest())"
    )
    command = [sys.executable, "-c", code, scenes.__file__]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(4, 2)


def test_every_class_is_common_enough_to_be_learnt(drawn):
    _, labels = drawn
    for value, name in enumerate(SCENES_CLASSES):
        here = labels == value
        assert here.mean() >= 0.01, name
        assert here.any((1, 2)).mean() >= 0.85, name
    assert 0 < (labels == 255).mean() <= 0.03


def test_things_stand_where_a_street_has_them(drawn):
    _, labels = drawn
    row = {
        name: np.nonzero(labels == value)[1].mean()
        for value, name in enumerate(SCENES_CLASSES)
    }
    assert row["sky"] < row["building"] < row["car"] < row["road"]
    assert row["tree"] < row["pedestrian"] < row["road"]
    below_ground = np.maximum.accumulate(
        (labels == ROAD) | (labels == PAVEMENT), axis=1
    )
    assert not (below_ground & (labels == SKY)).any()
    hood_rows = np.nonzero(labels == 255)[1]
    assert hood_rows.min() > 80


def colour_bins(images, bins):
    levels = images.astype("int64") * bins // 256
    return levels @ np.array([bins * bins, bins, 1])


def colour_classifier_iou(fitted, unseen, bins, balanced):
    """Mean IoU of the best class per colour bin, fitted by counting."""
    counts = np.zeros((bins**3, 8))
    images, labels = fitted
    valid = labels != 255
    np.add.at(counts, (colour_bins(images, bins)[valid], labels[valid]), 1)
    if balanced:
        counts /= counts.sum(0)
    images, labels = unseen
    valid = labels != 255
    guess = counts.argmax(1)[colour_bins(images, bins)[valid]]
    confusion = np.zeros((8, 8))
    np.add.at(confusion, (labels[valid], guess), 1)
    hits = np.diag(confusion)
    return (hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean()


@pytest.mark.parametrize("bins", [8, 16])
@pytest.mark.parametrize("balanced", [False, True])
def test_colour_alone_does_not_tell_the_class(drawn, bins, balanced):
    images, labels = drawn
    iou = colour_classifier_iou(
        (images[:60], labels[:60]), (images[60:], labels[60:]), bins, balanced
    )
    # A network is asked for 0.75. Below 0.1 the colours would be noise.
    assert 0.1 < iou < 0.4


def test_colour_classifier_finds_a_class_told_by_colour():
    labels = np.arange(8).repeat(4).reshape(1, 4, 8)
    images = (30 * labels[..., None] + np.array([5, 9, 3])).astype("uint8")
    pair = images, labels
    assert colour_classifier_iou(pair, pair, 16, balanced=False) == 1.0


@pytest.mark.slow
def test_a_network_does_clearly_better_than_colour(tmp_path):
    from keras_danet import recipe
    from keras_danet.trainer import loop

    root = scenes.write_scenes(tmp_path / "scenes", {"train": 1600, "val": 48})
    arrays = {}
    for split in ("train", "val"):
        lines = (root / f"{split}.txt").read_text("utf-8").splitlines()
        pairs = [[read(root / name)[1] for name in x.split()] for x in lines]
        arrays[split] = tuple(map(np.stack, zip(*pairs, strict=True)))
    colour = max(
        colour_classifier_iou(arrays["train"], arrays["val"], 16, balanced)
        for balanced in (False, True)
    )
    recipe = recipe.load_recipe("training/scenes_danet_resnet18.py")
    config = recipe.replace({"epochs": 1, "data_root": str(root)})
    history = loop.train(config, tmp_path / "run", verbose=0)
    # A fifth of the demo's training; 0.21 when it was written.
    assert history["val_mean_iou"][-1] > colour + 0.15


def test_layout_of_the_written_folder(tmp_path):
    root = scenes.write_scenes(
        tmp_path / "new" / "scenes", {"train": 3, "val": 2}, (32, 48), seed=5
    )
    assert root == tmp_path / "new" / "scenes"
    assert {path.name for path in root.parent.iterdir()} == {"scenes"}
    lines = (root / "train.txt").read_text(encoding="utf-8").splitlines()
    assert lines[2] == "train/train_00002.png trainannot/train_00002.png"
    listed = {"train.txt", "val.txt"}
    for split, count in (("train", 3), ("val", 2)):
        text = (root / f"{split}.txt").read_text(encoding="utf-8")
        pairs = [line.split(" ") for line in text.splitlines()]
        assert len(pairs) == count
        for image_name, label_name in pairs:
            mode, image = read(root / image_name)
            assert (mode, image.shape) == ("RGB", (32, 48, 3))
            mode, label = read(root / label_name)
            assert (mode, label.shape) == ("P", (32, 48))
            assert set(np.unique(label)) <= {*range(8), 255}
            listed |= {image_name, label_name}
    assert set(files_below(root)) == listed


def test_splits_are_disjoint_and_independent(tmp_path):
    size = 32, 32
    both = scenes.write_scenes(tmp_path / "a", {"train": 6, "val": 4}, size)
    other = scenes.write_scenes(tmp_path / "b", {"val": 4, "train": 2}, size)
    both, other = files_below(both), files_below(other)
    images = [
        data
        for name, data in both.items()
        if name.endswith("png") and "annot" not in name
    ]
    assert len(images) == len(set(images)) == 10
    for name in other:
        if name != "train.txt":
            assert other[name] == both[name], name


def test_written_scenes_depend_on_the_seed(tmp_path):
    first, same, second = (
        files_below(
            scenes.write_scenes(tmp_path / name, {"val": 1}, (32, 32), seed)
        )
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == same
    assert first["val/val_00000.png"] != second["val/val_00000.png"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch, error):
    draw, calls = scenes.draw_scene, []

    def fail_at_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise error
        return draw(*args)

    monkeypatch.setattr(scenes, "draw_scene", fail_at_third)
    with pytest.raises(type(error)):
        scenes.write_scenes(tmp_path / "scenes", {"train": 5}, (32, 32))
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "kept.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="exists already"):
        scenes.write_scenes(tmp_path, {"train": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"size": (31, 64)}, r"size=\(31, 64\)"),
        ({"size": (64, 16.0)}, r"size=\(64, 16\.0\)"),
        ({"size": 64}, "height, width"),
        ({"size": (64, 64, 3)}, "height, width"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed"),
        ({"seed": "0"}, "seed='0'"),
        ({"index": -1}, "index=-1"),
        ({"index": None}, "index=None"),
    ],
)
def test_bad_scene_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        scenes.draw_scene(**{"seed": 0, "index": 0, **arguments})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"splits": {}}, "splits"),
        ({"splits": {"train": 0}}, r"splits\['train'\].*0"),
        ({"splits": {"train": 2.5}}, r"2\.5"),
        ({"splits": {"../x": 1}}, r"\.\./x"),
        ({"splits": {3: 1}}, "splits"),
        ({"splits": {"train": 1, "trainannot": 1}}, "annot"),
        ({"splits": 480}, "splits=480"),
        ({"splits": {"train": 1}, "size": (8, 8)}, "size"),
        ({"splits": {"train": 1}, "seed": 0.5}, "seed"),
    ],
)
def test_bad_folder_arguments_write_nothing(tmp_path, arguments, named):
    with pytest.raises(ValueError, match=named):
        scenes.write_scenes(tmp_path / "scenes", **arguments)
    assert list(tmp_path.iterdir()) == []
