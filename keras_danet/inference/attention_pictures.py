"""Pictures of what attention looks at: heat maps with their scale."""

import math
import textwrap

import numpy as np

from keras_danet.inference import sheets
from keras_danet.inference.picture_arguments import as_image
from keras_danet.inference.picture_arguments import as_values
from keras_danet.inference.picture_arguments import check_same_length

# Letters in a line of a note.
NOTE_LETTERS = 110
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


def heatmap(values, low, high):
    """Colour numbers (height, width) from `low`, dark, to `high`, bright.

    Values beyond either end get its colour.

    >>> heatmap(np.array([[-1.0, 0.0, 9.0]]), low=0, high=5).tolist()
    [[[0, 0, 4], [0, 0, 4], [252, 253, 191]]]
    """
    values = as_values(values, "values")
    if not low < high:
        raise ValueError(
            f"`low` must be below `high`. Received: {low!r} and {high!r}"
        )
    unit = ((values - low) / (high - low)).clip(0, 1)
    places = np.linspace(0, 1, len(HEAT_ANCHORS))
    anchors = np.array(HEAT_ANCHORS)
    channels = [np.interp(unit, places, anchors[:, k]) for k in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype("uint8")


def attention_picture(image, point_maps, points, channel_maps, channels=None):
    """Show what position and channel attention look at in an image.

    All maps of a kind share one scale, shown by a colour bar below them, and
    every position has the bar's colour for its value. Position attention is
    shown as a multiple of the even share, 1 / (number of positions), on a
    logarithmic scale around 1: up to the highest value of the maps and as far
    down, at least from half to twice the share; a title says how few
    positions give half of it. Channel maps are activations, which have no
    unit, on a linear scale from about the 1st to the 99th percentile of all
    that are shown; a channel does not stand for a class.

    Args:
        image: Array (height, width, 3), RGB, uint8 or float in 0-255; the
            first panel, with all points marked.
        point_maps: Sequence of arrays of any (height, width), not negative:
            how much the point attends to every position.
        points: Sequence of (row, column) in pixels of `image`, from 0 at the
            top and at the left, one for each of `point_maps`.
        channel_maps: Sequence of real arrays of any (height, width): the
            channels that vary most, as `attention_maps` returns them.
        channels: Sequence of the numbers of `channel_maps` for their titles.
            Defaults to 0, 1, 2, ...

    Returns:
        One picture; large images are shown smaller.
    """
    image = as_image(image, "image")
    channels = range(len(channel_maps)) if channels is None else channels
    check_same_length(point_maps=point_maps, points=points)
    check_same_length(channel_maps=channel_maps, channels=channels)
    count = 1 + len(point_maps) + len(channel_maps)
    size = sheets.panel_size(image.shape[:2], count, sheets.MAX_COLUMNS)
    ground = sheets.resize_image(image, size)
    places = [_place(point, image.shape[:2], size) for point in points]
    letters = sheets.text_size(min(count, sheets.MAX_COLUMNS) * size[1])
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
    blocks = [sheets.draw_sheet(panels, sheets.MAX_COLUMNS, letters)]
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
                    "One logarithmic scale for all maps, in multiples of the "
                    "even share, 1 / (number of positions):",
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


def _place(point, size, panel_size):
    """The position of an image's point in its panel."""
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
    """The maps as multiples of their mean, and the log of the scale's end."""
    shares = []
    for values in point_maps:
        values = as_values(values, "point_maps")
        if values.min() < 0 or not values.any():
            raise ValueError(
                "`point_maps` must not be negative or 0 everywhere. Received "
                f"values from {values.min()} to {values.max()}"
            )
        shares.append(values / values.mean())
    # So that a nearly even map looks even, and rounding is not stretched.
    highest = max([2, *(share.max() for share in shares)])
    decade = 10 ** math.floor(math.log10(highest))
    top = next(k for k in (1, 2, 5, 10) if k * decade >= highest) * decade
    return shares, math.log10(top)


def _half(share):
    """How few positions have half of the attention."""
    parts = np.sort(share, axis=None)[::-1].cumsum()
    count = 1 + np.searchsorted(parts, parts[-1] / 2)
    return f"half its attention is on {count:,} of {share.size:,} positions"


def _channel_blocks(size, channel_maps, channels, letters):
    maps = [as_values(values, "channel_maps") for values in channel_maps]
    shown = np.concatenate([values.ravel() for values in maps])
    low, high = np.percentile(shown, (1, 99))
    if not low < high:
        low, high = low - 0.5, low + 0.5
    # Ends that are easy to read.
    unit = 10.0 ** math.floor(math.log10((high - low) / 4))
    low, high = (round(end / unit) * unit for end in (low, high))
    panels = [
        (f"channel {channel}", _heat(values, size, low, high))
        for values, channel in zip(maps, channels, strict=True)
    ]
    return [
        sheets.draw_sheet(panels, sheets.MAX_COLUMNS, letters),
        sheets.draw_note(
            [
                "The channels of channel attention's output that vary most, "
                "in that order. A channel does not stand for a class.",
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
    """A map at a panel's size, each position in its colour of the bar."""
    return heatmap(sheets.resize_map(values, size), low, high)


def _color_bar(words, letters):
    ramp = heatmap(np.linspace(0, 1, 256)[None], 0, 1)[0]
    places = np.linspace(0, 1, len(words)).tolist()
    return sheets.draw_color_bar(
        ramp, list(zip(places, words, strict=True)), letters
    )
