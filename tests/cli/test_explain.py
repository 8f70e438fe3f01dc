"""What `keras-danet explain` writes, and what it refuses."""

import base64
import json
import re

import numpy as np
import pytest
from conftest import one_backend
from explained import CLASSES
from explained import make_model
from explained import picture
from PIL import Image

from keras_danet import explain
from keras_danet.cli import main
from keras_danet.explain.points import RULE

pytest.importorskip("matplotlib")
pytestmark = one_backend


@pytest.fixture(scope="module")
def trained():
    return make_model()


@pytest.fixture
def run(tmp_path, trained):
    """A run on a folder of images, with labels for four of them."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = {"dataset": "folder", "epochs": 1, "batch_size": 1}
    config |= {"crop_size": [32, 32], "data_root": str(tmp_path / "data")}
    (folder / "config.json").write_text(json.dumps({"config": config}))
    classes = json.dumps({"classes": [{"name": name} for name in CLASSES]})
    (folder / "classes.json").write_text(classes)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
    (tmp_path / "data" / "classes.json").write_text(classes)
    for index in range(4):
        place = tmp_path / "data"
        Image.fromarray(picture(index)).save(place / f"images/val/{index}.png")
        Image.fromarray(label_of(index)).save(place / f"masks/val/{index}.png")
    trained.save(folder / "model.keras")
    return folder


def label_of(index):
    rng = np.random.default_rng(100 + index)
    return rng.integers(0, 3, (48, 72), dtype="uint8")


def call(run, *options):
    output = run.parent / "why"
    image = run.parent / "data/images/val/1.png"
    arguments = ["explain", run, image, "--output", output, *options]
    return main(list(map(str, arguments))), output


def test_figures_numbers_and_one_page(run, trained, capsys):
    code, output = call(run, "--point", "71,3", "--channels", "5,2")
    assert code == 0
    kinds = "position channel points channels classes uncertainty".split()
    assert sorted(path.name for path in output.iterdir()) == sorted(
        [f"1_{kind}.png" for kind in kinds] + ["explanation.json", "index.html"]
    )
    numbers = json.loads((output / "explanation.json").read_text())
    found = numbers["images"]["1"]
    [point] = found["points"]
    assert (point["row"], point["column"]) == (3, 71)
    maps = explain.position_attention(trained, picture(1), [(3, 71)])
    near = explain.reach(maps, [(3, 71)], (48, 72)).near
    assert point["near"] == pytest.approx(float(near[0]), rel=1e-5)
    assert list(found["channels"]) == ["5", "2"]
    assert found["channels_measured_on"] == 0
    page = (output / "index.html").read_text()
    pictures = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    assert len(pictures) == len(kinds)
    for content in pictures:
        assert base64.b64decode(content)[:4] == b"RIFF"
    # Nothing but these pictures is asked for.
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert RULE in page and "1 (71, 3)" in page
    assert capsys.readouterr().out == f"{output / 'index.html'}\n"


def test_measuring_names_channels_and_keeps_the_names(run, trained):
    code, output = call(run, "--measure", "3", "--format", "pdf,svg")
    assert code == 0
    assert {path.suffix for path in output.glob("1_*")} == {".pdf", ".svg"}
    numbers = json.loads((output / "explanation.json").read_text())
    # Three of four, spread evenly.
    pairs = [(picture(index), label_of(index)) for index in (0, 1, 3)]
    expected = explain.channel_classes(trained, pairs)
    kept = json.loads((run / "channels.json").read_text())
    np.testing.assert_allclose(kept["responses"], expected.responses, rtol=1e-5)
    assert numbers["labelled_images"] == 3
    gains = explain.contribution(trained, pairs)
    for told, found in zip(numbers["contributions"], gains, strict=True):
        assert told["kind"] == found.kind and found.changed > 0
        assert told["mean_iou_gain"] == pytest.approx(found.gains.mean())
    assert "3 labelled images" in (output / "index.html").read_text()
    # The next call finds the names beside the model.
    code, output = call(run, "--overwrite")
    numbers = json.loads((output / "explanation.json").read_text())
    assert code == 0
    assert numbers["images"]["1"]["channels_measured_on"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--point", "72,0"], "image of 48x72 pixels"),
        (["--channels", "16"], "from 0 to 15"),
        (["--data", "somewhere"], "Give --measure N"),
        (["--point", "0,0"] * 32, "32 points were given"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(run, capsys, options, said):
    code, output = call(run, *options)
    error = capsys.readouterr().err
    assert code == 2 and said in error and "Traceback" not in error
    assert not output.exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--point", "4"], "pixels from the left and from the top"),
        (["--channels", "one"], "expected auto"),
        (["--format", "gif"], "png, pdf, svg"),
        (["--measure", "0"], "1 or more"),
    ],
)
def test_what_is_mistyped_is_said(run, capsys, option, said):
    with pytest.raises(SystemExit, match="2"):
        call(run, *option)
    assert said in capsys.readouterr().err


def test_nothing_is_replaced_that_was_not_asked_for(run, capsys):
    output = run.parent / "why"
    output.mkdir()
    (output / "1_points.png").write_text("mine")
    assert call(run)[0] == 2
    assert "replace results with --overwrite" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["1_points.png"]
    assert (output / "1_points.png").read_text() == "mine"


def test_a_broken_image_is_named_and_the_rest_is_done(run, capsys):
    broken = run.parent / "broken.png"
    broken.write_text("text")
    image, output = run.parent / "data/images/val/1.png", run.parent / "why"
    arguments = ["explain", run, image, broken, "--output", output]
    assert main(list(map(str, arguments))) == 1
    error = capsys.readouterr().err
    assert str(broken) in error and "Traceback" not in error
    numbers = json.loads((output / "explanation.json").read_text())
    assert list(numbers["images"]) == ["1"]


def test_an_attention_that_there_is_not(run, capsys):
    make_model(attention=("position",)).save(run / "model.keras")
    code, output = call(run, "--channels", "1")
    assert code == 2
    assert "no channel attention (it has: position)" in capsys.readouterr().err
    assert call(run)[0] == 0
    assert not (output / "1_channels.png").exists()
    assert (output / "1_points.png").exists()


def test_names_are_text_on_the_page(run):
    names = ["<script>alert(1)</script>", '"><img src=x>', "道路"]
    classes = json.dumps({"classes": [{"name": name} for name in names]})
    for folder in (run, run.parent / "data"):
        (folder / "classes.json").write_text(classes)
    model = make_model()
    model.class_names = tuple(names)
    model.save(run / "model.keras")
    code, output = call(run)
    page = (output / "index.html").read_text("utf-8")
    assert code == 0 and "道路" in page
    assert "<script>" not in page and "<img src=x>" not in page
    assert "&lt;script&gt;" in page
