"""What `keras-danet predict` writes: one folder of pictures for each image."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import one_backend
from pictures import photo
from PIL import Image

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import Predictor
from keras_danet.cli import main
from keras_danet.cli.predict import KINDS
from keras_danet.data.decoding import PHOTO_ENDINGS
from keras_danet.data.decoding import read_raw_label
from keras_danet.data.folder import read_classes
from keras_danet.inference import results
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
    code, output = predict(folder, "--sheet")
    assert code == 0
    assert sorted(path.name for path in output.iterdir()) == [
        *("a_label.png", "a_overlay.png", "a_sheet.png"),
        "predict.json",
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
    files = f"{path}, _overlay.png, _sheet.png"
    assert printed.out.strip() == f"{files}: {', '.join(names)}"
    sheet = np.asarray(Image.open(output / "a_sheet.png"))
    assert sheet.shape[1] > 2 * SIZE[1] * 3 and max(sheet.shape) < 2100


def test_only_what_is_wanted(run):
    _, output = predict(run[0])
    names = sorted(path.name for path in output.iterdir())
    assert names == ["a_label.png", "a_overlay.png", "predict.json"]


def test_words_of_save(run, capsys):
    code, output = predict(run[0], "--save", "confidence, label", "--sheet")
    assert code == 0
    names = sorted(path.name for path in output.iterdir())
    assert names == [
        *("a_confidence.png", "a_label.png", "a_sheet.png", "predict.json")
    ]
    assert "a_confidence.png, _label.png, _sheet.png" in capsys.readouterr().out
    for wrong in ("labels", "", "label,,overlay"):
        with pytest.raises(SystemExit) as error:
            predict(run[0], "--save", wrong)
        assert error.value.code == 2
        message = capsys.readouterr().err
        assert "expected words of label, overlay, probabilities" in message


def test_exit_codes_and_what_is_said(run, capsys):
    folder, _ = run
    place = folder.parent
    (place / "bad.png").write_bytes(b"no image")
    (place / "worse.png").touch()

    def code_of(*names, options=()):
        paths = [place / name for name in names]
        arguments = ["predict", folder, *paths, "--output", place / "out"]
        code = main(list(map(str, [*arguments, *options])))
        return code, capsys.readouterr()

    code, said = code_of("bad.png", "worse.png")
    assert code == 2 and not (place / "out").exists() and not said.out
    first, second, last = said.err.splitlines()
    assert first.startswith("keras-danet: error: ") and "bad.png" in first
    assert second.startswith("keras-danet: error: ") and "worse.png" in second
    assert last == "keras-danet: 2 of 2 inputs have errors, above"
    code, said = code_of("bad.png", "a.png")
    assert code == 1 and "a_label.png, _overlay.png: " in said.out
    assert said.err.endswith("1 of 2 inputs have errors, above\n")
    code, said = code_of("a.png")
    assert (code, said.out) == (0, "")
    assert said.err == (
        f"keras-danet: skipped 1 of 1, whose results are in {place / 'out'}; "
        "--overwrite makes them again\n"
    )
    code, said = code_of("a.png", options=["--mirror"])
    assert code == 2 and "by another protocol" in said.err
    assert said.err.count("\n") == 1
    code, said = code_of("a.png", "bad.png", options=["--json"])
    rows = json.loads(said.out)
    assert [row["status"] for row in rows] == ["present", "failed"]
    assert "label" in rows[0] and "label" not in rows[1]
    assert "bad.png cannot be read" in rows[1]["error"] and code == 1
    code, said = code_of("z*.png")
    assert code == 2 and "matches no image" in said.err


SCRIPT = """
import sys, time
from keras_danet.cli import main
from keras_danet.inference import results

real, count = results.save, 0

def slow(path, *arguments):
    global count
    count += 1
    if count == 4:
        print("begun", flush=True)
    time.sleep(0.05)
    real(path, *arguments)

results.save = slow
sys.exit(main(sys.argv[1:]))
"""


@one_backend
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("of_video", [False, True])
def test_stopped_at_any_moment_it_leaves_whole_files(run, number, of_video):
    folder, _ = run
    images = folder.parent / "images"
    images.mkdir()
    for k in range(12):
        photo(*SIZE).save(images / f"{k:03}.png")
    if of_video:
        pytest.importorskip("av", reason="videos need PyAV: pip install av")
    given = images / "%03d.png" if of_video else images
    output = folder.parent / "out"
    arguments = ["predict", folder, given, "--output", output]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.stdout.readline() not in ("begun\n", ""):
        pass
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    stopped = {signal.SIGTERM: 143, signal.SIGKILL: -9}
    assert process.returncode == stopped[number], errors
    found = [
        path
        for path in output.rglob("*.*")
        if "/.partial-" not in str(path) and path.suffix != ".lock"
    ]
    for path in found:
        if path.suffix == ".png":
            Image.open(path).load()
    if of_video:
        assert [path.name for path in found] == ["predict.json"]
    if number == signal.SIGTERM:
        assert not list(output.rglob(".partial-*"))
    # What is missing is made, and what is left over is removed.
    assert main(list(map(str, arguments))) == 0
    assert not list(output.rglob(".*"))
    assert len(list(output.rglob("*_label.png"))) == 12 * (not of_video)
    assert len(list(output.rglob("*_labels/*.png"))) == 12 * of_video


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


def test_attention_is_shown_by_explain(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict(run[0], "--attention")
    assert "keras-danet explain MODEL INPUT" in capsys.readouterr().err


@one_backend
def test_words_to_save_are_those_that_can_be_saved():
    assert KINDS == tuple(results.ENDINGS)
