"""Takes the pictures of exploring.md, with a browser without a window.

KERAS_BACKEND=torch python docs/exploring.py
"""

import contextlib
import io
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import browser  # noqa: E402

MODEL = ROOT / "saved_models" / "danet_resnet50_camvid"
STREET = ROOT / "keras_danet" / "street.jpg"
# Pixels of a car and of a cyclist.
CAR, RIDER = (197, 157), (183, 65)


def save(driver, path):
    """A picture of the page with few colours, the nearest to its own."""
    # Until pictures are loaded.
    time.sleep(2)
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png()))
    picture.convert("RGB").quantize(
        256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE
    ).save(path, optimize=True)
    print(path, path.stat().st_size)


@contextlib.contextmanager
def exploring():
    command = [sys.executable, "-m", "keras_danet", "explore", str(MODEL)]
    process = subprocess.Popen(
        [*command, str(STREET), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield re.match(r"(http\S+); stop", process.stdout.readline())[1]
    finally:
        process.terminate()
        process.wait()


def said(driver, words, selector="#facts"):
    browser.until(lambda: words in browser.text(driver, selector))


def main():
    docs = ROOT / "docs"
    with exploring() as address, browser.opened(address) as driver:
        said(driver, "Row 180")
        browser.click_at(driver, "#overlay img", *CAR, (360, 480))
        said(driver, f"Row {CAR[0]}, column {CAR[1]} is")
        save(driver, docs / "exploring.png")
        browser.tab(driver, "Without attention")
        browser.until(lambda: browser.element(driver, "#off input")).click()
        said(driver, "of the pixels", "#changes-note")
        browser.click_at(driver, "#overlay img", *RIDER, (360, 480))
        said(driver, f"Row {RIDER[0]}, column {RIDER[1]}: ", "#changes-note")
        save(driver, docs / "exploring_without.png")
    with tempfile.TemporaryDirectory() as folder:
        from keras_danet import explain

        page = pathlib.Path(folder, "widget.html")
        page.write_text(explain.widget(MODEL, STREET).html)
        with browser.opened(page.as_uri()) as driver:
            driver.set_window_size(1000, 620)
            browser.until(lambda: "Row" in browser.text(driver, "#said"))
            browser.click_at(driver, "#image", *CAR, (360, 480))
            save(driver, docs / "exploring_widget.png")


if __name__ == "__main__":
    main()
