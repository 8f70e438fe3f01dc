"""The table of an ablation, from run folders that were written by hand."""

import dataclasses
import json
import math
import statistics

import numpy as np
import pytest
import tiny
from conftest import one_backend
from PIL import Image
from runs_by_hand import IOUS
from runs_by_hand import report
from runs_by_hand import write_grid

from keras_danet.ablation import grid as grids
from keras_danet.ablation import grid_file
from keras_danet.ablation.statistics import STUDENT_T
from keras_danet.ablation.statistics import gain
from keras_danet.ablation.statistics import spread
from keras_danet.ablation.table import read_ablation
from keras_danet.inference.curves import COLORS
from keras_danet.inference.curves import draw_curves
from keras_danet.models.memory import count_multiplications

pytestmark = one_backend

quick_builds = pytest.fixture(autouse=True)(tiny.quick_builds)


@pytest.fixture
def grid(tmp_path):
    return write_grid(tmp_path)


def mean_of(attention):
    return [sum(v) / 3 for (a, _), v in IOUS.items() if a == attention]


def test_the_table_has_the_figures_of_the_folders(grid, tmp_path):
    opened = grid_file.open_grid(tmp_path / "grid")
    # The recipe is not needed any more.
    (tmp_path / "tiny.py").unlink()
    ablation = read_ablation(opened)
    ablation.save()
    content = json.loads((grid.folder / "ablation.json").read_text())
    base, position = content["rows"]
    none = mean_of("none")
    assert base["mean_iou"]["mean"] == pytest.approx(sum(none) / 3)
    assert base["mean_iou"]["deviation"] == pytest.approx(
        statistics.stdev(none)
    )
    # Seed 2 has no partner.
    pairs = [b - a for a, b in zip(none, mean_of("position"), strict=False)]
    half = 12.706 * statistics.stdev(pairs) / math.sqrt(2)
    assert position["gain"] == pytest.approx(
        {
            "mean": sum(pairs) / 2,
            "low": sum(pairs) / 2 - half,
            "high": sum(pairs) / 2 + half,
            "seeds": 2,
        }
    )
    road = position["class_gain"]["road"]
    half = 12.706 * statistics.stdev([0.1, 0.3]) / math.sqrt(2)
    assert (road["mean"], road["high"]) == pytest.approx((0.2, 0.2 + half))
    assert [run["gammas"] for run in position["runs"]] == [
        {"position": 0.04}
    ] * 2
    assert position["runs"][0]["folder"] == "attention=position/seed-0"
    mean = sum(IOUS["position", 0]) / 3
    np.testing.assert_allclose(
        position["runs"][0]["curve"], [(14, mean / 2), (28, mean)]
    )
    assert content["missing"] == ["attention=position, seed 2"]
    assert content["gains_over"] == {"attention": "none"}
    model = tiny.danet(attention="position", filters=32)
    assert position["parameters"] == model.inference_model.count_params()
    assert position["multiply_adds"] == count_multiplications(model, 48, 64)
    assert base["multiply_adds"] < position["multiply_adds"]


def test_the_page_shows_them(grid):
    ablation = read_ablation(grid)
    ablation.save()
    lines = (grid.folder / "ablation.md").read_text().splitlines()
    # Deviations by hand: 0.35, 0.2833, 0.3167 and 0.3833, 0.3833.
    (row,) = [line for line in lines if line.startswith("| none |")]
    assert row.startswith("| none | 3 | 31.67 ± 3.33 % | - |  | ")
    (row,) = [line for line in lines if line.startswith("| position |")]
    assert "| 2 | 38.33 ± 0.00 % | +6.67 | \\[-35.69, +49.02] |" in row
    assert "| 0.040 ± 0.000 | - |" in row
    (row,) = [line for line in lines if line.startswith("| car\\_or\\|bus")]
    assert row.count("|") == 5
    assert "Not measured: attention=position, seed 2." in lines
    text = ablation.text()
    assert "scenes val, 3 images; whole images" in text
    assert "Student's t" in text
    with Image.open(grid.folder / "ablation.png") as picture:
        colors = {color for _, color in picture.getcolors(10**6)}
    assert set(COLORS[:2]) <= colors


def test_several_scales_have_columns_where_they_were_measured(grid):
    assert "multi-scale" not in read_ablation(grid).text()
    settings = {"scales": [0.5, 1.0], "mirror": True}
    scales = {"protocol": "scales 0.5, 1", "settings": settings}
    run = grid.run(grid.variants[1], 1)
    ious = (0.7, 0.4, 0.3)
    weights = f"of {IOUS['position', 1]}"
    report(ious, weights=weights, **scales).save(
        run / "report_multi_scale.json"
    )
    ablation = read_ablation(grid)
    text = ablation.text()
    assert "Multi-scale: scales 0.5, 1; its gain is over" in text
    lines = ablation.markdown().splitlines()
    (row,) = [line for line in lines if line.startswith("| position |")]
    # By hand: 1.4 / 3, and over the single scale of seed 1 alone, 1.15 / 3.
    assert "| 46.67 % | +8.33 |" in row
    (row,) = [line for line in lines if line.startswith("| none |")]
    assert "| - |  | - | - |" in row
    content = ablation.as_dict()
    assert content["multi_scale_protocols"] == ["scales 0.5, 1"]
    first, second = content["rows"][1]["runs"]
    assert "multi_scale_mean_iou" not in first
    assert second["multi_scale_mean_iou"] == pytest.approx(1.4 / 3)


def test_what_gains_are_over_is_said(grid):
    for seed in (0, 1, 2):
        (grid.run(grid.variants[0], seed) / "report.json").unlink()
    ablation = read_ablation(grid)
    note = (
        "The first variant, attention=none, has no run: gains are over "
        "attention=position."
    )
    assert note in ablation.text() and note in ablation.markdown()
    assert ablation.as_dict()["gains_over"] == {"attention": "position"}


def test_settings_are_named_without_folders(grid):
    settings = ("backbone_weights='/home/me/w.h5'", "epochs=4")
    ablation = read_ablation(grid)
    ablation = dataclasses.replace(
        ablation, grid=dataclasses.replace(grid, settings=settings)
    )
    line = "Set for all: backbone_weights='w.h5', epochs=4."
    assert line in ablation.text()
    assert "/home" not in ablation.markdown()
    assert ablation.as_dict()["settings"][0] == "backbone_weights='w.h5'"


def test_without_a_run_there_is_no_table(grid, tmp_path):
    empty = grids.make_grid(
        tmp_path / "empty", grid.recipe, {}, ["depth=18,34"], "0"
    )
    with pytest.raises(ValueError, match=r"No run in .*empty was trained"):
        read_ablation(empty)


def test_intervals_are_scipy_s():
    stats = pytest.importorskip("scipy.stats")
    np.testing.assert_allclose(
        STUDENT_T, stats.t.ppf(0.975, np.arange(1, 31)), atol=6e-4
    )
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 5))
    found = gain(dict(enumerate(other)), dict(enumerate(one)))
    tested = stats.ttest_rel(other, one)
    expected = tested.confidence_interval(0.95)
    np.testing.assert_allclose(
        found[:3], [(other - one).mean(), *expected], rtol=1e-3
    )


def test_one_seed_has_no_interval():
    assert spread({0: 0.5})[::2] == (0.5, 1)
    assert math.isnan(spread({0: 0.5}).deviation)
    found = gain({0: 0.7}, {0: 0.5, 1: 0.1})
    assert (found.mean, found.seeds) == (pytest.approx(0.2), 1)
    assert math.isnan(found.low)
    assert spread({0: math.nan}).seeds == 0


def test_a_curve_lies_where_its_numbers_are():
    # Two repetitions, 20 and 40 %, over the whole width.
    runs = [[(0, 0.2), (100, 0.2)], [(0, 0.4), (100, 0.4)]]
    picture = draw_curves({"only": runs}, "steps", "IoU").astype(int)
    column = picture[:, 400]
    line = (abs(column - COLORS[0]).sum(-1) < 60).nonzero()[0]
    white = 0.75 * 255 + 0.25 * np.array(COLORS[0])
    band = (abs(column - white).sum(-1) < 30).nonzero()[0]
    assert len(line) <= 3 and len(band) > 100
    middle = (band.min() + band.max()) / 2
    assert abs(line.mean() - middle) <= 2
