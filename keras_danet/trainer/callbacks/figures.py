"""The figures of an epoch, and the file that keeps them."""

import csv
import io
import math
import sys
import time

import keras
import numpy as np
import psutil

from keras_danet.files import save_text


class Throughput(keras.callbacks.Callback):
    """Adds images per second and peak memory, also devices', to the logs.

    The first step, which compiles, counts only until there is a second one.

    Args:
        batch_size: integer, images of a step.

    Attributes:
        rate: float, images per second of the epoch so far; `None` before the
            first step.
    """

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size
        self.rate = None

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        compiled = self.rate is None
        self.steps += 1
        self.rate = self.steps * self.batch_size / (now - self.started)
        if compiled:
            self.started, self.steps = now, 0

    def on_epoch_end(self, epoch, logs=None):
        # Not where an epoch is only validated, after a restart.
        if logs is not None and self.rate:
            logs["images_per_second"] = self.rate
            logs["peak_memory_mib"] = peak_memory() / 2**20
            if on_device := peak_device_memory():
                logs["peak_device_memory_mib"] = on_device / 2**20


def peak_memory():
    """The most memory that this process has held so far, in bytes.

    Not that of accelerators.
    """
    try:
        import resource
    except ImportError:
        # Windows.
        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_memory():
    """The most memory that one of its accelerators has given this process.

    Returns:
        Integer, bytes; 0 without accelerators.
    """
    backend = keras.backend.backend()
    library = sys.modules[backend]
    if backend == "jax":
        # None on a CPU.
        told = [device.memory_stats() for device in library.local_devices()]
        peaks = [stats["peak_bytes_in_use"] for stats in told if stats]
    elif backend == "torch":
        cuda = library.cuda
        devices = range(cuda.device_count())
        peaks = [cuda.max_memory_allocated(number) for number in devices]
    else:
        count = len(library.config.list_logical_devices("GPU"))
        tell = library.config.experimental.get_memory_info
        peaks = [tell(f"GPU:{number}")["peak"] for number in range(count)]
    return max(peaks, default=0)


class CountSkipped(keras.callbacks.Callback):
    """Adds to the logs how many files were skipped, once there are any."""

    def __init__(self, bad_files):
        super().__init__()
        self.bad_files = bad_files

    def get_state(self):
        return sorted(self.bad_files.skipped)

    def set_state(self, state):
        self.bad_files.skipped.update(state)

    def on_epoch_end(self, epoch, logs=None):
        if self.bad_files.count and logs is not None:
            logs["skipped"] = self.bad_files.count


class Gammas(keras.callbacks.Callback):
    """Adds how much each attention counts to the logs of an epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        for kind in self.model.attention:
            gamma = self.model.get_layer(f"{kind}_attention").gamma
            logs[f"gamma_{kind}"] = float(
                np.squeeze(keras.ops.convert_to_numpy(gamma))
            )


class HistoryFile(keras.callbacks.Callback):
    """Keeps the epochs' figures at `path` as CSV, one row per epoch.

    Keras's `CSVLogger` leaves its file open if training is interrupted.
    """

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.rows = []

    def get_state(self):
        # JSON has no NaN, which the mean IoU of nothing is.
        return [
            {key: value if math.isfinite(value) else None for key, value in row}
            for row in (row.items() for row in self.rows)
        ]

    def set_state(self, state):
        self.rows = [
            {
                key: math.nan if value is None else value
                for key, value in row.items()
            }
            for row in state
        ]

    @property
    def history(self):
        """Dict of lists, one value per epoch that has one, as `fit` gives."""
        columns = dict.fromkeys(key for row in self.rows for key in row)
        return {
            column: [row[column] for row in self.rows if column in row]
            for column in columns
            if column != "epoch"
        }

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch + 1, **(logs or {})})
        # Epochs without a validation have fewer figures.
        columns = dict.fromkeys(key for row in self.rows for key in row)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        save_text(text.getvalue(), self.path)
