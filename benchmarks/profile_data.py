"""Where the CPU time of reading training data in `tf.data` goes.

    KERAS_DANET_CAMVID=CamVid python benchmarks/profile_data.py

CPU milliseconds an example, of all threads: the whole pipeline, the same where
bad files are skipped (for which a data set is nested around each example), and
decoding its two files alone.
"""

import os
import sys
import time

import tensorflow as tf

from keras_danet.data.augment import decode_image
from keras_danet.data.augment import decode_label
from keras_danet.data.bad_files import BadFiles
from keras_danet.data.datasets import CAMVID
from keras_danet.data.files import find_pairs
from keras_danet.data.plan import Augmentation
from keras_danet.data.tensorflow_batches import training_dataset

BATCH_SIZE = 8
WARM, MEASURED = 20, 100


def augmented(pairs, policy="error"):
    return training_dataset(
        pairs,
        CAMVID,
        Augmentation((360, 360), max_class_share=0.75),
        batch_size=BATCH_SIZE,
        bad_files=BadFiles(pairs, CAMVID, policy),
    )


def skipping(pairs):
    return augmented(pairs, "skip")


def decoded(pairs):
    def decode(image, label):
        return (
            decode_image(tf.io.read_file(image)),
            decode_label(tf.io.read_file(label)),
        )

    paths = tuple(map(list, zip(*pairs, strict=True)))
    files = tf.data.Dataset.from_tensor_slices(paths).repeat()
    return files.map(decode, tf.data.AUTOTUNE).batch(BATCH_SIZE)


def main():
    root = os.environ.get("KERAS_DANET_CAMVID")
    if root is None:
        sys.exit("Set KERAS_DANET_CAMVID to the folder of CamVid.")
    pairs = find_pairs(CAMVID, root, "train")
    print("| | CPU ms / example | examples / s |\n|---|---|---|")
    for name, make in (
        ("all", augmented),
        ("all, skipping", skipping),
        ("decoding alone", decoded),
    ):
        batches = iter(make(pairs))
        for _ in range(WARM):
            next(batches)
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(MEASURED):
            next(batches)
        count = MEASURED * BATCH_SIZE
        cpu = 1e3 * (time.process_time() - cpu) / count
        rate = count / (time.perf_counter() - start)
        print(f"| {name} | {cpu:.2f} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
