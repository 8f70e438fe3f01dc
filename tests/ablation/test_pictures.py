"""Which images an ablation shows, and what it draws of them."""

import json
import os

import numpy as np
import pytest
import tiny
from conftest import one_backend
from PIL import Image

from keras_danet import Predictor
from keras_danet.ablation import grid as grids
from keras_danet.ablation import grid_file
from keras_danet.ablation import pictures
from keras_danet.cli import main
from keras_danet.data.datasets import SCENES
from keras_danet.data.scenes import write_scenes
from keras_danet.inference import sheets
from keras_danet.inference.visualization import overlay

pytestmark = one_backend

RECIPE = """
from keras_danet import TrainConfig

config = TrainConfig("scenes", 1, 1, {"crop_size": (32, 48)})
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two runs of tiny networks, evaluated on five scenes."""
    folder = tmp_path_factory.mktemp("pictures")
    write_scenes(folder / "data", {"train": 1, "val": 5}, size=(32, 48))
    (folder / "tiny.py").write_text(RECIPE)
    grid = grids.make_grid(
        folder / "grid",
        str(folder / "tiny.py"),
        {},
        ["attention=none,position"],
        "3",
    )
    grid_file.save_grid(grid)
    models = {}
    for variant in grid.variants:
        run = grid.run(variant, 3)
        run.mkdir(parents=True)
        name = variant.settings["attention"]
        models[name] = tiny.danet(
            SCENES.num_classes, attention=() if name == "none" else name
        )
        models[name].save(run / "model.keras")
        config = {"dataset": "scenes", "epochs": 1, "batch_size": 1}
        config["augmentation"] = {"crop_size": [32, 48]}
        config |= {"seed": 3, "model": {"attention": name}}
        (run / "config.json").write_text(json.dumps({"config": config}))
        (run / "history.csv").write_text("epoch,val_mean_iou\n1,0.1\n")
        assert main(["evaluate", str(run), "--data", str(folder / "data")]) == 0
    return grid, folder / "data", models


def image_ious(model, data):
    """By hand: the mean IoU over the classes that an image's truth has."""
    found = []
    for path in sorted((data / "val").glob("*.png")):
        image = np.asarray(Image.open(path).convert("RGB"))
        label = np.asarray(Image.open(data / "valannot" / path.name))
        seen = Predictor(model)(image)
        seen = np.where(label == 255, 255, seen)
        classes = set(np.unique(label)) - {255}
        ious = [
            ((label == k) & (seen == k)).sum()
            / ((label == k) | (seen == k)).sum()
            for k in classes
        ]
        found.append((np.mean(ious), image, label, seen))
    return found


def test_the_rule_chooses_the_images(measured, monkeypatch):
    grid, data, models = measured
    drawn = []
    draw = sheets.draw_sheet

    def draw_sheet(panels, *arguments):
        drawn.append(panels)
        return draw(panels, *arguments)

    monkeypatch.setattr(sheets, "draw_sheet", draw_sheet)
    arguments = ["ablate", "--table", str(grid.folder), "--pictures"]
    assert main([*arguments, "--data", str(data)]) == 0
    base, other = (image_ious(m, data) for m in models.values())
    gains = [b[0] - a[0] for a, b in zip(base, other, strict=True)]
    assert len(set(gains)) == 5
    order = np.argsort(gains)[::-1]
    # The sheet is drawn after the picture of attention.
    panels = drawn[-1]
    assert len(panels) == 12
    for row, (title, index) in enumerate(
        (
            ("largest gain", order[0]),
            ("median", order[2]),
            ("largest loss", order[4]),
        )
    ):
        (name, image), without, with_it, truth = panels[4 * row : 4 * row + 4]
        assert name == title
        size = image.shape[:2]
        np.testing.assert_array_equal(
            image, sheets.resize_image(base[index][1], size)
        )
        assert without[0] == f"none: {100 * base[index][0]:.1f} %"
        assert with_it[0] == f"position: {100 * other[index][0]:.1f} %"
        labels = sheets.resize_map(base[index][2], size)
        np.testing.assert_array_equal(
            truth[1], overlay(image, labels, SCENES.palette, 0.6)
        )
    page = (grid.folder / "ablation.md").read_text()
    for path in pictures.picture_paths(grid.folder, grid.variants[1]):
        assert path.is_file()
        assert f"(pictures/{path.name})" in page
    assert pictures.RULE in page


def test_a_run_without_its_model_is_counted_but_not_drawn(measured, capsys):
    grid, data, _ = measured
    run = grid.run(grid.variants[1], 3)
    model = run / "model.keras"
    arguments = ["ablate", "--table", str(grid.folder)]
    hidden = model.rename(run / "hidden")
    try:
        assert main(arguments) == 0
        assert main([*arguments, "--pictures", "--data", str(data)]) == 2
        assert "model.keras" in capsys.readouterr().err
    finally:
        hidden.rename(model)
    (run / "report.images.jsonl").rename(run / "gone.jsonl")
    try:
        assert main([*arguments, "--pictures", "--data", str(data)]) == 2
        assert "evaluate the run again" in capsys.readouterr().err
    finally:
        (run / "gone.jsonl").rename(run / "report.images.jsonl")


@pytest.mark.parametrize(
    "content",
    [b"", b"[]\n", b"\xff" * 99, b"{}\n{}\n", b"[" * 10_000 + b"\n", b"5\n5\n"],
)
@pytest.mark.parametrize("name", ["report.images.jsonl", "model.keras"])
def test_what_is_damaged_is_no_traceback(measured, capsys, name, content):
    grid, data, _ = measured
    path = grid.run(grid.variants[1], 3) / name
    whole, times = path.read_bytes(), path.stat()
    path.write_bytes(content)
    try:
        words = ["--table", str(grid.folder), "--pictures", "--data", str(data)]
        assert main(["ablate", *words]) == 2
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    said = capsys.readouterr().err
    assert str(path.parent) in said and "Traceback" not in said


def test_a_model_of_other_classes_is_named(measured, capsys):
    grid, data, _ = measured
    path = grid.run(grid.variants[1], 3) / "model.keras"
    whole = path.read_bytes()
    tiny.danet(3, attention="position").save(path)
    try:
        words = ["--table", str(grid.folder), "--pictures", "--data", str(data)]
        assert main(["ablate", *words]) == 2
    finally:
        path.write_bytes(whole)
    assert f"{path} is no DANet of 8 classes" in capsys.readouterr().err
