"""The page, used by a person with a browser."""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import types
import zlib

import browser
import httpx
import numpy as np
import pytest
import tiny
from browser import element
from browser import needs_browser
from browser import text
from browser import until
from conftest import one_backend
from PIL import Image

from keras_danet import Predictor
from keras_danet import explain
from keras_danet.cli import main

pytest.importorskip("gradio", reason='needs the extra "explore"')
pytestmark = [one_backend, needs_browser]

SIZE = (48, 72)
# Any script, and nothing that a page might obey.
CLASSES = ("road", "樹 שמים", "<b>sky</b>")
POINT, OTHER = (9, 60), (40, 20)


def photo(seed):
    """Pixels; the second of three is upright."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 6, 3), dtype="uint8")
    image = coarse.repeat(12, 0).repeat(12, 1)
    return image.transpose(1, 0, 2) if seed == 1 else image


def make_model(attention=("position", "channel")):
    model = tiny.danet(attention=attention, filters=128, class_names=CLASSES)
    if attention:
        # So that a point looks more at some places than at others.
        kernel = model.get_layer("position_attention").query.kernel
        kernel.assign(kernel * 20)
    # So that classes differ from place to place, without ties.
    classifier = model.get_layer("fusion_classifier")
    classifier.kernel.assign(classifier.kernel * 20)
    logits = model.predict_on_batch(photo(0)[None].astype("float32"))
    classifier.bias.assign(-np.median(logits, (0, 1, 2)))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore")
    model.save(folder / "model.keras")
    for seed, name in enumerate(("first.png", "second.png", "third.png")):
        Image.fromarray(photo(seed)).save(folder / name)
    return folder


@contextlib.contextmanager
def exploring(folder, *arguments):
    """`keras-danet explore` in a process of its own, and its address."""
    command = [sys.executable, "-m", "keras_danet", "explore"]
    process = subprocess.Popen(
        [*command, *arguments, "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"(http://\S+); stop", line):
                process.lines = lines
                yield process, found[1]
                break
        else:
            pytest.fail("".join(lines))
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.fixture(scope="module")
def address(folder):
    with exploring(folder, "model.keras", "first.png", "second.png") as found:
        yield found[1]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def session(address, downloads):
    with browser.opened(address, downloads) as driver:
        yield driver


@pytest.fixture
def page(session, address):
    """The page as it is first seen."""
    session.get(address)
    until(lambda: "Row 24, column 36" in text(session, "#facts"))
    return session


def look(driver, row, column):
    for name, value in (("row", row), ("column", column)):
        field = element(driver, f"#{name} input")
        field.clear()
        field.send_keys(str(value))
    field.send_keys("\n")


def expected_at(model, image, point):
    """Name and probability of a point, from the logits."""
    logits = model.predict_on_batch(image[None].astype("float32"))[0][point]
    powers = np.exp(logits.astype("float64"))
    return CLASSES[logits.argmax()], powers.max() / powers.sum()


def says(driver, model, image, point):
    """Waits for the page to say what NumPy does of a point."""
    name, share = expected_at(model, image, point)
    start = f"Row {point[0]}, column {point[1]} is taken for {name} ("

    def is_said():
        said = text(driver, "#facts").partition(start)[2].partition("%")[0]
        return said and abs(float(said) - 100 * share) < 0.1

    until(is_said)


def cells(values, count):
    """Means over a grid of equal cells."""
    rows, columns = count
    height, width = (n // k for n, k in zip(values.shape, count, strict=True))
    values = values[: rows * height, : columns * width]
    return values.reshape(rows, height, columns, width).mean((1, 3))


def test_a_click_shows_where_a_pixel_looks(model, page):
    before = browser.picture(page, "#attention")
    assert (
        expected_at(model, photo(0), POINT)[0]
        != (expected_at(model, photo(0), (24, 36))[0])
    )
    browser.click_at(page, "#overlay img", *POINT, SIZE)
    says(page, model, photo(0), POINT)
    after = browser.picture(page, "#attention")
    assert (np.abs(after.astype(int) - before) > 30).mean() > 0.01
    # Its brightness is the logarithm of the share.
    [expected] = explain.position_attention(model, photo(0), [POINT])
    shown = cells(after[..., 0].astype(float), expected.shape)
    grey = np.asarray(Image.fromarray(photo(0)).convert("L"), float)
    shown -= 0.25 * cells(grey, expected.shape)
    found = np.corrcoef(shown.ravel(), np.log(expected).ravel())[0, 1]
    assert found > 0.9
    # The page asks no other machine for anything.
    asked = browser.requested(page)
    assert asked and all("//127.0.0.1:" in url for url in asked)


def test_the_keyboard_does_what_a_click_does(model, page):
    look(page, *OTHER)
    says(page, model, photo(0), OTHER)
    before = browser.picture(page, "#overlay")
    slider = element(page, "#class-0 input[type=range]")
    assert slider.get_attribute("aria-label") == "range slider for road"
    slider.send_keys(*["\ue012"] * 10)  # The left arrow.
    labels = Predictor(model)(photo(0))
    road = np.kron(labels == 0, np.ones((9, 9), bool))
    grey = np.asarray(Image.fromarray(photo(0)).convert("L"))
    grey = np.kron(grey, np.ones((9, 9), "uint8"))

    def is_grey():
        shown = browser.picture(page, "#overlay")[road].astype(int)
        # But borders and the cross; JPEG's losses.
        return (np.abs(shown - grey[road][:, None]) < 12).mean() > 0.8

    until(is_grey)
    assert (np.abs(before[road] - grey[road][:, None].astype(int)) > 12).any()


def test_without_an_attention(model, page):
    browser.tab(page, "Without attention")
    until(lambda: element(page, "#off input")).click()
    switched = Predictor(explain.without(model, "position"))(photo(0))
    changed = (switched != Predictor(model)(photo(0))).mean()
    assert changed > 0
    expected = (
        f"Without position attention, {100 * changed:.1f} % of the pixels"
    )
    until(lambda: expected in text(page, "#changes-note"))
    point = f"Row 24, column 36: {CLASSES[Predictor(model)(photo(0))[24, 36]]}"
    assert point in text(page, "#changes-note")
    assert element(page, "#changes img").is_displayed()


def test_channels_by_class(page):
    browser.tab(page, "Channels")
    until(lambda: element(page, "#channels img").is_displayed())
    assert "this image's own prediction" in page.page_source
    first = browser.picture(page, "#channels")
    number = "[aria-label='number input for Sheet']"
    assert element(page, number).get_attribute("max") != "1"
    sheet = element(page, "[aria-label='range slider for Sheet']")
    sheet.send_keys("\ue014")  # The right arrow.

    def is_another():
        found = browser.picture(page, "#channels")
        return found.shape != first.shape or (found != first).any()

    until(is_another)


def test_a_second_image_and_two_people_at_once(model, page, address):
    with browser.opened(address) as other:
        until(lambda: "Row 24" in text(other, "#facts"))
        browser.choose(other, "#first-choice", "second.png")
        says(other, model, photo(1), (36, 24))
        # Both at once.
        browser.click_at(page, "#overlay img", *POINT, SIZE)
        browser.click_at(other, "#overlay img", *OTHER, SIZE[::-1])
        says(page, model, photo(0), POINT)
        says(other, model, photo(1), OTHER)
        browser.tab(page, "Second image")
        until(lambda: element(page, "#second-choice input"))
        browser.choose(page, "#second-choice", "second.png")
        until(lambda: element(page, "#second img").is_displayed())
        before = browser.picture(page, "#second")
        look(page, *OTHER)
        until(lambda: "row 40, column 20" in text(page, "#second-note"))

        def is_another():
            return (browser.picture(page, "#second") != before).any()

        until(is_another)


def test_scales_and_the_mirror_image(model, page):
    page.find_element(
        "xpath", "//button[contains(., 'Scales and mirror')]"
    ).click()
    label = "//label[contains(., 'mirror image as well')]/input"
    until(lambda: page.find_element("xpath", label)).click()
    element(page, "#again").click()
    predictor = Predictor(model, mirror=True)
    share = predictor.probabilities(photo(0))[24, 36].max()
    assert abs(share - expected_at(model, photo(0), (24, 36))[1]) > 1e-3
    until(lambda: f"({100 * share:.1f} %)" in text(page, "#facts"))


def test_an_upload_and_its_downloads(model, page, folder, downloads):
    browser.upload(page, "Upload an image", folder / "third.png")
    says(page, model, photo(2), (24, 36))
    element(page, "#label-file").click()
    path = downloads / "third_label.png"
    until(path.is_file)
    np.testing.assert_array_equal(
        np.asarray(Image.open(path)), Predictor(model)(photo(2))
    )
    element(page, "#overlay-file").click()
    until((downloads / "third.png").is_file)


def bomb(path, side):
    """A small PNG file of many pixels."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + check.to_bytes(4)

    row = b"\0" * (side + 1)
    packer = zlib.compressobj()
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def test_mistakes_get_a_sentence_and_the_page_stays(
    model, page, address, tmp_path
):
    (tmp_path / "text.png").write_text("This is not an image.")
    (tmp_path / "drawing.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    )
    bomb(tmp_path / "bomb.png", 14200)
    assert (tmp_path / "bomb.png").stat().st_size < 2**20
    for name, expected in (
        ("text.png", "text.png cannot be read"),
        ("bomb.png", "bomb.png has 14200x14200 pixels"),
        ("drawing.svg", "drawing.svg cannot be read"),
    ):
        browser.upload(page, "Upload an image", tmp_path / name)
        until(lambda e=expected: e in text(page, "#status"))
        assert str(tmp_path.parent) not in text(page, "#status")
        assert "/tmp" not in text(page, "#status")
    for point in ((48, 0), (-1, 3)):
        look(page, *point)
        said = (
            f"48x72 pixels, counted from 0 at the top left. Received: {point}"
        )
        until(lambda s=said: s in text(page, "#status"))
    look(page, *POINT)
    says(page, model, photo(0), POINT)
    assert not text(page, "#status")
    # Names of classes are text.
    assert not page.find_elements("css selector", "#facts td b, #facts th b")


def test_a_path_that_was_not_uploaded_is_refused(folder, monkeypatch, tmp_path):
    """A crafted request may name any path as its upload."""
    from keras_danet.explain.page import Page

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    upload = tmp_path / "upload.png"
    Image.fromarray(photo(0)).save(upload)
    page = types.SimpleNamespace(kept=types.SimpleNamespace(open=str))
    assert Page._received(page, upload) == (str(upload), "upload.png")
    # It was read, and is deleted.
    assert not upload.exists()
    for path, said in (
        (folder / "third.png", "was not uploaded"),
        (tmp_path / ".." / "other.png", "was not uploaded"),
        (None, "Choose a file"),
    ):
        with pytest.raises(ValueError, match=said):
            Page._received(page, path)
    assert (folder / "third.png").exists()


def test_no_other_file_and_no_other_name(address, folder):
    for path in ("/etc/hostname", folder / "model.keras", "model.keras"):
        answer = httpx.get(f"{address}gradio_api/file={path}", timeout=60)
        assert answer.status_code in (403, 404), path
    answer = httpx.get(address, headers={"Host": "evil.example"}, timeout=60)
    assert answer.status_code == 400
    file = {
        "path": "http://127.0.0.1:9/a.png",
        "meta": {"_type": "gradio.FileData"},
    }
    join = f"{address}gradio_api/queue/join"
    for headers in ({}, {"Content-Type": "application/json"}):
        content = json.dumps({"data": [[file]], "fn_index": 0})
        answer = httpx.post(join, content=content, headers=headers, timeout=60)
        assert answer.status_code == 400
        assert answer.text == "Files are uploaded; addresses are not fetched."
    for start in ("file=", "proxy="):
        url = f"{address}gradio_api/{start}http%3A%2F%2F127.0.0.1:9/a.png"
        assert httpx.get(url, timeout=60).status_code == 400
    assert httpx.get(address, timeout=60).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals_end_it(folder, number, code):
    with exploring(folder, "model.keras", "first.png") as (process, address):
        port = int(address.rpartition(":")[2].strip("/"))
        with browser.opened(address) as driver:
            until(lambda: "Row 24" in text(driver, "#facts"))
            process.send_signal(number)
            assert process.wait(30) == code
        with socket.create_server(("127.0.0.1", port)):
            pass


@pytest.mark.slow
def test_models_without_attention(folder):
    model = make_model(())
    model.save(folder / "fcn.keras")
    with (
        exploring(folder, "fcn.keras", "first.png") as (_, address),
        browser.opened(address) as driver,
    ):
        says(driver, model, photo(0), (24, 36))
        assert "no position attention" in text(driver, "#facts")
        browser.click_at(driver, "#overlay img", *POINT, SIZE)
        says(driver, model, photo(0), POINT)
        for name, lack in (
            ("Channels", "no channel attention"),
            ("Without attention", "no attention to switch off"),
            ("Second image", "no position attention"),
        ):
            browser.tab(driver, name)
            panel = "[role=tabpanel]:not([style*='display: none'])"
            until(lambda s=lack, p=panel: s in text(driver, p))


def test_what_cannot_start_says_why(folder, monkeypatch, capsys):
    arguments = ["explore", folder / "model.keras"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main([*arguments, "--port", port]) == 2
    assert f"Port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err
    assert main([*arguments, folder / "none.png"]) == 2
    assert "none.png" in capsys.readouterr().err
    find = "importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: None)
    assert main(arguments) == 2
    expected = 'pip install "keras-danet[explore]"'
    assert expected in capsys.readouterr().err
