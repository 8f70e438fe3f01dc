"""The page: whole, alone, harmless."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.inference.report import Report
from keras_danet.inference.report_charts import confusion_svg
from keras_danet.inference.report_charts import reliability_svg
from keras_danet.inference.report_pictures import make_sample

pytestmark = one_backend

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "img", "path", "rect"}


class Page(html.parser.HTMLParser):
    """Elements, with every one that is opened closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for found, attributes in self.found if found == tag]


def report(num_classes, names=None, **values):
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 50, (num_classes, num_classes))
    matrix += 900 * num_classes * np.eye(num_classes, dtype=int)
    names = names or tuple(f"class {k}" for k in range(num_classes))
    calibration = np.array([[k, k * 2**23, k // 2] for k in range(15)])
    return Report(
        "mine",
        "val",
        "whole images",
        7,
        names,
        matrix,
        boundary_counts=np.tile(matrix[:, :1], 3),
        calibration_counts=calibration,
        **values,
    )


def samples(count, title=EVIL):
    rng = np.random.default_rng(1)
    for k in range(count):
        image = rng.integers(0, 256, (40, 1300, 3)).astype("uint8")
        label = np.zeros((40, 1300), "uint8")
        label[:, 400:] = 2
        label[:9] = 255
        yield make_sample(
            f"{title}{k}", image, label, label[:, ::-1], [(9, 90, 9)] * 4, 0.125
        )


@pytest.mark.parametrize("num_classes", [2, 19, 60, 150])
def test_the_page_is_whole_and_alone(tmp_path, num_classes):
    path = tmp_path / "report.html"
    one = report(num_classes)
    one.save_html(path, samples(6, "image "))
    text = path.read_text("utf-8")
    page = Page(text)
    words = " ".join(page.text)
    assert f"{one.mean_iou:.2%} mean IoU" in words
    for name, iou in one.class_iou.items():
        assert name in words and f"{iou:.2%}" in words
    # Nothing is fetched, and nothing runs.
    assert not page.all("script") and not page.all("link")
    assert "http" not in text.replace("http-equiv", "")
    assert not re.search(r"url\(|@import|\bon\w+=", text)
    pictures = page.all("img")
    assert len(pictures) == 18
    for each in pictures:
        kind, _, data = each["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (640, 20)
    assert "12.50%" in words and len(text) < 3_000_000
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_names_do_nothing(tmp_path):
    names = (EVIL, '"><img src=x onerror=y>', "a&b", "x" * 200)
    path = tmp_path / "report.html"
    one = report(4, names, settings={"name": EVIL, "scales": [0.5, 1.0]})
    one.save_html(path, samples(1))
    page = Page(path.read_text("utf-8"))
    assert not page.all("script")
    assert len(page.all("img")) == 3
    assert not any("onerror" in attributes for _, attributes in page.found)
    words = "".join(page.text)
    assert EVIL in words and "a&b" in words and "0.5, 1.0" in words


def test_cells_are_shares_of_their_rows():
    matrix = np.array([[90, 10, 0], [0, 0, 0], [1, 0, 9999]])
    page = Page(confusion_svg(matrix, ("a", "b", "c")))
    said = "".join(page.text)
    assert "a → a: 90.00%, 90 pixels" in said
    assert "a → b: 10.00%, 10 pixels" in said
    # One in 10,000 is not drawn, and no row of nothing.
    assert len(page.all("rect")) == 3 and "c → a" not in said
    opacity = [float(cell["fill-opacity"]) for cell in page.all("rect")]
    assert opacity == pytest.approx([0.95, 1, 0.32], abs=0.01)


def test_bars_are_accuracies():
    calibration = np.zeros((15, 3), int)
    calibration[14] = 4, 4 * 2**24 * 0.97, 3
    page = Page(reliability_svg(calibration))
    [bar] = page.all("rect")
    assert float(bar["height"]) == pytest.approx(0.75 * 300)
    assert "right 75.00%, 100.00% of the pixels" in "".join(page.text)


def test_a_report_without_calibration_or_pixels(tmp_path):
    path = tmp_path / "report.html"
    empty = Report("d", "s", "", 0, ("a",), np.zeros((1, 1), int))
    empty.save_html(path)
    assert "It was not measured" in path.read_text()
