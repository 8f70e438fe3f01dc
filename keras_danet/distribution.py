"""Where a training runs: one device, or several through existing engines."""

import contextlib

import keras

DISTRIBUTIONS = ("none", "mirrored", "data_parallel")


@contextlib.contextmanager
def scope(name="none", num_devices=None):
    """Makes models built and fitted inside use several devices.

    The batch given to `fit` is global: each device gets an equal share, so
    it must divide. Batch-norm statistics are those of the global batch.

    Args:
        name: `"none"`; `"mirrored"`, TensorFlow's `MirroredStrategy`; or
            `"data_parallel"`, `keras.distribution.DataParallel` on JAX.
        num_devices: integer. On a machine without accelerators the CPU is
            split into that many logical devices, which must happen before
            the backend has touched them. Defaults to `None`: all there are.

    Yields:
        The number of devices.

    Raises:
        ValueError: for another name, an engine that the backend does not
            have, or fewer devices than asked for.
    """
    if name not in DISTRIBUTIONS:
        raise ValueError(
            f"`distribute` must be one of {DISTRIBUTIONS}. Received: {name!r}"
        )
    if num_devices is not None and num_devices < 1:
        raise ValueError(
            "`num_devices` (--devices) must be at least 1. "
            f"Received: {num_devices}"
        )
    if name == "none":
        if num_devices not in (None, 1):
            raise ValueError(
                f"{num_devices} devices need --distribute mirrored or "
                "data_parallel; distribute='none' uses one."
            )
        yield 1
        return
    backend = keras.backend.backend()
    needed = {"mirrored": "tensorflow", "data_parallel": "jax"}[name]
    if backend != needed:
        raise ValueError(
            f"distribute={name!r} needs the {needed} backend; this is "
            f"{backend}. Set KERAS_BACKEND={needed}, or distribute='none'."
        )
    engine = _mirrored if name == "mirrored" else _data_parallel
    with engine(num_devices) as count:
        yield count


@contextlib.contextmanager
def _mirrored(num_devices):
    # Imported here: this module is imported where there is no TensorFlow.
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
    names = [device.name for device in _first(devices, num_devices, kind)]
    with tf.distribute.MirroredStrategy(names).scope():
        yield len(names)


@contextlib.contextmanager
def _data_parallel(num_devices):
    import jax

    if num_devices:
        # Without effect where there are accelerators.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", num_devices)
    devices = _first(keras.distribution.list_devices(), num_devices, "jax")
    previous = keras.distribution.distribution()
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=devices)
    )
    try:
        yield len(devices)
    finally:
        keras.distribution.set_distribution(previous)


def _first(devices, num_devices, kind):
    if num_devices and len(devices) < num_devices:
        raise ValueError(
            f"{num_devices} devices were asked for, but there are "
            f"{len(devices)} ({kind}). Ask for fewer, or split the CPU in a "
            "fresh process."
        )
    return devices[:num_devices]
