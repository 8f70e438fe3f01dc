"""Short trainings by plain Keras, in a process of their own.

    python tests/plain_training.py OUT.npz ENGINE REPLICAS

Nothing of `keras_danet.trainer` or `distribution` is used: the strategy or
distribution is made as a reader of Keras's documentation makes it. Eight
images in each step, of which the second half is three quarters ignored; then,
where the engine takes it, an uneven batch of seven. Computed in float64.
"""

import json
import os
import sys

import keras
import numpy as np

from keras_danet import SGD
from keras_danet import DANet
from keras_danet import SegmentationMetrics
from keras_danet import losses
from keras_danet.layers import BatchNormalization
from keras_danet.layers import Conv2D

CLASSES, SIZE = 3, (16, 24)
WEIGHTS = (1.0, 3.0, 0.5)
# By default three steps of eight images.
EIGHTS, SEVENS, ONE_LEFT = (8, 8, 8), (7, 7), (8, 1)
WIDE = {"dtype": "float64"}


def examples(sizes):
    rng = np.random.default_rng(0)
    count = sum(sizes)
    images = rng.integers(0, 256, (count, *SIZE, 3)).astype("float64")
    labels = rng.integers(0, CLASSES, (count, *SIZE)).astype("uint8")
    place = np.concatenate([np.arange(size) for size in sizes])
    labels[(place >= 4)[:, None, None] & (rng.random(labels.shape) < 0.75)] = (
        255
    )
    return images, labels


def network(regularizer, attention, batch_norm=BatchNormalization):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3), dtype="float64")
    x = Conv2D(
        32,
        3,
        2,
        "same",
        data_format="channels_last",
        dtype="float64",
        kernel_regularizer=regularizer,
    )(inputs)
    x = batch_norm(dtype="float64")(x)
    x = keras.layers.Activation("relu", dtype="float64")(x)
    backbone = keras.Model(inputs, {"stage4": x})
    model = DANet(CLASSES, backbone, attention, dropout=0.0, **WIDE)
    for kind, gamma in (("position", 0.7), ("channel", -0.6)):
        if kind in attention:
            model.get_layer(f"{kind}_attention").gamma.assign(gamma)
    return model


def mean_of_pixels(labels, logits):
    """A user's own loss: one number, over what is labelled."""
    labels = keras.ops.cast(labels, "int32")
    valid = labels != 255
    pixels = keras.ops.sparse_categorical_crossentropy(
        keras.ops.where(valid, labels, 0), logits, from_logits=True
    )
    valid = keras.ops.cast(valid, pixels.dtype)
    return keras.ops.sum(pixels * valid) / keras.ops.sum(valid)


class Wrapped(keras.losses.Loss):
    """A user's loss around one of the package's."""

    def call(self, labels, logits):
        return 2 * losses.PixelCrossentropy(**WIDE)(labels, logits)


def cross(**options):
    return losses.PixelCrossentropy(**WIDE, **options)


def keras_cross(**options):
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, **WIDE, **options
    )


# Name -> arguments of `train`.
CASES = {
    "auto": {"attention": ("position", "channel")},
    "crossentropy": {"loss": cross},
    "weights": {
        "loss": lambda: cross(class_weights=WEIGHTS, label_smoothing=0.1)
    },
    "sum": {"loss": lambda: cross(reduction="sum"), "rate": 1e-5},
    "mean by weights": {
        "loss": lambda: cross(reduction="mean_with_sample_weight"),
        "sample_weight": "pixels",
    },
    "by pixel": {"loss": cross, "sample_weight": "pixels"},
    "by image": {"loss": cross, "sample_weight": "images"},
    "ohem": {"loss": lambda: losses.OhemCrossentropy(min_kept=9, **WIDE)},
    "focal": {"loss": lambda: losses.FocalLoss(class_weights=WEIGHTS, **WIDE)},
    "dice": {"loss": lambda: losses.DiceLoss(**WIDE)},
    "dice sum": {"loss": lambda: losses.DiceLoss(reduction="sum", **WIDE)},
    "lovasz": {"loss": lambda: losses.LovaszSoftmax(**WIDE)},
    "lovasz per image": {
        "loss": lambda: losses.LovaszSoftmax(per_image=True, **WIDE)
    },
    "sum of losses": {
        "loss": lambda: losses.SumOfLosses(
            [
                (1.0, cross()),
                (0.5, losses.DiceLoss(**WIDE)),
                (0.3, losses.LovaszSoftmax(**WIDE)),
                (0.2, keras_cross(ignore_class=255)),
            ]
        )
    },
    "of keras": {"loss": lambda: keras_cross(ignore_class=255)},
    "of keras, sum": {
        "loss": lambda: keras_cross(ignore_class=255, reduction="sum"),
        "rate": 1e-5,
    },
    "of keras, weighted": {
        "loss": lambda: keras_cross(ignore_class=255),
        "sample_weight": "pixels",
    },
    "function": {"loss": lambda: mean_of_pixels},
    "wrapped": {"loss": Wrapped},
    "loss weights": {
        "loss": cross,
        "loss_weights": {"fusion": 1.0, "position": 0.3, "channel": 2.0},
        "attention": ("position", "channel"),
    },
    "batch norm of keras": {
        "loss": cross,
        "batch_norm": keras.layers.BatchNormalization,
    },
    "regularized": {"loss": cross, "regularizer": "l2"},
    "global clipnorm": {"loss": cross, "optimizer": {"global_clipnorm": 0.1}},
    "clipnorm": {"loss": cross, "optimizer": {"clipnorm": 0.05}},
    "clipvalue": {"loss": cross, "optimizer": {"clipvalue": 0.01}},
    "averages": {
        "loss": cross,
        "optimizer": {"use_ema": True, "ema_momentum": 0.5},
    },
    "uneven": {"loss": cross, "sizes": SEVENS},
    "uneven, regions": {
        "loss": lambda: losses.SumOfLosses(
            [
                (1.0, losses.DiceLoss(**WIDE)),
                (1.0, losses.LovaszSoftmax(per_image=True, **WIDE)),
                (0.3, losses.LovaszSoftmax(**WIDE)),
            ]
        ),
        "sizes": SEVENS,
    },
    "uneven, of keras": {
        "loss": lambda: keras_cross(ignore_class=255),
        "sizes": SEVENS,
    },
    "one left": {"loss": cross, "sizes": ONE_LEFT},
    "together": {
        "loss": lambda: cross(class_weights=WEIGHTS, reduction="sum"),
        "rate": 1e-3,
        "sample_weight": "pixels",
        "regularizer": "l2",
        "optimizer": {
            "clipvalue": 0.01,
            "use_ema": True,
            "ema_momentum": 0.5,
        },
    },
    "one by one": {
        "loss": lambda: cross(reduction="sum"),
        "rate": 1e-5,
        "sample_weight": "images",
        "on_batch": True,
    },
}


def train(
    scope,
    loss=None,
    rate=0.05,
    sample_weight=None,
    loss_weights=None,
    regularizer=None,
    optimizer=None,
    sizes=EIGHTS,
    attention=(),
    on_batch=False,
    batch_norm=BatchNormalization,
):
    """The weights, logs and counts that a training ends with."""
    images, labels = examples(sizes)
    arrays = [images, labels]
    if sample_weight:
        rng = np.random.default_rng(1)
        shape = labels.shape if sample_weight == "pixels" else labels.shape[:1]
        arrays.append(rng.uniform(0.2, 3, shape))
    # One device sees batches of these sizes; so do several together.
    ends = np.cumsum(sizes)[:-1]
    batches = list(zip(*(np.split(x, ends) for x in arrays), strict=True))
    with scope():
        model = network(regularizer, attention, batch_norm)
        metric = SegmentationMetrics(CLASSES, name="mean_iou")
        model.compile(
            SGD(rate, 0.9, 1e-3, **(optimizer or {})),
            loss() if loss else "auto",
            loss_weights=loss_weights,
            metrics=[metric],
        )
    given = Given(batches)
    if keras.backend.backend() == "tensorflow":
        given = as_tf_data(batches)
    if on_batch:
        for batch in batches:
            logs = model.train_on_batch(*batch, return_dict=True)
    else:
        logs = model.fit(given, shuffle=False, verbose=0).history
        logs = {key: value[0] for key, value in logs.items()}
    scores = model.evaluate(given, verbose=0, return_dict=True)
    logs |= {f"val_{key}": value for key, value in scores.items()}
    found = {f"log/{key}": float(value) for key, value in logs.items()}
    found["confusion"] = metric.confusion_matrix()
    images = images[: sizes[0]]
    found["predicted"] = model.predict(images, sizes[0], verbose=0)
    for variable in model.variables:
        if "seed" not in variable.path:
            value = keras.ops.convert_to_numpy(variable)
            found[f"weight/{variable.path}"] = np.array(value)
    return found


class Given(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def as_tf_data(batches):
    import tensorflow as tf

    sizes = {len(batch[0]) for batch in batches}
    whole = tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))
    data = tf.data.Dataset.from_tensor_slices(whole).batch(max(sizes))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return data.with_options(options)


def make_scope(engine, replicas):
    """What a user opens before the model is built."""
    if engine == "none":
        import contextlib

        return contextlib.nullcontext
    if engine == "data_parallel":
        import jax

        jax.config.update("jax_num_cpu_devices", replicas)
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        return make_scope("none", 1)
    import tensorflow as tf

    if engine == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy().scope
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    names = [f"CPU:{index}" for index in range(replicas)]
    return tf.distribute.MirroredStrategy(names).scope


def main(path, engine, replicas, *names):
    scope = make_scope(engine, int(replicas))
    found = {}
    for name in names or CASES:
        result = train(scope, **CASES[name])
        found |= {f"{name}/{key}": value for key, value in result.items()}
    if '"index": 1' not in os.environ.get("TF_CONFIG", ""):
        np.savez(path, **found)


if __name__ == "__main__":
    if sys.argv[1:] == ["--names"]:
        print(json.dumps(list(CASES)))
    else:
        main(*sys.argv[1:])
