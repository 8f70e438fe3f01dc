"""The widget of a notebook, alone and in a browser."""

import base64
import html
import json
import re

import browser
import numpy as np
import pytest
import tiny
from browser import element
from browser import needs_browser
from browser import text
from browser import until
from conftest import one_backend

from keras_danet import Predictor
from keras_danet import explain
from keras_danet.explain.notebook import grid_maps
from keras_danet.explain.notebook import point_grid
from keras_danet.explain.view import Explorer

SIZE = (300, 420)
CLASSES = ("road", "</script><script>alert(1)</script>", "樹")


def photo():
    coarse = np.random.default_rng(0).integers(0, 256, (25, 35, 3), "uint8")
    return coarse.repeat(12, 0).repeat(12, 1)


def make_model(attention=("position", "channel")):
    model = tiny.danet(attention=attention, class_names=CLASSES)
    for name in ["position_attention"] if attention else []:
        kernel = model.get_layer(name).query.kernel
        kernel.assign(kernel * 20)
    classifier = model.get_layer("fusion_classifier")
    classifier.kernel.assign(classifier.kernel * 20)
    logits = model.predict_on_batch(photo()[None].astype("float32"))
    classifier.bias.assign(-np.median(logits, (0, 1, 2)))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def shown(model):
    return explain.widget(model, photo())


def data_of(shown):
    return json.loads(re.search(r"const data = (.*);\n", shown.html)[1])


def values(data, key, *shape):
    found = np.frombuffer(base64.b64decode(data[key]), "uint8")
    return found.reshape(shape)


def test_maps_are_sums_of_position_attention(model):
    view = Explorer(model).view(photo())
    points, cells = point_grid(view)
    assert cells == (32, 32) and len(points) == 1024
    assert view.key.shape[:2] == (38, 53)
    some = [0, 500, 1023]
    fine = explain.position_attention(
        model, photo(), [points[index] for index in some]
    )
    expected, counts = np.zeros((3, 32, 32)), np.zeros((32, 32))
    for row in range(38):
        for column in range(53):
            # By hand: the cell that the middle of a position lies in.
            cell = int((row + 0.5) * 32 / 38), int((column + 0.5) * 32 / 53)
            expected[(slice(None), *cell)] += fine[:, row, column]
            counts[cell] += 1
    expected /= counts / (38 * 53)
    found = grid_maps(view)
    np.testing.assert_allclose(
        found[some].reshape(3, 32, 32), expected, rtol=1e-3
    )


def test_what_the_page_is_told(model, shown):
    assert len(shown.html) < 2e6
    data = data_of(shown)
    labels = values(data, "labels", 160, 160)
    rows, columns = (
        ((np.arange(160) + 0.5) * side / 160).astype(int) for side in SIZE
    )
    label, shares = Predictor(model).label_and_probabilities(photo())
    assert (labels == label[rows][:, columns]).mean() > 0.999
    np.testing.assert_allclose(
        values(data, "shares", 160, 160) / 255,
        shares.max(-1)[rows][:, columns],
        atol=0.004,
    )
    maps = values(data, "maps", 1024, 1024)
    ratios = data["top"] ** (maps / 255.0 * 2 - 1)
    expected = grid_maps(Explorer(model).view(photo()))
    clipped = expected.clip(1 / data["top"], data["top"])
    # Steps of the logarithm.
    step = 2 * np.log(data["top"]) / 255
    assert np.abs(np.log(ratios) - np.log(clipped)).max() < 0.51 * step
    assert data["names"] == list(CLASSES)


def test_names_end_no_script(shown):
    assert shown.html.count("<script") == 1
    frame = re.fullmatch(r'<iframe srcdoc="([^"]*)" .*', shown._repr_html_())
    assert html.unescape(frame[1]) == shown.html


@one_backend
@needs_browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_point_is_clicked_in_a_notebook(model, shown, tmp_path):
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><p>Out[1]:</p>{shown._repr_html_()}")
    label, shares = Predictor(model).label_and_probabilities(photo())

    def says(row, column):
        found = re.fullmatch(
            rf"Row {row}, column {column}: (.*) \((\d+) %\)",
            text(driver, "#said"),
        )
        # A place is up to three pixels away.
        return found and (found[1], int(found[2]))

    def pixels(name):
        script = (
            f"const c = document.getElementById('{name}');"
            "return Array.from(c.getContext('2d').getImageData("
            "0, 0, c.width, c.height).data)"
        )
        found = np.array(driver.execute_script(script), "uint8")
        return found.reshape(*SIZE, 4)[..., :3].astype(int)

    with browser.opened(page.as_uri()) as driver:
        driver.switch_to.frame(element(driver, "iframe"))
        found = until(lambda: says(150, 210))
        row, column = ((np.array((150, 210)) // 12) * 12 + 6).tolist()
        assert found[0] == CLASSES[label[150, 210]]
        before = pixels("map")
        image = element(driver, "#image")
        height, width = image.rect["height"], image.rect["width"]
        from selenium.webdriver import ActionChains

        ActionChains(driver).move_to_element_with_offset(
            image, round(-width / 4), round(height / 4)
        ).click().perform()
        said = until(
            lambda: re.match(
                r"Row (2\d\d), column (1\d\d)", text(driver, "#said")
            )
        )
        row, column = int(said[1]), int(said[2])
        assert abs(row - 225) <= 2 and abs(column - 105) <= 2
        name, share = says(row, column)
        nearby = np.s_[row - 3 : row + 4, column - 3 : column + 4]
        assert CLASSES.index(name) in label[nearby]
        assert shares[nearby].max() * 100 >= share - 2
        after = pixels("map")
        assert (np.abs(after - before) > 30).any(-1).mean() > 0.05
        # Bright where its maps are.
        data = data_of(shown)
        at = int((row + 0.5) * 32 / 300) * 32 + int((column + 0.5) * 32 / 420)
        expected = values(data, "maps", 1024, 32, 32)[at].astype(float)
        rows, columns = (
            ((np.arange(32) + 0.5) * side / 32).astype(int) for side in SIZE
        )
        bright = after[..., 0][rows][:, columns]
        assert np.corrcoef(bright.ravel(), expected.ravel())[0, 1] > 0.8
        image.send_keys("\ue015")  # The down arrow.
        until(lambda: says(row + 9, column))
        assert not (browser.requested(driver) - {page.as_uri()})


@one_backend
@needs_browser
def test_without_position_attention(tmp_path):
    shown = explain.widget(make_model(()), photo())
    assert len(shown.html) < 3e5
    page = tmp_path / "notebook.html"
    page.write_text(shown.html)
    with browser.opened(page.as_uri()) as driver:
        until(lambda: "Row 150, column 210: " in text(driver, "#said"))
        assert "has no position attention" in text(driver, "body")
        assert not element(driver, "#map").is_displayed()
