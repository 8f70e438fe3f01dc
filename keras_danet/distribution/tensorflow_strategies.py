"""TensorFlow's strategies: several GPUs, several workers, a TPU."""

import contextlib
import json
import os
import re
import sys

import keras
import numpy as np

from keras_danet.distribution.keras_fixes import fixed_keras

# The environment variable that `MultiWorkerMirroredStrategy` reads.
CLUSTER_VARIABLE = "TF_CONFIG"
# Errors of TensorFlow that follow from a convolution over no images: its
# output has the depth of its input.
EMPTY_SHARE = re.compile(
    "input depth must be evenly divisible by filter depth"
    "|Shape mismatch in the collective"
    r"|Incompatible shapes: .*\[0,"
)
EXAMPLE = (
    'TF_CONFIG=\'{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}\''
)


def strategy_scope(model):
    """A context: the strategy that a model was built under, if any."""
    strategy = getattr(model, "_distribute_strategy", None)
    return strategy.scope() if strategy else contextlib.nullcontext()


@contextlib.contextmanager
def on_replicas(model):
    """Fixes Keras's trainer for the strategy of a model.

    The model must pass `check_replicas`.
    """
    check_replicas(model)
    strategy = getattr(model, "_distribute_strategy", None)
    if strategy is None:
        yield
        return
    with fixed_keras(strategy):
        try:
            yield
        except sys.modules["tensorflow"].errors.InvalidArgumentError as error:
            if not EMPTY_SHARE.search(str(error)):
                raise
            raise ValueError(
                "A batch with fewer images than the strategy has replicas "
                f"({strategy.num_replicas_in_sync}) leaves one of them "
                "empty, which Keras's convolutions cannot compute. Drop the "
                "last batch (`dataset.batch(size, drop_remainder=True)`), or "
                "choose a batch size that leaves more images in it."
            ) from error


def check_replicas(model, metrics=()):
    """Refuses what would be wrong on the current replicas.

    A model, optimizer or metric that was made outside the strategy, and
    gradient accumulation.
    """
    if keras.backend.backend() != "tensorflow":
        return
    tf = sys.modules["tensorflow"]
    strategy = getattr(model, "_distribute_strategy", None)
    current = tf.distribute.get_strategy()
    if current.num_replicas_in_sync > 1 and current is not strategy:
        raise ValueError(
            "The model was built outside the current strategy "
            f"({type(current).__name__}): its weights are on one device. "
            "Build or load it, and compile it, inside `with strategy.scope():`."
        )
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return
    optimizer = getattr(model, "optimizer", None)
    # A loss-scale optimizer wraps the real one.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    outside = [
        type(each).__name__
        for each in {id(each): each for each in (optimizer, inner)}.values()
        if getattr(each, "_distribution_strategy", strategy) is not strategy
    ]
    outside += [
        metric.name
        for metric in metrics
        if isinstance(metric, keras.Metric)
        for variable in metric.variables
        if not isinstance(variable.value, tf.distribute.DistributedValues)
    ]
    if outside:
        raise ValueError(
            "An optimizer and metrics must be made inside the scope of the "
            "strategy that the model was built under. Received: "
            f"{', '.join(dict.fromkeys(outside))}, made outside. Make them "
            "inside `with strategy.scope():`, and compile again."
        )
    if getattr(inner, "ema_overwrite_frequency", None):
        raise ValueError(
            "Keras cannot overwrite weights with their averages under a "
            "TensorFlow strategy. Received: ema_overwrite_frequency="
            f"{inner.ema_overwrite_frequency}. Leave it out; "
            "keras.callbacks.SwapEMAWeights puts the averages in place."
        )
    steps = getattr(inner, "gradient_accumulation_steps", None)
    if steps:
        raise ValueError(
            "Keras cannot accumulate gradients under a TensorFlow strategy. "
            f"Received: gradient_accumulation_steps={steps} on "
            f"{strategy.num_replicas_in_sync} replicas. Use a larger batch "
            "on more devices, one device, or KERAS_BACKEND=jax."
        )


def share_batch(model, batch):
    """The tensors of a batch, cut among the replicas of this process.

    `fit` does so; given a batch, Keras hands every replica all of it.
    """
    strategy = getattr(model, "_distribute_strategy", None)
    local = len(strategy.extended.worker_devices) if strategy else 1
    if local == 1:
        return batch
    tf = sys.modules["tensorflow"]

    def share(tensor):
        if tensor is None:
            return None
        shares = iter(np.array_split(np.asarray(tensor), local))
        return strategy.experimental_distribute_values_from_function(
            lambda _: tf.convert_to_tensor(next(shares))
        )

    return tuple(map(share, batch))


def refuse_on_replicas(model, options):
    """Sets or refuses options of `compile` that replicas cannot have."""
    strategy = getattr(model, "_distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return
    asked = options.setdefault("jit_compile", "auto")
    if asked is True:
        raise ValueError(
            "XLA cannot compile what a strategy's replicas exchange. "
            "Received: jit_compile=True. Use False, or 'auto'."
        )
    options["jit_compile"] = False
    steps = options.get("steps_per_execution", 1)
    if steps != 1:
        raise ValueError(
            "Keras cannot run several steps at once under a TensorFlow "
            f"strategy. Received: steps_per_execution={steps}. Leave it out."
        )


def choose(num_devices):
    """The strategy that this machine and its environment call for."""
    import tensorflow as tf

    cluster = read_cluster()
    if cluster and cluster[1] > 1:
        return "multiworker"
    if _tpu_address() or tf.config.list_physical_devices("TPU"):
        return "tpu"
    if num_devices is None:
        num_devices = len(tf.config.list_physical_devices("GPU"))
    return "mirrored" if num_devices > 1 else "none"


@contextlib.contextmanager
def open_strategy(name, num_devices):
    """Enters the `"mirrored"`, `"multiworker"` or `"tpu"` strategy.

    Yields:
        (strategy, (which, of how many) workers).
    """
    make = {"mirrored": _mirrored, "multiworker": _workers, "tpu": _tpu}[name]
    strategy, shard = make(num_devices)
    with fixed_keras(strategy), strategy.scope():
        yield strategy, shard


def split_batches(batches, parts):
    """A `tf.data.Dataset` with each batch as `parts` batches."""
    if parts == 1:
        return batches
    import tensorflow as tf

    return batches.flat_map(
        lambda *batch: tf.data.Dataset.from_tensor_slices(
            tuple(tf.stack(tf.split(part, parts)) for part in batch)
        )
    )


def sum_over_workers(strategy, counts, num_local):
    """The sum of the int64 arrays of all workers, in every worker.

    Each of them has `num_local` replicas.
    """
    import tensorflow as tf

    def value(context):
        # One replica of each worker has the counts, the others zeros.
        is_first = context.replica_id_in_sync_group % num_local == 0
        return tf.constant(counts if is_first else 0 * counts)

    values = strategy.experimental_distribute_values_from_function(value)
    return strategy.reduce("SUM", values, axis=None).numpy()


def read_cluster():
    """(which, of how many) workers, from `TF_CONFIG`; None without it."""
    text = os.environ.get(CLUSTER_VARIABLE)
    if not text:
        return None
    try:
        content = json.loads(text)
        jobs, task = content["cluster"], content["task"]
        sizes = {job: len(hosts) for job, hosts in jobs.items()}
        index = int(task["index"])
        kind = str(task["type"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _malformed(
            f"it cannot be read ({type(error).__name__}: {error})", text
        ) from error
    if not sizes.get("worker") or set(sizes) - {"chief", "worker"}:
        raise _malformed(
            "`cluster` must list at least one worker, and besides workers "
            "only a chief",
            text,
        )
    if not all(
        isinstance(hosts, list)
        and all(isinstance(host, str) and ":" in host for host in hosts)
        for hosts in jobs.values()
    ):
        raise _malformed("each worker must be a 'host:port'", text)
    chiefs = sizes.get("chief", 0)
    if chiefs > 1:
        raise _malformed("there can be only one chief", text)
    if kind not in sizes or not 0 <= index < sizes[kind]:
        raise _malformed("`task` must be one of those in `cluster`", text)
    place = 0 if kind == "chief" else chiefs + index
    return place, sum(sizes.values())


def _malformed(what, text):
    return ValueError(
        f"{CLUSTER_VARIABLE} does not describe this worker: {what}. Expected "
        f"something like {EXAMPLE}. Received: {text!r}. Correct it (see "
        "training/launch/ of the sources), or unset it to train on this "
        "machine alone."
    )


def _mirrored(num_devices):
    import tensorflow as tf

    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU" and num_devices:
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * num_devices
        try:
            tf.config.set_logical_device_configuration(cpu, logical)
        except RuntimeError:
            # Too late to split; enough of them may exist already.
            pass
    devices = tf.config.list_logical_devices(kind)
    names = [d.name for d in first_devices(devices, num_devices, kind)]
    return tf.distribute.MirroredStrategy(names), (0, 1)


def _workers(num_devices):
    import tensorflow as tf

    shard = read_cluster()
    if shard is None:
        raise ValueError(
            f"distribute='multiworker' needs {CLUSTER_VARIABLE}, which is not "
            f"set. Expected something like {EXAMPLE}; training/launch/ of "
            "the sources has scripts that set it. For one machine: "
            "distribute='mirrored'."
        )
    if num_devices is not None:
        raise ValueError(
            "distribute='multiworker' uses every GPU that its workers see, "
            "or one CPU each, so it takes no number of devices. "
            f"Received: num_devices={num_devices}. Choose with "
            "CUDA_VISIBLE_DEVICES."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(), shard
    except RuntimeError as error:
        raise ValueError(
            "Several workers must be set up before TensorFlow has computed "
            f"anything ({error}). Do it first in a fresh process."
        ) from error


def _tpu_address():
    return os.environ.get("TPU_NAME") or os.environ.get("TPU_ADDRESS")


def _tpu(num_devices):
    import tensorflow as tf

    if num_devices is not None:
        raise ValueError(
            "distribute='tpu' uses all cores of the TPU, so it takes no "
            f"number of devices. Received: num_devices={num_devices}."
        )
    address = _tpu_address()
    if not address and tf.config.list_physical_devices("TPU"):
        address = "local"
    try:
        if not address:
            raise ValueError("no TPU here and no TPU_NAME")
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver), (0, 1)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise ValueError(
            f"distribute='tpu' found no TPU ({error}). Expected one of this "
            "machine (a TPU VM with TensorFlow's build for TPUs) or its name "
            f"or address in TPU_NAME. Received: TPU_NAME={address!r}. "
            "distribute='auto' uses what is available."
        ) from error


def first_devices(devices, num_devices, kind):
    """The first `num_devices`, all with `None`; refuses if there are fewer."""
    if num_devices and len(devices) < num_devices:
        raise ValueError(
            f"{num_devices} devices were asked for, but there are "
            f"{len(devices)} ({kind}). Ask for fewer, or split the CPU in a "
            "fresh process."
        )
    return devices[:num_devices]
