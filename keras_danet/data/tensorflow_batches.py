"""The plan of augmentation applied in `tf.data`: from files to batches."""

import atexit
import contextlib
import os
import threading
import time

import numpy as np
import tensorflow as tf

from keras_danet.data.augment import apply_plan
from keras_danet.data.augment import check_values
from keras_danet.data.augment import decode_color_label
from keras_danet.data.augment import decode_image
from keras_danet.data.augment import decode_label
from keras_danet.data.augment import to_train_ids
from keras_danet.data.augment import turn
from keras_danet.data.decoding import read_orientation
from keras_danet.data.label_values import label_table
from keras_danet.data.plan import Plan
from keras_danet.data.stream import Stream

# Enough to hide the pipeline behind the training step; an automatic number
# would grow with the memory it finds.
PREFETCHED_BATCHES = 2
# Not `tf.data.AUTOTUNE`: TensorFlow 2.21 may wait for ever for the thread that
# tunes a stream if the stream ends as soon as it has begun.
NUM_CALLS = os.cpu_count() or 1
FIXED = tf.data.Options()
FIXED.autotune.enabled = False
# Nothing here needs AutoGraph, which would take a second to rewrite it.
_as_it_is = tf.autograph.experimental.do_not_convert


class _End:
    """Lets streams that still read ahead stop before Python exits.

    Their threads call Python. If it has exited, destroying an iterator would
    wait for them for ever.
    """

    # Longer than reading an example takes, during which there is no call.
    QUIET_SECONDS = 0.5

    def __init__(self):
        self.is_near = threading.Event()
        self.last_call = -self.QUIET_SECONDS
        atexit.register(self.wait)

    def check(self):
        self.last_call = time.monotonic()
        if self.is_near.is_set():
            raise RuntimeError("This process ends.")

    def wait(self):
        self.is_near.set()
        while time.monotonic() < self.last_call + self.QUIET_SECONDS:
            time.sleep(self.QUIET_SECONDS / 10)


_end = _End()


def training_dataset(*data, **options):
    """The batches of a `Stream`, read and augmented by `tf.data`.

    Args:
        *data, **options: Those of `Stream`.

    Returns:
        `tf.data.Dataset` of (images, labels): float32 (batch_size / workers,
        height, width, 3) RGB in 0-255 and uint8 (batch_size / workers,
        height, width) train ids, 255 for ignored pixels and padding.

    Raises:
        ValueError: if an argument is not valid. A bad file ends the iteration
            with a `tf.errors.OpError`, which `readable_errors` turns into a
            readable message.

    Example:

    ```python
    pairs = find_pairs(CAMVID, "CamVid", "train")
    batches = training_dataset(
        pairs, CAMVID, Augmentation(crop_size=(240, 320)), batch_size=8
    )
    model.fit(batches, steps_per_epoch=steps_per_epoch(len(pairs), 8))
    ```
    """
    stream = Stream(*data, **options)
    # More examples than are begun before the first one is requested; the
    # iterators of a strategy hold a few more batches.
    in_flight = 2 * (PREFETCHED_BATCHES + 2) * stream.share + 4 * NUM_CALLS
    stream.bad_files.remember(in_flight)
    start_epoch, start_step = stream.start

    def decisions(epoch):
        _end.check()
        return list(stream.draw(int(epoch)))

    # A wrong seed or epoch raises here; from inside the graph the message
    # would be unreadable.
    first = decisions(start_epoch)

    @_as_it_is
    def examples(epoch):
        drawn = tf.numpy_function(
            decisions, [epoch], [field.dtype for field in first]
        )
        return tf.data.Dataset.from_tensor_slices(
            tuple(
                tf.ensure_shape(part, field.shape)
                for part, field in zip(drawn, first, strict=True)
            )
        )

    read = _reader(stream.bad_files)
    table = label_table(stream.dataset)

    def load(index, *fields):
        image, label = read(index)
        decisions = Plan(index, *fields)
        if stream.dataset.label_colors:
            label = to_train_ids(label, table)
            return apply_plan(image, label, decisions, stream.augmentation)
        label = check_values(label, table)
        return apply_plan(image, label, decisions, stream.augmentation, table)

    @_as_it_is
    def augmented(candidates, *fields):
        return _first_good(
            candidates, lambda index: load(index, *fields), stream.bad_files
        )

    return (
        tf.data.Dataset.counter(start_epoch)
        .flat_map(examples)
        .skip(start_step * stream.share)
        .map(augmented, NUM_CALLS, deterministic=True)
        .batch(stream.share, drop_remainder=True)
        .prefetch(PREFETCHED_BATCHES)
        .with_options(FIXED)
    )


@contextlib.contextmanager
def readable_errors(bad_files):
    """Turns TensorFlow's errors about bad files into ours, which name them.

    Raises:
        ValueError: in place of a `tf.errors.OpError` about a bad file.
    """
    try:
        yield
    except tf.errors.OpError as error:
        # An error of the model is not a file's fault.
        if "GetNext" in str(error):
            _blame(bad_files, str(error))
        raise


def _blame(bad_files, message):
    """Raises the error for the file begun last that cannot be read.

    TensorFlow does not say which one it was, so all are read again.
    """
    indices = bad_files.recent()
    if not indices:
        return
    again = tf.data.Dataset.from_tensor_slices(indices).map(
        whole_pair(bad_files)
    )
    good = 0
    try:
        for _ in again.with_options(FIXED):
            good += 1
    except tf.errors.OpError:
        bad_files.give_up(indices[good])
    # A failed disk may have recovered; its error does name a file.
    for index in indices:
        if any(path in message for path in bad_files.pairs[index]):
            bad_files.give_up(index)


def _first_good(candidates, load, bad_files):
    """Loads the first of an example's candidates that can be loaded.

    In a data set of its own: only a data set survives an error in a graph.
    """
    if bad_files.num_tries == 1:
        return load(candidates[0])
    numbered = tf.data.Dataset.from_tensor_slices(candidates).enumerate()
    tried = numbered.map(lambda number, index: (number, load(index)))
    number, loaded = tried.ignore_errors().take(1).get_single_element()

    def log(indices):
        for index in indices:
            bad_files.skip(int(index))
        return np.int64(len(indices))

    skipped = tf.cond(
        number > 0,
        lambda: tf.numpy_function(log, [candidates[:number]], tf.int64),
        lambda: tf.constant(0, tf.int64),
    )
    with tf.control_dependencies([skipped]):
        return tf.nest.map_structure(tf.identity, loaded)


def whole_pair(bad_files):
    """A graph function from a pair's index to its image and train ids."""
    read, table = _reader(bad_files), label_table(bad_files.dataset)

    @_as_it_is
    def load(index):
        image, label = read(index)
        return image, to_train_ids(label, table)

    return load


def _reader(bad_files):
    """A graph function from a pair's index to its image and raw label."""
    is_colored = bad_files.dataset.label_colors
    decode = decode_color_label if is_colored else decode_label

    def begin(index):
        _end.check()
        pair = bad_files.begin(int(index))
        # Refuses a pipe, which TensorFlow would wait for, and huge files.
        turns = np.array([read_orientation(path) for path in pair])
        # As bytes, because a name need not be valid text.
        return np.array([os.fsencode(path) for path in pair], object), turns

    def read(index):
        paths, turns = tf.numpy_function(begin, [index], (tf.string, tf.int64))
        image_path, label_path = tf.unstack(tf.ensure_shape(paths, [2]))
        turns = tf.ensure_shape(turns, [2])
        image = turn(decode_image(tf.io.read_file(image_path)), turns[0])
        label = turn(decode(tf.io.read_file(label_path)), turns[1])
        check = tf.debugging.Assert(
            tf.reduce_all(tf.shape(image)[:2] == tf.shape(label)[:2]),
            ["Image and label differ in size."],
        )
        with tf.control_dependencies([check]):
            return tf.identity(image), tf.identity(label)

    return read
