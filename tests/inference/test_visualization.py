"""Pictures, checked against colours worked out by hand."""

import dataclasses
import os
import pathlib
import tracemalloc

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.data.datasets import SCENES
from keras_danet.data.decoding import read_raw_label
from keras_danet.data.png import PALETTE as PALETTE_KIND
from keras_danet.data.png import read_png_kind
from keras_danet.inference import attention_pictures
from keras_danet.inference import sheets
from keras_danet.inference.visualization import add_legend
from keras_danet.inference.visualization import attention_picture
from keras_danet.inference.visualization import colorize
from keras_danet.inference.visualization import compare
from keras_danet.inference.visualization import default_palette
from keras_danet.inference.visualization import gallery
from keras_danet.inference.visualization import heatmap
from keras_danet.inference.visualization import overlay
from keras_danet.inference.visualization import save_png

pytestmark = one_backend

PALETTE = [(200, 100, 0), (0, 40, 80), (10, 20, 30)]
NAMES = ["road", "sky", "car"]
CYAN = (0, 255, 255)
THIN_SIZES = [(1, 1), (3, 200), (200, 3)]


def box_of(picture, colour):
    """Return top, left, height, width of all pixels of exactly one colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=-1))
    top, left = rows.min(), columns.min()
    return top, left, rows.max() - top + 1, columns.max() - left + 1


def ink(picture):
    return int((picture != 255).any(axis=-1).sum())


def grey_of(picture):
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    return grey[..., None].repeat(3, -1)


def filled(height, width, colour):
    return np.full((height, width, 3), colour, "uint8")


def test_colorize():
    label = np.array([[0, 1, 255], [2, 2, 0]], "uint8")
    expected = [
        [(200, 100, 0), (0, 40, 80), (0, 0, 0)],
        [(10, 20, 30), (10, 20, 30), (200, 100, 0)],
    ]
    colours = colorize(label, PALETTE)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours, expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_colorize_takes_any_integer(dtype):
    palette = default_palette(256)
    label = np.array([[3, 7]], dtype)
    colours = colorize(label, palette, ignore_label=7)
    np.testing.assert_array_equal(colours, [[palette[3], (0, 0, 0)]])


@pytest.mark.parametrize("value", [3, 17, -1, 254])
def test_colorize_names_the_value_without_a_colour(value):
    label = np.array([[0, 1], [value, 255]])
    with pytest.raises(ValueError, match=rf"the value {value} .*0 to 2"):
        colorize(label, PALETTE)


@pytest.mark.parametrize(
    "label",
    [
        np.zeros((2, 2)),
        np.zeros((2, 2), bool),
        np.zeros((2, 2, 1), int),
        np.zeros((0, 2), int),
    ],
)
def test_colorize_refuses_what_is_no_label_map(label):
    with pytest.raises(ValueError, match="label map must be"):
        colorize(label, PALETTE)


@pytest.mark.parametrize(
    "palette", [[], [1, 2, 3], [(0, 0, 256)], [(0, -1, 0)], [(0.0, 0.5, 1.0)]]
)
def test_wrong_palettes_are_refused(palette):
    with pytest.raises(ValueError, match="palette"):
        colorize(np.zeros((1, 1), int), palette)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_overlay_blends(dtype):
    image = np.array([[(100, 60, 20), (1, 1, 1), (100, 60, 20)]], dtype)
    label = np.array([[0, 0, 255]])
    # Grey is 0.299 R + 0.587 G + 0.114 B: 67 and 1. Then 0.25 * (200, 100, 0)
    # + 0.75 * grey; what is ignored is grey as well.
    expected = [[(100, 75, 50), (51, 26, 1), (67, 67, 67)]]
    picture = overlay(image, label, PALETTE, alpha=0.25, border_width=0)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, expected)


def test_overlay_rounds_a_float_image():
    image = np.full((1, 1, 3), 99.6)
    picture = overlay(image, np.full((1, 1), 255), PALETTE)
    np.testing.assert_array_equal(picture, filled(1, 1, 100))


def test_overlay_at_both_ends_of_alpha():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 4, 3), "uint8")
    label = rng.integers(0, 3, (5, 4))
    clear = overlay(image, label, PALETTE, alpha=0, border_width=0)
    opaque = overlay(image, label, PALETTE, alpha=1, border_width=0)
    np.testing.assert_array_equal(clear, grey_of(image))
    np.testing.assert_array_equal(opaque, np.array(PALETTE)[label])


def test_overlay_with_an_alpha_for_each_class():
    image = np.full((1, 2, 3), 200, "uint8")
    palette = [(100, 0, 0), (0, 100, 0)]
    picture = overlay(
        image, np.array([[0, 1]]), palette, [0.25, 1], border_width=0
    )
    # By hand: a quarter of 100 and three quarters of 200.
    assert picture.tolist() == [[[175, 150, 150], [0, 100, 0]]]
    for wrong in ([0.5], [0.5, 1.5], "half"):
        with pytest.raises(ValueError, match="alpha"):
            overlay(image, np.array([[0, 1]]), palette, wrong)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
@pytest.mark.parametrize("size", [(40, 60), (8, 2400), (2400, 10)])
def test_overlay_draws_borders_on_the_larger_side(size, alpha):
    """Seen on any ground, at class boundaries only, small things whole."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), "uint8")
    label = np.zeros(size, "uint8")
    label[2:5, 2:5] = 2
    label[size[0] // 2 :] = 255
    label[size[0] // 2 :, :1] = 1
    bare = overlay(image, label, PALETTE, alpha, border_width=0)
    grey = grey_of(image)
    expected = grey.copy()
    for k in range(3):
        blend = alpha * np.array(PALETTE[k]) + (1 - alpha) * grey
        expected[label == k] = np.rint(blend[label == k])
    np.testing.assert_array_equal(bare, expected)

    width = {60: 1, 2400: 2}[max(size)]
    counts = np.bincount(label.ravel(), minlength=256)
    line = np.zeros(size, bool)
    for row, column in np.ndindex(size):
        own = label[row, column]
        near = {
            label[row + step * down, column + step * (1 - down)]
            for step in range(-width, width + 1)
            for down in (0, 1)
            if 0 <= row + step * down < size[0]
            and 0 <= column + step * (1 - down) < size[1]
        }
        # Of two that have as many pixels, the later one has the line.
        line[row, column] = any(
            (counts[other], other) < (counts[own], own) for other in near
        )
    picture = overlay(image, label, PALETTE, alpha)
    assert picture.shape == image.shape
    expected[line] = np.where(grey_of(bare)[line] < 128, 255, 0)
    np.testing.assert_array_equal(picture, expected)
    assert not line[3, 3] and line[1, 3]


def test_overlay_leaves_a_class_in_black_grey():
    image = filled(9, 9, (90, 200, 30))
    label = np.zeros((9, 9), int)
    label[3:6, 3:6] = 1
    picture = overlay(image, label, [(0, 0, 0), (10, 20, 30)], alpha=0.5)
    # 0.299 * 90 + 0.587 * 200 + 0.114 * 30 = 148, with a black line on it.
    expected = filled(9, 9, 148)
    expected[2:7, 3:6] = expected[3:6, 2:7] = 0
    expected[3:6, 3:6] = (79, 84, 89)
    np.testing.assert_array_equal(picture, expected)


def test_swatches_have_the_colours_of_the_pictures():
    """At the left those of the label map, at the right of the overlay."""
    label = np.arange(3)[None].repeat(40, 0).repeat(100, 1)
    grey = filled(40, 300, 128)
    for alpha in (0.5, 0.6):
        legend = add_legend(grey, NAMES, PALETTE, alpha=alpha)[40:]
        pure = colorize(label, PALETTE)[0, 50::100]
        blended = overlay(grey, label, PALETTE, alpha)[0, 50::100]
        for left, right in zip(pure, blended, strict=True):
            one, other = box_of(legend, left), box_of(legend, right)
            assert one[0] == other[0] and one[1] + one[3] == other[1]
            assert min(*one[2:], *other[2:]) >= 12
    sheet = compare(grey, None, label, PALETTE, NAMES)
    legend = sheet[np.flatnonzero((sheet == PALETTE[0]).all(-1).any(1))]
    for right in overlay(grey, label, PALETTE, 0.6)[0, 50::100]:
        assert (legend == right).all(-1).any()


def test_overlay_of_a_large_image_takes_little_memory():
    image = np.zeros((2000, 3000, 3), "uint8")
    label = np.zeros((2000, 3000), "uint8")
    label[::100] = 1
    tracemalloc.start()
    overlay(image, label, PALETTE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The picture, and what is not more than it.
    assert peak < 2.5 * image.nbytes + 2**25


def test_overlay_refuses_unequal_sizes():
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(5, 4\)"):
        overlay(filled(4, 5, 0), np.zeros((5, 4), int), PALETTE)


@pytest.mark.parametrize("width", [-1, 1.5, True, "1"])
def test_overlay_refuses_a_border_width(width):
    image, label = filled(2, 2, 0), np.zeros((2, 2), int)
    with pytest.raises(ValueError, match="border_width"):
        overlay(image, label, PALETTE, border_width=width)
    overlay(image, label, PALETTE, border_width=np.int64(2))


@pytest.mark.parametrize("alpha", [-0.1, 1.5, np.nan])
def test_overlay_refuses_alpha_outside_0_to_1(alpha):
    with pytest.raises(ValueError, match="alpha"):
        overlay(filled(1, 1, 0), np.zeros((1, 1), int), PALETTE, alpha)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((2, 2), "uint8"),
        np.zeros((2, 2, 4), "uint8"),
        np.zeros((0, 2, 3), "uint8"),
        np.zeros((2, 2, 3), "int32"),
        np.full((2, 2, 3), 256.0),
        np.full((2, 2, 3), -1.0),
        np.full((2, 2, 3), np.nan),
    ],
)
def test_wrong_images_are_refused(image):
    label = np.zeros((2, 2), int)
    with pytest.raises(ValueError, match="`image` must"):
        overlay(image, label, PALETTE)
    with pytest.raises(ValueError, match="`image` must"):
        compare(image, None, label, PALETTE, NAMES)
    with pytest.raises(ValueError, match="`picture` must"):
        add_legend(image, NAMES, PALETTE)


def test_heatmap_interpolates_its_anchors():
    # 0.1 lies half-way between the first two of six anchors; what is beyond
    # the ends has their colours.
    values = np.array([[-9.0, -7.0, -6.0, 3.0, 4.0]])
    low, high = (0, 0, 4), (252, 253, 191)
    expected = [[low, low, (30, 8, 58), high, high]]
    colours = heatmap(values, low=-7, high=3)
    np.testing.assert_allclose(colours, expected, atol=0.5)


def test_heatmap_grows_steadily_brighter():
    ramp = heatmap(np.linspace(0, 1e-6, 200, dtype="float32")[None], 0, 1e-6)
    luminance = ramp[0] @ np.array([0.2126, 0.7152, 0.0722])
    # Rounding to whole levels may cost half a level per channel.
    assert (np.diff(luminance) > -0.5).all()
    assert luminance[-1] - luminance[0] > 240


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, np.nan]]),
        np.array([[0.0, np.inf]]),
        np.zeros(3),
        np.zeros((0, 3)),
        np.zeros((2, 2), complex),
    ],
)
def test_heatmap_refuses(values):
    with pytest.raises(ValueError, match="`values` must be"):
        heatmap(values, 0, 1)


@pytest.mark.parametrize("low, high", [(1, 1), (2, 1), (0, np.nan)])
def test_heatmap_refuses_a_scale(low, high):
    with pytest.raises(ValueError, match="`low` must be below"):
        heatmap(np.eye(2), low, high)


def test_legend_keeps_picture_and_width():
    picture = np.random.default_rng(0).integers(0, 256, (40, 300, 3), "uint8")
    result = add_legend(picture, NAMES, PALETTE)
    assert result.shape[0] > 40
    assert result.shape[1] == 300
    np.testing.assert_array_equal(result[:40], picture)
    strip = result[40:]
    boxes = [box_of(strip, colour) for colour in PALETTE]
    assert len({top for top, *_ in boxes}) == 1
    assert all(height >= 12 and width >= 12 for *_, height, width in boxes)


def test_legend_shows_only_what_is_present():
    picture = filled(10, 300, 255)
    strip = add_legend(picture, NAMES, PALETTE, present=np.array([2, 0, 2]))
    assert box_of(strip, PALETTE[0])[1] < box_of(strip, PALETTE[2])[1]
    assert not (strip == PALETTE[1]).all(axis=-1).any()
    # A class in black, which overlays leave out, is an empty box.
    empty = add_legend(picture, ["", "a"], [(0, 0, 0), (9, 9, 9)], [0])[10:]
    assert not (empty == 0).all(axis=-1).any() and ink(empty) > 20
    nothing = add_legend(picture, NAMES, PALETTE, present=[])
    np.testing.assert_array_equal(nothing, picture)


@pytest.mark.parametrize("size", [*THIN_SIZES, (20, 900)])
def test_legend_of_150_classes_neither_cuts_nor_overlaps(size):
    names = [f"class {k} " + "long " * (k % 4) for k in range(150)]
    palette = default_palette(150)
    picture = filled(*size, 255)
    whole = add_legend(picture, names, palette)
    alone = [add_legend(picture, names, palette, [k]) for k in range(150)]
    assert whole.shape[1] == max(size[1], *(a.shape[1] for a in alone))
    assert ink(whole) == sum(ink(strip) for strip in alone)
    assert ink(whole[:, -1:]) == ink(whole[-1:]) == 0


def test_legend_widens_a_narrow_picture_for_a_long_name():
    name = "a quite long class name of COCO-Stuff"
    narrow = add_legend(filled(5, 1, 0), [name], [(9, 9, 9)])
    roomy = add_legend(filled(5, 980, 0), [name], [(9, 9, 9)])
    assert 240 < narrow.shape[1] < 400 < roomy.shape[1] == 980
    assert ink(narrow[5:]) == ink(roomy[5:])
    assert ink(narrow[:5, 1:]) == 0
    # More of it would be more than the picture.
    longer = add_legend(filled(5, 1, 0), [name * 5], [(9, 9, 9)])
    assert longer.shape[1] < 400 and ink(longer) > 0


def test_legend_takes_a_name_with_line_breaks():
    picture = filled(5, 200, 0)
    broken = add_legend(picture, ["traffic\n light"], PALETTE[:1])
    whole = add_legend(picture, ["traffic light"], PALETTE[:1])
    np.testing.assert_array_equal(broken, whole)


def test_legend_refuses():
    picture = filled(5, 5, 0)
    with pytest.raises(ValueError, match=r"class_names.*2 and 3"):
        add_legend(picture, NAMES[:2], PALETTE)
    for wrong in (3, -1, 255):
        with pytest.raises(ValueError, match=rf"present.*{wrong}"):
            add_legend(picture, NAMES, PALETTE, [0, wrong])


def test_compare_enlarges_and_labels_three_panels():
    image = filled(96, 128, (100, 150, 250))
    label, prediction = np.zeros((2, 96, 128), int)
    prediction += 1
    sheet = compare(image, label, prediction, PALETTE, NAMES, alpha=0.6)
    # 0.6 * colour + 0.4 * grey, 146; each panel three times as large.
    panels = [(100, 150, 250), (178, 118, 58), (58, 82, 106)]
    boxes = [box_of(sheet, colour) for colour in panels]
    assert [box[2:] for box in boxes] == [(96 * 3, 128 * 3)] * 3
    tops, lefts = {box[0] for box in boxes}, [box[1] for box in boxes]
    assert len(tops) == 1
    assert lefts == sorted(lefts)
    for top, left, _, width in boxes:
        assert ink(sheet[:top, left : left + width]) > 50
    swatches = [(sheet == colour).all(axis=-1).any() for colour in PALETTE]
    assert swatches == [True, True, False]


def test_gallery_of_images_of_any_size():
    sizes = [(200, 320), (640, 160), (8, 16), (40_000, 2), (100, 100)]
    samples = []
    for number, size in enumerate(sizes):
        image = filled(*size, (100, 150, 250))
        samples.append((f"no. {number}", image, np.full(size, number % 2)))
    sheet = gallery(samples, PALETTE, NAMES, alpha=0.6)
    # 0.6 * colour + 0.4 * grey, 146. Four in a row, long sides of 320.
    first, second = [(178, 118, 58), (58, 82, 106)]
    line = (sheet[100] == first).all(axis=-1)
    assert line.sum() == 320 + 320
    assert (sheet[300] == second).all(axis=-1).sum() == 80 + 1
    assert (sheet == first).all(axis=-1).sum() == 320 * (200 + 160 + 320)
    assert (sheet == second).all(axis=-1).sum() == 80 * 320 + 320
    swatches = [(sheet == colour).all(axis=-1).any() for colour in PALETTE]
    assert swatches == [True, True, False]
    with pytest.raises(ValueError, match="at least one sample"):
        gallery([], PALETTE, NAMES)


def test_compare_without_ground_truth_or_labels():
    image = filled(400, 400, (100, 150, 250))
    ignored = np.full((400, 400), 255)
    sheet = compare(image, None, ignored, PALETTE, NAMES)
    # Ignored pixels show the image in grey: two panels, no legend.
    for colour in ((100, 150, 250), (146, 146, 146)):
        assert box_of(sheet, colour)[2:] == (400, 400)
        assert (sheet == colour).all(axis=-1).sum() == 400 * 400
    assert sheet.shape[0] < 450


@pytest.mark.parametrize("size", THIN_SIZES)
def test_compare_thin_pictures(size):
    label = np.zeros(size, int)
    sheet = compare(filled(*size, 100), label, label, PALETTE, NAMES)
    scale = 320 if size == (1, 1) else 2
    box = box_of(sheet, (100, 100, 100))
    assert box[2:] == (size[0] * scale, size[1] * scale)
    # 0.6 * (200, 100, 0) + 0.4 * 100, twice.
    blended = (160, 100, 40)
    count = (sheet == blended).all(axis=-1).sum()
    assert count == 2 * size[0] * size[1] * scale**2
    # Wide panels lie in a column, others in a row.
    top, left, *_ = box_of(sheet, blended)
    assert (left == box[1]) == (size == (3, 200))
    assert (top == box[0]) == (size != (3, 200))
    for edge in (sheet[:, 0], sheet[:, -1], sheet[0], sheet[-1]):
        assert (edge == 255).all()


def test_compare_says_which_map_is_wrong():
    image, good = filled(4, 4, 0), np.zeros((4, 4), int)
    with pytest.raises(ValueError, match=r"ground truth.*value 9"):
        compare(image, good + 9, good, PALETTE, NAMES)
    with pytest.raises(ValueError, match=r"prediction.*same height"):
        compare(image, good, good[:2], PALETTE, NAMES)


EVEN = (181, 57, 116)  # half-way between the third and the fourth anchor


def panels_of(sheet, count, height, width, gap=14, line=48):
    """The first pictures of a sheet, found by their place."""
    size = max(14, count * width // 90)
    gap, line = round(size / 2), round(size * 1.7)
    for k in range(count):
        left = gap + k * (width + gap)
        yield sheet[line : line + height, left : left + width].astype(float)


@pytest.mark.parametrize("point", [(0, 0), (150, 300), (319, 479)])
def test_attention_marks_the_point(point):
    # An even map on an even image: the panel has one colour but for the mark.
    image = filled(320, 480, 255)
    sheet = attention_picture(image, [np.full((6, 9), 0.1)], [point], [])
    for panel, ground in zip(
        panels_of(sheet, 2, 320, 480), (255, EVEN), strict=True
    ):
        row, column = point
        assert tuple(panel[row, column]) == CYAN
        assert not (abs(panel[5:-5, 60:240] - ground) > 0.6).any()
        place = box_of(panel, CYAN)
        arm = 480 // 40
        assert abs(place[0] + arm - row) <= 24 or row < arm
        # The number stands beside it.
        assert (panel == CYAN).all(-1).sum() > 20


def test_attention_is_shown_in_times_the_even_share():
    """One scale for all maps: a speck does not darken what is beside it."""
    speck = np.full((10, 10), 0.5)
    speck[:, 5:] = 2.0
    speck[0, 0] = 1000.0
    even = np.full((10, 10), 3.0)
    image = filled(320, 320, 128)
    sheet = attention_picture(image, [speck, even], [(300, 0)] * 2, [])
    _, one, other = panels_of(sheet, 3, 320, 320)
    top = 100  # the next of 1, 2, 5, 10, ... to 1000 / 11.2 = 89
    for rows, columns, value in (
        (slice(0, 1), slice(0, 1), 1000),
        (slice(100, 200), slice(40, 120), 0.5),
        (slice(100, 200), slice(200, 300), 2.0),
    ):
        place = 0.5 + np.log10(value / speck.mean()) / (2 * np.log10(top))
        expected = heatmap(np.array([[place]]), 0, 1)[0, 0]
        assert abs(one[rows, columns] - expected).max() <= 1
    # Not stretched: on the same scale it is even.
    assert abs(other[100:200, 40:300] - EVEN).max() <= 1


def test_attention_says_how_few_places_give_half_of_it():
    half = attention_pictures._half
    speck = np.full((50, 60), 1e-9)
    speck[7, 8] = 1
    assert half(speck) == "half its attention is on 1 of 3,000 positions"
    assert "50 of 100 positions" in half(np.ones((10, 10)))
    assert "2 of 4 positions" in half(np.array([[1.0, 4, 3, 2]]))
    # It is in the picture.
    image = filled(320, 400, 9)
    one, other = (
        attention_picture(image, [values], [(0, 0)], [])
        for values in (np.eye(4), np.eye(4) + np.eye(4)[::-1])
    )
    assert (one[:20] != other[:20]).any()


def test_attention_that_is_nearly_even_is_not_stretched():
    nearly = np.full((6, 10), 0.1, "float32")
    nearly[:, 5:] *= 1 + 1e-6
    sheet = attention_picture(filled(320, 320, 9), [nearly], [(0, 0)], [])
    _, panel = panels_of(sheet, 2, 320, 320)
    assert abs(panel[60:, 60:] - EVEN).max() <= 1


def test_maps_have_the_colours_of_their_bar():
    """Exactly, whatever the image, each position that of its value."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (320, 320, 3), "uint8")
    values = rng.integers(0, 11, (8, 8)) / 10.0
    values[0, :2] = 0, 1
    sheet = attention_picture(image, [], [], [values])
    expected = heatmap(values, 0, 1).repeat(40, 0).repeat(40, 1)
    # Below the row of the image.
    found = sheet[351 + 24 : 351 + 344, 7:327]
    np.testing.assert_array_equal(found, expected)
    bar = heatmap(np.linspace(0, 1, 256)[None], 0, 1)[0].astype(int)
    below = {
        tuple(color) for color in sheet[351 + 344 :].reshape(-1, 3).tolist()
    }
    assert {tuple(color) for color in bar.tolist()} <= below
    nearest = abs(found[::40, ::40, None] - bar).max(-1).min(-1)
    assert nearest.max() <= 1


@pytest.mark.parametrize(
    "low, high, words",
    [
        (-0.000249, 0.802, ("0 and less", "0.4", "0.8 and more")),
        (-1.234, 1.3, ("-1.2 and less", "0.05", "1.3 and more")),
        (1234.0, 5678.0, ("1000 and less", "3500", "6000 and more")),
        (2.0, 2.0, ("1.5 and less", "2", "2.5 and more")),
    ],
)
def test_the_bar_of_channels_has_round_ends(monkeypatch, low, high, words):
    told = []
    monkeypatch.setattr(
        sheets,
        "draw_color_bar",
        lambda colors, ticks, size: (
            told.extend(text for _, text in ticks) or filled(1, 1, 0)
        ),
    )
    values = np.repeat((low, high), 50)[None]
    attention_picture(filled(8, 8, 0), [], [], [values])
    assert tuple(told) == words


def test_attention_has_one_scale_for_all_channels():
    one, other = np.zeros((2, 10, 10))
    one[:, 5:] = 100.0
    other[:, 5:] = 50.0
    # Beyond the 99th percentile of all values.
    other[0, 0] = 1e6
    image = filled(320, 320, 128)
    sheet = attention_picture(image, [], [], [one, other], [3, 411])
    top = np.flatnonzero((sheet == (0, 0, 4)).all(-1).sum(1) > 280)
    assert len(top) > 250
    row = sheet[top[150]].astype(float)
    low, half, high = (
        (abs(row - colour) <= 1).all(-1).sum()
        for colour in ((0, 0, 4), EVEN, (252, 253, 191))
    )
    # Half of each panel, less what interpolation mixes.
    assert 280 <= low <= 330 and 140 <= half <= 165 and 140 <= high <= 165
    # A constant is no error.
    attention_picture(image, [], [], [np.zeros((2, 2))])


def test_attention_panels_and_titles():
    image = filled(320, 400, (1, 200, 3))
    maps = [np.eye(4)] * 6
    points = [(10 * k, 20 * k) for k in range(6)]
    sheet = attention_picture(image, maps, points, maps[:2])
    # Image and 6 points in rows of four, then a row of channel maps.
    height, width = sheet.shape[:2]
    assert 3 * 320 < height < 3 * 470
    assert 4 * 400 < width < 4 * 450
    fewer = attention_picture(image, maps[:3], points[:3], maps[:1])
    assert 2 * 320 < fewer.shape[0] < 2 * 520
    default = attention_picture(image, [], [], maps[:2])
    named = attention_picture(image, [], [], maps[:2], channels=[0, 411])
    difference = np.argwhere((default != named).any(axis=-1))
    assert len(difference) > 20
    assert np.ptp(difference, axis=0)[0] < 40


def test_sheets_fit_a_screen():
    image = filled(1500, 2000, 90)
    label = np.zeros((1500, 2000), "uint8")
    maps = [np.eye(4)] * 3
    points = [(0, 0), (750, 1000), (1499, 1999)]
    for sheet in (
        compare(image, label, label, PALETTE, NAMES),
        gallery([("a", image, label)] * 5, PALETTE, NAMES),
        attention_picture(image, maps, points, maps),
    ):
        assert max(sheet.shape) < 2100
    many = attention_picture(image, maps * 20, points * 20, maps)
    assert many.size < 3 * 1.4 * 2**22
    tall = compare(image[:, :9], None, label[:, :9], PALETTE, NAMES)
    assert max(tall.shape) < 2100


@pytest.mark.parametrize("size", THIN_SIZES)
def test_attention_of_thin_pictures(size):
    small = np.arange(6.0).reshape(2, 3)
    sheet = attention_picture(filled(*size, 90), [small], [(0, 0)], [small])
    assert (sheet == CYAN).all(axis=-1).any()
    assert ink(sheet[:, -1:]) == ink(sheet[-1:]) == 0


@pytest.mark.parametrize("point", [(8, 0), (0, 9), (-1, 0), (0.5, 0)])
def test_attention_refuses_points_outside(point):
    with pytest.raises(ValueError, match=r"inside the image of 8x9"):
        attention_picture(filled(8, 9, 0), [np.eye(2)], [point], [])


def test_attention_refuses_maps():
    image, good = filled(8, 8, 0), np.eye(2)
    with pytest.raises(ValueError, match=r"point_maps.*points.*1 and 2"):
        attention_picture(image, [good], [(0, 0), (1, 1)], [])
    with pytest.raises(ValueError, match=r"channel_maps.*channels.*1 and 0"):
        attention_picture(image, [], [], [good], channels=[])
    with pytest.raises(ValueError, match="point_maps` must be finite"):
        attention_picture(image, [good * np.nan], [(0, 0)], [])
    for impossible in (-good, 0 * good):
        with pytest.raises(ValueError, match="must not be negative or 0"):
            attention_picture(image, [impossible], [(0, 0)], [])
    with pytest.raises(ValueError, match="channel_maps` must be non-empty"):
        attention_picture(image, [], [], [np.zeros((1, 2, 2))])


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 200, 3), (200, 3, 3)])
def test_save_png_round_trip(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    path = tmp_path / "new" / "folder" / "picture.png"
    save_png(path, array)
    with Image.open(path) as file:
        assert file.format == "PNG"
        np.testing.assert_array_equal(np.asarray(file), array)
    assert os.listdir(path.parent) == ["picture.png"]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("num_classes", [1, 2, 19, 256])
def test_a_label_map_keeps_its_numbers_and_gets_colours(tmp_path, num_classes):
    palette = default_palette(num_classes)
    label = np.random.default_rng(0).integers(0, num_classes, (20, 30), "uint8")
    label[:3] = 255
    path = tmp_path / "label.png"
    save_png(path, label, palette)
    with Image.open(path) as file:
        assert file.mode == "P" and file.info.get("transparency") is None
        np.testing.assert_array_equal(np.asarray(file), label)
        shown = np.asarray(file.convert("RGB"))
    expected = np.concatenate([palette, [(224, 224, 192)] * 256])[:256][label]
    np.testing.assert_array_equal(shown, expected)
    # The bits of a data set's labels, for readers that know no others.
    assert read_png_kind(path) == (8, PALETTE_KIND)
    data = dataclasses.replace(SCENES, label_map=tuple(range(256)))
    np.testing.assert_array_equal(read_raw_label(path, data), label)


def test_save_png_with_a_palette_refuses_colours(tmp_path):
    with pytest.raises(ValueError, match=r"without a palette.*\(2, 2, 3\)"):
        save_png(tmp_path / "a.png", filled(2, 2, 0), PALETTE)
    with pytest.raises(ValueError, match="palette"):
        save_png(tmp_path / "a.png", np.zeros((2, 2), "uint8"), [])
    assert os.listdir(tmp_path) == []


def test_save_png_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    save_png(str(path), np.zeros((2, 2), "uint8"))
    before = path.read_bytes()
    # Who has the old file open keeps it whole.
    os.link(path, tmp_path / "open")
    save_png(path, np.eye(9, dtype="uint8"))
    assert (tmp_path / "open").read_bytes() == before
    before = path.read_bytes()

    def full_disk(self, content):
        with open(self, "wb") as file:
            file.write(content[:9])
        raise OSError("No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_png(path, np.ones((2, 2), "uint8"))
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["open", "picture.png"]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), "int64"),
        np.zeros((2, 2, 3), "float32"),
        np.zeros((2, 2, 4), "uint8"),
        np.zeros((2, 2, 1), "uint8"),
        np.zeros(3, "uint8"),
        np.zeros((0, 3), "uint8"),
    ],
)
def test_save_png_refuses_arrays(tmp_path, array):
    with pytest.raises(ValueError, match=r"uint8 array.*Received"):
        save_png(tmp_path / "picture.png", array)
    assert os.listdir(tmp_path) == []


def test_save_png_refuses_other_formats(tmp_path):
    with pytest.raises(ValueError, match=r"picture\.jpg"):
        save_png(tmp_path / "picture.jpg", np.zeros((2, 2), "uint8"))
