"""Pictures of label maps, predictions and attention, as NumPy arrays.

Pictures go out as uint8 RGB arrays (height, width, 3). Nothing here knows a
model. These arguments mean the same everywhere:

    image: Array (height, width, 3), RGB, uint8 or float in 0-255.
    label: Integer array (height, width) of class indices.
    palette: RGB colours in 0-255, (num_classes, 3), one per class; those of
        `display_palette` can be told apart in a picture.
    class_names: Sequence of strings, one per class, in any script. Where no
        font has the letters of a name, the picture says "class 3" instead, and
        a warning tells the name.
    ignore_label: Integer that marks pixels without a class. Defaults to 255.
    alpha: Float in 0-1, the share of the colours blended over a grey image.

A wrong shape, dtype or range is a ValueError that names the argument.
"""

import io
import math
import os
import textwrap
import uuid
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from keras_danet import arguments
from keras_danet.data.palettes import default_palette as default_palette
from keras_danet.data.palettes import display_palette as display_palette
from keras_danet.data.palettes import label_image
from keras_danet.inference import sheets
from keras_danet.inference.fonts import VARIABLE
from keras_danet.inference.fonts import drawable
from keras_danet.text_tables import harmless

MAX_COLUMNS = 4
# In a line of a note.
NOTE_LETTERS = 110
# A border is that part of the long side wide.
BORDER_SHARE = 1 / 1500
# Pixels that are worked on at once: more memory is only taken for results.
_PIECE = 2**20
MID_GREY = 128
# Six equally spaced samples of matplotlib's "magma" (CC0). Its lightness rises
# steadily, so it also reads in grey and to colour-blind eyes.
HEAT_ANCHORS = (
    (0, 0, 4),
    (59, 15, 112),
    (140, 41, 129),
    (222, 73, 104),
    (254, 159, 109),
    (252, 253, 191),
)
_named_stand_ins = set()


def colorize(label, palette, ignore_label=255):
    """Turn class indices into colours; ignored pixels become black.

    >>> colorize(np.array([[1, 255]]), [(9, 9, 9), (1, 2, 3)]).tolist()
    [[[1, 2, 3], [0, 0, 0]]]
    """
    palette = _as_palette(palette)
    label = _as_label(label, len(palette), ignore_label)
    table = np.concatenate([palette, np.zeros((1, 3), "uint8")])
    colors = np.empty((*label.shape, 3), "uint8")
    for rows in _pieces(label):
        colors[rows] = table[label[rows]]
    return colors


def overlay(
    image, label, palette, alpha=0.5, ignore_label=255, border_width=None
):
    """Blend class colours over an image in grey.

    Every pixel is alpha * colour + (1 - alpha) * grey, so that every hue that
    is seen is a class's, and the same wherever the class is. Borders between
    classes are lines, white on what is dark and black on what is bright. They
    lie on the side of the class that has more pixels, so that small things
    stay whole. What is ignored shows the grey image, and so does a class in
    black: in the palettes of the field it is the background, and it would hide
    the image without telling anything.

    `border_width` is in pixels; 0 draws none. Defaults to
    `None`: a 1500th of the image's long side, and at least one pixel.

    Returns a picture of the image's size.
    """
    image, palette = _as_image(image, "image"), _as_palette(palette)
    label = _as_label(label, len(palette), ignore_label)
    if image.shape[:2] != label.shape:
        raise ValueError(
            "The image and its label map must have the same height and width. "
            f"Received: image {image.shape[:2]}, label {label.shape}"
        )
    alpha = arguments.number("alpha", alpha, "must lie in 0-1", least=0, most=1)
    if border_width is None:
        border_width = max(1, round(BORDER_SHARE * max(label.shape)))
    border_width = arguments.integer(
        "border_width", border_width, "must be an integer from 0", least=0
    )
    grey = np.asarray(Image.fromarray(image).convert("L"))
    # What becomes of each level of each class, the last one being none.
    levels = np.arange(256, dtype="float32")[:, None]
    blends = np.empty((len(palette) + 1, 256, 3), "float32")
    blends[:-1] = alpha * palette[:, None] + (1 - alpha) * levels
    blends[~np.append(palette.any(axis=1), False)] = levels
    blends = np.rint(blends).astype("uint8")
    picture = np.empty_like(image)
    for rows in _pieces(label):
        picture[rows] = blends[label[rows], grey[rows]]
    border = _borders(label, border_width)
    shades = np.asarray(Image.fromarray(picture[border][None]).convert("L"))
    picture[border] = np.where(shades[0, :, None] < MID_GREY, 255, 0)
    return picture


def heatmap(values, low, high):
    """Colour numbers (height, width) from `low`, dark, to `high`, bright.

    What lies beyond has the colour of the end.

    >>> heatmap(np.array([[-1.0, 0.0, 9.0]]), low=0, high=5).tolist()
    [[[0, 0, 4], [0, 0, 4], [252, 253, 191]]]
    """
    values = _as_values(values, "values")
    if not low < high:
        raise ValueError(
            f"`low` must be below `high`. Received: {low!r} and {high!r}"
        )
    unit = ((values - low) / (high - low)).clip(0, 1)
    places = np.linspace(0, 1, len(HEAT_ANCHORS))
    anchors = np.array(HEAT_ANCHORS)
    channels = [np.interp(unit, places, anchors[:, k]) for k in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype("uint8")


def add_legend(picture, class_names, palette, present=None, alpha=0.5):
    """Put swatches with class names beneath a picture (an `image`).

    The legend wraps to the picture's width. Where a name is wider than the
    picture, white widens the canvas; very long ones are shortened. The
    picture itself stays in the upper left corner. `present` is an iterable of
    the class indices to show, all by default; if it is empty, no legend is
    added.

    The left half of a swatch is the colour itself, as in a label map, and the
    right half `alpha` of it over mid grey, as in an overlay. A class in black,
    which overlays leave out, has an empty swatch.
    """
    picture, palette = _as_image(picture, "picture"), _as_palette(palette)
    _check_same_length(class_names=class_names, palette=palette)
    indices = range(len(palette))
    present = sorted(set(indices if present is None else present))
    unknown = [index for index in present if index not in indices]
    if unknown:
        raise ValueError(
            f"`present` must hold class indices from 0 to {len(palette) - 1}. "
            f"Received: {unknown[0]!r}"
        )
    if not present:
        return picture.copy()
    names = _drawable_names(class_names, present)
    colors = palette[present]
    blends = np.rint(alpha * colors + (1 - alpha) * MID_GREY).astype("uint8")
    swatches = list(zip(colors.tolist(), blends.tolist(), strict=True))
    return sheets.draw_legend(picture, names, swatches)


def compare(
    image, label, prediction, palette, class_names, alpha=0.6, ignore_label=255
):
    """Show an image, its ground truth and its prediction in one picture.

    The panels stand side by side, or in a column if the image is more than
    twice as wide as high; the legend names the classes that occur. Large
    images are shown smaller, small ones enlarged by a whole factor. `label`
    may be None: its panel is left out. `prediction` is a label map as well.
    """
    image, palette = _as_image(image, "image"), _as_palette(palette)
    maps = [] if label is None else [("ground truth", label)]
    maps.append(("prediction", prediction))
    count = 1 + len(maps)
    columns = 1 if image.shape[1] > 2 * image.shape[0] else count
    size = sheets.panel_size(image.shape[:2], count, columns)
    small = sheets.resize_image(image, size)
    panels, present = [("image", small)], set()
    for title, classes in maps:
        try:
            panel, found = _panel(image, small, classes, palette, ignore_label)
            panel = overlay(small, panel, palette, alpha, len(palette))
        except ValueError as error:
            raise ValueError(f"Cannot draw the {title}: {error}") from error
        panels.append((title, panel))
        present |= found
    sheet = sheets.draw_sheet(panels, columns)
    return add_legend(sheet, class_names, palette, present, alpha)


def gallery(samples, palette, class_names, alpha=0.5, ignore_label=255):
    """Show images of any sizes, each with its label laid over it.

    `samples` gives (title, image, label), at least once; one is held at a
    time. Each image is brought to a long side of 320 pixels, four stand in a
    row, and the legend names the classes that occur.
    """
    palette = _as_palette(palette)
    cells, present = [], set()
    for number, (title, image, label) in enumerate(samples):
        image = _as_image(image, "image")
        factor = sheets.MIN_PANEL_SIDE / max(image.shape[:2])
        size = [max(1, round(factor * side)) for side in image.shape[:2]]
        small = sheets.resize_image(image, size)
        panel, found = _panel(image, small, label, palette, ignore_label)
        title = drawable(sheets.shorten(title), f"sample {number + 1}")
        panel = overlay(small, panel, palette, alpha, len(palette))
        cells.append((title, panel))
        present |= found
    if not cells:
        raise ValueError("Expected at least one sample. Received: none")
    # No higher than the highest: most data sets lie on their side.
    height = max(cell.shape[0] for _, cell in cells)
    width = max(cell.shape[1] for _, cell in cells)
    panels = []
    for title, cell in cells:
        panel = np.full((height, width, 3), 255, "uint8")
        panel[: cell.shape[0], : cell.shape[1]] = cell
        panels.append((title, panel))
    sheet = sheets.draw_sheet(panels, MAX_COLUMNS)
    return add_legend(sheet, class_names, palette, present, alpha)


def attention_picture(image, point_maps, points, channel_maps, channels=None):
    """Show what position and channel attention look at in an image.

    All maps of a kind share one scale, which a bar of colours below them
    tells, and every position has the bar's colour of its value. Position
    attention is shown in times the even share, 1 / (number of positions), on a
    logarithmic scale around 1: to both ends as far as the highest of the maps,
    and at least to half and twice the share; a title says how few positions
    give half of it. Channel maps are activations, which have no unit, on a
    linear scale from about the 1st to the 99th percentile of all that are
    shown; a channel stands for no class.

    Args:
        image: As above; the first panel, with all points marked.
        point_maps: Sequence of arrays of any (height, width), not negative:
            how much the point attends to every place.
        points: Sequence of (row, column) in pixels of `image`, from 0 at the
            top and at the left, one for each of `point_maps`.
        channel_maps: Sequence of real arrays of any (height, width): the
            channels that vary most, as `attention_maps` gives them.
        channels: Sequence of the numbers of `channel_maps` for their titles.
            Defaults to 0, 1, 2, ...

    Returns:
        One picture; large images are shown smaller.
    """
    image = _as_image(image, "image")
    channels = range(len(channel_maps)) if channels is None else channels
    _check_same_length(point_maps=point_maps, points=points)
    _check_same_length(channel_maps=channel_maps, channels=channels)
    count = 1 + len(point_maps) + len(channel_maps)
    size = sheets.panel_size(image.shape[:2], count, MAX_COLUMNS)
    ground = sheets.resize_image(image, size)
    places = [_place(point, image.shape[:2], size) for point in points]
    letters = sheets.text_size(min(count, MAX_COLUMNS) * size[1])
    marked = ground.copy()
    for number, place in enumerate(places, start=1):
        marked = sheets.draw_mark(marked, place, str(number), letters)
    panels = [("image (the points marked)" if points else "image", marked)]
    shares, top = _shares(point_maps)
    for number, (share, place) in enumerate(
        zip(shares, places, strict=True), start=1
    ):
        shown = np.log10(share.clip(10**-top))
        panel = _heat(shown, size, -top, top)
        panel = sheets.draw_mark(panel, place, str(number), letters)
        panels.append((f"{number}: {_half(share)}", panel))
    blocks = [sheets.draw_sheet(panels, MAX_COLUMNS, letters)]
    if shares:
        often = f"{10**top:g}"
        where = ", ".join(
            f"{number} at ({row}, {column})"
            for number, (row, column) in enumerate(points, start=1)
        )
        blocks += [
            sheets.draw_note(
                [
                    "Position attention: how much each marked point takes in "
                    "from every position. Points, as (row, column) in pixels:",
                    *textwrap.wrap(where, NOTE_LETTERS),
                    "One logarithmic scale for all maps, in times the even "
                    "share, which is 1 / (number of positions):",
                ],
                letters,
            ),
            _color_bar(
                (f"1/{often} and less", "1: the even share", f"{often} times"),
                letters,
            ),
        ]
    if len(channel_maps):
        blocks += _channel_blocks(size, channel_maps, channels, letters)
    return sheets.stack(blocks)


def save_png(path, array, palette=None):
    """Write uint8 (height, width) or RGB (height, width, 3) as a PNG file.

    With a `palette`, (height, width) is written as a palette PNG: its pixels
    stay the numbers that they are, and viewers show the colours. The file
    appears whole or not at all; missing folders are made. `path` must end in
    ".png". Raises OSError where it cannot be written.
    """
    path, array = Path(path), np.asarray(array)
    if path.suffix.lower() != ".png":
        raise ValueError(f"A PNG's name must end in '.png'. Received: {path}")
    shaped = array.ndim == 2 or (palette is None and array.shape[2:] == (3,))
    if array.dtype != np.uint8 or not shaped or not array.size:
        raise ValueError(
            "A PNG is written from a non-empty uint8 array (height, width) or, "
            "without a palette, (height, width, 3). Received: "
            f"{_describe(array)}"
        )
    if palette is None:
        image = Image.fromarray(array)
    else:
        image = label_image(array, _as_palette(palette))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
    content = io.BytesIO()
    try:
        # Not into the file, which would be one call that answers no signal. Of
        # 6, the default, a photo is smaller by a fifth and takes thrice as
        # long.
        image.save(content, format="PNG", compress_level=3)
        unfinished.write_bytes(content.getbuffer())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _describe(array):
    return f"shape {array.shape}, dtype {array.dtype}"


def _as_image(image, name):
    image = np.asarray(image)
    numeric = image.dtype == np.uint8 or image.dtype.kind == "f"
    if not numeric or image.shape[2:] != (3,) or not image.size:
        raise ValueError(
            f"`{name}` must be a non-empty uint8 or float array (height, "
            f"width, 3), RGB. Received: {_describe(image)}"
        )
    if image.dtype == np.uint8:
        return image
    # Written so that NaN fails it too.
    if not (image.min() >= 0 and image.max() <= 255):
        raise ValueError(
            f"`{name}` must lie in 0-255. Received values from "
            f"{image.min()} to {image.max()}"
        )
    return np.rint(image).astype("uint8")


def _as_label(label, num_classes, ignore_label):
    """The label with `num_classes` for what is ignored, in few bytes."""
    label = np.asarray(label)
    if label.ndim != 2 or label.dtype.kind not in "iu" or not label.size:
        raise ValueError(
            "A label map must be a non-empty integer array (height, width). "
            f"Received: {_describe(label)}"
        )
    ignored = label == ignore_label
    wrong = label[~ignored & ((label < 0) | (label >= num_classes))]
    if wrong.size:
        raise ValueError(
            f"A label map holds the value {wrong[0]} ({wrong.size} pixels are "
            f"out of range). Expected 0 to {num_classes - 1}, for which the "
            f"palette has colours, or {ignore_label} for 'ignore'. Map the "
            "values to class indices, or pass this data set's palette."
        )
    label = label.astype(np.min_scalar_type(num_classes))
    label[ignored] = num_classes
    return label


def _as_palette(palette):
    palette = np.asarray(palette)
    valid = palette.dtype.kind in "iu" and palette.shape[1:] == (3,)
    if not valid or not palette.size or np.any(palette != palette & 255):
        raise ValueError(
            "`palette` must hold at least one colour of three integers in "
            f"0-255, shape (num_classes, 3). Received: {palette.tolist()}"
        )
    return palette.astype("uint8")


def _check_same_length(**pair):
    (first, a), (second, b) = pair.items()
    if len(a) != len(b):
        raise ValueError(
            f"`{first}` and `{second}` must have the same length. "
            f"Received: {len(a)} and {len(b)}"
        )


def _pieces(array):
    """Slices of rows: NumPy's indexing takes eight bytes for each pixel."""
    rows = max(1, _PIECE // array.shape[1])
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def _borders(label, width):
    """Which pixels have a class with fewer within `width`, in row or column."""
    counts = sum(
        np.bincount(label[rows].ravel(), minlength=label.max() + 1)
        for rows in _pieces(label)
    )
    ranks = np.empty(len(counts), label.dtype)
    ranks[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    sizes = np.empty_like(label)
    for rows in _pieces(label):
        sizes[rows] = ranks[label[rows]]
    border = np.zeros(label.shape, bool)
    for step in range(1, width + 1):
        for one, other in (
            (np.s_[step:], np.s_[:-step]),
            (np.s_[:, step:], np.s_[:, :-step]),
        ):
            border[one] |= sizes[one] > sizes[other]
            border[other] |= sizes[other] > sizes[one]
    return border


def _panel(image, small, label, palette, ignore_label):
    """A label map at a panel's size, and the classes that the whole one has.

    What is ignored is `len(palette)`.
    """
    label = _as_label(label, len(palette), ignore_label)
    if label.shape != image.shape[:2]:
        raise ValueError(
            "The image and its label map must have the same height and width. "
            f"Received: image {image.shape[:2]}, label {label.shape}"
        )
    found = set(np.unique(label).tolist()) - {len(palette)}
    return sheets.resize_map(label, small.shape[:2]), found


def _drawable_names(class_names, indices):
    names = [drawable(class_names[k], f"class {k}") for k in indices]
    told = [
        f"{name} = {harmless(class_names[k])}"
        for name, k in zip(names, indices, strict=True)
        if name != harmless(" ".join(class_names[k].split()))
        and class_names[k] not in _named_stand_ins
    ]
    if told:
        _named_stand_ins.update(class_names[k] for k in indices)
        warnings.warn(
            f"No font has glyphs for {len(told)} class "
            f"name{'s' * (len(told) > 1)}; pictures show: {', '.join(told)}. "
            f"Install a font of the script, or name its file in {VARIABLE}.",
            stacklevel=3,
        )
    return names


def _as_values(values, name):
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "iuf" or not values.size:
        raise ValueError(
            f"`{name}` must be non-empty real arrays (height, width). "
            f"Received: {_describe(values)}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite. Received: NaN or infinity")
    return values.astype("float64")


def _place(point, size, panel_size):
    """Where a point of an image lies in its panel."""
    if any(x not in range(side) for x, side in zip(point, size, strict=True)):
        raise ValueError(
            "`points` must be (row, column) pixels inside the image of "
            f"{size[0]}x{size[1]}. Received: ({point[0]}, {point[1]})"
        )
    return [
        int((x + 0.5) * new / old)
        for x, new, old in zip(point, panel_size, size, strict=True)
    ]


def _shares(point_maps):
    """The maps in times their mean, and the logarithm of the scale's end."""
    shares = []
    for values in point_maps:
        values = _as_values(values, "point_maps")
        if values.min() < 0 or not values.any():
            raise ValueError(
                "`point_maps` must not be negative, nor 0 everywhere. Received "
                f"values from {values.min()} to {values.max()}"
            )
        shares.append(values / values.mean())
    # So that what is nearly even looks even, and rounding is not stretched.
    highest = max([2, *(share.max() for share in shares)])
    decade = 10 ** math.floor(math.log10(highest))
    top = next(k for k in (1, 2, 5, 10) if k * decade >= highest) * decade
    return shares, math.log10(top)


def _half(share):
    """In how few positions half of the attention is."""
    parts = np.sort(share, axis=None)[::-1].cumsum()
    count = 1 + np.searchsorted(parts, parts[-1] / 2)
    return f"half its attention is on {count:,} of {share.size:,} positions"


def _channel_blocks(size, channel_maps, channels, letters):
    maps = [_as_values(values, "channel_maps") for values in channel_maps]
    shown = np.concatenate([values.ravel() for values in maps])
    low, high = np.percentile(shown, (1, 99))
    if not low < high:
        low, high = low - 0.5, low + 0.5
    # Ends that are easily read.
    unit = 10.0 ** math.floor(math.log10((high - low) / 4))
    low, high = (round(end / unit) * unit for end in (low, high))
    panels = [
        (f"channel {channel}", _heat(values, size, low, high))
        for values, channel in zip(maps, channels, strict=True)
    ]
    return [
        sheets.draw_sheet(panels, MAX_COLUMNS, letters),
        sheets.draw_note(
            [
                "The channels of channel attention's output that vary most, "
                "in that order. A channel stands for no class.",
                "Activations, without a unit. One linear scale for all maps, "
                "from about the 1st to the 99th percentile:",
            ],
            letters,
        ),
        _color_bar(
            (
                f"{low:.6g} and less",
                f"{(low + high) / 2:.6g}",
                f"{high:.6g} and more",
            ),
            letters,
        ),
    ]


def _heat(values, size, low, high):
    """A map at a panel's size, each position in the bar's colour."""
    return heatmap(sheets.resize_map(values, size), low, high)


def _color_bar(words, letters):
    ramp = heatmap(np.linspace(0, 1, 256)[None], 0, 1)[0]
    places = np.linspace(0, 1, len(words)).tolist()
    return sheets.draw_color_bar(
        ramp, list(zip(places, words, strict=True)), letters
    )
