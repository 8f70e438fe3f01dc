"""What `keras-danet predict` writes: one folder of pictures for each image."""

import json

import numpy as np
import pytest
from pictures import photo
from PIL import Image

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import Predictor
from keras_danet.cli import main
from keras_danet.data.decoding import PHOTO_ENDINGS
from keras_danet.data.decoding import read_raw_label
from keras_danet.data.folder import read_classes
from keras_danet.inference.visualization import overlay

NAMES = ("ground", "\u9053\u8def", "Stra\u00dfe", "sky")
SIZE = (70, 130)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    config = {"dataset": "folder", "epochs": 1, "batch_size": 1}
    config["crop_size"] = [32, 32]
    (folder / "config.json").write_text(json.dumps({"config": config}))
    classes = [{"name": name} for name in NAMES]
    classes[3]["color"] = [10, 20, 30]
    (folder / "classes.json").write_text(
        json.dumps({"classes": classes}), "utf-8"
    )
    model = DANet(len(NAMES), DilatedResNet(18, filters=8))
    classifier = model.get_layer("fusion_classifier")
    classifier.kernel.assign(classifier.kernel * 50)
    # So that each class has a part of the image.
    logits = Predictor(model).logits(np.asarray(photo(*SIZE)))
    classifier.bias.assign(-np.median(logits, axis=(0, 1)))
    model.save(folder / "model.keras")
    Image.fromarray(np.asarray(photo(*SIZE))).save(tmp_path / "a.png")
    return folder, model


def predict(run, *options):
    output = run.parent / "out"
    arguments = ["predict", run, run.parent / "a.png", "--output", output]
    return main(list(map(str, [*arguments, *options]))), output


def test_label_map_overlay_and_what_is_wanted_besides(run, capsys):
    folder, model = run
    code, output = predict(folder, "--sheet", "--attention")
    assert code == 0
    assert sorted(path.name for path in output.iterdir()) == [
        f"a_{kind}.png" for kind in ("attention", "label", "overlay", "sheet")
    ]
    image = np.asarray(photo(*SIZE))
    expected = Predictor(model)(image)
    dataset = read_classes(folder / "classes.json")
    # No class is black, and the user's colour is kept.
    assert all(map(any, dataset.palette)) and dataset.palette[3] == (10, 20, 30)

    with Image.open(output / "a_label.png") as file:
        label = np.asarray(file)
        shown = np.asarray(file.convert("RGB"))
    assert file.mode == "P" and label.shape == SIZE
    # A tie of two logits may fall otherwise in a loaded model.
    assert (label == expected).mean() > 0.99
    assert len(np.unique(label)) > 1
    np.testing.assert_array_equal(shown, np.array(dataset.palette)[label])
    path = str(output / "a_label.png")
    np.testing.assert_array_equal(read_raw_label(path, dataset), label)

    # One picture of the image's own size, and nothing beside it.
    found = np.asarray(Image.open(output / "a_overlay.png"))
    np.testing.assert_array_equal(found, overlay(image, label, dataset.palette))
    printed = capsys.readouterr()
    names = [NAMES[index] for index in np.unique(label)]
    files = f"{path}, _overlay.png, _sheet.png, _attention.png"
    assert printed.out.strip() == f"{files}: {', '.join(names)}"
    sheet = np.asarray(Image.open(output / "a_sheet.png"))
    assert sheet.shape[1] > 2 * SIZE[1] * 3 and max(sheet.shape) < 2100


def test_only_what_is_wanted(run):
    _, output = predict(run[0])
    names = sorted(path.name for path in output.iterdir())
    assert names == ["a_label.png", "a_overlay.png"]


def test_every_kind_of_image_that_is_read_is_found_in_a_folder(run, capsys):
    folder, _ = run
    images = folder.parent / "images"
    images.mkdir()
    for ending in PHOTO_ENDINGS:
        photo(*SIZE).save(images / f"{ending[1:]}{ending}")
    for name in ("a.txt", "b.ppm", "c.svg", "d.json"):
        (images / name).touch()
    output = folder.parent / "out"
    arguments = ["predict", folder, images, "--output", output]
    assert main(list(map(str, arguments))) == 0
    assert sorted(path.name for path in output.glob("*_label.png")) == sorted(
        f"{ending[1:]}_label.png" for ending in PHOTO_ENDINGS
    )
    assert capsys.readouterr().err == (
        f"keras-danet: skipped 4 files in {images} that are not images: "
        "a.txt, b.ppm, c.svg and 1 more\n"
    )


def test_attention_that_there_is_not(run, capsys):
    folder, _ = run
    backbone = DilatedResNet(18, filters=8)
    model = DANet(len(NAMES), backbone, attention=())
    model.save(folder / "model.keras")
    code, output = predict(folder, "--attention")
    assert code == 2 and not output.exists()
    assert "no attention module. Leave out" in capsys.readouterr().err
