"""Decoding and the plan applied: the same with TensorFlow and without."""

import io
import zlib

import numpy as np
import pytest
import references
from conftest import one_backend
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies
from pictures import encode
from pictures import photo
from PIL import Image

from keras_danet.data import numpy_batches
from keras_danet.data.datasets import CAMVID
from keras_danet.data.decoding import DATA_FORMATS
from keras_danet.data.decoding import read_image
from keras_danet.data.decoding import read_raw_label
from keras_danet.data.plan import Augmentation
from keras_danet.data.plan import Plan
from keras_danet.data.plan import draw_plan

tf = pytest.importorskip("tensorflow")

from keras_danet.data import augment  # noqa: E402

pytestmark = one_backend


@pytest.mark.parametrize(
    "contents",
    [
        encode(photo()),
        encode(photo(mode="L")),
        encode(photo(mode="RGBA")),
        encode(photo(mode="LA")),
        encode(photo(mode="1")),
        encode(photo().quantize(30), transparency=3),
        encode(photo(), "JPEG"),
        encode(photo(), "JPEG", quality=95, subsampling=0),
        encode(photo(), "JPEG", quality=40, progressive=True),
        encode(photo(mode="L"), "JPEG"),
        encode(photo(1, 1), "JPEG"),
        encode(photo(1, 1)),
        encode(photo(4000, 2)),
    ],
    ids="RGB L RGBA LA 1 P JPEG 444 progressive JPEG-L 1x1 1x1 long".split(),
)
def test_decoded_image_equals_pillow(contents):
    decoded = tf.function(augment.decode_image)(contents)
    expected = Image.open(io.BytesIO(contents)).convert("RGB")
    np.testing.assert_array_equal(decoded, np.asarray(expected))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (encode(photo(), "GIF"), "not a PNG, nor"),
        (encode(photo(), "BMP"), "not a PNG, nor"),
        (encode(photo(mode="L").convert("I;16")), "more than 8 bits"),
        (encode(photo(mode="CMYK"), "JPEG"), "CMYK"),
        (b"", "not a PNG, nor"),
        (b"\x89PNG\r\n\x1a\n", "not a PNG, nor"),
        (encode(photo())[:400], "Invalid PNG"),
        (encode(photo(), "JPEG")[:400], "JPEG"),
    ],
    ids="GIF BMP 16-bit CMYK empty signature cut-PNG cut-JPEG".split(),
)
def test_other_images_are_refused(contents, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        augment.decode_image(contents)


def indices(bits):
    values = np.arange(2**bits, dtype=np.uint8)
    return np.resize(np.random.default_rng(0).permutation(values), (7, 40))


def low_bit_grey(values, bits):
    """A grey PNG of 1, 2 or 4 bits, which Pillow does not write."""
    height, width = values.shape
    rows = [
        b"\0"
        + np.packbits(
            np.unpackbits(row[:, None], axis=1)[:, -bits:].ravel()
        ).tobytes()
        for row in values
    ]
    header = np.array([width, height], ">u4").tobytes() + bytes(
        [bits, 0, 0, 0, 0]
    )
    chunks = [
        (b"IHDR", header),
        (b"IDAT", zlib.compress(b"".join(rows))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big")
        + kind
        + data
        + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x40"])
def test_palette_label_is_its_indices(tmp_path, bits, transparency):
    label = Image.fromarray(indices(bits), "P")
    label.putpalette(np.random.default_rng(0).permutation(768).astype("uint8"))
    options = {} if transparency is None else {"transparency": transparency}
    contents = encode(label, bits=bits, **options)
    assert contents[24:26] == bytes([bits, 3])
    decoded = tf.function(augment.decode_label)(contents)
    np.testing.assert_array_equal(decoded, indices(bits))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_label_is_its_numbers(bits):
    contents = low_bit_grey(indices(bits), bits)
    decoded = tf.function(augment.decode_label)(contents)
    np.testing.assert_array_equal(decoded, indices(bits))


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA", "I;16"])
def test_label_of_another_kind_is_refused(mode):
    grey = photo(mode="L")
    label = grey.convert("I").convert(mode) if ";" in mode else None
    with pytest.raises(tf.errors.InvalidArgumentError, match="grey or palette"):
        augment.decode_label(encode(label or grey.convert(mode)))


def test_colours_become_train_ids():
    table = np.full(2**24, augment.INVALID_LABEL, np.uint8)
    table[0x102030], table[0xFF0001] = 4, 255
    colours = np.uint8([[[0x10, 0x20, 0x30], [0xFF, 0, 1]]])
    for contents in (
        encode(Image.fromarray(colours)),
        encode(Image.fromarray(colours).quantize(2)),
    ):
        raw = augment.decode_color_label(contents)
        ids = augment.to_train_ids(raw, tf.constant(table))
        np.testing.assert_array_equal(ids, [[4, 255]])
    other = np.uint8([[[1, 2, 3]]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="does not have"):
        augment.to_train_ids(tf.constant(other), tf.constant(table))
    with pytest.raises(tf.errors.InvalidArgumentError, match="PNG of colours"):
        augment.decode_color_label(encode(photo(mode="RGBA")))


@pytest.mark.parametrize(
    "known",
    [
        range(12),
        [*range(34), 255],
        [1, 2, 3, 7, 90, 91, 200],
        [0, 2, 254],
        range(256),
        [255],
        [],
    ],
    ids=str,
)
def test_a_value_is_refused_wherever_it_lies(known):
    table = np.full(256, augment.INVALID_LABEL, np.uint8)
    table[list(known)] = 0
    check = tf.function(lambda raw: augment.check_values(raw, table))
    for value in range(256):
        label = np.full((3, 5), known[0] if len(known) else 0, np.uint8)
        label[value % 3, value % 5] = value
        if value in known:
            np.testing.assert_array_equal(check(label), label)
        else:
            with pytest.raises(
                tf.errors.InvalidArgumentError, match="not have"
            ):
                check(label)


@pytest.mark.parametrize(
    "table",
    [
        np.arange(256),
        (np.arange(256) - 1) % 256,
        np.roll(np.arange(256), 100),
        np.random.default_rng(5).permutation(256),
    ],
    ids=["equal", "one less", "rolled", "any"],
)
def test_raw_labels_are_mapped_in_the_crop(table):
    image, label = example()
    table = table.astype(np.uint8)
    # Two raw values of one class count together.
    table[[3, 4]] = 7
    augmentation = Augmentation((24, 24), max_class_share=0.3)
    for seed in range(5):
        plan = decisions(augmentation, seed)
        mapped = augment.apply_plan(
            tf.constant(image), tf.constant(label), plan, augmentation, table
        )
        expected = references.augment(image, table[label], plan, augmentation)
        np.testing.assert_array_equal(mapped[1], expected[1])


def damaged(contents, draw):
    """A file that was cut, or lost, gained or changed a few bytes."""
    start, end = sorted(draw.integers(0, len(contents), 2))
    noise = draw.bytes(draw.integers(1, 9))
    return [
        contents[:start],
        contents[:start] + noise + contents[start + len(noise) :],
        contents[:start] + noise + contents[start:],
        contents[:start] + contents[end:],
        draw.bytes(start),
    ][draw.integers(0, 5)]


LABEL = Image.fromarray(indices(8) % 11)


@pytest.mark.parametrize(
    "contents",
    [
        encode(photo()),
        encode(photo(), "JPEG"),
        encode(photo(), "JPEG", progressive=True),
        encode(LABEL),
        encode(photo().quantize(11)),
    ],
    ids="PNG JPEG progressive label palette".split(),
)
def test_damaged_files_are_refused_or_read_alike(tmp_path, contents):
    draw = np.random.default_rng(6)
    is_label = contents[25:26] in (b"\0", b"\3")
    read = {
        True: lambda path: read_raw_label(path, CAMVID),
        False: lambda path: read_image(path, DATA_FORMATS),
    }[is_label]
    decode = augment.decode_label if is_label else augment.decode_image
    path = tmp_path / "damaged"
    refused = 0
    for _ in range(100):
        path.write_bytes(damaged(contents, draw))
        # Whatever else is raised is a crash.
        try:
            ours = read(str(path))
            theirs = decode(path.read_bytes())
        except (ValueError, OSError, tf.errors.OpError):
            refused += 1
            continue
        assert ours.shape == tuple(theirs.shape)
        if is_label:
            np.testing.assert_array_equal(ours, theirs)
    assert refused >= 20


def decisions(augmentation, seed=0, **values):
    """A plan for one example, with some of it decided here."""
    plan = Plan(*(field[0] for field in draw_plan(seed, 0, 1, augmentation)))
    return plan._replace(**{k: np.float32(v) for k, v in values.items()})


def with_tensorflow(image, label, plan, augmentation):
    @tf.function
    def apply(image, label, plan):
        return augment.apply_plan(image, label, plan, augmentation)

    plan = Plan(*(tf.constant(field) for field in plan))
    pixels, labels = apply(image, label, plan)
    assert pixels.dtype == "float32" and labels.dtype == "uint8"
    return pixels.numpy(), labels.numpy()


def without(image, label, plan, augmentation):
    pixels, labels = numpy_batches.apply_plan(image, label, plan, augmentation)
    assert pixels.dtype == "float32" and labels.dtype == "uint8"
    return pixels, labels


BOTH = pytest.mark.parametrize("apply", [with_tensorflow, without])


def example(height=37, width=53):
    """A photo, and regions of ten classes and void, one of them large."""
    draw = np.random.default_rng(2)
    regions = draw.integers(0, 9, (5, 7), np.uint8)
    regions[0, :3] = 255
    regions[2:, 3:] = 7
    label = Image.fromarray(regions).resize((width, height), 0)
    return np.array(photo(height, width)), np.array(label)


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {"crop_size": (20, 31), "scale_range": (1, 1)},
        {"crop_size": (37, 53), "scale_range": (1, 1)},
        {"crop_size": (60, 70), "scale_range": (1, 1)},
        {"crop_size": (16, 22), "scale_range": (0.3, 0.9)},
        {"crop_size": (16, 22), "scale_range": (1.1, 2.5)},
        {"crop_size": (40, 20), "scale_range": (0.4, 1.0)},
        {"crop_size": (24, 24), "short_side": 30},
        {"crop_size": (24, 24), "long_side": 40, "short_side": 39},
        {"crop_size": (24, 24), "max_class_share": 0.3},
        {"crop_size": (24, 24), "brightness": 90},
        {"crop_size": (24, 24), "contrast": 0.9},
        {"crop_size": (24, 24), "saturation": 0.9, "hue": 90},
        {"crop_size": (50, 24), "scale_range": (0.9, 0.9), "blur": 2.5},
        {
            "crop_size": (30, 30),
            "max_class_share": 0.5,
            "brightness": 32,
            "contrast": 0.5,
            "saturation": 0.5,
            "hue": 36,
            "blur": 1,
        },
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_plan_is_applied(apply, options, seed):
    augmentation = Augmentation(**options)
    image, label = example()
    # Everything that may happen does.
    happening = {
        "brightness": augmentation.brightness * (0.7, -0.6)[seed],
        "contrast": 1 + augmentation.contrast * (0.8, -0.7)[seed],
        "saturation": 1 + augmentation.saturation * (0.8, -0.7)[seed],
        "hue": augmentation.hue / 360 * (0.9, -0.8)[seed],
        "blur": augmentation.blur * (0.9, 0.3)[seed],
    }
    plan = decisions(augmentation, seed, **happening)
    plan = plan._replace(flip=bool(seed), contrast_last=not seed)
    pixels, labels = apply(image, label, plan, augmentation)
    expected = references.augment(image, label, plan, augmentation)
    np.testing.assert_array_equal(labels, expected[1])
    # Of 255; float32, and where a colour is next to grey its hue is rough.
    np.testing.assert_allclose(pixels, expected[0], atol=2e-2)


@BOTH
@pytest.mark.parametrize("scale", [0.5, 0.61, 1.0, 1.37, 1.9, 2.0])
@pytest.mark.parametrize("flip", [False, True])
def test_image_and_label_stay_aligned_to_the_pixel(apply, scale, flip):
    # Red is the row's number and so is the label; green and blue are columns.
    rows, columns = np.indices((8, 10), dtype=np.uint8)
    image = np.stack([rows, columns, columns], axis=-1)
    augmentation = Augmentation(crop_size=(6, 7))
    for source, channel in ((rows, 0), (columns, 1)):
        plan = decisions(augmentation, scale=scale)._replace(flip=flip)
        pixels, label = apply(image, source, plan, augmentation)
        # Away from the image's edge, where a shrinking filter is cut off, the
        # interpolated ramp is the source position and the label its rounding.
        inner = (label > 1) & (label < (8, 10)[channel] - 2)
        assert inner.any()
        error = (pixels[..., channel] - label.astype("float32"))[inner]
        assert np.abs(error).max() <= 0.5 + 1e-3


COLOURS = {"brightness": 32, "contrast": 0.5, "saturation": 0.5, "hue": 36}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    size=strategies.tuples(*[strategies.integers(1, 40)] * 2),
    crop_size=strategies.tuples(*[strategies.integers(1, 40)] * 2),
    scale=strategies.floats(0.125, 3, width=32),
    share=strategies.sampled_from([0.4, 0.75, 1]),
    long_side=strategies.sampled_from([None, 1, 25]),
    seed=strategies.integers(0, 2**32 - 1),
)
def test_no_label_is_invented_and_both_loaders_agree(
    size, crop_size, scale, share, long_side, seed
):
    values = np.uint8([0, 3, 10, 255])
    draw = np.random.default_rng(seed)
    label = values[draw.integers(0, 4, size)]
    image = draw.integers(0, 256, (*size, 3), np.uint8)
    augmentation = Augmentation(
        crop_size,
        (scale, scale),
        long_side=long_side,
        max_class_share=share,
        blur=0.8,
        **COLOURS,
    )
    plan = decisions(augmentation, seed)
    pixels, labels = without(image, label, plan, augmentation)
    assert set(np.unique(labels)) <= set(np.unique(label)) | {255}
    assert 0 <= pixels.min() and pixels.max() <= 255 + 1e-3
    tf_pixels, tf_labels = _eagerly(image, label, plan, augmentation)
    np.testing.assert_array_equal(tf_labels, labels)
    # The greyest colours' hues depend on rounding.
    far = np.abs(tf_pixels - pixels).max(axis=-1) > 0.1
    assert far.mean() <= 0.01, np.abs(tf_pixels - pixels).max()


def _eagerly(image, label, plan, augmentation):
    """Untraced, because a trace for each set of constants takes seconds."""
    plan = Plan(*(tf.constant(field) for field in plan))
    parts = augment.apply_plan(
        tf.constant(image), tf.constant(label), plan, augmentation
    )
    return [part.numpy() for part in parts]


@BOTH
def test_the_first_balanced_candidate_is_taken(apply):
    # Left of column 60 all is one class; a crop from there has two.
    label = np.zeros((20, 100), np.uint8)
    label[::2, 60:] = 1
    image = np.repeat(label[..., None], 3, axis=-1)
    augmentation = Augmentation((20, 20), (1, 1), max_class_share=0.75)
    left = np.float32([0, 0.1, 0.3, 0.8, 0, 0.9, 0, 0, 0, 0])
    plan = decisions(augmentation)._replace(crop_x=left, flip=False)
    _, labels = apply(image, label, plan, augmentation)
    np.testing.assert_array_equal(labels, label[:, 64:84])
    # No balanced one: the last.
    left = np.float32([0, 0.1, 0.3, 0, 0, 0.1, 0, 0, 0, 0.25])
    plan = plan._replace(crop_x=left)
    label[5, 20] = 255
    _, labels = apply(image, label, plan, augmentation)
    np.testing.assert_array_equal(labels, label[:, 20:40])
