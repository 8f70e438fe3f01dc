"""The pipeline, held against Pillow and a plan applied again in NumPy."""

import errno
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import references
import whole_pairs
from conftest import one_backend
from pictures import encode
from pictures import photo
from PIL import Image
from PIL import ImageFile

from keras_danet.data.bad_files import BadFiles
from keras_danet.data.datasets import CAMVID
from keras_danet.data.files import Pair
from keras_danet.data.files import find_pairs
from keras_danet.data.numpy_batches import TrainingBatches
from keras_danet.data.plan import Augmentation
from keras_danet.data.plan import Plan
from keras_danet.data.plan import draw_plan
from keras_danet.data.plan import steps_per_epoch

tf = pytest.importorskip("tensorflow")

from keras_danet.data.tensorflow_batches import readable_errors  # noqa: E402
from keras_danet.data.tensorflow_batches import training_dataset  # noqa: E402

pytestmark = one_backend

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
CAMVID_ROOT = Path(
    os.environ.get("KERAS_DANET_CAMVID", SHARED / "data" / "camvid")
)


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


AUGMENTATION = Augmentation(
    (24, 26), max_class_share=0.75, brightness=32, contrast=0.5, blur=1
)
OPTIONS = {"augmentation": AUGMENTATION, "batch_size": 2, "seed": 9}


def take(dataset, count):
    return list(islice(dataset.as_numpy_iterator(), count))


def assert_same_batches(first, second):
    assert len(first) == len(second)
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left[0], right[0])
        np.testing.assert_array_equal(left[1], right[1])


def test_batches_are_the_plan_applied_in_order(pairs):
    dataset = training_dataset(pairs, CAMVID, **OPTIONS)
    assert [tuple(spec.shape) for spec in dataset.element_spec] == [
        (2, 24, 26, 3),
        (2, 24, 26),
    ]
    assert [spec.dtype for spec in dataset.element_spec] == ["float32", "uint8"]
    without = TrainingBatches(pairs, CAMVID, workers=2, **OPTIONS)

    batches = take(dataset, 6)
    for number, (images, labels) in enumerate(batches):
        epoch, step = divmod(number, 2)
        plan = draw_plan(9, epoch, 5, AUGMENTATION)
        loaded = without[number]
        for place in (0, 1):
            decisions = Plan(*(field[2 * step + place] for field in plan))
            image, label = references.augment(
                *read_in_numpy(pairs[decisions.order]), decisions, AUGMENTATION
            )
            for ours in ((images, labels), loaded):
                np.testing.assert_array_equal(ours[1][place], label)
                np.testing.assert_allclose(ours[0][place], image, atol=2e-2)


def test_workers_take_shares_of_one_stream(pairs):
    whole = take(training_dataset(pairs, CAMVID, **OPTIONS), 4)
    for worker in (0, 1):
        for share in (
            take(
                training_dataset(pairs, CAMVID, shard=(worker, 2), **OPTIONS), 4
            ),
            TrainingBatches(pairs, CAMVID, shard=(worker, 2), **OPTIONS),
        ):
            for number, (_, labels) in enumerate(whole):
                np.testing.assert_array_equal(
                    share[number][1], labels[worker : worker + 1]
                )


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
    loader = TrainingBatches(
        pairs, CAMVID, start_epoch=epoch, start_step=step, **OPTIONS
    )
    whole = TrainingBatches(pairs, CAMVID, **OPTIONS)
    assert_same_batches(
        [loader[0], loader[2]], [whole[begin], whole[begin + 2]]
    )


def test_two_passes_over_the_stream_are_equal(pairs):
    dataset = training_dataset(pairs, CAMVID, **OPTIONS)
    assert_same_batches(take(dataset, 5), take(dataset, 5))
    # Endless: what 5 examples give has long been used up.
    assert len(take(dataset, 40)) == 40


def test_what_is_skipped_is_not_decoded(pairs):
    order = draw_plan(9, 0, 5, AUGMENTATION).order
    for index in order[:2]:
        Path(pairs[index].image).unlink()
    resumed = training_dataset(pairs, CAMVID, start_step=1, **OPTIONS)
    assert len(take(resumed, 1)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6}, "needs 6 examples, but there are only 5"),
        ({"shard": (2, 2)}, "Received: shard="),
        ({"seed": -3}, "Received: seed=-3"),
        ({"start_epoch": -1}, "Received: epoch=-1"),
        ({"start_step": -1}, "Received: start_step=-1"),
        ({"start_step": 1.5}, "Received: start_step=1.5"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        training_dataset(pairs, CAMVID, **{**OPTIONS, **options})
    with pytest.raises(ValueError, match=message):
        TrainingBatches(pairs, CAMVID, **{**OPTIONS, **options})


def test_whole_pairs_are_read_unchanged(pairs):
    expected = [read_in_numpy(pair) for pair in pairs]
    for read in (whole_pairs.with_pillow, whole_pairs.with_tensorflow):
        found = read(pairs, CAMVID)
        assert {part.dtype for pair in found for part in pair} == {
            np.dtype("uint8")
        }
        assert_same_batches(found, expected)


def _spoil_value(pair):
    values = np.asarray(Image.open(pair.label)).copy()
    values[5, 5] = 37
    Image.fromarray(values).save(pair.label)


def _spoil_end(pair):
    # All pixels are there; lost are the end mark and a bit of a checksum.
    contents = Path(pair.image).read_bytes()
    Path(pair.image).write_bytes(contents[:-14])


def _make_folder(pair):
    Path(pair.image).unlink()
    Path(pair.image).mkdir()


def _make_pipe(pair):
    Path(pair.label).unlink()
    os.mkfifo(pair.label)


def _make_giant(pair):
    # A PNG at first, and then a hole.
    os.truncate(pair.image, 2**30 + 1)


SPOILT = pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil_value, r"Label value 37 in .*2_label\.png \(1 pixels"),
        (_spoil_end, r"2\.png cannot be read"),
        (lambda p: photo(24, 25).save(p.image), "differ in size"),
        (lambda p: photo(24, 24).save(p.label), "colour PNG of depth 8"),
        (lambda p: photo(24, 24, "CMYK").save(p.image, "JPEG"), "CMYK"),
        (lambda p: Path(p.image).unlink(), "there is no such file"),
        (_make_folder, "it is a folder"),
        (_make_pipe, "it is not a file"),
        (_make_giant, r"2\.png .* 1073741825 bytes, more than 1073741824"),
        (lambda p: Path(p.label).write_bytes(b""), "is empty"),
        (lambda p: photo(24, 24).save(p.image, "BMP"), r"2\.png cannot be"),
    ],
)


@SPOILT
def test_a_bad_file_stops_the_stream_and_is_explained(pairs, spoil, message):
    spoil(pairs[2])
    bad_files = BadFiles(pairs, CAMVID)
    options = {**OPTIONS, "bad_files": bad_files}
    error = pytest.raises((ValueError, OSError), match=message)
    with error, readable_errors(bad_files):
        take(training_dataset(pairs, CAMVID, **options), 20)
    with error:
        whole_pairs.with_tensorflow(pairs, CAMVID)
    with error:
        batches = TrainingBatches(pairs, CAMVID, **options)
        for number in range(20):
            batches[number]
    with error:
        whole_pairs.with_pillow(pairs, CAMVID)


@SPOILT
def test_a_bad_file_is_skipped_named_and_counted(pairs, spoil, message, caplog):
    spoil(pairs[2])
    seen = []
    for number in (0, 1):
        bad_files = BadFiles(pairs, CAMVID, "skip")
        options = {**OPTIONS, "bad_files": bad_files}
        caplog.clear()
        if number:
            batches = TrainingBatches(pairs, CAMVID, **options)
            seen.append([batches[k][1] for k in range(10)])
        else:
            stream = training_dataset(pairs, CAMVID, **options)
            seen.append([labels for _, labels in take(stream, 10)])
        assert bad_files.count == 1
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert re.search(message, record.getMessage())
    np.testing.assert_array_equal(seen[0], seen[1])
    # The next example of the epoch's order stands in, with the crop drawn for
    # the one that is skipped.
    plan = draw_plan(9, 0, 5, AUGMENTATION)
    for place in range(4):
        index = plan.order[place]
        index = plan.order[(place + (index == 2)) % 5]
        decisions = Plan(*(field[place] for field in plan))
        _, label = references.augment(
            *read_in_numpy(pairs[index]), decisions, AUGMENTATION
        )
        np.testing.assert_array_equal(seen[0][place // 2][place % 2], label)


def test_an_error_in_the_middle_of_a_read_names_the_file(pairs, monkeypatch):
    load, failures = ImageFile.ImageFile.load, [3, 4]

    def failing(image):
        if failures and failures.pop():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", failing)
    with pytest.raises(ValueError, match=r"\.(png|jpeg) .*Input/output error"):
        TrainingBatches(pairs, CAMVID, **OPTIONS)[0]
    # The disk has recovered by the time that somebody asks.
    failures.clear()
    message = r"0\.png and .*0_label\.png could not be read for training"
    assert re.search(message, BadFiles(pairs, CAMVID).explain(0))


def test_an_error_that_has_passed_names_what_tensorflow_named(pairs):
    bad_files = BadFiles(pairs, CAMVID)
    options = {**OPTIONS, "bad_files": bad_files}
    message = f"{pairs[3].image}; Input/output error [[IteratorGetNext]]"
    again = tf.errors.UnknownError(None, None, message)
    with pytest.raises(tf.errors.UnknownError), readable_errors(bad_files):
        raise again  # before anything was read
    named = r"/3\.\w+ and .*3_label\.png could not be read for training"
    with pytest.raises(ValueError, match=named), readable_errors(bad_files):
        take(training_dataset(pairs, CAMVID, **options), 5)
        raise again


ENDING = """
import sys, time
import test_tensorflow_batches as ours
from keras_danet.data import tensorflow_batches

read = tensorflow_batches.read_orientation

def slowly(path):
    time.sleep(0.03)
    return read(path)

tensorflow_batches.read_orientation = slowly
pairs = [ours.Pair(*line.split("|")) for line in sys.argv[1:]]
batches = iter(tensorflow_batches.training_dataset(
    pairs, ours.CAMVID, **ours.OPTIONS
))
next(batches)
print("done")
"""


def test_a_process_ends_while_its_stream_is_read_ahead(pairs):
    here = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", ENDING, *map("|".join, pairs)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                map(str, (here.parents[1], here.parent, here))
            ),
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


def test_a_models_error_is_no_files_fault(pairs):
    bad_files = BadFiles(pairs, CAMVID)
    options = {**OPTIONS, "bad_files": bad_files}
    own = tf.errors.InvalidArgumentError(None, None, "Incompatible shapes")
    with pytest.raises(tf.errors.OpError) as caught, readable_errors(bad_files):
        take(training_dataset(pairs, CAMVID, **options), 5)
        Path(pairs[0].image).write_bytes(b"")
        raise own
    assert caught.value is own


def test_what_was_skipped_is_not_blamed_for_another_error(pairs):
    Path(pairs[2].image).write_bytes(b"")
    bad_files = BadFiles(pairs, CAMVID, "skip")
    options = {**OPTIONS, "bad_files": bad_files}
    own = tf.errors.ResourceExhaustedError(None, None, "[[IteratorGetNext/_4]]")
    with pytest.raises(tf.errors.OpError) as caught, readable_errors(bad_files):
        take(training_dataset(pairs, CAMVID, **options), 5)
        raise own
    assert caught.value is own and bad_files.count == 1


def test_not_everything_is_skipped(pairs):
    for pair in pairs:
        Path(pair.image).write_bytes(b"")
    bad_files = BadFiles(pairs, CAMVID, "skip")
    options = {**OPTIONS, "bad_files": bad_files}
    error = pytest.raises(ValueError, match=r"10 examples in a row.*is empty")
    with error, readable_errors(bad_files):
        take(training_dataset(pairs, CAMVID, **options), 1)
    with error:
        TrainingBatches(pairs, CAMVID, **options)[0]
    with pytest.raises(ValueError, match="Received: on_bad_file='ignore'"):
        BadFiles(pairs, CAMVID, "ignore")


@pytest.mark.skipif(
    not CAMVID_ROOT.is_dir(), reason=f"CamVid is not in {CAMVID_ROOT}"
)
def test_camvid_itself():
    for split in ("train", "val"):
        pairs = find_pairs(CAMVID, CAMVID_ROOT, split)[:4]
        found = whole_pairs.with_tensorflow(pairs, CAMVID)
        for (image, label), pair in zip(found, pairs, strict=True):
            assert image.shape == (360, 480, 3)
            assert set(np.unique(label)) <= {*range(11), 255}
            expected = read_in_numpy(pair)
            np.testing.assert_array_equal(image, expected[0])
            np.testing.assert_array_equal(label, expected[1])
