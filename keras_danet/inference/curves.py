"""Curves over steps: a line per name, with a band over repetitions."""

import math

import numpy as np
from PIL import Image
from PIL import ImageDraw

from keras_danet.inference import sheets
from keras_danet.inference.fonts import drawable

SIZE = (540, 900)
TEXT = 16
# Drawn so many times larger, then averaged: Pillow's lines have steps.
FACTOR = 3
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLORS = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167)),
    *((86, 180, 233), (213, 94, 0), (90, 90, 90), (170, 160, 20)),
)
BAND = 0.25
GRID = (225, 225, 225)


def draw_curves(curves, x_label, y_label):
    """A picture of curves of shares, such as mean IoU over steps.

    Args:
        curves: dict of a name to its repetitions, each a list of (x, y).
        x_label, y_label: strings.

    Returns:
        uint8 RGB array: a line for the mean over the repetitions that have a
        point there, in a band from the lowest to the highest.
    """
    lines = {name: _summary(runs) for name, runs in curves.items()}
    points = np.concatenate([line for line in lines.values() if len(line)])
    frame = _Frame(points)
    image = Image.new("RGB", SIZE[::-1], "white").resize(
        (SIZE[1] * FACTOR, SIZE[0] * FACTOR)
    )
    frame.draw_grid(image)
    for (_, line), color in zip(lines.items(), _colors(), strict=False):
        image = frame.draw_band(image, line, color)
    draw = ImageDraw.Draw(image)
    for (_, line), color in zip(lines.items(), _colors(), strict=False):
        places = frame.places(line[:, 0], line[:, 1])
        if len(places) > 1:
            draw.line(places, color, width=2 * FACTOR, joint="curve")
        for x, y in places:
            reach = 3 * FACTOR
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), color)
    image = image.resize(SIZE[::-1], Image.Resampling.BOX)
    frame.write(ImageDraw.Draw(image), x_label, y_label)
    names = [drawable(n, f"line {i + 1}") for i, n in enumerate(lines)]
    swatches = [
        (color, color) for color, _ in zip(_colors(), names, strict=False)
    ]
    return sheets.draw_legend(np.array(image), names, swatches)


def _colors():
    while True:
        yield from COLORS


def _summary(runs):
    """(x, mean, lowest, highest) of every x that a repetition has."""
    found = {}
    for run in runs:
        for x, y in run:
            if not math.isnan(y):
                found.setdefault(x, []).append(y)
    rows = [
        (x, np.mean(ys), min(ys), max(ys)) for x, ys in sorted(found.items())
    ]
    return np.array(rows).reshape(-1, 4)


class _Frame:
    """Where a point lies in the picture, and the axes around it."""

    def __init__(self, points):
        self.left, self.top = 72, 40
        self.right, self.bottom = SIZE[1] - 24, SIZE[0] - 56
        self.x_ticks = _ticks(0, points[:, 0].max())
        self.y_ticks = _ticks(points[:, 2].min(), points[:, 3].max())

    def places(self, x, y):
        """Pixels of the enlarged picture."""
        across = (x - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
        up = (y - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        columns = self.left + across * (self.right - self.left)
        rows = self.bottom - up * (self.bottom - self.top)
        return [
            (float(column) * FACTOR, float(row) * FACTOR)
            for column, row in zip(columns, rows, strict=True)
        ]

    def draw_grid(self, image):
        draw = ImageDraw.Draw(image)
        for y in self.y_ticks:
            ends = self.places(self.x_ticks[[0, -1]], np.array([y, y]))
            draw.line(ends, GRID, width=FACTOR)
        for x in self.x_ticks:
            ends = self.places(np.array([x, x]), self.y_ticks[[0, -1]])
            draw.line(ends, GRID, width=FACTOR)

    def draw_band(self, image, line, color):
        if len(line) < 2:
            return image
        layer = image.copy()
        edge = self.places(line[:, 0], line[:, 3])
        edge += self.places(line[:, 0], line[:, 2])[::-1]
        ImageDraw.Draw(layer).polygon(edge, color)
        return Image.blend(image, layer, BAND)

    def write(self, draw, x_label, y_label):
        for x in self.x_ticks:
            ((column, _),) = self.places(np.array([x]), self.y_ticks[:1])
            text = f"{x:,.0f}"
            start = column / FACTOR - sheets.text_width(text, TEXT) / 2
            sheets.draw_text(draw, (start, self.bottom + TEXT), text, TEXT)
        digits = max(0, math.ceil(-math.log10(100 * np.diff(self.y_ticks)[0])))
        for y in self.y_ticks:
            ((_, row),) = self.places(self.x_ticks[:1], np.array([y]))
            text = f"{100 * y:.{digits}f} %"
            start = self.left - 8 - sheets.text_width(text, TEXT)
            sheets.draw_text(draw, (start, row / FACTOR), text, TEXT)
        width = sheets.text_width(x_label, TEXT)
        middle = (self.left + self.right - width) / 2
        sheets.draw_text(draw, (middle, SIZE[0] - TEXT), x_label, TEXT)
        sheets.draw_text(draw, (8, TEXT), y_label, TEXT)


def _ticks(least, most):
    """Round numbers from at most `least` to at least `most`."""
    span = max(most - least, 1e-3)
    step = 10.0 ** math.floor(math.log10(span / 5))
    step *= next(f for f in (1, 2, 5, 10) if f * step * 6 >= span)
    first, last = math.floor(least / step), math.ceil(most / step - 1e-9)
    return step * np.arange(first, max(last, first + 1) + 1)
