"""Keras's own distributions: data and model parallelism, on JAX."""

import contextlib
import os
import re
import threading
import weakref

import keras
import numpy as np

from keras_danet.distribution.tensorflow_strategies import first_devices

# What `keras.distribution.initialize` reads.
PROCESS_VARIABLES = (
    "KERAS_DISTRIBUTION_JOB_ADDRESSES",
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
    "KERAS_DISTRIBUTION_PROCESS_ID",
)
# Kernels whose output channels are spread over the devices of a model: the
# widest of the backbone and of the head, 96 % of a DANet-ResNet50.
WIDE_KERNELS = (
    r"(.*/)?stage[34]_block\d+_(conv\d|shortcut)/kernel",
    r"(.*/)?(position|channel)_(in|out)/kernel",
    r"(.*/)?fcn/kernel",
)

# Model -> the lock by which threads take turns with it.
_turns: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_making_turns = threading.Lock()


def is_available():
    """Whether this Keras has `keras.distribution` on this backend."""
    try:
        keras.distribution.list_devices()
    # Without support in the backend, Keras has `None` in its place.
    except (AttributeError, NotImplementedError, ImportError):
        return False
    return True


def read_processes():
    """Arguments of `keras.distribution.initialize`; None for one process.

    From Keras's environment variables, or, inside a SLURM step of several
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
                "training. Expected the 'host:port' of the first one, their "
                f"number, and this one's index from 0. Received: {shown}. Set "
                "all three (see training/launch/ of the sources), or none for "
                "one process."
            )
        return (addresses, count, index) if count > 1 else None
    tasks = os.environ.get("SLURM_NTASKS", "1")
    # Without a step (`srun`) there is one process, whatever was requested.
    if "SLURM_STEP_ID" in os.environ and tasks.isdigit() and int(tasks) > 1:
        return None, None, None
    return None


@contextlib.contextmanager
def open_distribution(name, num_devices, model_devices):
    """Sets Keras's `"data_parallel"` or `"model_parallel"` distribution.

    Yields:
        (number of devices, number of replicas, (which, of how many)
        processes).
    """
    processes = read_processes()
    if keras.backend.backend() == "jax":
        _start_jax(processes, num_devices)
    elif processes is not None:
        keras.distribution.initialize(*processes)
    layout = _data_parallel if name == "data_parallel" else _model_parallel
    distribution, *placed = layout(num_devices, model_devices)
    previous = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield placed
    finally:
        keras.distribution.set_distribution(previous)


@contextlib.contextmanager
def on_devices(model):
    """What Keras's trainer on JAX needs around a loop over batches.

    Keras removes the variables' values while it loops. If a batch cannot be
    loaded, or after Ctrl-C, a model would be left without weights: they are
    put back.

    Threads take turns: one would miss the values that another has removed.

    Raises:
        ValueError: for a batch that does not divide among the devices, or a
            model whose weights are on other devices.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    with turn_of(model):
        _check_devices(model)
        with _weights_put_back(model):
            yield


@contextlib.contextmanager
def turn_of(model, seconds=-1):
    """This thread's turn with the weights of a model, on JAX.

    It waits for at most `seconds`, then raises a RuntimeError; -1: for ever.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    with _making_turns:
        turn = _turns.setdefault(model, threading.RLock())
    if not turn.acquire(timeout=seconds):
        raise RuntimeError(
            f"{model.name!r} has been in use in another thread for "
            f"{seconds} s, and on JAX training removes the weights during "
            "each step. Predict in a callback of `fit`, after it, or with a "
            "copy (keras_danet.optimize_for_inference)."
        )
    try:
        yield
    finally:
        turn.release()


def _check_devices(model):
    placed = keras.distribution.distribution()
    if placed is None or not model.variables:
        return
    value = model.variables[0]._value
    if value is None:
        return
    wanted = {str(device) for device in placed.device_mesh.devices.flat}
    found = {_name(device) for device in value.devices()}
    if found != wanted:
        raise ValueError(
            f"The model was built before {type(placed).__name__} was set: its "
            f"weights are on {sorted(found)}, not on {sorted(wanted)}. "
            "Build or load it, and compile it, after "
            "keras.distribution.set_distribution."
        )


def _name(device):
    """A JAX device by Keras's name."""
    return f"{device.platform}:{device.id}"


@contextlib.contextmanager
def _weights_put_back(model):
    optimizer = getattr(model, "optimizer", None)
    variables = [
        *model.variables,
        *(optimizer.variables if optimizer else ()),
        *model.metrics_variables,
    ]
    values = [variable._value for variable in variables]
    try:
        yield
    except BaseException as error:
        # The values of the last finished step, if there is one.
        model.jax_state_sync()
        model._jax_state = None
        for variable, value in zip(variables, values, strict=True):
            lost = variable._value is None and value is not None
            if lost and not value.is_deleted():
                variable._value = value
        if type(error).__name__ == "IndivisibleError":
            raise _indivisible(error) from error
        raise


def num_shares():
    """How many shares the current distribution cuts a batch into."""
    placed = keras.distribution.distribution()
    if placed is None:
        return 1
    mesh = placed.device_mesh
    return mesh.shape[mesh.axis_names.index(placed.batch_dim_name)]


def _indivisible(error):
    kind = type(keras.distribution.distribution()).__name__
    shares = num_shares()
    shape = re.search(r"full shape: \((\d+)", str(error))
    received = f"a batch of {shape[1]}" if shape else str(error)
    return ValueError(
        f"Every batch, the last one too, must divide among the {shares} "
        f"replicas of keras.distribution.{kind}. "
        f"Received: {received}. Use a multiple of {shares} as the batch "
        "size, and drop the incomplete last batch "
        "(`dataset.batch(size, drop_remainder=True)`), or fill it up: images "
        "whose labels are all ignored do not count in losses and metrics."
    )


def sum_over_processes(counts):
    """The sum of the int64 arrays of all processes of JAX, in each of them."""
    from jax.experimental import multihost_utils

    # JAX has no 64-bit types by default: 32-bit halves keep all bits.
    halves = np.ascontiguousarray(counts).view("uint32")
    gathered = np.asarray(multihost_utils.process_allgather(halves))
    return np.ascontiguousarray(gathered).view("int64").sum(axis=0)


def _start_jax(processes, num_devices):
    import jax

    if num_devices:
        # No effect if there are accelerators.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", num_devices)
    if processes is None or jax.distributed.is_initialized():
        return
    # On CPUs two processes may dispatch steps in different orders and wait
    # for each other for ever. Accelerators keep one order.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        keras.distribution.initialize(*processes)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The processes of this training did not connect ({error}). They "
            "must all be started, reach the first one's address, and be set "
            "up before JAX has computed anything. Received: "
            f"{processes}."
        ) from error


def _devices(num_devices):
    """The devices of all processes, and (which, of how many) this one is."""
    devices = keras.distribution.list_devices()
    if keras.backend.backend() != "jax":
        return first_devices(devices, num_devices, "torch"), (0, 1)
    import jax

    count = jax.process_count()
    if count == 1:
        return first_devices(devices, num_devices, "jax"), (0, 1)
    if num_devices not in (None, jax.local_device_count()):
        raise ValueError(
            "With several processes, each uses all of its devices. Expected "
            f"num_devices={jax.local_device_count()} or None. Received: "
            f"{num_devices}. Choose with CUDA_VISIBLE_DEVICES."
        )
    return devices, (jax.process_index(), count)


def _data_parallel(num_devices, model_devices):
    devices, shard = _devices(num_devices)
    # Each process already reads its own share, so Keras must not split it.
    distribution = keras.distribution.DataParallel(
        devices=devices, auto_shard_dataset=False
    )
    count = len(devices)
    return distribution, count, count, shard


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
    return distribution, count, count // model_devices, shard
