"""Whole images and labels, read with Pillow and with TensorFlow."""

from keras_danet.data.bad_files import BadFiles
from keras_danet.data.decoding import read_pair


def with_pillow(pairs, dataset):
    return [read_pair(pair, dataset) for pair in pairs]


def with_tensorflow(pairs, dataset):
    import tensorflow as tf

    from keras_danet.data import tensorflow_batches

    bad_files = BadFiles(pairs, dataset)
    bad_files.remember(len(pairs))
    with tensorflow_batches.readable_errors(bad_files):
        numbers = tf.data.Dataset.range(len(pairs))
        whole = numbers.map(tensorflow_batches.whole_pair(bad_files))
        # Without TensorFlow's tuning, which may hang where a stream is short.
        fixed = whole.with_options(tensorflow_batches.FIXED)
        return list(fixed.as_numpy_iterator())
