"""Drawings of a report as SVG, within a page whose colours they use."""

import html
import math

import numpy as np
from rich.cells import cell_len

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
    names = [
        name if len(name) < 30 else f"{name[:27]}..." for name in class_names
    ]
    room = 12 + math.ceil(LETTER * letters * max(map(cell_len, names)))
    total = matrix.sum(axis=1, keepdims=True)
    shares = np.zeros(matrix.shape)
    np.divide(matrix, total, out=shares, where=total > 0)
    cells = []
    for row, column in np.argwhere(shares >= DRAWN):
        share = shares[row, column]
        said = (
            f"{escaped(class_names[row])} → {escaped(class_names[column])}: "
            f"{share:.2%}, {matrix[row, column]} pixels"
        )
        kind = "hit" if row == column else "miss"
        x, y = room + column * side, room + row * side
        cells.append(
            f'<rect x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" '
            f'class="{kind}" fill-opacity="{math.sqrt(share):.2f}">'
            f"<title>{said}</title></rect>"
        )
        if writes and share >= WRITTEN:
            shown = (
                f"{100 * share:.0f}" if share >= 0.095 else f"{100 * share:.1f}"
            )
            strong = "on" if math.sqrt(share) > 0.55 else "off"
            cells.append(
                f'<text x="{x + side / 2 - 0.5}" y="{y + side / 2 + 4}" '
                f'class="n {strong}" font-size="11">{shown}</text>'
            )
    labels = []
    for index, name in enumerate(names):
        middle = room + index * side + side / 2
        labels.append(
            f'<text x="{room - 6}" y="{middle + letters / 3:.1f}" '
            f'class="e" font-size="{letters}">{escaped(name)}</text>'
        )
        place = f"{middle + letters / 3:.1f} {room - 6}"
        labels.append(
            f'<text transform="translate({place}) rotate(-90)" '
            f'font-size="{letters}">{escaped(name)}</text>'
        )
    end = room + count * side
    frame = (
        f'<rect x="{room - 1}" y="{room - 1}" width="{count * side + 1}" '
        f'height="{count * side + 1}" class="frame"/>'
    )
    return _svg(end + 2, end + 2, [frame, *cells, *labels], "confusion matrix")


def reliability_svg(calibration):
    """How often pixels are right, by how confident the network is."""
    pixels, units, right = np.asarray(calibration).T
    bins, total = len(pixels), max(int(pixels.sum()), 1)
    left, top, step = 46, 12, PLOT / len(pixels)
    bottom = top + PLOT
    parts = []
    for tick in range(0, 6):
        share = tick / 5
        x, y = left + share * PLOT, bottom - share * PLOT
        parts += [
            f'<path d="M{left} {y:.1f}H{left + PLOT}" class="grid"/>',
            f'<text x="{left - 6}" y="{y + 4:.1f}" class="e" '
            f'font-size="11">{share:.0%}</text>',
            f'<text x="{x:.1f}" y="{bottom + 16}" class="n" '
            f'font-size="11">{share:.0%}</text>',
        ]
    for index in range(bins):
        if not pixels[index]:
            continue
        accuracy = right[index] / pixels[index]
        confidence = units[index] / UNITS / pixels[index]
        share = pixels[index] / total
        x, height = left + index * step, accuracy * PLOT
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{bottom - height:.1f}" '
            f'width="{step - 2:.1f}" height="{height:.1f}" class="hit" '
            f'fill-opacity="{0.35 + 0.65 * math.sqrt(share):.2f}"><title>'
            f"confidence {confidence:.2%}, right {accuracy:.2%}, "
            f"{share:.2%} of the pixels</title></rect>"
        )
        y = bottom - confidence * PLOT
        parts.append(
            f'<path d="M{x + 1:.1f} {y:.1f}h{step - 2:.1f}" class="mark"/>'
        )
    parts += [
        f'<path d="M{left} {bottom}L{left + PLOT} {top}" class="ideal"/>',
        f'<text x="{left + PLOT / 2}" y="{bottom + 34}" class="n" '
        'font-size="12">confidence</text>',
        f'<text transform="translate(11 {top + PLOT / 2}) rotate(-90)" '
        'class="n" font-size="12">right</text>',
    ]
    return _svg(left + PLOT + 24, bottom + 42, parts, "reliability")


def _svg(width, height, parts, title):
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg>"
    )
