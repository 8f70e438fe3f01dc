"""Whole images and labels, read with Pillow and with TensorFlow."""

from keras_danet.data.bad_files import BadFiles
from keras_danet.data.decoding import read_pair


def with_pillow(pairs, dataset):
    return [read_pair(pair, dataset) for pair in pairs]


def with_tensorflow(pairs, dataset):
    import tensorflow as tf

    from keras_danet.data.tensorflow_batches import readable_errors
    from keras_danet.data.tensorflow_batches import whole_pair

    bad_files = BadFiles(pairs, dataset)
    bad_files.remember(len(pairs))
    with readable_errors(bad_files):
        numbers = tf.data.Dataset.range(len(pairs))
        return list(numbers.map(whole_pair(bad_files)).as_numpy_iterator())
