"""Where a training runs: one device, or several through existing engines."""

import contextlib
import dataclasses
import os
from typing import Any

import keras
import numpy as np

from keras_danet import tensorflow_strategies
from keras_danet.tensorflow_strategies import first_devices
from keras_danet.tensorflow_strategies import sum_over_replicas

__all__ = ["DISTRIBUTIONS", "Placement", "scope", "sum_over_replicas"]

# Engine -> the backends that have it.
ENGINES = {
    "none": ("tensorflow", "jax", "torch"),
    "mirrored": ("tensorflow",),
    "multiworker": ("tensorflow",),
    "tpu": ("tensorflow",),
    "data_parallel": ("jax", "torch"),
    "model_parallel": ("jax",),
}
DISTRIBUTIONS = ("auto", *ENGINES)
# What `keras.distribution.initialize` reads.
PROCESS_VARIABLES = (
    "KERAS_DISTRIBUTION_JOB_ADDRESSES",
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
    "KERAS_DISTRIBUTION_PROCESS_ID",
)
# Kernels whose output channels are spread over the devices of a model: the
# widest of the backbone and of the head, four fifths of a DANet's weights.
WIDE_KERNELS = (
    r"(.*/)?stage[34]_block\d+_(conv\d|shortcut)/kernel",
    r"(.*/)?(position|channel)_(in|out)/kernel",
    r"(.*/)?fcn/kernel",
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a training runs.

    Args:
        engine: string, one of `DISTRIBUTIONS` but `"auto"`.
        num_devices: integer, over all machines.
        num_replicas: integer, the equal shares that a batch is cut into.
        shard: (which, of how many) processes; each reads its share of every
            batch.
        strategy: the `tf.distribute` strategy, if there is one.
    """

    engine: str = "none"
    num_devices: int = 1
    num_replicas: int = 1
    shard: tuple[int, int] = (0, 1)
    strategy: Any = None

    @property
    def is_chief(self):
        """Whether this process is the one that writes files."""
        return self.shard[0] == 0

    def check_batch_size(self, batch_size):
        """Refuses a batch that does not divide among the replicas.

        Raises:
            ValueError: if it does not.
        """
        if batch_size % self.num_replicas:
            less = batch_size // self.num_replicas * self.num_replicas
            raise ValueError(
                "`batch_size` is that of all devices together and must "
                f"divide among the {self.num_replicas} of distribute="
                f"{self.engine!r}. Received: batch_size={batch_size}. Take "
                f"{less or self.num_replicas} or "
                f"{less + self.num_replicas}, or fewer devices (--devices, "
                "--distribute none)."
            )

    def distribute(self, batches):
        """What `fit` is to be given of batches that are this process's own.

        Args:
            batches: `tf.data.Dataset` or `keras.utils.PyDataset` of its share
                (`shard`) of every batch.

        Returns:
            The same, but under several workers of TensorFlow, which would
            share it out again, a data set that they take as it is.

        Raises:
            ValueError: for a `PyDataset` under several workers of TensorFlow.
        """
        if self.strategy is None or self.shard[1] == 1:
            return batches
        if isinstance(batches, keras.utils.PyDataset):
            raise ValueError(
                "distribute='multiworker' reads data with tf.data alone. Set "
                "loader='tf.data' (or 'auto')."
            )
        local = self.num_replicas // self.shard[1]
        batches = tensorflow_strategies.split_batches(batches, local)
        return self.strategy.distribute_datasets_from_function(
            lambda _: batches
        )

    def distribute_shared(self, batches):
        """The same of batches that every process reads as a whole."""
        if self.shard[1] == 1:
            return batches
        if isinstance(batches, keras.utils.PyDataset):
            return self.distribute(_Share(batches, self.shard))
        share = tensorflow_strategies.share_of_batches(batches, self.shard)
        return self.distribute(share)


class _Share(keras.utils.PyDataset):
    """One of the equal shares of another's batches."""

    def __init__(self, batches, shard):
        super().__init__(
            workers=batches.workers,
            use_multiprocessing=batches.use_multiprocessing,
            max_queue_size=batches.max_queue_size,
        )
        self.batches = batches
        self.shard = shard

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        which, workers = self.shard
        return tuple(
            np.split(part, workers)[which] for part in self.batches[index]
        )


@contextlib.contextmanager
def scope(name="auto", num_devices=None, model_devices=2):
    """Makes models built and fitted inside use several devices.

    A batch is global: it must divide among the devices of all machines.
    Batch-norm statistics are those of the global batch, and with
    `PixelCrossentropy(reducer=sum_over_replicas)` so is the number of
    labelled pixels: n devices end with the weights of one.

    Args:
        name: `"none"`; on TensorFlow `"mirrored"`, several GPUs,
            `"multiworker"`, the machines in `TF_CONFIG`, or `"tpu"`; on JAX
            `"data_parallel"`, all devices of all processes, or
            `"model_parallel"`, the widest kernels spread over
            `model_devices`; or `"auto"`: several processes if the environment
            names them, else all accelerators, else one device. Defaults to
            `"auto"`.
        num_devices: integer, in each process. On a machine without
            accelerators the CPU is split into that many logical devices,
            which must happen before the backend has touched them. Defaults
            to `None`: all there are.
        model_devices: integer, over how many devices `"model_parallel"`
            spreads a kernel; the batch is shared by as many replicas as are
            left. Defaults to `2`.

    Yields:
        A `Placement`.

    Raises:
        ValueError: for another name, an engine that the backend does not
            have, fewer devices than asked for, or an environment that does
            not describe the processes.
    """
    if name not in DISTRIBUTIONS:
        raise ValueError(
            f"`distribute` must be one of {', '.join(DISTRIBUTIONS)}. "
            f"Received: {name!r}"
        )
    for argument, value in (
        ("num_devices` (--devices)", num_devices),
        ("model_devices` (--model-devices)", model_devices),
    ):
        if value is not None and value < 1:
            raise ValueError(
                f"`{argument} must be at least 1. Received: {value}"
            )
    if name == "auto":
        name = _choose(num_devices)
    _check_backend(name)
    if name == "none":
        if num_devices not in (None, 1):
            raise ValueError(
                f"{num_devices} devices need --distribute mirrored "
                "(TensorFlow), data_parallel or model_parallel (JAX); "
                "distribute='none' uses one. Received: "
                f"num_devices={num_devices} on {keras.backend.backend()}."
            )
        yield Placement()
    elif keras.backend.backend() == "tensorflow":
        with tensorflow_strategies.open_strategy(name, num_devices) as opened:
            strategy, shard = opened
            count = strategy.num_replicas_in_sync
            yield Placement(name, count, count, shard, strategy)
    else:
        with _keras_distribution(name, num_devices, model_devices) as placed:
            yield placed


def _choose(num_devices):
    """What `"auto"` is here."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return tensorflow_strategies.choose(num_devices)
    if backend == "torch" and not _has_distribution():
        return "none"
    if _processes() is not None:
        return "data_parallel"
    if num_devices is None:
        num_devices = len(keras.distribution.list_devices())
    return "data_parallel" if num_devices > 1 else "none"


def _check_backend(name):
    backend = keras.backend.backend()
    if backend not in ENGINES[name]:
        needed = ENGINES[name][0]
        raise ValueError(
            f"distribute={name!r} needs the {needed} backend; this is "
            f"{backend}. Set KERAS_BACKEND={needed}, or distribute='auto'."
        )
    if backend == "torch" and name != "none" and not _has_distribution():
        raise ValueError(
            f"distribute={name!r} needs keras.distribution, which Keras "
            f"{keras.__version__} does not have on torch: a release after "
            "3.15.1 brings its DataParallel. Upgrade Keras, train on one "
            "device (distribute='none'), or set KERAS_BACKEND=jax or "
            "tensorflow."
        )


def _has_distribution():
    """Whether this Keras has `keras.distribution` on this backend."""
    try:
        keras.distribution.list_devices()
    # It fails where the backend's part of it is missing, as a None.
    except (AttributeError, NotImplementedError, ImportError):
        return False
    return True


def _processes():
    """Arguments of `keras.distribution.initialize`; None for one process.

    From Keras's environment variables, or, inside of a SLURM step of several
    tasks, left to JAX, which asks SLURM.
    """
    given = [os.environ.get(name) for name in PROCESS_VARIABLES]
    if any(given):
        try:
            addresses, count, index = given[0], int(given[1]), int(given[2])
        except (TypeError, ValueError):
            count = index = -1
        if not given[0] or not 0 <= index < count or ":" not in given[0]:
            shown = ", ".join(
                f"{name}={value!r}"
                for name, value in zip(PROCESS_VARIABLES, given, strict=True)
            )
            raise ValueError(
                "The environment does not describe the processes of this "
                "training. Expected the first one's 'host:port', their "
                f"number, and which this is, from 0. Received: {shown}. Set "
                "all three (see training/launch/), or none for one process."
            )
        return (addresses, count, index) if count > 1 else None
    tasks = os.environ.get("SLURM_NTASKS", "1")
    # Without a step (`srun`) there is one process, whatever was asked for.
    if "SLURM_STEP_ID" in os.environ and tasks.isdigit() and int(tasks) > 1:
        return None, None, None
    return None


@contextlib.contextmanager
def _keras_distribution(name, num_devices, model_devices):
    processes = _processes()
    if keras.backend.backend() == "jax":
        _start_jax(processes, num_devices)
    elif processes is not None:
        keras.distribution.initialize(*processes)
    layout = _data_parallel if name == "data_parallel" else _model_parallel
    distribution, placement = layout(num_devices, model_devices)
    previous = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield placement
    finally:
        keras.distribution.set_distribution(previous)


def _start_jax(processes, num_devices):
    import jax

    if num_devices:
        # Without effect where there are accelerators.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", num_devices)
    if processes is None or jax.distributed.is_initialized():
        return
    # On CPUs steps that wait for each other in two processes, in another
    # order, would wait for ever. Accelerators have one order.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        keras.distribution.initialize(*processes)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The processes of this training did not meet ({error}). They "
            "must all be started, reach the first one's address, and be set "
            "up before JAX has computed anything. Received: "
            f"{processes}."
        ) from error


def _devices(num_devices):
    """All devices, where this process has `num_devices` of them."""
    devices = keras.distribution.list_devices()
    if keras.backend.backend() != "jax":
        return first_devices(devices, num_devices, "torch"), (0, 1)
    import jax

    count = jax.process_count()
    if count == 1:
        return first_devices(devices, num_devices, "jax"), (0, 1)
    if num_devices not in (None, jax.local_device_count()):
        raise ValueError(
            "With several processes each uses all of its devices. Expected "
            f"num_devices={jax.local_device_count()} or None. Received: "
            f"{num_devices}. Choose with CUDA_VISIBLE_DEVICES."
        )
    return devices, (jax.process_index(), count)


def _data_parallel(num_devices, model_devices):
    devices, shard = _devices(num_devices)
    # Each process reads its own share: the plan's, not Keras's.
    distribution = keras.distribution.DataParallel(
        devices=devices, auto_shard_dataset=False
    )
    count = len(devices)
    return distribution, Placement("data_parallel", count, count, shard)


def _model_parallel(num_devices, model_devices):
    devices, shard = _devices(num_devices)
    if shard[1] > 1:
        raise ValueError(
            "distribute='model_parallel' is for the devices of one process: "
            "no other could save the model. Received: "
            f"{shard[1]} processes. Use data_parallel."
        )
    count = len(devices)
    if count % model_devices:
        raise ValueError(
            f"distribute='model_parallel' cannot arrange {count} devices in "
            f"groups of model_devices={model_devices}. Expected a number "
            "that divides them. Change --model-devices or --devices."
        )
    mesh = keras.distribution.DeviceMesh(
        (count // model_devices, model_devices), ("batch", "model"), devices
    )
    layout_map = keras.distribution.LayoutMap(mesh)
    for pattern in WIDE_KERNELS:
        layout_map[pattern] = (None, None, None, "model")
    distribution = keras.distribution.ModelParallel(
        layout_map=layout_map, batch_dim_name="batch", auto_shard_dataset=False
    )
    replicas = count // model_devices
    return distribution, Placement("model_parallel", count, replicas)
