"""Pictures of label maps, predictions and attention, as NumPy arrays.

Pictures go out as uint8 RGB arrays (height, width, 3). Nothing here knows a
model. These arguments mean the same everywhere:

    image: Array (height, width, 3), RGB, uint8 or float in 0-255.
    label: Integer array (height, width) of class indices.
    palette: RGB colours in 0-255, (num_classes, 3), one per class.
    class_names: Sequence of strings, one per class.
    ignore_label: Integer that marks pixels without a class. Defaults to 255.
    alpha: Float in 0-1, the share of the colours blended over an image.

A wrong shape, dtype or range is a ValueError that names the argument.
"""

import math
import os
import uuid
from pathlib import Path

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from keras_danet import arguments

INK = (32, 32, 32)
# Around swatches: pale class colours would melt into the white page.
OUTLINE = (128, 128, 128)
# Cyan: neither in the heat colours nor that of the page beside an edge.
CROSS = (0, 255, 255)
MIN_TEXT_SIZE = 14
# Pictures whose long side is shorter are enlarged before they are captioned.
MIN_PANEL_SIDE = 320
MAX_COLUMNS = 4
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


def default_palette(num_classes):
    """Return distinct colours, uint8 (num_classes, 3), as PASCAL VOC does.

    The bits of a class index are dealt in turn to red, green and blue, each
    channel being filled from its highest bit downwards; class 0 is black.

    >>> default_palette(3).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    num_classes = arguments.integer(
        "num_classes", num_classes, "must be an integer >= 1", least=1
    )
    index = np.arange(num_classes)
    palette = np.zeros((num_classes, 3), "uint8")
    for bit in range(8):
        for channel in range(3):
            on = index >> (3 * bit + channel) & 1
            palette[:, channel] |= (on << (7 - bit)).astype("uint8")
    return palette


def colorize(label, palette, ignore_label=255):
    """Turn class indices into colours; ignored pixels become black.

    >>> colorize(np.array([[2, 255]]), default_palette(3)).tolist()
    [[[0, 128, 0], [0, 0, 0]]]
    """
    label, palette = np.asarray(label), _as_palette(palette)
    if label.ndim != 2 or label.dtype.kind not in "iu" or not label.size:
        raise ValueError(
            "A label map must be a non-empty integer array (height, width). "
            f"Received: {_describe(label)}"
        )
    ignored = label == ignore_label
    wrong = label[~ignored & ((label < 0) | (label >= len(palette)))]
    if wrong.size:
        raise ValueError(
            f"A label map holds the value {wrong[0]} ({wrong.size} pixels are "
            f"out of range). Expected 0 to {len(palette) - 1}, for which the "
            f"palette has colours, or {ignore_label} for 'ignore'. Map the "
            "values to class indices, or pass this data set's palette."
        )
    table = np.concatenate([palette, np.zeros((1, 3), "uint8")])
    return table[np.where(ignored, len(palette), label.astype("int64"))]


def overlay(image, label, palette, alpha=0.5, ignore_label=255):
    """Blend class colours over an image: alpha * colour + (1 - alpha) * image.

    Ignored pixels show the image untouched. Returns the image's size.
    """
    image = _as_image(image, "image")
    colours = colorize(label, palette, ignore_label)
    if image.shape != colours.shape:
        raise ValueError(
            "The image and its label map must have the same height and width. "
            f"Received: image {image.shape[:2]}, label {colours.shape[:2]}"
        )
    ignored = np.asarray(label) == ignore_label
    return np.where(ignored[..., None], image, _blend(image, colours, alpha))


def heatmap(values):
    """Colour finite numbers (height, width) from lowest, dark, to highest.

    A constant map has the lowest colour everywhere.

    >>> heatmap(np.array([[0.0, 5.0]])).tolist()
    [[[0, 0, 4], [252, 253, 191]]]
    """
    return _heat_colours(_unit_range(values, "values"))


def add_legend(picture, class_names, palette, present=None):
    """Put swatches with class names beneath a picture (an `image`).

    The legend wraps to the picture's width. No name is cut: where one is
    wider than the picture, white widens the canvas. The picture itself stays
    in the upper left corner. `present` is an iterable of the class indices
    to show, all by default; if it is empty, no legend is added. Pillow's own
    font draws the text: it knows ASCII, other letters become boxes.
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
    # Split and joined: a line break would run into the next row.
    names = [" ".join(class_names[index].split()) for index in present]
    return _draw_legend(picture, names, palette[present].tolist())


def compare(
    image, label, prediction, palette, class_names, alpha=0.6, ignore_label=255
):
    """Show an image, its ground truth and its prediction in one picture.

    The panels stand side by side, or in a column if the image is more than
    twice as wide as high; the legend names the classes that occur. Small
    images are enlarged by a whole factor. `label` may be None: its panel is
    left out. `prediction` is a label map as well.
    """
    image = _as_image(image, "image")
    maps = [] if label is None else [("ground truth", label)]
    maps.append(("prediction", prediction))
    panels, present = [("image", image)], set()
    for title, classes in maps:
        try:
            panel = overlay(image, classes, palette, alpha, ignore_label)
        except ValueError as error:
            raise ValueError(f"Cannot draw the {title}: {error}") from error
        panels.append((title, panel))
        present |= set(np.unique(classes).tolist()) - {ignore_label}
    factor = _enlargement(image)
    panels = [(title, _enlarge(panel, factor)) for title, panel in panels]
    columns = 1 if image.shape[1] > 2 * image.shape[0] else len(panels)
    sheet = _draw_sheet([panels], columns)
    return add_legend(sheet, class_names, palette, present)


def gallery(samples, palette, class_names, alpha=0.5, ignore_label=255):
    """Show images of any sizes, each with its label laid over it.

    `samples` is a non-empty list of (title, image, label). Each image is
    brought to a long side of 320 pixels, four stand in a row, and the legend
    names the classes that occur.
    """
    if not samples:
        raise ValueError("Expected at least one sample. Received: none")
    cells, present = [], set()
    side = MIN_PANEL_SIDE
    for title, image, label in samples:
        picture = Image.fromarray(
            overlay(image, label, palette, alpha, ignore_label)
        )
        factor = side / max(picture.size)
        size = [max(1, round(factor * length)) for length in picture.size]
        # Nearest when enlarged, so that pixels stay what they are.
        picture = picture.resize(size, Image.BOX if factor < 1 else 0)
        cells.append((title, np.array(picture)))
        present |= set(np.unique(label).tolist()) - {ignore_label}
    # No higher than the highest: most data sets lie on their side.
    height = max(cell.shape[0] for _, cell in cells)
    width = max(cell.shape[1] for _, cell in cells)
    panels = []
    for title, cell in cells:
        panel = np.full((height, width, 3), 255, "uint8")
        panel[: cell.shape[0], : cell.shape[1]] = cell
        panels.append((title, panel))
    sheet = _draw_sheet([panels], MAX_COLUMNS)
    return add_legend(sheet, class_names, palette, present)


def attention_picture(
    image, point_maps, points, channel_maps, channels=None, alpha=0.6
):
    """Show what position and channel attention look at in an image.

    Args:
        image: As above; the first panel.
        point_maps: Sequence of real arrays of any (height, width): how much
            the point attends to every place. Enlarged, then blended over
            the image with `alpha`.
        points: Sequence of (row, column) in pixels of `image`, one for each
            of `point_maps`; marked by a cross.
        channel_maps: Sequence of real arrays of any (height, width).
        channels: Sequence of the numbers of `channel_maps` for their titles.
            Defaults to 0, 1, 2, ...
        alpha: As above. Defaults to 0.6.

    Returns:
        One picture. Each map is scaled by its own lowest and highest value.
    """
    image = _as_image(image, "image")
    channels = range(len(channel_maps)) if channels is None else channels
    _check_same_length(point_maps=point_maps, points=points)
    _check_same_length(channel_maps=channel_maps, channels=channels)
    height, width = image.shape[:2]
    factor = _enlargement(image)
    large = _enlarge(image, factor)
    first, second = [("image", large)], []
    for values, (row, column) in zip(point_maps, points, strict=True):
        if row not in range(height) or column not in range(width):
            raise ValueError(
                "`points` must be (row, column) pixels inside the image of "
                f"{height}x{width}. Received: ({row}, {column})"
            )
        panel = _blend(
            large, _enlarged_heat(values, "point_maps", large), alpha
        )
        _draw_cross(panel, *(int((x + 0.5) * factor) for x in (row, column)))
        first.append((f"position attention from ({row}, {column})", panel))
    for values, channel in zip(channel_maps, channels, strict=True):
        heat = _enlarged_heat(values, "channel_maps", large)
        second.append((f"channel map {channel}", heat))
    return _draw_sheet([first, second], MAX_COLUMNS)


def save_png(path, array):
    """Write uint8 (height, width) or RGB (height, width, 3) as a PNG file.

    The file appears whole or not at all; missing folders are made. `path`
    must end in ".png". Raises OSError where it cannot be written.
    """
    path, array = Path(path), np.asarray(array)
    if path.suffix.lower() != ".png":
        raise ValueError(f"A PNG's name must end in '.png'. Received: {path}")
    shaped = array.ndim == 2 or array.shape[2:] == (3,)
    if array.dtype != np.uint8 or not shaped or not array.size:
        raise ValueError(
            "A PNG is written from a non-empty uint8 array (height, width) or "
            f"(height, width, 3). Received: {_describe(array)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        Image.fromarray(array).save(unfinished, format="PNG")
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
    # Written so that NaN fails it too.
    if not (image.min() >= 0 and image.max() <= 255):
        raise ValueError(
            f"`{name}` must lie in 0-255. Received values from "
            f"{image.min()} to {image.max()}"
        )
    return np.rint(image).astype("uint8")


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


def _blend(image, colours, alpha):
    alpha = arguments.number("alpha", alpha, "must lie in 0-1", least=0, most=1)
    mixed = alpha * colours.astype("float32") + (1 - alpha) * image
    return np.rint(mixed).astype("uint8")


def _unit_range(values, name):
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "iuf" or not values.size:
        raise ValueError(
            f"`{name}` must be non-empty real arrays (height, width). "
            f"Received: {_describe(values)}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite. Received: NaN or infinity")
    values = values.astype("float64")
    span = np.ptp(values)
    return (values - values.min()) / (span if span else 1.0)


def _heat_colours(unit):
    anchors = np.array(HEAT_ANCHORS)
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(unit, places, anchors[:, k]) for k in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype("uint8")


def _enlarged_heat(values, name, image):
    # Scaled before it is enlarged: interpolation leaves rounding noise on a
    # constant map, and scaling would blow that up to the full range.
    small = Image.fromarray(_unit_range(values, name).astype("float32"))
    size = (image.shape[1], image.shape[0])
    return _heat_colours(np.asarray(small.resize(size, Image.BILINEAR)))


def _enlargement(image):
    return max(1, math.ceil(MIN_PANEL_SIDE / max(image.shape[:2])))


def _enlarge(image, factor):
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _draw_cross(picture, row, column):
    """Draw a rimmed cross in place, so that it shows on any ground."""
    arm = max(10, max(picture.shape) // 30)
    core = arm // 10
    for rim, colour in ((core, (0, 0, 0)), (0, CROSS)):
        long, short = arm + rim, core + rim
        for down, across in ((long, short), (short, long)):
            rows = slice(max(0, row - down), row + down + 1)
            columns = slice(max(0, column - across), column + across + 1)
            picture[rows, columns] = colour


def _font(width):
    """Return the font for a picture that many pixels wide."""
    return ImageFont.load_default(max(MIN_TEXT_SIZE, width // 70))


def _draw_sheet(groups, columns):
    """Lay titled pictures of one size on white, each group on new rows."""
    rows = [
        group[start : start + columns]
        for group in groups
        for start in range(0, len(group), columns)
    ]
    height, width = rows[0][0][1].shape[:2]
    font = _font(width * max(len(row) for row in rows))
    titles = [font.getlength(title) for group in groups for title, _ in group]
    gap, line = round(font.size / 2), round(font.size * 1.7)
    cell_width = max(width, *map(math.ceil, titles)) + gap
    cell_height = line + height + gap
    size = (gap + cell_width * max(map(len, rows)), cell_height * len(rows))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        for j, (title, picture) in enumerate(row):
            x, y = gap + j * cell_width, i * cell_height
            draw.text((x, y + line // 2), title, INK, font, anchor="lm")
            sheet.paste(Image.fromarray(picture), (x, y + line))
    return np.array(sheet)


def _draw_legend(picture, names, colours):
    height, width = picture.shape[:2]
    font = _font(width)
    gap, line = round(font.size / 2), round(font.size * 1.5)
    # A cell is swatch, gap, name, wide gap.
    cells = [font.size + 3 * gap + math.ceil(font.getlength(n)) for n in names]
    for columns in range(len(names), 0, -1):
        widths = [max(cells[j::columns]) for j in range(columns)]
        if gap + sum(widths) <= width:
            break
    strip = gap + line * math.ceil(len(names) / columns)
    size = (max(width, gap + sum(widths)), height + strip)
    canvas = Image.new("RGB", size, "white")
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for k, (name, colour) in enumerate(zip(names, colours, strict=True)):
        x = gap + sum(widths[: k % columns])
        y = height + gap // 2 + line * (k // columns) + line // 2
        half = font.size // 2
        box = (x, y - half, x + font.size, y + half)
        draw.rectangle(box, tuple(colour), OUTLINE)
        place = (x + font.size + gap, y)
        draw.text(place, name, INK, font, anchor="lm")
    return np.array(canvas)
