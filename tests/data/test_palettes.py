"""Colours, measured by CIELAB and its formula of 2000, not by OKLab."""

import itertools

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.data import class_tables
from keras_danet.data.datasets import CAMVID
from keras_danet.data.datasets import CITYSCAPES
from keras_danet.data.datasets import DATASETS
from keras_danet.data.palettes import default_palette
from keras_danet.data.palettes import display_palette
from keras_danet.data.palettes import label_image

pytestmark = one_backend

# Dark, medium and bright images.
GROUNDS = (32, 128, 224)
# Least CIEDE2000 between classes at half of their colour. Of 1 a difference
# can just be seen, side by side; at 5 and more it is plain.
LEAST = {
    "cityscapes": 6,
    "voc2012": 5,
    "pascal_context": 3.5,
    "pascal_context60": 3.5,
    "coco_stuff10k": 2,
    "coco_stuff164k": 2,
    "ade20k": 2,
    "camvid": 12,
    "scenes": 13,
}


def lab(colors):
    """CIELAB under D65 (CIE 15), of sRGB (IEC 61966-2-1)."""
    levels = np.asarray(colors) / 255
    linear = np.where(
        levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4
    )
    xyz = linear @ np.transpose(
        [
            (0.4124564, 0.3575761, 0.1804375),
            (0.2126729, 0.7151522, 0.0721750),
            (0.0193339, 0.1191920, 0.9503041),
        ]
    )
    t = xyz / (0.95047, 1.0, 1.08883)
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def ciede2000(one, other):
    """Sharma, Wu and Dalal, 2005."""
    (l1, a1, b1), (l2, a2, b2) = (
        np.moveaxis(one, -1, 0),
        np.moveaxis(other, -1, 0),
    )
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    c1, c2 = np.hypot((1 + g) * a1, b1), np.hypot((1 + g) * a2, b2)
    h1 = np.degrees(np.arctan2(b1, (1 + g) * a1)) % 360
    h2 = np.degrees(np.arctan2(b2, (1 + g) * a2)) % 360
    dh = (h2 - h1 + 180) % 360 - 180
    big = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(dh / 2))
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = (h1 + dh / 2) % 360
    t = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    sc, sh = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    turn = 30 * np.exp(-(((hue - 275) / 25) ** 2))
    rc = 2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    rt = -np.sin(np.radians(2 * turn)) * rc
    dl, dc = (l2 - l1) / sl, (c2 - c1) / sc
    return np.sqrt(dl**2 + dc**2 + (big / sh) ** 2 + rt * dc * big / sh)


def least(palette):
    """The least difference of two blends, and of one from its ground."""
    between, from_ground = np.inf, np.inf
    for ground in GROUNDS:
        blends = lab(0.5 * np.asarray(palette) + 0.5 * ground)
        pairs = np.array(list(itertools.combinations(range(len(palette)), 2)))
        if len(pairs):
            one, other = blends[pairs[:, 0]], blends[pairs[:, 1]]
            between = min(between, ciede2000(one, other).min())
        bare = lab(np.full((len(palette), 3), ground))
        from_ground = min(from_ground, ciede2000(blends, bare).min())
    return between, from_ground


def test_the_measure():
    # Pairs 1, 7, 17 and 25 of Sharma, Wu and Dalal's table.
    one = [(50, 2.6772, -79.7751), (50, 0, 0), (50, 2.5, 0)]
    other = [(50, 0, -82.7485), (50, -1, 2), (73, 25, -18)]
    expected = (2.0425, 2.3669, 27.1492)
    found = ciede2000(np.array(one), np.array(other, float))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", DATASETS)
def test_classes_differ_at_half_of_their_colours(name):
    palette = display_palette(DATASETS[name].palette)
    assert palette.dtype == np.uint8
    # VOC's background is left out of overlays; that is asserted of them.
    drawn = palette[palette.any(axis=1)]
    assert len(drawn) == len(palette) - (name == "voc2012")
    between, from_ground = least(drawn)
    assert between > LEAST[name]
    assert from_ground > LEAST[name]


def test_fence_car_and_pavement_of_camvid():
    names = ("fence", "car", "pavement")
    chosen = [CAMVID.class_names.index(name) for name in names]
    official, _ = least(np.array(CAMVID.palette)[chosen])
    moved, _ = least(display_palette(CAMVID.palette)[chosen])
    assert official < 12 < 15 < moved


def test_colours_that_differ_enough_stay():
    moved = display_palette(CITYSCAPES.palette)
    stay = (moved == CITYSCAPES.palette).all(axis=1)
    names = {
        n for n, same in zip(CITYSCAPES.class_names, stay, strict=True) if same
    }
    assert {"road", "sidewalk", "vegetation", "person", "car"} <= names


def test_palettes_of_ones_own_are_not_touched():
    for palette in (
        [(1, 2, 3), (1, 2, 4)],
        class_tables.CAMVID_PALETTE[:-1],
        np.array([[0, 0, 0]]),
    ):
        found = display_palette(palette)
        np.testing.assert_array_equal(found, palette)
        assert found.dtype == np.uint8


@pytest.mark.parametrize(
    "count, bound", [(2, 40), (8, 13), (20, 7), (60, 4), (150, 2.5)]
)
def test_default_colours_differ(count, bound):
    palette = default_palette(count)
    assert palette.shape == (count, 3) and palette.dtype == np.uint8
    between, from_ground = least(palette)
    assert between > bound and from_ground > 5


def test_default_colours_do_not_depend_on_their_number():
    whole = default_palette(256)
    assert len(np.unique(whole, axis=0)) == 256
    for count in (1, 7, 200):
        np.testing.assert_array_equal(default_palette(count), whole[:count])
    # Neither black nor white nor grey.
    assert (np.ptp(whole[:60].astype(int), axis=1) > 30).all()


def test_default_colours_differ_for_colour_blind_eyes():
    """By another model: Vienot, Brettel and Mollon (1999), not Machado's."""
    blind = {
        "protanopia": ((0.11238, 0.88762), (0.11238, 0.88762), (0.00401,)),
        "deuteranopia": ((0.29275, 0.70725), (0.29275, 0.70725), (-0.02234,)),
    }
    palette = default_palette(8)
    linear = (palette / 255) ** 2.2
    red, green, blue = linear.T
    for one, _, (rest,) in blind.values():
        yellow = one[0] * red + one[1] * green
        seen = np.stack(
            [yellow, yellow, blue + rest * (red - green)], axis=-1
        ).clip(0, 1)
        colors = lab(255 * seen ** (1 / 2.2))
        pairs = itertools.combinations(range(8), 2)
        distances = [np.linalg.norm(colors[i] - colors[j]) for i, j in pairs]
        assert min(distances) > 8


def test_default_colours_differ_from_those_that_are_taken():
    taken = default_palette(5)[[1, 3]]
    palette = np.concatenate([taken, default_palette(9, taken=taken)])
    between, _ = least(palette)
    assert between > 8


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, "3", 257, None])
def test_default_palette_refuses_nonsense(num_classes):
    with pytest.raises(ValueError, match="num_classes"):
        default_palette(num_classes)


def test_label_image_is_its_numbers():
    label = np.arange(256, dtype="uint8").reshape(16, 16)
    image = label_image(label, [(1, 2, 3), (4, 5, 6)])
    np.testing.assert_array_equal(np.asarray(image), label)
    colors = np.asarray(image.convert("RGB")).reshape(-1, 3)
    expected = [(1, 2, 3), (4, 5, 6), *[(224, 224, 192)] * 254]
    np.testing.assert_array_equal(colors, expected)
    assert isinstance(image, Image.Image) and image.mode == "P"
