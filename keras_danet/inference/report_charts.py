"""Drawings of a report as SVG, within a page whose colours they use."""

import html
import math

import numpy as np
from rich.cells import cell_len
from rich.cells import set_cell_size

from keras_danet.inference.scores import UNITS
from keras_danet.text_tables import harmless

# Shares of a row that are drawn and that are written, at least.
DRAWN, WRITTEN = 0.0005, 0.005
# Classes up to which cells have room for numbers.
MOST_WRITTEN = 30
# About the width of a letter as a share of its height.
LETTER = 0.6
PLOT = 300


def escaped(text):
    """Any text as text of a page: it can be neither markup nor a script."""
    return html.escape(harmless(str(text)))


def confusion_svg(matrix, class_names):
    """A confusion matrix, each row as shares of its true class.

    The darker a cell, the larger its share; the square root keeps small ones
    visible. Every cell says its numbers to a pointer.
    """
    count = len(class_names)
    writes = count <= MOST_WRITTEN
    side = 34 if writes else max(9, min(16, 1000 // count))
    letters = 12 if writes else max(7, side - 3)
    names = [shorten(name) for name in class_names]
    room = 12 + math.ceil(LETTER * letters * max(map(cell_len, names)))
    total = matrix.sum(axis=1, keepdims=True)
    shares = np.zeros(matrix.shape)
    np.divide(matrix, total, out=shares, where=total > 0)
    groups = {"hit": [], "miss": [], "ink": [], "on": []}
    for row, column in np.argwhere(shares >= DRAWN):
        share = shares[row, column]
        said = (
            f"{escaped(class_names[row])} → {escaped(class_names[column])}: "
            f"{share:.2%}, {matrix[row, column]} pixels"
        )
        x, y = room + column * side, room + row * side
        groups["hit" if row == column else "miss"].append(
            f'<rect x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" '
            f'fill-opacity="{math.sqrt(share):.2f}">'
            f"<title>{said}</title></rect>"
        )
        if writes and share >= WRITTEN:
            digits = 0 if share >= 0.0995 else 1
            groups["on" if share > 0.3 else "ink"].append(
                f'<text x="{x + side / 2 - 0.5}" y="{y + side / 2 + 4}">'
                f"{100 * share:.{digits}f}</text>"
            )
    end = room + count * side
    parts = [
        f'<path d="M{room - 1} {room - 1}H{end}V{end}H{room - 1}Z" '
        f"{_look('grid')}/>",
        *(_group(kind, groups[kind], 11) for kind in groups),
        _names(names, room, side, letters),
    ]
    return _svg(end + 2, end + 2, parts, "confusion matrix")


def _names(names, room, side, letters):
    """Names of rows and of columns."""
    rows, columns = [], []
    for index, name in enumerate(names):
        base = room + (index + 0.5) * side + letters / 3
        rows.append(
            f'<text x="{room - 6}" y="{base:.1f}" text-anchor="end">'
            f"{escaped(name)}</text>"
        )
        columns.append(
            f'<text transform="translate({base:.1f} {room - 6}) rotate(-90)" '
            f'text-anchor="start">{escaped(name)}</text>'
        )
    return _group("ink", rows + columns, letters)


def reliability_svg(calibration):
    """How often pixels are right, by how confident the network is."""
    pixels, units, right = np.asarray(calibration).T
    total = max(int(pixels.sum()), 1)
    left, top, step = 46, 12, PLOT / len(pixels)
    bottom = top + PLOT
    bars, marks = [], []
    for index in np.flatnonzero(pixels):
        accuracy = right[index] / pixels[index]
        confidence = units[index] / UNITS / pixels[index]
        share = pixels[index] / total
        x, height = left + index * step, accuracy * PLOT
        bars.append(
            f'<rect x="{x + 1:.1f}" y="{bottom - height:.1f}" '
            f'width="{step - 2:.1f}" height="{height:.1f}" '
            f'fill-opacity="{0.3 + 0.7 * math.sqrt(share):.2f}"><title>'
            f"confidence {confidence:.2%}, right {accuracy:.2%}, "
            f"{share:.2%} of the pixels</title></rect>"
        )
        y = bottom - confidence * PLOT
        marks.append(f"M{x + 1:.1f} {y:.1f}h{step - 2:.1f}")
    parts = [
        *_axes(left, top),
        _group("hit", bars, 11),
        f'<path d="{"".join(marks)}" {_look("mark")}/>',
        f'<path d="M{left} {bottom}L{left + PLOT} {top}" {_look("ideal")}/>',
    ]
    return _svg(left + PLOT + 24, bottom + 42, parts, "reliability")


def _axes(left, top):
    bottom = top + PLOT
    lines, texts = [], []
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x, y = left + share * PLOT, bottom - share * PLOT
        lines.append(f"M{left} {y:.1f}H{left + PLOT}")
        texts += [
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{share:.0%}</text>",
            f'<text x="{x:.1f}" y="{bottom + 16}">{share:.0%}</text>',
        ]
    texts += [
        f'<text x="{left + PLOT / 2}" y="{bottom + 34}">confidence</text>',
        f'<text transform="translate(11 {top + PLOT / 2}) rotate(-90)">'
        "right</text>",
    ]
    grid = f'<path d="{"".join(lines)}" {_look("grid")}/>'
    return grid, _group("ink", texts, 11)


def shorten(name):
    """A name that leaves room for the drawing beside it."""
    return name if cell_len(name) <= 30 else f"{set_cell_size(name, 27)}..."


# The page's style has the same names, for light and for dark; these are for
# viewers that give a drawing no style.
_LOOKS = {
    "hit": 'fill="#1f6fb2"',
    "miss": 'fill="#c2410c"',
    "ink": 'fill="currentColor" text-anchor="middle"',
    "on": 'fill="#fff" text-anchor="middle"',
    "grid": 'fill="none" stroke="#c3cad1"',
    "ideal": 'fill="none" stroke="#808a93" stroke-dasharray="4 4"',
    "mark": 'fill="none" stroke="#c2410c" stroke-width="2.5"',
}


def _look(kind):
    return f'class="{kind}" {_LOOKS[kind]}'


def _group(kind, parts, letters):
    return f'<g {_look(kind)} font-size="{letters}">{"".join(parts)}</g>'


def _svg(width, height, parts, title):
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg>"
    )
