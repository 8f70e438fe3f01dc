"""The pipeline, held against Pillow and a plan applied again in NumPy."""

import io
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.data.datasets import CAMVID
from keras_danet.data.decoding import explain_data_error
from keras_danet.data.files import Pair
from keras_danet.data.files import find_pairs
from keras_danet.data.plan import draw_plan
from keras_danet.data.plan import steps_per_epoch

tf = pytest.importorskip("tensorflow")

from keras_danet.data.augment import apply_plan  # noqa: E402
from keras_danet.data.augment import decode_image  # noqa: E402
from keras_danet.data.augment import decode_label  # noqa: E402
from keras_danet.data.pipeline import evaluation_dataset  # noqa: E402
from keras_danet.data.pipeline import training_dataset  # noqa: E402

pytestmark = one_backend

MEAN_PIXEL = np.float32([123.675, 116.28, 103.53])
SHARED = Path(__file__).resolve().parents[2].parent / "shared"
CAMVID_ROOT = Path(
    os.environ.get("KERAS_DANET_CAMVID", SHARED / "data" / "camvid")
)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(height=37, width=53, mode="RGB"):
    noise = np.random.default_rng(1).integers(0, 256, (9, 11, 4), np.uint8)
    smooth = Image.fromarray(noise, "RGBA").resize((width, height))
    return smooth.convert(mode)


def as_read_by_pillow(contents):
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))


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
    ],
    ids="RGB L RGBA LA 1 P JPEG JPEG-444 JPEG-progressive JPEG-L".split(),
)
def test_decoded_image_equals_pillow(contents):
    decoded = tf.function(decode_image)(contents)
    np.testing.assert_array_equal(decoded, as_read_by_pillow(contents))


def test_decoded_label_is_the_raw_values():
    raw = np.arange(256, dtype=np.uint8).reshape(8, 32)
    decoded = decode_label(encode(Image.fromarray(raw)))
    np.testing.assert_array_equal(decoded, raw)


@pytest.mark.parametrize("mode", ["P", "1", "LA", "RGB", "RGBA", "I;16"])
def test_label_of_another_kind_is_refused(mode):
    grey = photo(mode="L")
    label = grey.convert("I").convert(mode) if ";" in mode else None
    with pytest.raises(tf.errors.InvalidArgumentError, match="8-bit grey"):
        decode_label(encode(label or grey.convert(mode)))


def plan_in_numpy(image, label, crop_y, crop_x, flip, crop_size):
    """Crop, pad and mirror at scale 1, the plain way."""
    out_image = np.empty((*crop_size, 3), np.float32)
    out_image[:] = MEAN_PIXEL
    out_label = np.full(crop_size, 255, np.uint8)
    top, left = (
        int(fraction * (max(have - want, 0) + 1))
        for fraction, have, want in zip(
            (crop_y, crop_x), label.shape, crop_size, strict=True
        )
    )
    part = np.s_[top : top + crop_size[0], left : left + crop_size[1]]
    height, width = label[part].shape
    out_image[:height, :width] = image[part]
    out_label[:height, :width] = label[part]
    step = -1 if flip else 1
    return out_image[:, ::step], out_label[:, ::step]


@pytest.mark.parametrize("crop_size", [(20, 31), (37, 53), (50, 30), (60, 70)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "fractions", [(0.0, 0.0), (0.3, 0.7), (0.99999994,) * 2]
)
def test_plan_at_scale_one_is_a_plain_crop(crop_size, flip, fractions):
    image = np.asarray(photo())
    label = np.random.default_rng(2).integers(0, 11, (37, 53), np.uint8)
    got = apply_plan(image, label, 1.0, *fractions, flip, crop_size)
    expected = plan_in_numpy(image, label, *fractions, flip, crop_size)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("scale", [0.5, 0.73, 1.21, 2.0])
def test_scaled_crop_equals_a_crop_of_pillows_scaled_image(scale):
    image, crop_size = photo(), (16, 22)
    label = np.random.default_rng(3).integers(0, 11, (37, 53), np.uint8)
    got = apply_plan(
        np.asarray(image), label, scale, 0.4, 0.9, False, crop_size
    )
    size = (round(53 * scale), round(37 * scale))
    whole = image.resize(size, Image.Resampling.BILINEAR)
    whole_label = Image.fromarray(label).resize(size, Image.Resampling.NEAREST)
    expected = plan_in_numpy(
        np.asarray(whole), np.asarray(whole_label), 0.4, 0.9, False, crop_size
    )
    # Pillow rounds to whole levels twice, after rows and after columns.
    np.testing.assert_allclose(got[0], expected[0], atol=1.01)
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("scale", [0.5, 0.61, 1.0, 1.37, 1.9, 2.0])
@pytest.mark.parametrize("flip", [False, True])
def test_image_and_label_stay_aligned_to_the_pixel(scale, flip):
    # Red is the row's number and so is the label; green and blue are columns.
    rows, columns = np.indices((60, 80), dtype=np.uint8)
    image = np.stack([rows, columns, columns], axis=-1)
    for source, channel in ((rows, 0), (columns, 1)):
        pixels, label = apply_plan(
            image, source, scale, 0.37, 0.61, flip, (30, 40)
        )
        # Away from the image's edge, where a shrinking filter is cut off, the
        # interpolated ramp is the source position and the label its rounding.
        inner = (label > 2) & (label < (60, 80)[channel] - 3)
        error = (pixels[..., channel] - tf.cast(label, tf.float32))[inner]
        assert np.abs(error).max() <= 0.5 + 1e-3


def test_labels_are_never_invented():
    values = np.uint8([0, 3, 10, 255])
    draw = np.random.default_rng(4)
    label = values[draw.integers(0, 4, (37, 53))]
    image = np.repeat(label[..., None], 3, axis=-1)
    plan = draw_plan(0, 0, 60)
    for decisions in zip(*plan[1:], strict=True):
        pixels, out = apply_plan(image, label, *decisions, crop_size=(40, 40))
        assert set(np.unique(out)) <= {0, 3, 10, 255}
        # Interpolation weights sum to 1 within float32's rounding.
        assert 0 <= np.min(pixels) and np.max(pixels) <= 255 + 1e-3


@pytest.fixture
def pairs(tmp_path):
    """Five CamVid pairs of different sizes, PNG and JPEG, void included."""
    draw = np.random.default_rng(5)
    found = []
    for number, (height, width) in enumerate(
        [(20, 30), (33, 17), (24, 24), (40, 41), (19, 28)]
    ):
        kind = ("PNG", "JPEG")[number % 2]
        image = tmp_path / f"{number}.{kind.lower()}"
        image.write_bytes(encode(photo(height, width), kind))
        label = tmp_path / f"{number}_label.png"
        values = draw.integers(0, 12, (height, width), np.uint8)
        values[0, :3] = 255
        label.write_bytes(encode(Image.fromarray(values)))
        found.append(Pair(str(image), str(label)))
    return found


def read_in_numpy(pair):
    image = np.asarray(Image.open(pair.image).convert("RGB"))
    label = np.asarray(Image.open(pair.label))
    return image, np.where(label >= 11, 255, label).astype(np.uint8)


OPTIONS = {"batch_size": 2, "crop_size": (24, 26), "seed": 9}


def take(dataset, count):
    return list(islice(dataset.as_numpy_iterator(), count))


def assert_same_batches(first, second):
    assert len(first) == len(second)
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left[0], right[0])
        np.testing.assert_array_equal(left[1], right[1])


def test_batches_are_the_plan_applied_in_order(pairs):
    dataset = training_dataset(pairs, CAMVID, scale_range=(1, 1), **OPTIONS)
    assert [tuple(spec.shape) for spec in dataset.element_spec] == [
        (2, 24, 26, 3),
        (2, 24, 26),
    ]
    assert [spec.dtype for spec in dataset.element_spec] == ["float32", "uint8"]

    expected = []
    for epoch in range(3):
        plan = draw_plan(9, epoch, 5, (1, 1))
        examples = [
            plan_in_numpy(*read_in_numpy(pairs[index]), y, x, flip, (24, 26))
            for index, _, y, x, flip in zip(*plan, strict=True)
        ]
        for step in range(2):
            batch = examples[2 * step : 2 * step + 2]
            expected.append(tuple(map(np.stack, zip(*batch, strict=True))))
    assert_same_batches(take(dataset, 6), expected)


@pytest.mark.parametrize(
    ("epoch", "step"), [(0, 1), (1, 0), (1, 1), (3, 0), (0, 5)]
)
def test_a_start_in_the_middle_is_the_same_stream(pairs, epoch, step):
    stream = training_dataset(pairs, CAMVID, **OPTIONS)
    middle = training_dataset(
        pairs, CAMVID, start_epoch=epoch, start_step=step, **OPTIONS
    )
    begin = epoch * steps_per_epoch(5, 2) + step
    assert_same_batches(take(middle, 3), take(stream, begin + 3)[begin:])


def test_two_passes_over_the_stream_are_equal(pairs):
    dataset = training_dataset(pairs, CAMVID, **OPTIONS)
    assert_same_batches(take(dataset, 5), take(dataset, 5))
    # Endless: what 5 examples give has long been used up.
    assert len(take(dataset, 40)) == 40


def test_what_is_skipped_is_not_decoded(pairs):
    order = draw_plan(9, 0, 5).order
    for index in order[:2]:
        Path(pairs[index].image).unlink()
    resumed = training_dataset(pairs, CAMVID, start_step=1, **OPTIONS)
    assert len(take(resumed, 1)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6}, "needs 6 examples and there are only 5"),
        ({"crop_size": 24}, r"two positive integers.*Received: crop_size=24"),
        ({"crop_size": (0, 24)}, "two positive integers"),
        ({"crop_size": (10**6, 10**6)}, r"at most \d+ pixels"),
        ({"scale_range": (2, 1)}, "Received: scale_range="),
        ({"seed": -3}, "Received: seed=-3"),
        ({"start_epoch": -1}, "Received: epoch=-1"),
        ({"start_step": -1}, "Received: start_step=-1"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        training_dataset(pairs, CAMVID, **{**OPTIONS, **options})


def test_evaluation_reads_everything_once_unchanged(pairs):
    dataset = evaluation_dataset(pairs, CAMVID)
    assert [spec.dtype for spec in dataset.element_spec] == ["uint8", "uint8"]
    expected = [
        tuple(part[None] for part in read_in_numpy(pair)) for pair in pairs
    ]
    assert_same_batches(list(dataset.as_numpy_iterator()), expected)


def test_evaluation_in_batches(pairs):
    three = [pairs[2], pairs[2], pairs[0]]
    sizes = [len(x) for x, _ in evaluation_dataset(three, CAMVID, batch_size=2)]
    assert sizes == [2, 1]
    message = r"0\.png has .* \(20, 30\) and .*1\.jpeg has \(33, 17\).*size=1"
    with pytest.raises(ValueError, match=message):
        evaluation_dataset(pairs, CAMVID, batch_size=2)
    with pytest.raises(ValueError, match="Received: 0 pairs"):
        evaluation_dataset([], CAMVID)


def _spoil_value(pair):
    values = np.asarray(Image.open(pair.label)).copy()
    values[5, 5] = 37
    Image.fromarray(values).save(pair.label)


def _spoil_end(pair):
    # All pixels are there; lost are the end mark and a bit of a checksum.
    contents = Path(pair.image).read_bytes()
    Path(pair.image).write_bytes(contents[:-14])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil_value, r"Label value 37 in .*2_label\.png \(1 pixels"),
        (_spoil_end, r"2\.png cannot be read"),
        (lambda p: photo(24, 25).save(p.image), "differ in size"),
        (lambda p: photo(24, 24, "P").save(p.label), "palette PNG of depth 8"),
        (lambda p: Path(p.label).write_bytes(b""), "is empty"),
        (lambda p: photo(24, 24).save(p.image, "BMP"), r"2\.png cannot be"),
    ],
)
def test_a_bad_file_stops_the_stream_and_is_explained(pairs, spoil, message):
    spoil(pairs[2])
    with pytest.raises(tf.errors.OpError):
        take(training_dataset(pairs, CAMVID, **OPTIONS), 20)
    with pytest.raises(tf.errors.OpError):
        take(evaluation_dataset(pairs, CAMVID), 5)
    with pytest.raises(ValueError, match=message):
        explain_data_error(pairs, CAMVID)


@pytest.mark.skipif(
    not CAMVID_ROOT.is_dir(), reason=f"CamVid is not in {CAMVID_ROOT}"
)
def test_camvid_itself():
    for split in ("train", "val"):
        pairs = find_pairs(CAMVID, CAMVID_ROOT, split)[:4]
        batches = list(evaluation_dataset(pairs, CAMVID, batch_size=4))
        ((images, labels),) = batches
        assert images.shape == (4, 360, 480, 3)
        assert set(np.unique(labels)) <= {*range(11), 255}
        for image, label, pair in zip(images, labels, pairs, strict=True):
            expected = read_in_numpy(pair)
            np.testing.assert_array_equal(image, expected[0])
            np.testing.assert_array_equal(label, expected[1])
