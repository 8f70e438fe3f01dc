"""A short training in a process of its own, for `distribution/test_engines.py`.

    python tests/distributed_training.py OUT.npz '{"name": "mirrored", ...}'

Labels are ignored very unevenly: the first replica has next to none, another
nothing else. All is computed in float64: in float32 the order of sums alone
moves weights near 0 by a hundredth, and flips classes that are almost tied.
Keys of the settings beside those of `scope`: `optimizer`, the
arguments of `SGD`; `replicas`, how many to expect; `save`, a path for the
model; `fixed`, whether Keras is fixed.
"""

import json
import sys

import keras
import numpy as np

from keras_danet import SGD
from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import PixelCrossentropy
from keras_danet.distribution import engines as distribution
from keras_danet.distribution import keras_fixes
from keras_danet.metrics import SegmentationMetrics

STEPS, BATCH, SIZE, CLASSES = 5, 8, (32, 48), 4


def examples():
    rng = np.random.default_rng(0)
    count = STEPS * BATCH
    images = rng.integers(0, 256, (count, *SIZE, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, (count, *SIZE)).astype("uint8")
    # By the place in the batch, and another in every step.
    ignored = np.resize([1.0, 1.0, 0.99, 0.1, 0.5, 0.0, 0.9, 0.97], count)
    ignored = ignored.reshape(STEPS, BATCH)
    for step in range(STEPS):
        ignored[step] = np.roll(ignored[step], 3 * step)
    drawn = rng.uniform(size=labels.shape)
    labels[drawn < ignored.reshape(count, 1, 1)] = 255
    return images, labels


def batches(placement, images, labels):
    """This process's share of every batch, as `fit` is to be given it."""
    which, workers = placement.shard
    shares = [
        part.reshape(STEPS, workers, BATCH // workers, *part.shape[1:])
        for part in (images, labels)
    ]
    shares = [part[:, which] for part in shares]
    if keras.backend.backend() == "tensorflow":
        tf = sys.modules["tensorflow"]
        shares = tf.data.Dataset.from_tensor_slices(tuple(shares))
        return placement.distribute(shares)
    return Shares(*shares)


class Shares(keras.utils.PyDataset):
    def __init__(self, images, labels):
        super().__init__()
        self.shares = images, labels

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return tuple(part[index] for part in self.shares)


def main(path, settings):
    save, clip, replicas = (
        settings.pop(key, None) for key in ("save", "optimizer", "replicas")
    )
    if not settings.pop("fixed", True):
        keras_fixes.VERSIONS = ()
    with distribution.scope(**settings) as placement:
        assert placement.num_replicas == (replicas or 1), placement
        keras.utils.set_random_seed(0)
        model = DANet(
            CLASSES,
            DilatedResNet(18, filters=8, dtype="float64"),
            dropout=0,
            dtype="float64",
        )
        model.get_layer("position_attention").gamma.assign(0.7)
        model.get_layer("channel_attention").gamma.assign(-0.6)
        metric = SegmentationMetrics(CLASSES, name="mean_iou")
        model.compile(
            SGD(0.01, weight_decay=1e-3, **(clip or {})),
            loss=PixelCrossentropy(dtype="float64"),
            # What MirroredStrategy's replicas exchange cannot be compiled;
            # JAX is nothing without.
            metrics=[metric],
            jit_compile=keras.backend.backend() == "jax",
        )
        images, labels = examples()
        history = model.fit(
            batches(placement, images, labels),
            steps_per_epoch=STEPS,
            verbose=0,
            shuffle=False,
        ).history
        trained = metric.confusion_matrix()
        scores = model.evaluate(
            batches(placement, images, labels),
            steps=STEPS,
            verbose=0,
            return_dict=True,
        )
        found = {
            "confusion": trained,
            "val_confusion": metric.confusion_matrix(),
            **{f"log_{key}": value[0] for key, value in history.items()},
            **{f"val_{key}": value for key, value in scores.items()},
            **{
                f"weight/{variable.path}": np.array(
                    keras.ops.convert_to_numpy(variable)
                )
                for variable in model.variables
                if "seed" not in variable.path
            },
        }
        if save:
            # Every worker must: TensorFlow's exchange something as they do.
            model.save(save if placement.is_chief else f"{save}.other.keras")
        if placement.is_chief:
            np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
