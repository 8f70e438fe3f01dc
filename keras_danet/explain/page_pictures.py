"""The pictures and texts of the page: arrays, and HTML without scripts."""

import math

import numpy as np
from PIL import Image

from keras_danet.inference import sheets
from keras_danet.inference.attention_pictures import HEAT_ANCHORS
from keras_danet.inference.report_charts import escaped
from keras_danet.inference.visualization import heatmap
from keras_danet.inference.visualization import overlay

# Pixels of a shown picture's long side: smaller ones grow by a whole factor.
LEAST_SIDE, MOST_SIDE = 600, 960
# How much of a map's colours covers the image.
COVER = 0.75
# Channels in a sheet.
CHANNELS = 6
# Classes that a point's attention is said to lie on.
SHOWN_CLASSES = 5


def shown_size(size):
    """(height, width) at which an image of a size is shown.

    >>> shown_size((360, 480)), shown_size((1024, 2048)), shown_size((50, 100))
    ((720, 960), (480, 960), (300, 600))
    """
    long = max(size)
    factor = max(1, math.ceil(LEAST_SIDE / long))
    if long > MOST_SIDE:
        factor = MOST_SIDE / long
    return tuple(max(1, round(factor * side)) for side in size)


def point_of(place, size):
    """The pixel (row, column) of an image that is shown at (row, column)."""
    return tuple(
        min(max(int(at), 0) * side // shown, side - 1)
        for at, side, shown in zip(place, size, shown_size(size), strict=True)
    )


def overlay_picture(view, prediction, palette, strengths, point=None):
    """The image under its classes, each as strong as is said."""
    size = shown_size(view.size)
    picture = overlay(
        sheets.resize_image(view.image, size),
        sheets.resize_map(prediction.label, size),
        palette,
        strengths,
    )
    return marked(picture, point, view.size)


def changes_picture(view, before, after, palette, point):
    """The classes of pixels that changed, over the image in grey."""
    size = shown_size(view.size)
    label = np.where(before.label == after.label, 255, after.label)
    picture = overlay(
        sheets.resize_image(view.image, size),
        sheets.resize_map(label, size),
        palette,
        0.8,
        border_width=0,
    )
    return marked(picture, point, view.size)


def attention_picture(image, values, top, point=None):
    """A map of shares over its image in grey, on a logarithmic scale.

    Args:
        image: uint8 array (height, width, 3).
        values: array of any (height, width) that sums to 1.
        top: the end of the scale, what `scale_end` returns.
        point: (row, column) in the image to mark. Defaults to `None`.
    """
    size = shown_size(image.shape[:2])
    logs = np.log10((values * values.size).clip(1 / top, top))
    heat = heatmap(sheets.resize_map(logs, size), -np.log10(top), np.log10(top))
    grey = Image.fromarray(sheets.resize_image(image, size)).convert("L")
    grey = np.asarray(grey)[..., np.newaxis]
    picture = np.rint(COVER * heat + (1 - COVER) * grey).astype("uint8")
    return marked(picture, point, image.shape[:2])


def scale_end(values):
    """How many times the even share a map's scale reaches: 2, 5, 10, 20, ...

    >>> scale_end(np.array([[0.25, 0.75]])), scale_end(np.eye(5) / 5)
    (2, 5)
    """
    highest = max(2.0, float(values.max() * values.size))
    decade = 10 ** math.floor(math.log10(highest))
    return next(k * decade for k in (1, 2, 5, 10) if k * decade >= highest)


def marked(picture, point, size):
    """A picture with a cross at a point of its image."""
    if point is None:
        return picture
    place = [
        int((at + 0.5) * shown / side)
        for at, side, shown in zip(point, size, picture.shape[:2], strict=True)
    ]
    return sheets.draw_mark(picture, place, "", sheets.MIN_TEXT_SIZE)


def channels_picture(view, numbers, responses):
    """Some channels of an image, each between its own extremes."""
    size = shown_size(view.size)
    size = tuple(max(1, side // 2) for side in size)
    panels = []
    for number, response in zip(numbers, responses, strict=True):
        values = view.channels[..., number]
        low, high = np.percentile(values, (1, 99))
        if not low < high:
            low, high = low - 0.5, low + 0.5
        panel = heatmap(sheets.resize_map(values, size), low, high)
        panels.append((f"channel {number}: {response:+.2f}", panel))
    return sheets.draw_sheet(panels, 2, max(14, size[1] // 18))


def sentence(text, is_error=False):
    """A paragraph of the page, HTML; `text` may hold tags."""
    kind = 'kd-error" role="alert' if is_error else "kd-note"
    return f'<p class="{kind}">{text}</p>'


def point_text(point, view, palette):
    """What a point is taken for and where it looks, HTML."""
    names = view.explorer.class_names
    rows = [
        (_named(view, palette, index), f"{_percent(share)}", share)
        for index, share in point.classes
        if share >= 5e-4 or index == point.classes[0][0]
    ]
    text = sentence(
        f"Row {point.row}, column {point.column} is taken for "
        f"<b>{escaped(names[point.classes[0][0]])}</b> "
        f"({_percent(point.classes[0][1])})."
    ) + _bars("Taken for", "probability", rows)
    if point.attention is None:
        return text + sentence(
            "This model has no position attention, so a point looks nowhere."
        )
    reach = point.reach
    return (
        text
        + looks_at(point.on_classes, view, palette)
        + sentence(
            f"{_percent(reach.near[0], 0)} of its attention is within "
            f"{reach.radius:.0f} pixels ({_percent(reach.even_near[0], 0)} if "
            "it were even); its mean distance is "
            f"{reach.distance[0]:.0f} pixels ({reach.even_distance[0]:.0f})."
        )
    )


def looks_at(shares, view, palette):
    """The classes of an image that most attention lies on, HTML."""
    even = view.shares.mean(0)
    order = np.argsort(-shares)[:SHOWN_CLASSES]
    rows = [
        (
            _named(view, palette, index),
            f"{_percent(shares[index])}, "
            f"{shares[index] / even[index]:.2f} x even",
            float(shares[index]),
        )
        for index in order.tolist()
        if even[index] > 0
    ]
    return _bars("Looks at", "of its attention", rows)


def changes_text(view, before, after, off, point, palette):
    """What switching attentions off changes, HTML."""
    names = view.explorer.class_names
    changed = float((before.label != after.label).mean())
    words = " and ".join(f"{kind} attention" for kind in off)
    first, second = (
        view.at(*point, found).classes[0] for found in (before, after)
    )
    text = sentence(
        f"Without {words}, <b>{_percent(changed)}</b> of the pixels are taken "
        "for another class. They are drawn in it."
    ) + sentence(
        f"Row {point[0]}, column {point[1]}: {escaped(names[first[0]])} "
        f"({_percent(first[1])}) with, {escaped(names[second[0]])} "
        f"({_percent(second[1])}) without."
    )
    counts = [
        np.bincount(found.label.ravel(), minlength=len(names))
        / found.label.size
        for found in (before, after)
    ]
    order = np.argsort(-np.abs(counts[1] - counts[0]))[:SHOWN_CLASSES]
    rows = [
        (
            _named(view, palette, index),
            f"{_percent(counts[0][index])} to {_percent(counts[1][index])}",
            float(counts[1][index]),
        )
        for index in order.tolist()
        if counts[0][index] != counts[1][index]
    ]
    return text + (_bars("Class", "of the image", rows) if rows else "")


def scale_text(top):
    """The colour bar of an attention map, HTML."""
    colors = ", ".join(f"rgb{color}" for color in HEAT_ANCHORS)
    return (
        f'<div class="kd-scale"><div style="background: linear-gradient(to '
        f'right, {colors})"></div><span>1/{top:g} and less</span>'
        "<span>the even share</span>"
        f"<span>{top:g} times and more</span></div>"
    )


def _percent(share, digits=1):
    return f"{100 * share:.{digits}f} %"


def _named(view, palette, index):
    """A class's name behind a swatch of its colour."""
    color = ", ".join(str(int(level)) for level in palette[index])
    return (
        f'<i class="kd-swatch" style="background: rgb({color})"></i>'
        + escaped(view.explorer.class_names[index])
    )


def _bars(first, second, rows):
    lines = "".join(
        f'<tr><th scope="row">{name}</th><td>{value}</td><td><meter min="0" '
        f'max="1" value="{share:.4f}"></meter></td></tr>'
        for name, value, share in rows
    )
    return (
        f'<table class="kd-bars"><thead><tr><th scope="col">{first}</th>'
        f'<th scope="col">{second}</th><td></td></tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )
