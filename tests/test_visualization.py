"""Pictures, checked against colours worked out by hand."""

import doctest
import os

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet import visualization
from keras_danet.visualization import add_legend
from keras_danet.visualization import attention_picture
from keras_danet.visualization import colorize
from keras_danet.visualization import compare
from keras_danet.visualization import default_palette
from keras_danet.visualization import gallery
from keras_danet.visualization import heatmap
from keras_danet.visualization import overlay
from keras_danet.visualization import save_png

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


def filled(height, width, colour):
    return np.full((height, width, 3), colour, "uint8")


def test_examples_in_docstrings():
    result = doctest.testmod(visualization)
    assert result.attempted >= 3
    assert result.failed == 0


def test_palette_is_that_of_pascal_voc():
    palette = default_palette(21)
    assert palette.dtype == np.uint8
    assert palette.shape == (21, 3)
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
    }
    for index, colour in known.items():
        assert tuple(palette[index]) == colour


def test_palette_colours_are_distinct():
    assert len(np.unique(default_palette(256), axis=0)) == 256


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, "3"])
def test_palette_refuses_nonsense(num_classes):
    with pytest.raises(ValueError, match="num_classes"):
        default_palette(num_classes)


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
    # 0.25 * (200, 100, 0) + 0.75 * image, the second pixel rounded.
    expected = [[(125, 70, 15), (51, 26, 1), (100, 60, 20)]]
    picture = overlay(image, label, PALETTE, alpha=0.25)
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
    clear = overlay(image, label, PALETTE, alpha=0)
    opaque = overlay(image, label, PALETTE, alpha=1)
    np.testing.assert_array_equal(clear, image)
    np.testing.assert_array_equal(opaque, np.array(PALETTE)[label])


def test_overlay_refuses_unequal_sizes():
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(5, 4\)"):
        overlay(filled(4, 5, 0), np.zeros((5, 4), int), PALETTE)


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
    # 0.1 lies half-way between the first two of six anchors.
    colours = heatmap(np.array([[-7.0, -6.0, 3.0]]))
    expected = [[(0, 0, 4), (30, 8, 58), (252, 253, 191)]]
    np.testing.assert_allclose(colours, expected, atol=0.5)


def test_heatmap_grows_steadily_brighter():
    ramp = heatmap(np.linspace(0, 1e-6, 200, dtype="float32")[None])[0]
    luminance = ramp @ np.array([0.2126, 0.7152, 0.0722])
    # Rounding to whole levels may cost half a level per channel.
    assert (np.diff(luminance) > -0.5).all()
    assert luminance[-1] - luminance[0] > 240


@pytest.mark.parametrize("value", [0.0, -3.0, 1e30])
def test_heatmap_of_a_constant_is_the_lowest_colour(value):
    np.testing.assert_array_equal(
        heatmap(np.full((2, 3), value)), filled(2, 3, (0, 0, 4))
    )


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
        heatmap(values)


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
    name = "a quite long class name such as COCO-Stuff has " * 3
    narrow = add_legend(filled(5, 1, 0), [name], [(9, 9, 9)])
    roomy = add_legend(filled(5, 980, 0), [name], [(9, 9, 9)])
    assert 800 < narrow.shape[1] < roomy.shape[1] == 980
    assert ink(narrow[5:]) == ink(roomy[5:])
    assert ink(narrow[:5, 1:]) == 0


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
    # 0.6 * colour + 0.4 * image; each panel three times as large.
    panels = [(100, 150, 250), (160, 120, 100), (40, 84, 148)]
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
    # 0.6 * colour + 0.4 * image. Four in a row, long sides of 320.
    first, second = [(160, 120, 100), (40, 84, 148)]
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
    # Ignored pixels show the image: two panels of its colour, no legend.
    _, _, height, width = box_of(sheet, (100, 150, 250))
    assert height == 400
    assert 800 < width < 850
    assert (sheet == (100, 150, 250)).all(axis=-1).sum() == 2 * 400 * 400


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


@pytest.mark.parametrize("point", [(0, 0), (20, 70), (47, 79)])
def test_attention_marks_the_point(point):
    # A constant map, opaque: the panel is dark but for the cross. 0.1 is not
    # a binary number, so interpolation leaves rounding noise on it.
    flat = np.full((6, 10), 0.1, "float32")
    image = filled(48, 80, 255)
    sheet = attention_picture(image, [flat], [point], [], alpha=1.0)
    height, width = 48 * 4, 80 * 4
    top, left, *size = box_of(sheet, (0, 0, 4))
    assert size == [height, width]
    panel = sheet[top : top + height, left : left + width]
    row, column = (4 * x + 2 for x in point)
    core, rim, flat = ((panel == c).all(-1) for c in (CYAN, 0, (0, 0, 4)))
    assert core[row, column]
    assert (core | rim | flat).all()
    if point == (20, 70):
        assert box_of(panel, CYAN) == (row - 10, column - 10, 21, 21)
        assert box_of(panel, 0) == (row - 11, column - 11, 23, 23)


def test_attention_blends_the_enlarged_map():
    image = filled(320, 320, (100, 90, 110))
    ramp = np.array([[0.0, 1.0]])
    sheet = attention_picture(image, [ramp], [(160, 160)], [], alpha=0.5)
    top, left, *_ = box_of(sheet, (100, 90, 110))
    # Half of the image with half of (0, 0, 4) and of (252, 253, 191).
    low, high = (50, 45, 57), (176, 171.5, 150.5)
    row = sheet[top].astype(float)
    start = np.flatnonzero((row == low).all(axis=-1))
    end = np.flatnonzero((abs(row - high) <= 0.5).all(axis=-1))
    # Bilinear with half-pixel centres: the outer quarters are constant.
    assert start.min() > left + 320
    assert end.max() - start.min() + 1 == 320
    assert 80 <= start.size < 85
    assert 80 <= end.size < 85


def test_attention_panels_and_titles():
    image = filled(320, 400, (1, 200, 3))
    maps = [np.eye(4)] * 6
    points = [(10 * k, 20 * k) for k in range(6)]
    sheet = attention_picture(image, maps, points, maps[:2])
    # Image and 6 points in rows of four, then a row of channel maps.
    height, width = sheet.shape[:2]
    assert 3 * 320 < height < 3 * 400
    assert 4 * 400 < width < 4 * 450
    fewer = attention_picture(image, maps[:3], points[:3], maps[:1])
    assert 2 * 320 < fewer.shape[0] < 2 * 400
    default = attention_picture(image, [], [], maps[:2])
    named = attention_picture(image, [], [], maps[:2], channels=[0, 411])
    difference = np.argwhere((default != named).any(axis=-1))
    assert len(difference) > 20
    assert np.ptp(difference, axis=0)[0] < 40


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


def test_save_png_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    save_png(str(path), np.zeros((2, 2), "uint8"))
    before = path.read_bytes()
    # Who has the old file open keeps it whole.
    os.link(path, tmp_path / "open")
    save_png(path, np.eye(9, dtype="uint8"))
    assert (tmp_path / "open").read_bytes() == before
    before = path.read_bytes()

    def full_disk(self, file, format):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
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
