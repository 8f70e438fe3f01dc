"""The paper's figures 4 to 6 for one image, by matplotlib.

Text stays text in PDF and SVG; PNG is made at the resolution of print.
"""

import functools
import io
import math
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch

from keras_danet.explain.explanation import Explanation
from keras_danet.explain.points import classes_by_size
from keras_danet.inference.fonts import drawable
from keras_danet.inference.fonts import font_for
from keras_danet.inference.visualization import overlay

# Both columns of the paper's page, in inches, and its captions' letters.
WIDTH, LETTERS = 6.9, 8
DOTS_PER_INCH = 200
COLUMNS = 4
# More classes than that cannot be told apart at the width of a page.
MOST_CLASSES = 20
MOST_LETTERS = 24
# Perceptually uniform and readable by colour-blind eyes.
HEAT = "magma"
# Cyan is not among the heat colours.
MARK = "#00ffff"
SETTINGS: dict[Any, Any] = {
    "font.size": LETTERS,
    "axes.titlesize": LETTERS,
    # Letters and not their outlines.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
Maker = Callable[[Explanation], Figure]


def makers(explanation: Explanation) -> dict[str, Maker]:
    """What can be drawn of an image: a name, and the function that draws it.

    Args:
        explanation: `Explanation`.
    """
    found: dict[str, Maker] = {}
    for kind in explanation.without:
        found[kind] = functools.partial(effect_figure, kind=kind)
    if explanation.position and explanation.position.points:
        found["points"] = point_figure
    if explanation.channel and explanation.channel.chosen:
        found["channels"] = channel_figure
    if explanation.position or explanation.channel:
        found["classes"] = class_figure
    found["uncertainty"] = uncertainty_figure
    return found


def effect_figure(explanation: Explanation, kind: str) -> Figure:
    """Figures 4 and 5: the image's classes without and with one attention.

    Pixels that change are white in the last panel.

    Args:
        explanation: `Explanation`.
        kind: `"position"` or `"channel"`.
    """
    maps = {
        f"without {kind} attention": explanation.without[kind],
        f"with {kind} attention": explanation.label,
    }
    before, after = maps.values()
    changed = before != after
    panels = [("image", explanation.image)]
    panels += [
        (title, overlay(explanation.image, found, explanation.palette))
        for title, found in maps.items()
    ]
    panels.append((f"changed: {changed.mean():.1%} of the pixels", changed))
    with mpl.rc_context(SETTINGS):
        figure, axes = _panels(len(panels), explanation.image.shape, 2)
        for axis, (title, picture) in zip(axes, panels, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
            axis.set_title(title)
        _legend(figure, explanation, classes_by_size(np.stack([before, after])))
    return figure


def point_figure(explanation: Explanation) -> Figure:
    """Figure 6, left: what points attend to, in multiples of an even share."""
    position = explanation.position
    if position is None:
        raise ValueError("This model has no position attention.")
    shares = position.maps * position.maps[0].size
    top = max(2.0, float(shares.max()))
    norm = LogNorm(1 / top, top)
    with mpl.rc_context(SETTINGS):
        figure, axes = _panels(
            1 + len(shares), explanation.image.shape, COLUMNS
        )
        axes[0].imshow(explanation.image)
        axes[0].set_title("image")
        names = _names(explanation)
        for number, (axis, share, point) in enumerate(
            zip(axes[1:], shares, position.points, strict=True), 1
        ):
            drawn = _heat(axis, explanation, share.clip(1 / top), norm)
            for marked in (axes[0], axis):
                _mark(marked, point, number)
            name = names[explanation.label[point]]
            _title(axis, f"{number}: {name}")
        _bar(figure, axes, drawn, "attention, in multiples of the even share")
    return figure


def channel_figure(explanation: Explanation) -> Figure:
    """Figure 6, right: channels of channel attention's output."""
    channel = explanation.channel
    if channel is None:
        raise ValueError("This model has no channel attention.")
    # Channels have units of their own: each in deviations from its mean.
    maps = channel.attention.after[..., channel.chosen].astype("float64")
    deviation = maps.std((0, 1))
    maps = (maps - maps.mean((0, 1))) / np.where(deviation, deviation, 1)
    with mpl.rc_context(SETTINGS):
        figure, axes = _panels(
            1 + len(channel.chosen), explanation.image.shape, COLUMNS
        )
        axes[0].imshow(explanation.image)
        axes[0].set_title("image")
        norm, names = Normalize(-1, 3), _names(explanation)
        for index, number in enumerate(channel.chosen):
            axis = axes[1 + index]
            drawn = _heat(axis, explanation, maps[..., index], norm)
            name = names[channel.classes.classes[number]]
            _title(axis, f"{number}: {name}")
        _bar(figure, axes, drawn, "deviations from the channel's mean")
    return figure


def class_figure(explanation: Explanation) -> Figure:
    """Which class gathers from which, in multiples of an even share.

    Rows gather from columns. The classes are those in the image, at most
    twenty.
    """
    chosen = classes_by_size(explanation.label)[:MOST_CLASSES]
    panels = {}
    if explanation.position:
        panels["positions"] = explanation.position.classes.preference
    if explanation.channel:
        channel = explanation.channel
        counts = np.bincount(
            channel.classes.classes, minlength=len(channel.grouped)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            panels["channels"] = channel.grouped * counts.sum() / counts
    names = [_names(explanation)[k] for k in chosen]
    matrices = {
        title: matrix[np.ix_(chosen, chosen)]
        for title, matrix in panels.items()
    }
    known = np.concatenate([m[np.isfinite(m)] for m in matrices.values()])
    top = max([2.0, *(known[known > 0])])
    norm = LogNorm(1 / top, top)
    side = WIDTH / 2
    with mpl.rc_context(SETTINGS):
        figure = Figure(
            (side * len(matrices) + 0.6, side + 0.6), layout="constrained"
        )
        axes = figure.subplots(1, len(matrices), squeeze=False)[0]
        for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
            axis.set_facecolor("0.85")
            drawn = axis.imshow(matrix.clip(1 / top), cmap=HEAT, norm=norm)
            axis.set_title(f"{title} gather, row from column")
            axis.set_xticks(range(len(names)), names, rotation=90)
            axis.set_yticks(range(len(names)), names)
            for text in (*axis.get_xticklabels(), *axis.get_yticklabels()):
                text.set_fontproperties(_font(text.get_text()))
        _bar(figure, axes, drawn, "multiples of the even share")
    return figure


def uncertainty_figure(explanation: Explanation) -> Figure:
    """How far to trust it: both measures from 0, certain, to 1."""
    most = math.log(max(2, len(explanation.class_names)))
    panels = {
        "1 - probability of the class": 1 - explanation.confidence,
        "entropy, as a share of its most": explanation.entropy / most,
    }
    with mpl.rc_context(SETTINGS):
        figure, axes = _panels(4, explanation.image.shape, 2)
        axes[0].imshow(explanation.image)
        axes[0].set_title("image")
        axes[1].imshow(
            overlay(explanation.image, explanation.label, explanation.palette)
        )
        axes[1].set_title("classes")
        for axis, (title, values) in zip(axes[2:], panels.items(), strict=True):
            drawn = _heat(axis, explanation, values, Normalize(0, 1))
            axis.set_title(title)
        _bar(figure, axes, drawn, "uncertainty", extend="neither")
        _legend(figure, explanation, classes_by_size(explanation.label))
    return figure


def figure_file(figure: Figure, kind: str) -> bytes:
    """The file of a figure: `"png"`, `"pdf"` or `"svg"`."""
    content = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        figure.savefig(content, format=kind, dpi=DOTS_PER_INCH)
    return content.getvalue()


def _panels(count, shape, columns):
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    height = WIDTH / columns * shape[0] / shape[1] + 0.25
    figure = Figure((WIDTH, rows * height + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    return figure, axes[:count]


def _heat(axis, explanation, values, norm):
    """A map at the image's size, each position as it is."""
    height, width = explanation.image.shape[:2]
    return axis.imshow(
        values,
        cmap=HEAT,
        norm=norm,
        interpolation="nearest",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )


def _mark(axis, point, number):
    row, column = point
    left, right = axis.get_xlim()
    bottom, top = axis.get_ylim()
    axis.plot(column, row, "+", color=MARK, markersize=8, markeredgewidth=1.5)
    # The number lies within the picture.
    is_high = row - top < 0.2 * (bottom - top)
    is_right = right - column < 0.1 * (right - left)
    axis.annotate(
        str(number),
        (column, row),
        (-4 if is_right else 4, -4 if is_high else 4),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="top" if is_high else "bottom",
        color=MARK,
        fontweight="bold",
    )


def _bar(figure, axes, drawn, text, extend="both"):
    bar = figure.colorbar(
        drawn,
        ax=list(axes),
        location="bottom",
        shrink=0.5,
        aspect=40,
        pad=0.02,
        extend=extend,
    )
    bar.set_label(text)


def _legend(figure, explanation, classes):
    names = _names(explanation)
    handles = [
        Patch(
            facecolor=np.array(explanation.palette[k]) / 255,
            edgecolor="grey",
            label=names[k],
        )
        for k in classes[:MOST_CLASSES]
    ]
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 6),
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_fontproperties(_font(text.get_text()))


def _title(axis, text):
    axis.set_title(text, fontproperties=_font(text))


def _names(explanation):
    """The classes' names as a figure can show them."""
    names = []
    for index, name in enumerate(explanation.class_names):
        name = drawable(name, f"class {index}")
        if len(name) > MOST_LETTERS:
            name = f"{name[: MOST_LETTERS - 1]}…"
        # It would begin a formula.
        names.append(name.replace("$", r"\$"))
    return names


def _font(text):
    """A font that has the text's letters."""
    found = font_for(text, LETTERS)
    path = getattr(found, "path", None)
    if text.isascii() or not isinstance(path, str):
        return FontProperties(size=LETTERS)
    return FontProperties(fname=path, size=LETTERS)
