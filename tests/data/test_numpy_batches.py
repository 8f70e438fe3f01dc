"""The loader beside tf.data: photographs, processes, vast scales, alignment."""

import os
import subprocess
import sys
import tracemalloc
from itertools import islice

import numpy as np
import pytest
import references
import whole_pairs
from conftest import ROOT
from conftest import one_backend
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies
from PIL import Image
from PIL import ImageOps

from keras_danet.data import numpy_batches
from keras_danet.data.datasets import CAMVID
from keras_danet.data.files import Pair
from keras_danet.data.files import find_pairs
from keras_danet.data.folder import open_dataset
from keras_danet.data.numpy_batches import TrainingBatches
from keras_danet.data.plan import Augmentation
from keras_danet.data.plan import Plan
from keras_danet.data.plan import draw_plan

tf = pytest.importorskip("tensorflow")

from keras_danet.data import augment  # noqa: E402
from keras_danet.data.tensorflow_batches import training_dataset  # noqa: E402

pytestmark = one_backend


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"quality": 75}),
        ("RGB", {"quality": 95, "subsampling": 0}),
        ("RGB", {"quality": 85, "progressive": True}),
        ("L", {"quality": 80}),
    ],
    ids=["4:2:0", "4:4:4", "progressive", "grey"],
)
def test_jpeg_photographs_give_the_same_crops(
    camvid_root, tmp_path, mode, options
):
    pairs = []
    for number, pair in enumerate(find_pairs(CAMVID, camvid_root, "train")[:4]):
        path = str(tmp_path / f"{number}.jpg")
        with Image.open(pair.image) as image:
            image.convert(mode).save(path, **options)
        pairs.append(Pair(path, pair.label))
    augmentation = Augmentation(
        (300, 400),
        max_class_share=0.75,
        brightness=32,
        contrast=0.5,
        saturation=0.5,
        hue=36,
        blur=1,
    )
    arguments = pairs, CAMVID, augmentation
    ours = TrainingBatches(*arguments, batch_size=4, seed=11)
    theirs = training_dataset(*arguments, batch_size=4, seed=11)
    for number, (images, labels) in enumerate(islice(theirs, 3)):
        np.testing.assert_array_equal(ours[number][1], labels)
        for left, right in zip(ours[number][0], images.numpy(), strict=True):
            near = (np.abs(left - right) <= 1).all(axis=-1)
            assert near.mean() >= 0.99


# Its own process, for Keras on another backend. What `fit` gets is what the
# model sees; that is not built yet, so that `fit` reads a batch beforehand to
# learn its shape.
IN_THREADS = """
import sys
import keras
import numpy as np
from keras_danet.data.bad_files import BadFiles
from keras_danet.data.datasets import CAMVID
from keras_danet.data.files import Pair
from keras_danet.data.numpy_batches import TrainingBatches
from keras_danet.data.plan import Augmentation

class Seen(keras.Model):
    batches = []

    def call(self, images):
        return images

    def train_step(self, data):
        self.batches.append([part.numpy() for part in data])
        return {}

pairs = [Pair(*line.split("|")) for line in sys.argv[1:]]
model = Seen()
model.compile()
arguments = pairs, CAMVID, Augmentation((8, 9), blur=1, hue=36)
options = {"batch_size": 2, "seed": 5, "start_step": 1}

def files():
    return BadFiles(pairs, CAMVID, "skip")

batches = TrainingBatches(*arguments, bad_files=files(), workers=2, **options)
model.fit(batches, epochs=2, steps_per_epoch=3, shuffle=False, verbose=0)
alone = TrainingBatches(*arguments, bad_files=files(), **options)
assert len(model.batches) == 6
for number, seen in enumerate(model.batches):
    for left, right in zip(seen, alone[number]):
        np.testing.assert_array_equal(left, right)
skipped = [each.stream.bad_files.count for each in (alone, batches)]
assert skipped == [1, 1], skipped
batches = TrainingBatches(*arguments, workers=2, **options)
try:
    model.fit(batches, steps_per_epoch=3, shuffle=False, verbose=0)
except ValueError as error:
    print(error)
"""


def test_fit_gets_each_batch_once_in_order(tmp_path):
    draw = np.random.default_rng(4)
    lines = []
    for number in range(5):
        paths = [str(tmp_path / f"{number}{kind}.png") for kind in "il"]
        image = draw.integers(0, 256, (12, 14, 3), np.uint8)
        Image.fromarray(image).save(paths[0])
        label = draw.integers(0, 12, (12, 14), np.uint8)
        Image.fromarray(label).save(paths[1])
        lines.append("|".join(paths))
    open(tmp_path / "0i.png", "w").close()
    result = subprocess.run(
        [sys.executable, "-c", IN_THREADS, *lines],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KERAS_BACKEND": "torch",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    # By each of the two that may skip, and once.
    assert result.stderr.count("Skipped: ") == 2
    assert "0i.png cannot be read: it is empty (0 bytes)" in result.stdout


def decisions(augmentation, seed, **values):
    plan = Plan(*(field[0] for field in draw_plan(seed, 0, 1, augmentation)))
    return plan._replace(**values)


def with_tensorflow(image, label, plan, augmentation):
    """Untraced, because a trace for each set of constants takes seconds."""
    plan = Plan(*(tf.constant(field) for field in plan))
    parts = augment.apply_plan(
        tf.constant(image), tf.constant(label), plan, augmentation
    )
    return [part.numpy() for part in parts]


BOTH = pytest.mark.parametrize(
    "apply", [with_tensorflow, numpy_batches.apply_plan], ids=["tf", "numpy"]
)


@BOTH
@pytest.mark.parametrize(
    ("size", "scale"),
    # Scaled wholly, it would have 10**10 pixels; or a side of 100,000.
    [((400, 400), 250), ((50_000, 2), 2), ((2, 50_000), 2)],
)
def test_only_the_crop_is_resampled(apply, size, scale):
    draw = np.random.default_rng(1)
    image = draw.integers(0, 256, (*size, 3), np.uint8)
    label = draw.integers(0, 11, size, np.uint8)
    augmentation = Augmentation((24, 32), (scale, scale), flip=0)
    plan = decisions(augmentation, 3)
    tracemalloc.start()
    pixels, labels = apply(image, label, plan, augmentation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23
    places, inside = [], []
    for side, crop, fraction in zip(
        size, (24, 32), (plan.crop_y[0], plan.crop_x[0]), strict=True
    ):
        offset = int(float(fraction) * (max(side * scale - crop, 0) + 1))
        inside.append(min(side * scale, crop))
        places.append((offset + np.arange(inside[-1]) + 0.5) / scale)
    rows, columns = (np.int64(place) for place in places)
    np.testing.assert_array_equal(
        labels[: inside[0], : inside[1]], label[np.ix_(rows, columns)]
    )
    # One axis after the other, between the centres of pixels.
    expected = image.astype("float64")
    for axis, place in enumerate(places):
        expected = np.apply_along_axis(
            lambda line, place=place: np.interp(
                place, np.arange(len(line)) + 0.5, line
            ),
            axis,
            expected,
        )
    np.testing.assert_allclose(
        pixels[: inside[0], : inside[1]], expected, atol=0.1
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    size=strategies.tuples(*[strategies.integers(1, 60)] * 2),
    crop_size=strategies.tuples(*[strategies.integers(1, 60)] * 2),
    scale=strategies.floats(0.25, 3, width=32),
    flip=strategies.booleans(),
    axis=strategies.sampled_from([0, 1]),
    seed=strategies.integers(0, 2**32 - 1),
)
def test_image_and_label_stay_aligned(size, crop_size, scale, flip, axis, seed):
    """A pixel's row, or column, is its colour and its label."""
    label = np.indices(size, dtype=np.uint8)[axis]
    image = np.repeat(label[..., np.newaxis], 3, axis=-1)
    augmentation = Augmentation(crop_size, (scale, scale))
    plan = decisions(augmentation, seed, flip=np.bool_(flip))
    scaled = max(np.floor(size[axis] * np.float64(np.float32(scale)) + 0.5), 1)
    # Where a shrinking filter is cut off at the image's edge, its centre
    # moves.
    reach = size[axis] / scaled
    margin = np.ceil(reach) if reach > 1 else 0
    for apply in (with_tensorflow, numpy_batches.apply_plan):
        pixels, labels = apply(image, label, plan, augmentation)
        padding = labels == 255
        np.testing.assert_array_equal(
            pixels[padding],
            np.tile(np.float32(augmentation.mean_pixel), (padding.sum(), 1)),
        )
        assert (pixels[~padding] <= 60).all()
        inner = ~padding & (labels >= margin) & (labels < size[axis] - margin)
        error = np.abs(pixels[inner] - labels[inner][:, np.newaxis])
        # Half a source pixel, and of float32 what it rounds.
        assert error.max(initial=0) <= 0.5 + 1e-3
        # Along the axis both rise, or fall where it is mirrored.
        line = np.moveaxis(labels, axis, 0)[:, 0].astype(int)
        line = line[line != 255]
        step = -1 if flip and axis == 1 else 1
        assert (np.diff(line) * step >= 0).all()


def test_a_folder_of_colours_and_a_table_in_both_loaders(tmp_path):
    (tmp_path / "classes.json").write_text(
        '{"labels": "colors", "ignore": [[0, 0, 0]], "classes": ['
        '{"name": "road", "color": [128, 64, 128]},'
        '{"name": "car", "color": [0, 0, 142]}]}'
    )
    (tmp_path / "pairs.csv").write_text(
        "image,label,split\na.png,b.png,train\na.png,c.png,val\n"
    )
    colors = np.uint8([[0, 0, 0], [128, 64, 128], [0, 0, 142]])
    numbers = np.random.default_rng(0).integers(0, 3, (20, 24))
    train_ids = np.uint8([255, 0, 1])[numbers]
    image = np.uint8(np.random.default_rng(1).integers(0, 256, (20, 24, 3)))
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(colors[numbers]).save(tmp_path / "b.png")
    # The same, of a palette.
    palette = Image.fromarray(np.uint8(numbers), "P")
    palette.putpalette(colors.tobytes())
    palette.save(tmp_path / "c.png", transparency=b"\0\x40")
    dataset = open_dataset("folder", tmp_path)
    augmentation = Augmentation((16, 40), max_class_share=0.75)
    for split in ("train", "val"):
        pairs = find_pairs(dataset, tmp_path, split)
        arguments = pairs, dataset, augmentation
        for read in (whole_pairs.with_pillow, whole_pairs.with_tensorflow):
            ((pixels, labels),) = read(pairs, dataset)
            np.testing.assert_array_equal(pixels, image)
            np.testing.assert_array_equal(labels, train_ids)
        plan = decisions(augmentation, 8)
        _, expected = references.augment(image, train_ids, plan, augmentation)
        options = {"batch_size": 1, "seed": 8}
        stream = training_dataset(*arguments, **options)
        for _, labels in (
            TrainingBatches(*arguments, **options)[0],
            next(stream.as_numpy_iterator()),
        ):
            np.testing.assert_array_equal(labels[0], expected)


def test_both_loaders_turn_every_orientation(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 24, 3), "uint8"))
    label = Image.fromarray(rng.integers(0, 11, (16, 24), "uint8"))
    pairs = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pair = [
            str(tmp_path / f"{orientation}{end}")
            for end in (".jpg", ".png", "l.png")
        ]
        image.save(pair[0], exif=exif)
        image.save(pair[1], exif=exif)
        label.save(pair[2], exif=exif)
        pairs += [Pair(pair[0], pair[2]), Pair(pair[1], pair[2])]
    expected = []
    for pair in pairs:
        with Image.open(pair.image) as image, Image.open(pair.label) as label:
            upright = [ImageOps.exif_transpose(part) for part in (image, label)]
            expected.append([np.array(part) for part in upright])
    for read in (whole_pairs.with_pillow, whole_pairs.with_tensorflow):
        found = read(pairs, CAMVID)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])
