"""Pictures of label maps, predictions and attention, as NumPy arrays.

Pictures are returned as uint8 RGB arrays (height, width, 3). Nothing here
depends on a model. These arguments mean the same everywhere:

    image: Array (height, width, 3), RGB, uint8 or float in 0-255.
    label: Integer array (height, width) of class indices.
    palette: RGB colours in 0-255, (num_classes, 3), one per class; those of
        `display_palette` can be told apart in a picture.
    class_names: Sequence of strings, one per class, in any script. If no font
        has the letters of a name, the picture says "class 3" instead, and a
        warning gives the name.
    ignore_label: Integer that marks pixels without a class. Defaults to 255.
    alpha: Float in 0-1, the share of the colours blended over a grey image.

A wrong shape, dtype or range is a ValueError that names the argument.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from keras_danet import arguments
from keras_danet.data.palettes import default_palette as default_palette
from keras_danet.data.palettes import display_palette as display_palette
from keras_danet.data.palettes import label_image
from keras_danet.files import whole_or_not
from keras_danet.inference import sheets
from keras_danet.inference.attention_pictures import (
    attention_picture as attention_picture,
)
from keras_danet.inference.attention_pictures import heatmap as heatmap
from keras_danet.inference.fonts import VARIABLE
from keras_danet.inference.fonts import drawable
from keras_danet.inference.picture_arguments import as_image
from keras_danet.inference.picture_arguments import as_label
from keras_danet.inference.picture_arguments import as_palette
from keras_danet.inference.picture_arguments import check_same_length
from keras_danet.inference.picture_arguments import check_same_size
from keras_danet.inference.picture_arguments import describe
from keras_danet.text_tables import harmless

# Width of a border as a share of the long side.
BORDER_SHARE = 1 / 1500
# Pixels that are processed at once: only results take more memory.
_PIECE = 2**20
MID_GREY = 128
_named_stand_ins: set[str] = set()


def colorize(label, palette, ignore_label=255):
    """Turn class indices into colours; ignored pixels become black.

    >>> colorize(np.array([[1, 255]]), [(9, 9, 9), (1, 2, 3)]).tolist()
    [[[1, 2, 3], [0, 0, 0]]]
    """
    palette = as_palette(palette)
    label = as_label(label, len(palette), ignore_label)
    table = np.concatenate([palette, np.zeros((1, 3), "uint8")])
    colors = np.empty((*label.shape, 3), "uint8")
    for rows in _pieces(label):
        colors[rows] = table[label[rows]]
    return colors


def overlay(
    image, label, palette, alpha=0.5, ignore_label=255, border_width=None
):
    """Blend class colours over an image in grey.

    Every pixel is alpha * colour + (1 - alpha) * grey, so every visible hue
    belongs to a class, and a class has the same hue everywhere. `alpha` may
    also be a sequence with a number for each class. Borders
    between classes are lines, white on dark pixels and black on bright ones.
    They are on the side of the class that has more pixels, so that small
    objects stay whole. Ignored pixels show the grey image, and so does a class
    in black: in common palettes it is the background, and it would hide the
    image to no purpose.

    `border_width` is in pixels; 0 draws none. Defaults to `None`: 1/1500 of
    the image's long side, and at least one pixel.

    Returns a picture of the image's size.
    """
    image, palette = as_image(image, "image"), as_palette(palette)
    label = as_label(label, len(palette), ignore_label)
    check_same_size(image, label)
    alpha = _each_alpha(alpha, len(palette))
    if border_width is None:
        border_width = max(1, round(BORDER_SHARE * max(label.shape)))
    border_width = arguments.integer(
        "border_width", border_width, "must be an integer >= 0", least=0
    )
    grey = np.asarray(Image.fromarray(image).convert("L"))
    # The result for each grey level of each class; the last class is "none".
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


def _each_alpha(alpha, count):
    """The share of each class's colour, (count, 1, 1)."""
    bounds = {"least": 0, "most": 1}
    if arguments.is_number(alpha):
        alpha = arguments.number("alpha", alpha, "must be in 0-1", **bounds)
        return np.full((count, 1, 1), alpha)
    must = f"must be in 0-1, or {count} numbers in 0-1"
    values = arguments.numbers("alpha", alpha, must, length=count, **bounds)
    return np.reshape(values, (-1, 1, 1))


def add_legend(picture, class_names, palette, present=None, alpha=0.5):
    """Put swatches with class names beneath a picture (an `image`).

    The legend wraps to the picture's width. If a name is wider than the
    picture, the canvas is widened with white; very long names are shortened.
    The picture itself stays in the upper left corner. `present` is an
    iterable of the class indices to show, all by default; if it is empty, no
    legend is added.

    The left half of a swatch is the colour itself, as in a label map, and the
    right half `alpha` of it over mid grey, as in an overlay. A class in black,
    which overlays leave out, has an empty swatch.
    """
    picture, palette = as_image(picture, "picture"), as_palette(palette)
    check_same_length(class_names=class_names, palette=palette)
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

    The panels are side by side, or in a column if the image is more than
    twice as wide as high; the legend names the classes that occur. Large
    images are shown smaller, small ones enlarged by a whole factor. If
    `label` is None, its panel is left out. `prediction` is also a label map.
    """
    image, palette = as_image(image, "image"), as_palette(palette)
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
    """Show images of any sizes, each overlaid with its label.

    `samples` yields (title, image, label), at least once; one is held at a
    time. Each image is resized to a long side of 320 pixels, with four in a
    row, and the legend names the classes that occur.
    """
    palette = as_palette(palette)
    cells, present = [], set()
    for number, (title, image, label) in enumerate(samples):
        image = as_image(image, "image")
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
    # Cells are as high as the highest image: most images are landscape.
    height = max(cell.shape[0] for _, cell in cells)
    width = max(cell.shape[1] for _, cell in cells)
    panels = []
    for title, cell in cells:
        panel = np.full((height, width, 3), 255, "uint8")
        panel[: cell.shape[0], : cell.shape[1]] = cell
        panels.append((title, panel))
    sheet = sheets.draw_sheet(panels, sheets.MAX_COLUMNS)
    return add_legend(sheet, class_names, palette, present, alpha)


def save_png(path, array, palette=None, text=None):
    """Write uint8 (height, width) or RGB (height, width, 3) as a PNG file.

    Also uint16 (height, width), grey with 16 bits. `text` is a dict of
    keyword to what the file says of itself, such as `{"Description": ...}`.
    With a `palette`, (height, width) is written as a palette PNG: its pixels
    keep their numbers, and viewers show the colours. The file appears whole or
    not at all; missing folders are made. `path` must end in ".png". Raises
    OSError if it cannot be written.
    """
    path, array = Path(path), np.asarray(array)
    if path.suffix.lower() != ".png":
        raise ValueError(f"A PNG's name must end in '.png'. Received: {path}")
    shaped = array.ndim == 2 or (palette is None and array.shape[2:] == (3,))
    deep = array.dtype == np.uint16 and array.ndim == 2 and palette is None
    if not (array.dtype == np.uint8 or deep) or not shaped or not array.size:
        raise ValueError(
            "A PNG is written from a non-empty uint8 array (height, width) or, "
            "without a palette, (height, width, 3) or uint16 (height, width). "
            f"Received: {describe(array)}"
        )
    if palette is None:
        image = Image.fromarray(array)
    else:
        image = label_image(array, as_palette(palette))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    # Not straight into the file: that call could not answer signals. Level 6,
    # the default, makes a photo a fifth smaller and takes three times as long.
    about = PngInfo()
    for keyword, said in (text or {}).items():
        about.add_text(keyword, said)
    image.save(content, format="PNG", compress_level=3, pnginfo=about)
    with whole_or_not(path) as partial:
        partial.write_bytes(content.getbuffer())


def _pieces(array):
    """Slices of rows: NumPy's indexing takes eight bytes for each pixel."""
    rows = max(1, _PIECE // array.shape[1])
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def _borders(label, width):
    """Pixels with a rarer class within `width`, in their row or column."""
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
    """A label map at a panel's size, and the classes of the full-size one.

    Ignored pixels are `len(palette)`.
    """
    label = as_label(label, len(palette), ignore_label)
    check_same_size(image, label)
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
            f"Install a font for the script, or name its file in {VARIABLE}.",
            stacklevel=3,
        )
    return names
