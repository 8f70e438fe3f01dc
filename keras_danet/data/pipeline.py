"""The plan of augmentation applied in `tf.data`: from files to batches."""

import contextlib

import tensorflow as tf

from keras_danet.data.augment import apply_plan
from keras_danet.data.augment import decode_image
from keras_danet.data.augment import decode_label
from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.datasets import INVALID_LABEL
from keras_danet.data.decoding import MAX_PIXELS
from keras_danet.data.decoding import explain_data_error
from keras_danet.data.decoding import read_size
from keras_danet.data.plan import draw_plan
from keras_danet.data.plan import steps_per_epoch

# Enough to hide the pipeline behind the training step; an automatic number
# would grow with the memory it finds.
PREFETCHED_BATCHES = 2


def training_dataset(
    pairs,
    dataset,
    *,
    batch_size,
    crop_size,
    scale_range=(0.5, 2.0),
    seed=0,
    start_epoch=0,
    start_step=0,
):
    """Makes the endless stream of augmented batches that training reads.

    Epoch e is exactly `steps_per_epoch(len(pairs), batch_size)` batches long
    and its batch k is the same wherever the stream starts, so give that
    number to `fit` and start a resumed run where it stopped.

    Args:
        pairs: List of `Pair`, as `find_pairs` gives.
        dataset: A `Dataset`.
        batch_size: Integer, at most the number of pairs.
        crop_size: Pair of integers, the crops' (height, width) in pixels.
        scale_range: Pair of floats, the least and the greatest factor on an
            image's size before it is cropped. Defaults to `(0.5, 2.0)`.
        seed: Integer, of all that is random. Defaults to `0`.
        start_epoch: Integer, where the stream starts. Defaults to `0`.
        start_step: Integer, the first batch's place in that epoch; a number
            beyond its end counts on into the next. What lies before it is
            not decoded. Defaults to `0`.

    Returns:
        `tf.data.Dataset` of (images, labels): float32 (batch_size, height,
        width, 3) RGB in 0-255 and uint8 (batch_size, height, width) train
        ids, 255 for ignored pixels and padding.

    Raises:
        ValueError: if an argument makes no sense. A bad file ends the
            iteration in a `tf.errors.OpError`; `files.explain_data_error`
            turns that into a sentence.

    Example:

    ```python
    pairs = find_pairs(CAMVID, "CamVid", "train")
    batches = training_dataset(
        pairs, CAMVID, batch_size=8, crop_size=(240, 320)
    )
    model.fit(batches, steps_per_epoch=steps_per_epoch(len(pairs), 8))
    ```
    """
    steps = steps_per_epoch(len(pairs), batch_size)
    crop_size = _check_crop_size(crop_size)
    if start_step < 0:
        raise ValueError(
            "`start_step` must not be negative. Received: "
            f"start_step={start_step!r}."
        )
    start_epoch += start_step // steps
    start_step %= steps
    # A wrong seed, epoch or scale is told here; from inside the graph its
    # message would be unreadable.
    draw_plan(seed, start_epoch, len(pairs), scale_range)

    def examples(epoch):
        plan = tf.numpy_function(
            lambda epoch: draw_plan(seed, int(epoch), len(pairs), scale_range),
            [epoch],
            (tf.int64, tf.float32, tf.float32, tf.float32, tf.bool),
        )
        return tf.data.Dataset.from_tensor_slices(
            tuple(
                tf.ensure_shape(part, [len(pairs)])[: steps * batch_size]
                for part in plan
            )
        )

    paths = tf.constant([tuple(pair) for pair in pairs])
    label_map = tf.constant(dataset.label_map, tf.uint8)

    def augmented(index, *plan):
        image, label = _load_pair(paths[index], label_map)
        return apply_plan(image, label, *plan, crop_size=crop_size)

    return (
        tf.data.Dataset.counter(start_epoch)
        .flat_map(examples)
        .skip(start_step * batch_size)
        .map(augmented, tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(PREFETCHED_BATCHES)
    )


def evaluation_dataset(pairs, dataset, *, batch_size=1, pad_last_batch=False):
    """Reads whole images and labels once, in order, as they are.

    Args:
        pairs: List of `Pair`, as `find_pairs` gives.
        dataset: A `Dataset`.
        batch_size: Integer. More than one needs images of one size within
            each batch, which their headers are asked for at once. Defaults
            to `1`.
        pad_last_batch: Boolean, whether to fill up the last batch with
            black images that are ignored everywhere, so that it divides
            among devices. Defaults to `False`.

    Returns:
        `tf.data.Dataset` of (images, labels): uint8 (batch, height, width, 3)
        RGB and uint8 (batch, height, width) train ids, 255 for ignored
        pixels. The last batch may be smaller.

    Raises:
        ValueError: if there are no pairs, or images of different sizes would
            share a batch. A bad file ends the iteration in a
            `tf.errors.OpError`; `files.explain_data_error` turns that into a
            sentence.
    """
    if not pairs or batch_size < 1:
        raise ValueError(
            "Expected at least one pair and a batch size of at least 1. "
            f"Received: {len(pairs)} pairs, batch_size={batch_size!r}."
        )
    if batch_size > 1:
        _check_sizes(pairs, batch_size)
    label_map = tf.constant(dataset.label_map, tf.uint8)
    batches = (
        tf.data.Dataset.from_tensor_slices([tuple(pair) for pair in pairs])
        .map(
            lambda paths: _load_pair(paths, label_map),
            tf.data.AUTOTUNE,
            deterministic=True,
        )
        .batch(batch_size)
    )
    if pad_last_batch:
        batches = batches.map(
            lambda image, label: _pad_batch(image, label, batch_size)
        )
    return batches.prefetch(PREFETCHED_BATCHES)


@contextlib.contextmanager
def readable_errors(pairs, dataset):
    """Turns TensorFlow's errors over bad files into ours, which name them."""
    try:
        yield
    except tf.errors.OpError:
        explain_data_error(pairs, dataset)
        raise


def _load_pair(paths, label_map):
    """uint8 (height, width, 3) image, uint8 (height, width) train ids."""
    image = decode_image(tf.io.read_file(paths[0]))
    raw_label = decode_label(tf.io.read_file(paths[1]))
    label = tf.gather(label_map, tf.cast(raw_label, tf.int32))
    same_size = tf.reduce_all(tf.shape(image)[:2] == tf.shape(label))
    checks = [
        tf.debugging.Assert(
            same_size, ["Image and label differ in size.", paths]
        ),
        tf.debugging.Assert(
            tf.reduce_all(label != INVALID_LABEL),
            ["A label value that the data set does not have.", paths],
        ),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(image), tf.identity(label)


def _pad_batch(image, label, batch_size):
    missing = batch_size - tf.shape(label)[0]
    image = tf.pad(image, [[0, missing], [0, 0], [0, 0], [0, 0]])
    label = tf.pad(
        label,
        [[0, missing], [0, 0], [0, 0]],
        constant_values=tf.constant(IGNORE_LABEL, tf.uint8),
    )
    return image, label


def _check_crop_size(crop_size):
    match crop_size:
        case [int() as height, int() as width] if (
            min(height, width) > 0 and height * width <= MAX_PIXELS
        ):
            return height, width
    raise ValueError(
        "`crop_size` must be two positive integers, (height, width), of at "
        f"most {MAX_PIXELS} pixels. "
        f"Received: crop_size={crop_size!r}."
    )


def _check_sizes(pairs, batch_size):
    sizes = [read_size(pair.image) for pair in pairs]
    for index, size in enumerate(sizes):
        first = index - index % batch_size
        if size != sizes[first]:
            raise ValueError(
                f"Images of different sizes cannot share a batch: "
                f"{pairs[first].image} has (height, width) {sizes[first]} and "
                f"{pairs[index].image} has {size}. Use batch_size=1."
            )
