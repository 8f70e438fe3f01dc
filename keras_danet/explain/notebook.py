"""An image in a notebook that shows where each of its points looks."""

import base64
import html
import io
import json
from typing import Any

import numpy as np
from PIL import Image

from keras_danet.data.palettes import display_palette
from keras_danet.explain.page_pictures import scale_end
from keras_danet.explain.view import Explorer
from keras_danet.explain.view import View
from keras_danet.explain.view import shrunk
from keras_danet.inference import sheets
from keras_danet.inference.attention_pictures import HEAT_ANCHORS
from keras_danet.inference.protocols import Size
from keras_danet.text_tables import harmless

# Points, and positions that they look at, along a side: their maps are all in
# the page, at most a megabyte.
MOST_CELLS = 32
# Places along a side that have a class and its probability.
MOST_PLACES = 160
# Pixels of the picture.
PICTURE_PIXELS = 640 * 480


class Widget:
    """HTML without a server: click a point, or move it with the arrow keys.

    Notebooks show it as the last value of a cell.

    Attributes:
        html: string, a whole page. It runs a script of its own and asks no
            machine for anything.
    """

    def __init__(self, html: str, height: int):
        self.html = html
        self.height = height

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" '
            'sandbox="allow-scripts" title="Where points of an image look" '
            'style="width: 100%; max-width: 1000px; border: 0; '
            f'height: {self.height}px"></iframe>'
        )


def widget(model: Any, image: Any, size: Size = "auto") -> Widget:
    """An image that shows where each of its points looks, for notebooks.

    The attention of up to 32 x 32 points is computed at once, summed up over
    as many positions and kept in eight bits: the logarithm of multiples of
    even attention.

    Args:
        model: a `DANet`, or the name of one: a run's folder, a `.keras` file,
            a preset.
        image: as for `Predictor`.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.

    Returns:
        A `Widget`. Without position attention it shows classes alone.

    Raises:
        ValueError: if the model is no DANet, or the image is none.

    Example:

    >>> model = keras_danet.DANet(
    ...     num_classes=5, backbone=keras_danet.DilatedResNet(18, filters=8))
    >>> shown = keras_danet.explain.widget(model, np.zeros((64, 96, 3), "u1"))
    >>> len(shown.html) < 2e6, "<iframe" in shown._repr_html_()
    (True, True)
    """
    view = Explorer(model, size).view(image)
    picture = shrunk(view.image, PICTURE_PIXELS)
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=88)
    places = tuple(min(side, MOST_PLACES) for side in view.size)
    seen = view.prediction()
    names = [harmless(name) for name in view.explorer.class_names]
    values = {
        "size": view.size,
        "picture": picture.shape[:2],
        "names": names,
        "colors": np.array(display_palette(view.explorer.palette)).tolist(),
        "heat": HEAT_ANCHORS,
        "places": places,
        "labels": _encoded(sheets.resize_map(seen.label, places)),
        "shares": _encoded(
            np.rint(
                255.0
                * sheets.resize_map(
                    seen.probabilities[..., 0].astype("float32"), places
                )
            )
        ),
        "image": "data:image/jpeg;base64,"
        + base64.b64encode(content.getvalue()).decode(),
        **(_maps(view) if view.query is not None else {"cells": None}),
    }
    # No text of it can end the script.
    data = json.dumps(values).replace("<", "\\u003c")
    height = round(picture.shape[0] * 480 / picture.shape[1]) + 190
    return Widget(PAGE.replace("@DATA@", data), min(height, 900))


def point_grid(view: View) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The points of an image that a widget has maps of, and their grid.

    Returns:
        list of (row, column) in pixels, the middles of equal cells, and
        (rows, columns).
    """
    cells = tuple(min(side, MOST_CELLS) for side in view.key.shape[:2])
    rows, columns = (
        ((np.arange(count) * 2 + 1) * side // (2 * count)).tolist()
        for count, side in zip(cells, view.size, strict=True)
    )
    return [(row, column) for row in rows for column in columns], cells


def grid_maps(view: View) -> np.ndarray:
    """How much each point of the grid takes in from each of its cells.

    Returns:
        float32 array `(points, cells)`, in multiples of the cell's even
        share.
    """
    points, cells = point_grid(view)
    fine = view.key.shape[:2]
    # In pieces: all maps at once may take gigabytes.
    maps = np.concatenate(
        [
            _summed(view.across(view, points[start : start + 64]), cells)
            for start in range(0, len(points), 64)
        ]
    )
    return maps / _summed(np.full((1, *fine), 1 / (fine[0] * fine[1])), cells)


def _summed(maps, cells):
    """Maps over the positions of each cell, (count, cells)."""
    for axis, count in enumerate(cells, 1):
        side = maps.shape[axis]
        cell_of = (np.arange(side) * 2 + 1) * count // (2 * side)
        starts = np.flatnonzero(np.diff(cell_of, prepend=-1))
        maps = np.add.reduceat(maps, starts, axis)
    return maps.reshape(len(maps), -1)


def _maps(view):
    """The maps in eight bits: their logarithms, from 1/top to top."""
    ratios = grid_maps(view)
    top = scale_end(ratios / ratios.size)
    logs = np.log(ratios.clip(1 / top, top)) / np.log(top)
    return {
        "cells": point_grid(view)[1],
        "top": top,
        "maps": _encoded(np.rint((logs + 1) / 2 * 255)),
    }


def _encoded(values):
    return base64.b64encode(values.astype("uint8").tobytes()).decode()


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
 img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Where points of an image look</title>
<style>
:root { color-scheme: light dark; }
body { margin: .5rem; font: 15px/1.45 system-ui, sans-serif; }
main { display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); }
canvas { width: 100%; border-radius: .3rem; cursor: crosshair; display: block; }
figure { margin: 0; } figcaption { font-size: .85rem; opacity: .8; }
#bar { height: .7rem; border-radius: .2rem; }
#ends { display: flex; justify-content: space-between; font-size: .85rem; }
#swatch { display: inline-block; width: .85rem; height: .85rem;
  border: 1px solid #8888; vertical-align: -.1rem; margin-right: .4rem; }
#said { min-height: 1.5rem; margin: .5rem 0; }
</style></head><body><main>
<figure><canvas id="image" tabindex="0" role="application"
 aria-label="The image. Arrow keys move the point." aria-describedby="said">
</canvas><figcaption>The image: click a point, or use the arrow keys
</figcaption></figure>
<figure id="right"><canvas id="map" role="img" aria-label="Where it looks">
</canvas><figcaption>What it takes in from where</figcaption></figure></main>
<p id="said" role="status"></p><div id="legend"><div id="bar"></div>
<div id="ends"><span id="low"></span><span>the even share</span>
<span id="high"></span></div></div>
<script>
"use strict";
const data = @DATA@;
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const by = id => document.getElementById(id);
const labels = bytes(data.labels), shares = bytes(data.shares);
const maps = data.cells && bytes(data.maps);
const image = by("image"), map = by("map");
const [height, width] = data.picture;
for (const canvas of [image, map]) {
  canvas.width = width; canvas.height = height;
}
const anchors = data.heat;
const heat = level => {
  const at = level * (anchors.length - 1);
  const below = Math.min(Math.floor(at), anchors.length - 2);
  return anchors[below].map((c, k) =>
    c + (at - below) * (anchors[below + 1][k] - c));
};
const place = (row, column, [rows, columns]) =>
  Math.floor((row + .5) * rows / data.size[0]) * columns +
  Math.floor((column + .5) * columns / data.size[1]);
const photo = new Image();
let point = data.size.map(side => Math.floor(side / 2));
function cross(pen) {
  const x = (point[1] + .5) * width / data.size[1];
  const y = (point[0] + .5) * height / data.size[0];
  for (const [color, wide] of [["#000", 5], ["#0ff", 2]]) {
    pen.strokeStyle = color; pen.lineWidth = wide; pen.beginPath();
    pen.moveTo(x - 11, y); pen.lineTo(x + 11, y);
    pen.moveTo(x, y - 11); pen.lineTo(x, y + 11); pen.stroke();
  }
}
function draw() {
  const pen = image.getContext("2d");
  pen.drawImage(photo, 0, 0, width, height);
  cross(pen);
  const at = place(...point, data.places), label = labels[at];
  by("said").textContent = `Row ${point[0]}, column ${point[1]}: ` +
    `${data.names[label]} (${Math.round(shares[at] / 2.55)} %)`;
  const swatch = document.createElement("span");
  swatch.id = "swatch";
  swatch.style.background = `rgb(${data.colors[label]})`;
  by("said").prepend(swatch);
  if (!maps) return;
  const [rows, columns] = data.cells, count = rows * columns;
  const start = place(...point, data.cells) * count;
  const small = new OffscreenCanvas(columns, rows);
  const pixels = new ImageData(columns, rows);
  for (let k = 0; k < count; k++) {
    pixels.data.set([...heat(maps[start + k] / 255), 255], 4 * k);
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  const brush = map.getContext("2d");
  brush.globalAlpha = 1; brush.filter = "grayscale(1)";
  brush.drawImage(photo, 0, 0, width, height);
  brush.filter = "none"; brush.globalAlpha = .75;
  brush.imageSmoothingEnabled = false;
  brush.drawImage(small, 0, 0, width, height);
  brush.globalAlpha = 1;
  cross(brush);
}
image.addEventListener("click", event => {
  const box = image.getBoundingClientRect();
  const inside = (at, side) =>
    Math.min(Math.max(Math.floor(at * side), 0), side - 1);
  point = [inside((event.clientY - box.top) / box.height, data.size[0]),
           inside((event.clientX - box.left) / box.width, data.size[1])];
  draw();
});
image.addEventListener("keydown", event => {
  const way = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
               ArrowRight: [0, 1]}[event.key];
  if (!way) return;
  event.preventDefault();
  const step = event.shiftKey ? 1 : Math.ceil(data.size[1] / 48);
  point = point.map((at, k) =>
    Math.min(Math.max(at + step * way[k], 0), data.size[k] - 1));
  draw();
});
if (maps) {
  by("bar").style.background = "linear-gradient(to right, " +
    anchors.map(c => `rgb(${c})`).join() + ")";
  by("low").textContent = `1/${data.top} and less`;
  by("high").textContent = `${data.top} times and more`;
} else {
  by("right").hidden = by("legend").hidden = true;
  by("said").after("This model has no position attention.");
}
photo.onload = draw;
photo.src = data.image;
</script></body></html>
"""
