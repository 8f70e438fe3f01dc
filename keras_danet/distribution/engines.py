"""Where a training runs: one device, or several through existing engines."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_danet.arguments import choice
from keras_danet.arguments import integer
from keras_danet.distribution import keras_distributions
from keras_danet.distribution import tensorflow_strategies

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
    def is_chief(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.shard[0] == 0

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses a batch that does not divide among the replicas."""
        if batch_size % self.num_replicas:
            less = batch_size // self.num_replicas * self.num_replicas
            raise ValueError(
                "`batch_size` counts all devices together and must divide "
                f"among the {self.num_replicas} replicas of distribute="
                f"{self.engine!r}. Received: batch_size={batch_size}. Use "
                f"{less or self.num_replicas} or "
                f"{less + self.num_replicas}, or fewer devices (--devices, "
                "--distribute none)."
            )

    def distribute(self, batches: Any) -> Any:
        """This process's share of the batches in the form that `fit` needs.

        Under several workers of TensorFlow, which would split it again, a
        data set that they leave as it is (a `PyDataset` is a ValueError
        there); otherwise unchanged.
        """
        if self.strategy is None or self.shard[1] == 1:
            return batches
        if isinstance(batches, keras.utils.PyDataset):
            raise ValueError(
                "distribute='multiworker' reads data only with tf.data. Set "
                "loader='tf.data' (or 'auto')."
            )
        local = self.num_replicas // self.shard[1]
        batches = tensorflow_strategies.split_batches(batches, local)
        return self.strategy.distribute_datasets_from_function(
            lambda _: batches
        )

    @property
    def measuring_shard(self) -> tuple[int, int]:
        """(which, of how many) processes that share a measurement.

        A network that is spread over processes computes in all of them at
        once, so each measures everything.
        """
        return (0, 1) if self.engine == "model_parallel" else self.shard

    def sum_over_processes(self, counts: np.ndarray) -> np.ndarray:
        """The sum of the int64 arrays of all processes, in each of them."""
        if self.measuring_shard[1] == 1:
            return counts
        if self.strategy is not None:
            return tensorflow_strategies.sum_over_workers(
                self.strategy, counts, self.num_replicas // self.shard[1]
            )
        return keras_distributions.sum_over_processes(counts)


@contextlib.contextmanager
def scope(
    name: str = "auto", num_devices: int | None = None, model_devices: int = 2
) -> Iterator[Placement]:
    """Lets models that are built and fitted inside use several devices.

    A batch is global: it must divide among the devices of all machines.
    Batch-norm statistics are those of the global batch, and so are a
    `DANet`'s losses: n devices give the same weights as one.

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
            which must happen before the backend has used them. Defaults to
            `None`: all there are.
        model_devices: integer, how many devices `"model_parallel"` spreads a
            kernel over; the batch is shared by number of devices /
            `model_devices` replicas. Defaults to `2`.

    Yields:
        A `Placement`.

    Raises:
        ValueError: for an unknown name, an engine that the backend does not
            have, fewer devices than asked for, or an environment that does
            not describe the processes.
    """
    choice("distribute", name, DISTRIBUTIONS)
    if num_devices is not None:
        must = "(--devices) must be an integer, at least 1"
        num_devices = integer("num_devices", num_devices, must, least=1)
    must = "(--model-devices) must be an integer, at least 1"
    model_devices = integer("model_devices", model_devices, must, least=1)
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
        with keras_distributions.open_distribution(
            name, num_devices, model_devices
        ) as placed:
            yield Placement(name, *placed)


def _choose(num_devices):
    """The engine that `"auto"` means here."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return tensorflow_strategies.choose(num_devices)
    if backend == "torch" and not keras_distributions.is_available():
        return "none"
    if keras_distributions.read_processes() is not None:
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
    if (
        backend == "torch"
        and name != "none"
        and not keras_distributions.is_available()
    ):
        raise ValueError(
            f"distribute={name!r} needs keras.distribution, which Keras "
            f"{keras.__version__} does not have on torch: a release after "
            "3.15.1 brings its DataParallel. Upgrade Keras, train on one "
            "device (distribute='none'), or set KERAS_BACKEND=jax or "
            "tensorflow."
        )
