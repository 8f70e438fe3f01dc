import json

import numpy as np
import pytest
import references
from PIL import Image

from keras_danet.data.datasets import SCENES
from keras_danet.data.files import Pair
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
