"""How long explanations take, once a network is loaded.

    KERAS_BACKEND=torch python benchmarks/explaining.py
    KERAS_BACKEND=torch python benchmarks/explaining.py --model RUN --runs 5

Each row is a function of the model, an image and a number of runs to their
seconds; the table has medians.
"""

import argparse
import contextlib
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
from PIL import Image

from keras_danet import explain
from keras_danet.explain import page_pictures
from keras_danet.explain.observing import Observer
from keras_danet.explain.view import Explorer
from keras_danet.runs import open_model

ROOT = pathlib.Path(__file__).resolve().parents[1]
PRESET = ROOT / "saved_models" / "danet_resnet50_camvid"
STREET = ROOT / "keras_danet" / "street.jpg"


def timed(function, runs):
    """Seconds of each call, after one that sets things up."""
    function(0)
    seconds = []
    for run in range(runs):
        started = time.perf_counter()
        function(run)
        seconds.append(time.perf_counter() - started)
    return seconds


def points(image, runs):
    """Points all over an image."""
    rng = np.random.default_rng(0)
    return rng.integers(0, image.shape[:2], (runs, 2)).tolist()


def first_look(model, image, runs):
    explorer = Explorer(model)
    return timed(lambda run: explorer.view(image), min(runs, 3))


def click(model, image, runs):
    """What a click computes and draws, without the server."""
    view = Explorer(model).view(image)
    palette = view.explorer.palette
    places = points(image, runs)

    def answer(run):
        point = view.at(*places[run])
        top = page_pictures.scale_end(point.attention)
        page_pictures.overlay_picture(
            view,
            view.prediction(),
            palette,
            [0.5] * len(palette),
            places[run],
        )
        page_pictures.attention_picture(
            view.image, point.attention, top, places[run]
        )
        page_pictures.point_text(point, view, palette)

    return timed(answer, runs)


def beside_forward(model, size, runs):
    """One point's map and the classes' summary, beside the forward pass.

    They take turns. Returns a dict of what was done to its seconds.
    """
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype="uint8")
    observer = Observer(model, None)
    point = [(size[0] // 2, size[1] // 3)]
    functions = {
        "forward": lambda: observer.compute(
            image, model.inference_model.output
        ),
        "point": lambda: explain.position_attention(model, image, point, None),
        "classes": lambda: explain.class_attention(model, image, size=None),
    }
    seconds = {name: [] for name in functions}
    for run in range(runs + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if run:
                seconds[name].append(time.perf_counter() - started)
    return seconds


# Clicks, and calls back with the milliseconds until the page has changed.
CLICK = """
const [row, column, height, width, done] = arguments;
const image = document.querySelector("#overlay img");
const box = image.getBoundingClientRect();
const pictures = ["#overlay", "#attention"].map(
  name => document.querySelector(name));
const source = part => part.querySelector("img").src;
const before = pictures.map(source);
const started = performance.now();
const timer = setInterval(() => {
  const now = pictures.map(part => part.querySelector("img"));
  if (now.every((img, k) => img.src != before[k] && img.complete)) {
    clearInterval(timer);
    done(performance.now() - started);
  }
}, 5);
image.dispatchEvent(new MouseEvent("click", {bubbles: true,
  clientX: box.left + (column + .5) / width * box.width,
  clientY: box.top + (row + .5) / height * box.height}));
"""


def click_in_browser(model, image, runs):
    """From the click to both pictures, with server and browser."""
    sys.path.insert(0, str(ROOT / "tests"))
    import browser

    with (
        tempfile.TemporaryDirectory() as folder,
        exploring(model, image, pathlib.Path(folder)) as address,
        browser.opened(address) as driver,
    ):
        driver.set_script_timeout(60)
        browser.until(lambda: "Row" in browser.text(driver, "#facts"))
        places = points(image, runs + 1)
        return [
            driver.execute_async_script(CLICK, *place, *image.shape[:2]) / 1000
            for place in places
        ][1:]


@contextlib.contextmanager
def exploring(model, image, folder):
    """`keras-danet explore` of a model, and its address."""
    model.save(folder / "model.keras")
    Image.fromarray(image).save(folder / "image.png")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "keras_danet", "explore", "model.keras"),
            *("image.png", "--port", "0"),
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        line = process.stdout.readline()
        yield re.match(r"(http\S+); stop", line)[1]
    finally:
        process.terminate()
        process.wait()


ROWS = {
    "an image, predicted for all that follows": first_look,
    "a click: attention, classes and both pictures": click,
    "a click in the browser, until both are shown": click_in_browser,
}


LARGE = {
    "forward": "the forward pass",
    "point": "one point's map",
    "classes": "which class looks at which, by the network's own labels",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(PRESET))
    parser.add_argument("--image", default=str(STREET))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument(
        "--large", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W")
    )
    parser.add_argument("--large-runs", type=int, default=3)
    args = parser.parse_args()
    model, _ = open_model(args.model)
    image = np.asarray(Image.open(args.image).convert("RGB"))
    height, width = image.shape[:2]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{keras.backend.backend()}; {pathlib.Path(args.model).name}, "
        f"{width}x{height} pixels\n"
    )
    print("| what | seconds (median) | slowest | runs |")
    print("|---|---:|---:|---:|")
    for name, measure in ROWS.items():
        seconds = measure(model, image, args.runs)
        print(
            f"| {name} | {statistics.median(seconds):.3f} | "
            f"{max(seconds):.3f} | {len(seconds)} |",
            flush=True,
        )
    height, width = args.large
    print(f"\n{width}x{height} pixels, {args.large_runs} runs in turns\n")
    print("| what | seconds (median) | of the forward pass |")
    print("|---|---:|---:|")
    found = beside_forward(model, args.large, args.large_runs)
    for name, title in LARGE.items():
        ratios = np.divide(found[name], found["forward"])
        print(
            f"| {title} | {statistics.median(found[name]):.2f} | "
            f"{statistics.median(ratios):.2f} |"
        )


if __name__ == "__main__":
    main()
