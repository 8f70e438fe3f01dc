"""Models side by side, and intervals against a plain loop."""

import json
import math

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.cli import main
from keras_danet.data.datasets import SCENES
from keras_danet.data.files import Pair
from keras_danet.inference.comparison import ImageCounts
from keras_danet.inference.comparison import bootstrap
from keras_danet.inference.comparison import compare_reports
from keras_danet.inference.evaluation import evaluate
from keras_danet.inference.report import Report

pytestmark = one_backend


def counts(seed, truth):
    """Counts of a model; the truth of both models is the same."""
    rng = np.random.default_rng(seed)
    hits = rng.integers(0, truth + 1)
    prediction = hits + rng.integers(0, 50, truth.shape)
    prediction[:, 3] = hits[:, 3]
    names = tuple(map(str, range(len(truth))))
    return ImageCounts(names, hits, truth, prediction)


def plain_interval(first, second, seed, num_resamples):
    rng = np.random.default_rng(seed)
    count, num_classes = first.hits.shape
    found = []
    for _ in range(num_resamples):
        drawn = rng.integers(0, count, count)
        ious = []
        for part in (first, second):
            row = []
            for k in range(num_classes):
                hits = sum(int(part.hits[i, k]) for i in drawn)
                union = sum(
                    int(part.truth[i, k] + part.prediction[i, k]) for i in drawn
                )
                union -= hits
                row.append(hits / union if union else math.nan)
            ious.append([np.nanmean(row), *row])
        found.append(np.subtract(ious[1], ious[0]))
    ends = []
    for values in np.transpose(found):
        values = values[~np.isnan(values)]
        ends.append(
            np.percentile(values, [2.5, 97.5])
            if len(values)
            else [math.nan] * 2
        )
    return np.array(ends)


@pytest.mark.parametrize("num_resamples", [60, 230])
def test_intervals_are_a_plain_loop(num_resamples):
    truth = np.random.default_rng(5).integers(0, 90, (11, 5))
    # Class 2 is in one image only, class 3 (see above) in none.
    truth[:10, 2] = truth[:, 3] = 0
    first, second = counts(1, truth), counts(2, truth)
    for part in (first, second):
        part.prediction[:10, 2] = 0
    got = bootstrap(first, second, 7, num_resamples)
    expected = plain_interval(first, second, 7, num_resamples)
    # Sums of a few quotients in another order.
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)
    assert np.isnan(got[4]).all() and not np.isnan(got[:4]).any()
    assert (got[:3, 0] < got[:3, 1]).all()
    assert not np.array_equal(got, bootstrap(first, second, 8, num_resamples))
    np.testing.assert_array_equal(bootstrap(first, first, 7)[:3], 0)


@pytest.fixture
def reports(tmp_path):
    """Folders of two runs, the second one better."""
    rng = np.random.default_rng(0)
    pairs, labels = [], []
    for index in range(12):
        pair = Pair(*(str(tmp_path / f"{index}{end}.png") for end in "il"))
        image = np.full((20, 15, 3), index, "uint8")
        label = rng.integers(0, 7, (20, 15)).astype("uint8")
        Image.fromarray(image).save(pair.image)
        Image.fromarray(label).save(pair.label)
        pairs.append(pair)
        labels.append(label)
    folders = []
    for name, share in (("worse", 0.3), ("better", 0.15)):

        def predictor(image, share=share):
            label = labels[image[0, 0, 0]].copy()
            wrong = np.random.default_rng(image[0, 0, 0]).random(label.shape)
            label[wrong < share] = 0
            return label

        folder = tmp_path / name
        records = folder / "report.images.jsonl"
        evaluate(predictor, pairs, SCENES, "val", records=records).save(
            folder / "report.json"
        )
        folders.append(folder)
    return folders


def test_compare_shows_differences(reports, capsys):
    assert main(["compare", *map(str, reports)]) == 0
    table = capsys.readouterr().out
    loaded = [Report.load(folder / "report.json") for folder in reports]
    row = next(x for x in table.splitlines() if x.startswith("road "))
    gap = 100 * (loaded[1].class_iou["road"] - loaded[0].class_iou["road"])
    assert f"{gap:+.2f}" in row and f"{loaded[0].class_iou['road']:.2%}" in row
    assert "A: " in table and "1000 resamples" in table
    row = next(x for x in table.splitlines() if x.startswith("pedestrian"))
    assert row.split()[1:] == ["-"] * 4
    assert max(map(len, table.splitlines()[3:])) <= 80

    names = [str(folder / "report.json") for folder in reports]
    assert main(["compare", *names, names[0], "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    first, better, same = content["reports"]
    assert first["report"] == names[0]
    low, high = better["mean_iou_difference"]["interval"]
    assert 0 < low < better["mean_iou_difference"]["difference"] < high
    assert same["class_iou_difference"]["road"] == {
        "difference": 0,
        "interval": [0, 0],
    }
    assert better["class_iou_difference"]["pedestrian"]["interval"] is None
    assert content["notes"] == []


def test_without_the_images_there_is_no_interval(reports):
    (reports[1] / "report.images.jsonl").unlink()
    comparison = compare_reports(reports)
    assert comparison.intervals == (None,)
    assert "there is no report.images.jsonl" in comparison.table()
    assert "95 %" not in comparison.table()
    assert "interval" in comparison.as_json()


def test_records_of_another_evaluation_are_not_used(reports):
    path = reports[1] / "report.images.jsonl"
    path.write_bytes((reports[0] / "report.images.jsonl").read_bytes())
    comparison = compare_reports(reports)
    assert comparison.intervals == (None,)
    assert "is of another evaluation" in comparison.table()


def change(folder, **values):
    path = folder / "report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_protocols_that_differ_are_named(reports):
    change(reports[1], protocol="windows of 768")
    table = compare_reports(reports).table()
    assert "The protocols differ. A: unknown. B: windows of 768." in table
    change(reports[1], protocol="unknown", settings={"scales": [1]})
    change(reports[0], settings={"scales": [2]})
    assert "The protocols differ" in compare_reports(reports).table()


@pytest.mark.parametrize(
    "values, problem",
    [
        ({"dataset": "camvid"}, "their data set differ"),
        ({"split": "test"}, "their split differ"),
        ({"num_images": 13}, "their number of images differ"),
        ({"class_names": [*"abcdefgh"]}, "their classes differ"),
        ({"images": "other"}, "their images differ"),
        ({"confusion_matrix": np.eye(8, dtype=int).tolist()}, "labels differ"),
        ({"confusion_matrix": [[1]]}, "is not a report"),
        ({"num_images": "many"}, "is not a report"),
        ({"confusion_matrix": None}, "is not a report"),
    ],
)
def test_what_cannot_be_compared(reports, capsys, values, problem):
    change(reports[1], **values)
    assert main(["compare", *map(str, reports)]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1


def test_labels_that_changed_between_two_images(reports):
    """The sums are the same, and the images are not."""
    path = reports[1] / "report.images.jsonl"
    header, *lines = path.read_text().splitlines()
    one, two = map(json.loads, lines[:2])
    one["index"], two["index"] = 1, 0
    one["image"], two["image"] = two["image"], one["image"]
    lines[:2] = map(json.dumps, (one, two))
    path.write_text("\n".join([header, *lines]) + "\n")
    with pytest.raises(ValueError, match="on other labels"):
        compare_reports(reports)


def test_one_report_and_none(reports, tmp_path, capsys):
    assert main(["compare", str(reports[0])]) == 2
    assert "at least two" in capsys.readouterr().err
    assert main(["compare", str(reports[0]), str(tmp_path)]) == 2
    assert "There is no report" in capsys.readouterr().err
