"""Sheets: captioned pictures side by side, legends, colour bars."""

import math

import numpy as np
from PIL import Image
from PIL import ImageDraw
from rich.cells import cell_len
from rich.cells import set_cell_size

from keras_danet.inference.fonts import font_for

INK = (32, 32, 32)
# Around swatches: pale class colours would melt into the white page.
OUTLINE = (128, 128, 128)
# Cyan is not among the heat colours, and differs from the page at an edge.
MARK = (0, 255, 255)
# The most that pictures side by side may take, as much as a screen shows.
# Captions and the legend come on top.
MAX_WIDTH = 2000
MAX_PIXELS = 2**22
# Pixels of a picture's long side; smaller ones are enlarged.
MIN_PANEL_SIDE, MAX_PANEL_SIDE = 320, 720
MIN_TEXT_SIZE = 14
# Pictures in a row.
MAX_COLUMNS = 4
# In terminal columns; a legend of long names would fill the whole sheet.
MAX_NAME_WIDTH = 40


def panel_size(size, count, columns):
    """(height, width) in a sheet of `count` pictures of this size.

    Small ones grow by a whole factor, so that pixels stay sharp.
    """
    long = max(size)
    factor = min(
        max(1, math.ceil(MIN_PANEL_SIDE / long)),
        MAX_PANEL_SIDE / long,
        MAX_WIDTH / (min(columns, count) * long),
        math.sqrt(MAX_PIXELS / (count * size[0] * size[1])),
    )
    factor = math.floor(factor) if factor > 1 else factor
    return tuple(max(1, round(factor * side)) for side in size)


def resize_image(image, size):
    """An image at another (height, width); shrinking averages colours."""
    if image.shape[:2] == tuple(size):
        return image
    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    picture = Image.fromarray(image).resize((size[1], size[0]), method)
    return np.asarray(picture)


def resize_map(values, size):
    """Numbers (height, width) at another size, by the nearest neighbour."""
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new)
        for new, old in zip(size, values.shape, strict=True)
    )
    return values[rows[:, None], columns]


def draw_sheet(panels, columns, size=None):
    """Titled pictures, a list of (title, uint8 RGB), on white, in rows.

    `size` is the height of letters; `None` chooses it by the sheet's width.
    """
    rows = [
        panels[start : start + columns]
        for start in range(0, len(panels), columns)
    ]
    height, width = panels[0][1].shape[:2]
    size = size or text_size(width * len(rows[0]))
    gap, line = round(size / 2), round(size * 1.7)
    cell_width = gap + max(
        width, *(text_width(title, size) for title, _ in panels)
    )
    cell_height = line + height + gap
    sheet = Image.new(
        "RGB",
        (gap + cell_width * len(rows[0]), cell_height * len(rows)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        for j, (title, picture) in enumerate(row):
            x, y = gap + j * cell_width, i * cell_height
            draw_text(draw, (x, y + line // 2), title, size)
            sheet.paste(Image.fromarray(picture), (x, y + line))
    return np.array(sheet)


def stack(blocks):
    """Pictures below each other, aligned left, on white."""
    width = max(block.shape[1] for block in blocks)
    height = sum(block.shape[0] for block in blocks)
    sheet = np.full((height, width, 3), 255, "uint8")
    top = 0
    for block in blocks:
        sheet[top : top + block.shape[0], : block.shape[1]] = block
        top += block.shape[0]
    return sheet


def draw_note(lines, size):
    """Lines of text on white, with letters of a height."""
    gap, line = round(size / 2), round(size * 1.5)
    width = max(text_width(text, size) + 2 * gap for text in lines)
    note = Image.new("RGB", (width, gap + line * len(lines)), "white")
    draw = ImageDraw.Draw(note)
    for index, text in enumerate(lines):
        draw_text(draw, (gap, gap + line * index + line // 2), text, size)
    return np.array(note)


def draw_color_bar(colors, ticks, size):
    """A bar of colours, uint8 (steps, 3), lowest first, with labels below it.

    `ticks` is a list of (place, text): a place from 0, the lowest, to 1.
    """
    gap, line = round(size / 2), round(size * 1.5)
    texts = [text_width(text, size) for _, text in ticks]
    # Half of the text at an end extends beyond the bar.
    margin = gap + max(texts) // 2
    length = sum(texts) + 12 * size
    shape = (length + 2 * margin, size + line + 4 * gap)
    bar = Image.new("RGB", shape, "white")
    steps = colors[np.arange(length) * len(colors) // length]
    bar.paste(
        Image.fromarray(np.repeat(steps[None], size, axis=0)), (margin, 0)
    )
    draw = ImageDraw.Draw(bar)
    for (place, text), taken in zip(ticks, texts, strict=True):
        x = margin + round(place * (length - 1))
        draw.line((x, size, x, size + gap // 2), INK)
        draw_text(draw, (x - taken // 2, size + line // 2 + 2), text, size)
    return np.array(bar)


def draw_mark(picture, place, text, size):
    """A picture with a cross and a text at (row, column), on any ground."""
    picture = picture.copy()
    row, column = place
    arm = max(10, max(picture.shape) // 40)
    core = arm // 10
    for rim, color in ((core + 1, (0, 0, 0)), (0, MARK)):
        long, short = arm + rim, core + rim
        for down, across in ((long, short), (short, long)):
            rows = slice(max(0, row - down), row + down + 1)
            columns = slice(max(0, column - across), column + across + 1)
            picture[rows, columns] = color
    image = Image.fromarray(picture)
    font = _font(text, size)
    # On the side where there is room.
    right = column + 2 * arm + font.getlength(text) < picture.shape[1]
    ImageDraw.Draw(image).text(
        (column + (arm if right else -arm), row - arm),
        text,
        MARK,
        font,
        anchor="lm" if right else "rm",
        stroke_width=2,
        stroke_fill=(0, 0, 0),
    )
    return np.asarray(image)


def draw_legend(picture, names, swatches):
    """A canvas with a picture at the upper left, swatches and names beneath.

    `swatches` has the (left, right) RGB colours of each name. One with black
    on the left, which overlays leave out, is drawn empty.
    """
    height, width = picture.shape[:2]
    size = text_size(width)
    gap, line = round(size / 2), round(size * 1.5)
    names = [shorten(name) for name in names]
    # A cell is swatch, gap, name, wide gap.
    cells = [2 * size + 3 * gap + text_width(name, size) for name in names]
    for columns in range(len(names), 0, -1):
        widths = [max(cells[j::columns]) for j in range(columns)]
        if gap + sum(widths) <= width:
            break
    strip = gap + line * math.ceil(len(names) / columns)
    canvas = Image.new(
        "RGB", (max(width, gap + sum(widths)), height + strip), "white"
    )
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for k, (name, (left, right)) in enumerate(
        zip(names, swatches, strict=True)
    ):
        x = gap + sum(widths[: k % columns])
        y = height + gap // 2 + line * (k // columns) + line // 2
        half = size // 2
        top, middle, bottom = y - half, x + size, y + half
        if any(left):
            draw.rectangle((x, top, middle - 1, bottom), tuple(left))
            draw.rectangle((middle, top, x + 2 * size, bottom), tuple(right))
        draw.rectangle((x, top, x + 2 * size, bottom), None, OUTLINE)
        draw_text(draw, (x + 2 * size + gap, y), name, size)
    return np.array(canvas)


def text_size(width):
    """Height of the letters of a sheet that many pixels wide."""
    return max(MIN_TEXT_SIZE, width // 90)


def shorten(text):
    """The text, or its beginning if it is long."""
    if cell_len(text) <= MAX_NAME_WIDTH:
        return text
    return f"{set_cell_size(text, MAX_NAME_WIDTH - 3)}..."


def text_width(text, size):
    return math.ceil(_font(text, size).getlength(text))


def draw_text(draw, place, text, size):
    """Writes from (x, y), where y is the middle of the line."""
    draw.text(place, text, INK, _font(text, size), anchor="lm")


def _font(text, size):
    font = font_for(text, size)
    if font is None:
        raise ValueError(f"No font has the letters of {text!r}.")
    return font
