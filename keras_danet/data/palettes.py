"""Colours of classes: distinct ones, and those that label files carry."""

import functools

import numpy as np
from PIL import Image

from keras_danet import arguments
from keras_danet.data.class_tables import spread_color
from keras_danet.data.datasets import DATASETS

# Dark, medium and bright grey, which colours are laid over by half.
_GROUNDS = (40, 128, 216)
# Lightness counts for less: in overlays that of the image shows through.
_LIGHTNESS = 0.35
# Distance needed for colour-blind eyes, as a share of that for others.
_BLIND_SHARE = 0.35
# Distance from which on classes look different.
_ENOUGH = 0.075
_LEVELS = range(0, 256, 17)
_FIRST = (17, 119, 255)
# Colours that are neither dark, pale nor glaring are chosen first.
_CALM_LIGHTNESS = (0.45, 0.88)
_CALM_CHROMA = 0.25
_CALM_PREFERENCE = 0.6
# From linear sRGB to OKLab (Ottosson, 2020).
_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
# What protanopes and deuteranopes see of linear sRGB (Machado et al., 2009).
_COLOR_BLIND = (
    (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
)
_OFFICIAL = {dataset.palette for dataset in DATASETS.values()}
# For pixels without a class and for numbers that no class has; VOC's.
IGNORED_COLOR = spread_color(255)


def default_palette(num_classes, taken=()):
    """Colours, uint8 (num_classes, 3), for classes that have none.

    Each is the one that differs most from all before it and from the ground,
    half of it laid over a dark, a medium and a bright ground, for eyes with
    and without colour blindness. So the first colours do not change with the
    number of classes, and none is black, white or grey.

    Args:
        num_classes: Integer from 1 to 256.
        taken: Colours (red, green, blue) in 0-255 to differ from as well.
            Defaults to `()`.

    Example:

    >>> default_palette(2).tolist()
    [[17, 119, 255], [0, 204, 0]]
    """
    num_classes = arguments.integer(
        "num_classes",
        num_classes,
        "must be an integer from 1 to 256",
        least=1,
        most=256,
    )
    taken = tuple(tuple(map(int, color)) for color in taken)
    return np.array(_default_palette(num_classes, taken), "uint8")


def display_palette(palette):
    """The colours, uint8 (num_classes, 3), in which pictures show a palette.

    The data sets' own palettes were made for label files. Some have a colour
    twice (ADE20K, PASCAL Context, COCO-Stuff), in others classes look alike
    once they are blended with an image (CamVid's fence, car and pavement).
    Here such a class gets the nearest colour that differs enough from all
    before it. Class 0 in black, PASCAL VOC's background, stays black, and
    overlays leave it grey. Your own palettes are not changed.

    >>> display_palette([(10, 20, 30), (11, 20, 30)]).tolist()
    [[10, 20, 30], [11, 20, 30]]
    """
    colors = tuple(tuple(map(int, color)) for color in palette)
    return np.array(
        _moved_apart(colors) if colors in _OFFICIAL else colors, "uint8"
    )


def label_image(label, palette):
    """A uint8 label map as a Pillow image that viewers show in colours.

    Its pixels are the numbers themselves, as `np.asarray` gives them. All
    numbers beyond the palette, 255 among them, get `IGNORED_COLOR`.
    """
    colors = np.full((256, 3), IGNORED_COLOR, "uint8")
    colors[: len(palette)] = palette
    image = Image.fromarray(label)
    image.putpalette(colors.tobytes())
    return image


@functools.cache
def _default_palette(num_classes, taken):
    apart = _Apart()
    for color in taken:
        apart.add(color)
    lab = _oklab(_linear(apart.candidates))
    dark, pale = _CALM_LIGHTNESS
    calm = (lab[:, 0] > dark) & (lab[:, 0] < pale)
    calm &= np.hypot(lab[:, 1], lab[:, 2]) < _CALM_CHROMA
    preference = np.where(calm, 1, _CALM_PREFERENCE)
    chosen = []
    for number in range(num_classes):
        farthest = np.argmax(np.round(apart.distances * preference, 6))
        first = number == 0 and not taken
        color = _FIRST if first else tuple(apart.candidates[farthest].tolist())
        apart.add(color)
        chosen.append(color)
    return tuple(chosen)


@functools.cache
def _moved_apart(palette):
    enough = min(_ENOUGH, _largest_distance(len(palette)))
    apart = _Apart()
    moved = []
    for number, color in enumerate(palette):
        black = color == (0, 0, 0)
        if black and number == 0:
            moved.append(color)
            continue
        if black or apart.distance(color) < enough:
            change = np.linalg.norm(
                _oklab(_linear(apart.candidates)) - _oklab(_linear(color)),
                axis=-1,
            )
            far = apart.distances >= min(enough, apart.distances.max())
            nearest = np.argmin(np.round(np.where(far, change, np.inf), 6))
            color = tuple(apart.candidates[nearest].tolist())
        apart.add(color)
        moved.append(color)
    return tuple(moved)


def _largest_distance(count):
    """About how far apart so many colours can be."""
    apart = _Apart()
    for _ in range(count):
        distance = apart.distances.max()
        apart.add(apart.candidates[np.argmax(np.round(apart.distances, 6))])
    return distance


class _Apart:
    """How far candidates are from the colours that were chosen so far."""

    def __init__(self):
        levels = np.array(_LEVELS)
        grid = np.meshgrid(levels, levels, levels, indexing="ij")
        # Without black, which means that nothing is drawn.
        self.candidates = np.stack(grid, axis=-1).reshape(-1, 3)[1:]
        self._views = _views(self.candidates)
        # The image without an overlay.
        self._chosen = [
            np.stack(
                [
                    _views(np.full(3, ground))[index]
                    for index, ground in enumerate(_GROUNDS)
                ]
            )
        ]
        self.distances = _distance(self._views, self._chosen[0])

    def add(self, color):
        view = _views(np.array(color))
        self._chosen.append(view)
        self.distances = np.minimum(
            self.distances, _distance(self._views, view)
        )

    def distance(self, color):
        return _distance(np.stack(self._chosen), _views(np.array(color))).min()


def _views(colors):
    """How eyes see the blends, (..., grounds, eyes, 3)."""
    weights = np.array((_LIGHTNESS, 1, 1))
    grounds = []
    for ground in _GROUNDS:
        linear = _linear(0.5 * colors + 0.5 * ground)
        seen = [_oklab(linear) * weights]
        for matrix in _COLOR_BLIND:
            blind = (linear @ np.transpose(matrix)).clip(0, 1)
            seen.append(_oklab(blind) * weights / _BLIND_SHARE)
        grounds.append(np.stack(seen, axis=-2))
    return np.stack(grounds, axis=-3)


def _distance(views, others):
    return np.linalg.norm(views - others, axis=-1).min(axis=(-2, -1))


def _linear(colors):
    levels = np.asarray(colors) / 255
    return np.where(
        levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4
    )


def _oklab(linear):
    return np.cbrt(linear @ np.transpose(_TO_CONES)) @ np.transpose(_TO_LAB)
