import dataclasses
import json
import sys

import numpy as np
import pytest
import references
from conftest import one_backend
from PIL import Image

from keras_danet.data.datasets import CITYSCAPES
from keras_danet.data.datasets import SCENES
from keras_danet.data.files import Pair
from keras_danet.distribution.engines import Placement
from keras_danet.inference.evaluation import Report
from keras_danet.inference.evaluation import evaluate


def write_pairs(folder, labels):
    pairs = []
    for index, label in enumerate(labels):
        pair = Pair(str(folder / f"{index}.png"), str(folder / f"{index}l.png"))
        image = np.zeros((*label.shape, 3), "uint8")
        image[..., 0] = index
        Image.fromarray(image).save(pair.image)
        Image.fromarray(label).save(pair.label)
        pairs.append(pair)
    return pairs


def test_images_are_turned_upright_under_their_labels(tmp_path):
    [pair] = write_pairs(tmp_path, [np.zeros((9, 6), "uint8")])
    pair = pair._replace(image=str(tmp_path / "turned.jpg"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 6)).save(pair.image, exif=exif)
    sizes = []

    def predictor(image):
        sizes.append(image.shape)
        return np.zeros(image.shape[:2], "uint8")

    assert evaluate(predictor, [pair], SCENES, "val").pixel_accuracy == 1
    assert sizes == [(9, 6, 3)]


def test_report_counts_every_labelled_pixel(tmp_path):
    rng = np.random.default_rng(0)
    # Images of different sizes; classes 6 and 7 nowhere.
    labels = [
        rng.integers(0, 6, size).astype("uint8")
        for size in ((9, 7), (4, 20), (1, 1))
    ]
    labels[0][:3] = 255
    predictions = [rng.integers(0, 6, x.shape).astype("uint8") for x in labels]
    pairs = write_pairs(tmp_path, labels)

    def predictor(image):
        return predictions[image[0, 0, 0]]

    seen = []
    report = evaluate(
        predictor, pairs, SCENES, "val", lambda *done: seen.append(done)
    )
    expected = sum(
        references.confusion_matrix(label, prediction, 8)
        for label, prediction in zip(labels, predictions, strict=True)
    )
    np.testing.assert_array_equal(report.confusion_matrix, expected)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    hits = np.diag(expected)[:6]
    iou = hits / (expected.sum(0) + expected.sum(1) - np.diag(expected))[:6]
    np.testing.assert_allclose(report.mean_iou, iou.mean())
    np.testing.assert_allclose(
        report.pixel_accuracy, hits.sum() / expected.sum()
    )
    assert np.isnan(report.class_iou["pedestrian"])
    np.testing.assert_allclose(report.class_iou["road"], iou[2])
    assert f"{iou[2]:.2%}" in report.table()

    report.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["confusion_matrix"] == expected.tolist()
    assert content["class_iou"]["pedestrian"] is None
    np.testing.assert_allclose(content["mean_iou"], iou.mean())
    assert sorted(p.name for p in tmp_path.glob("*report*")) == ["report.json"]


def test_a_bad_label_is_named(tmp_path):
    pairs = write_pairs(tmp_path, [np.full((3, 4), 37, "uint8")])
    with pytest.raises(ValueError, match=r"37 in .*0l\.png"):
        evaluate(lambda path: np.zeros((3, 4), int), pairs, SCENES, "val")


def test_table_of_nothing():
    report = Report("scenes", "val", "none", 0, ("a",), np.zeros((1, 1), int))
    assert "-" in report.table()


OLD = {
    "dataset": "scenes",
    "split": "val",
    "protocol": "whole images at their own size, one scale, no mirroring",
    "num_images": 3,
    "mean_iou": 0.5,
    "pixel_accuracy": 0.5,
    "class_iou": {"road": 0.5, "sky": None},
    "confusion_matrix": [[3, 0], [3, 0]],
}


@one_backend
def test_reports_are_loaded_again_and_old_ones_too(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(OLD))
    report = Report.load(path)
    assert report.class_names == ("road", "sky") and report.num_images == 3
    assert report.class_iou["road"] == 0.5
    assert report.boundary_counts is None
    assert "Boundaries were not counted." in report.table()
    content = json.loads(report.as_json())
    assert set(OLD) <= set(content) and content["mean_boundary_iou"] is None

    counts = np.arange(45).reshape(15, 3)
    full = dataclasses.replace(
        report,
        settings={"name": "authors", "scales": [1.0]},
        ignored_pixels=2**40,
        image_sizes=((3, 4, 2), (5, 6, 1)),
        boundary_counts=np.array([[1, 2, 3], [0, 0, 0]]),
        calibration_counts=counts,
        weights="w",
        images="i",
    )
    full.save(path)
    again = Report.load(path)
    assert again.as_json() == full.as_json()
    assert again.image_sizes == full.image_sizes
    np.testing.assert_array_equal(again.calibration_counts, counts)
    assert again.confusion_matrix.dtype == "int64"


@one_backend
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({**OLD, "confusion_matrix": [[1.5, 0], [0, 1]]}),
        json.dumps({**OLD, "ignored_pixels": -1}),
        json.dumps({**OLD, "num_images": -1}),
        json.dumps({**OLD, "num_images": True}),
        json.dumps({**OLD, "class_names": ["same", "same"]}),
        json.dumps({**OLD, "confusion_matrix": [[2**62, 0], [0, 1]]}),
        "[" * 100_000,
    ],
)
def test_what_is_no_report(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"report\.json is not a report"):
        Report.load(path)
    with pytest.raises(FileNotFoundError, match="There is no report"):
        Report.load(tmp_path)


@one_backend
def test_the_table_fits_a_terminal():
    names = CITYSCAPES.class_names
    matrix = np.diag(np.arange(1, 20)) * 10**9
    report = Report(
        "cityscapes",
        "val",
        "windows of 768 x 768 every 512 pixels, 8 scales from 0.5 to 2.25, "
        "mirrored",
        500,
        (*names[:-1], "x" * 90),
        matrix,
        ignored_pixels=10**9,
    )
    lines = report.table().splitlines()
    assert max(map(len, lines)) <= 80
    assert "traffic light" in report.table()
    # Heading, classes, summary, notes.
    assert len(lines) > 19 + 7


@one_backend
def test_a_dataframe_where_pandas_is_there(monkeypatch):
    report = Report("d", "s", "", 1, ("a", "b"), np.array([[3, 1], [0, 0]]))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        report.to_dataframe()
    monkeypatch.delitem(sys.modules, "pandas")
    pandas = pytest.importorskip("pandas")
    frame = report.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc["a", "iou"] == 0.75 and np.isnan(frame.loc["b", "recall"])


@one_backend
def test_quick_counts_classes_only(tmp_path):
    pairs = write_pairs(tmp_path, [np.zeros((3, 4), "uint8")] * 2)
    asked = []

    class Predictor:
        def __call__(self, image):
            asked.append(image.shape)
            return np.zeros(image.shape[:2], "uint8")

        def label_and_confidence(self, image):
            raise AssertionError

    report = evaluate(Predictor(), pairs, SCENES, "val", quick=True)
    assert report.pixel_accuracy == 1 and len(asked) == 2
    assert report.boundary_counts is report.calibration_counts is None


@one_backend
def test_processes_share_images_and_report_the_same(tmp_path):
    rng = np.random.default_rng(1)
    labels = [rng.integers(0, 8, (6 + k, 9)).astype("uint8") for k in range(5)]
    pairs = write_pairs(tmp_path, labels)

    class Predictor:
        protocol = "whole"

        def label_and_confidence(self, image):
            share = np.linspace(0, 1, image[..., 0].size, dtype="float32")
            classes = np.full(image.shape[:2], image[0, 0, 0], "uint8")
            return classes, share.reshape(image.shape[:2])

    class Half(Placement):
        """One of two processes; the other's numbers are added."""

        def sum_over_processes(self, counts):
            sums.append(counts)
            return counts + others[0] if others else counts

    sums, others, told = [], [], []
    expected = evaluate(Predictor(), pairs, SCENES, "val").as_dict()
    for which in (1, 0):
        report = evaluate(
            Predictor(),
            pairs,
            SCENES,
            "val",
            lambda *done: told.append(done),
            Half(shard=(which, 2)),
        )
        others.append(sums[0])
    assert report.as_dict() == expected
    assert told == [(1, 2), (2, 2), (1, 3), (2, 3), (3, 3)]
    with pytest.raises(ValueError, match="written by one process"):
        evaluate(
            Predictor(),
            pairs,
            SCENES,
            "val",
            placement=Half(shard=(0, 2)),
            records=tmp_path / "r.jsonl",
        )


@one_backend
def test_an_image_that_cannot_be_segmented_is_named(tmp_path):
    pairs = write_pairs(tmp_path, [np.zeros((3, 4), "uint8")])

    def predictor(image):
        raise ValueError("It is too large.")

    with pytest.raises(ValueError, match=r"0\.png cannot be segmented: It is"):
        evaluate(predictor, pairs, SCENES, "val")
