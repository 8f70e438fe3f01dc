"""What a training shows, measures and notices while it runs, as callbacks.

A callback with a state has `get_state`, which gives what `json.dumps` takes,
and `set_state`: `Checkpoints` keeps it.
"""

import contextlib
import csv
import io
import logging
import math
import sys
import time

import keras
import numpy as np

from keras_danet.distribution.engines import Placement
from keras_danet.files import save_model
from keras_danet.files import save_text
from keras_danet.inference.evaluation import evaluate
from keras_danet.waiting import clock

_LOGGER = logging.getLogger("keras_danet")

# A loss so many times the first one, for so many steps, does not come back.
DIVERGED = 20
DIVERGED_STEPS = 10
# What was trained before may begin with next to nothing. A guess among 255
# classes costs 5.5 an output, and DANet's four together 18.8.
LEAST_FIRST_LOSS = 1.0
# In a log file a line now and then says that it is still alive.
SECONDS_PER_LINE = 60


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

    Not that of accelerators; NaN where the system does not tell.
    """
    try:
        import resource
    except ImportError:
        return math.nan
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


class Validation(keras.callbacks.Callback):
    """Measures the model on whole images, and keeps the best one.

    Each image goes through the `Predictor` that users call, so that the
    number is the one they get, here and from `keras-danet evaluate`. Where
    the optimizer averages weights, the averages are measured and kept.

    Args:
        predictor: a `Predictor` of the model that is trained.
        pairs: list of `Pair`.
        dataset: their `Dataset`.
        split: string.
        epochs: the epochs (from 1) to measure after.
        path: path of the `.keras` file for the best model.
        patience: integer, after how many measurements without a better one
            the training ends. Defaults to `None`, which never ends it.
        stop: a `StopSignal`, asked after every image; where several
            processes measure together none may stop alone. Defaults to
            `None`.
        placement: a `distribution.Placement`, whose processes share the
            images. Defaults to `None`.
        num_crops: float, how many crops of the training have as many pixels
            as the images together. Defaults to `0`, not known.

    Attributes:
        best: float, the best mean IoU so far.
        seconds: float, how long the last measurement took; `None` before.
        show: function of (images done, images in all), called after each
            one. Defaults to `None`.

    Raises:
        ValueError: at the end of an epoch, if nothing is labelled.
    """

    def __init__(
        self,
        predictor,
        pairs,
        dataset,
        split,
        epochs,
        path,
        patience=None,
        stop=None,
        placement=None,
        num_crops=0,
    ):
        super().__init__()
        self.num_crops = num_crops
        self.predictor = predictor
        self.placement = placement or Placement()
        self.data = pairs, dataset, split
        self.epochs = set(epochs)
        self.path = path
        self.patience = patience
        self.stop = stop
        self.show = None
        self.seconds = None
        self.best = -math.inf
        self.waited = 0

    def _measure(self):
        """The report; stopped meanwhile, the epoch's end is kept."""
        started = time.perf_counter()
        alone = self.stop and self.placement.shard[1] == 1
        with self.stop.prompt() if alone else contextlib.nullcontext():
            report = evaluate(
                self.predictor,
                *self.data,
                progress=self._progress,
                placement=self.placement,
            )
        self.seconds = time.perf_counter() - started
        return report

    def _progress(self, done, count):
        if self.stop and self.placement.shard[1] == 1:
            self.stop.check()
        if self.show:
            self.show(done, count)

    def expected_seconds(self, rate):
        """How long one takes: as the last, or by the training's crops/s."""
        if self.seconds is not None:
            return self.seconds
        # Of a step a third is what prediction does, the rest goes backward.
        # Each process measures its share, on one device.
        shares = self.placement.num_replicas / self.placement.shard[1]
        return self.num_crops * shares / rate / 3

    @property
    def is_over(self):
        return self.patience is not None and self.waited >= self.patience

    def get_state(self):
        # JSON has no infinity.
        best = self.best if math.isfinite(self.best) else None
        return {"best": best, "waited": self.waited}

    def set_state(self, state):
        self.best = -math.inf if state["best"] is None else state["best"]
        self.waited = state["waited"]

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 not in self.epochs:
            return
        logs = {} if logs is None else logs
        with averaged_weights(self.model):
            report = self._measure()
            logs["val_mean_iou"] = found = report.mean_iou
            logs["val_pixel_accuracy"] = report.pixel_accuracy
            if math.isnan(found):
                raise ValueError(
                    f"Split {self.data[2]!r} has no labelled pixel to measure "
                    "on: all are ignored. Expected labels; `keras-danet "
                    "check-data` tells what is in them."
                )
            if found > self.best or not self.path.exists():
                save_model(self.model, self.path)
        if found > self.best:
            self.best = found
            self.waited = 0
        else:
            self.waited += 1
        if self.is_over:
            self.model.stop_training = True


@contextlib.contextmanager
def averaged_weights(model):
    """Puts the optimizer's averages in the weights' place, where it has any."""
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not optimizer.use_ema:
        yield
        return
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    swap.on_test_begin()
    try:
        yield
    finally:
        swap.on_test_end()


class StopAtDivergence(keras.callbacks.Callback):
    """Ends a training whose loss is no number, grows or is of nothing.

    Args:
        place: the `Checkpoints` of the same training, which comes after it
            and knows the step.

    Raises:
        ValueError: at the end of the step at which it is seen; at that of an
            epoch without a labelled pixel.
    """

    def __init__(self, place):
        super().__init__()
        self.place = place
        self.first = None
        self.high = 0

    def get_state(self):
        return {"first": self.first, "high": self.high}

    def set_state(self, state):
        self.first = state["first"]
        self.high = state["high"]

    def on_epoch_begin(self, epoch, logs=None):
        self.mean = None

    def on_train_batch_end(self, batch, logs=None):
        mean = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(mean):
            self._end(f"became {mean}")
        # `fit` tells the mean over the epoch so far, which at first, and
        # where an epoch is resumed, is all that is known.
        done = self.place.step + 1
        loss = mean
        if self.mean is not None:
            loss = mean * done - self.mean * (done - 1)
        self.mean = mean
        # Of a batch without a labelled pixel it is 0.
        if self.first is None and loss > 0:
            self.first = loss
        above = loss > DIVERGED * max(self.first or 0, LEAST_FIRST_LOSS)
        self.high = self.high + 1 if above else 0
        if self.high >= DIVERGED_STEPS:
            self._end(
                f"grew to {loss:.4g} from {self.first:.4g}, and stayed there "
                f"for {DIVERGED_STEPS} steps"
            )

    def on_epoch_end(self, epoch, logs=None):
        # A loss of 0 where something is labelled comes with no mistakes.
        logs = logs or {}
        if logs.get("loss") == 0 and logs.get("pixel_accuracy") == 0:
            raise ValueError(
                f"No pixel of epoch {epoch + 1} is labelled: all are ignored. "
                "Expected labels; `keras-danet check-data` tells what is in "
                "them."
            )

    def _end(self, what):
        place = self.place
        # The one that has just been done counts.
        done = place.epoch * place.steps + place.step + 1
        raise ValueError(
            f"The loss {what} in epoch {place.epoch + 1}, step "
            f"{place.step + 1} of {place.steps}. {place.trace(done)} A label "
            "outside the classes makes it NaN as well."
        )


class HistoryFile(keras.callbacks.Callback):
    """Keeps the epochs' figures at `path` as CSV, one row per epoch.

    Keras's `CSVLogger` leaves its file open where training is broken off.
    """

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.rows = []

    def get_state(self):
        # JSON has no NaN, a mean IoU of nothing is one.
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


def read_history(path):
    """The rows of a `history.csv`, dicts of strings; none without one."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Progress(keras.callbacks.Callback):
    """Says where a training is: a line that redraws itself, or lines.

    Args:
        throughput: the `Throughput` of the same training.
        place: the `Checkpoints` of the same training, which comes after it
            and knows the step.
        epochs: integer, of the whole training.
        redraw: boolean, whether the output is a terminal. Otherwise a line
            comes every minute and after every epoch.
        validation: the `Validation` of the same training, whose time counts,
            and which is shown as well. Defaults to `None`.
    """

    def __init__(self, throughput, place, epochs, redraw, validation=None):
        super().__init__()
        self.validation = validation
        if validation:
            validation.show = self.show_validation
        self.throughput = throughput
        self.place = place
        self.epochs = epochs
        self.redraw = redraw
        self.failed = False
        # A run that was stopped before a validation is resumed with it.
        self.shown = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self.shown = time.perf_counter()

    def show_validation(self, done, count):
        """Shows how far the validation of an epoch is."""
        now = time.perf_counter()
        if done == 1:
            self.began = now
        if now - self.shown < (0.1 if self.redraw else SECONDS_PER_LINE):
            return
        self.shown = now
        text = f"epoch {self.place.epoch + 1}/{self.epochs}  validation "
        text += f"{done}/{count} images"
        if done > 1:
            each = (now - self.began) / (done - 1)
            text += f"  {clock(each * (count - done))} left of it"
        self._print(text, end="")

    def _validation_seconds(self, is_measured):
        """What the validations that are left will take."""
        if not self.validation:
            return 0
        # That of this epoch is over where its figure is known.
        now = self.place.epoch + 1 + is_measured
        left = sum(epoch >= now for epoch in self.validation.epochs)
        return left * self.validation.expected_seconds(self.throughput.rate)

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if now - self.shown >= (0.1 if self.redraw else SECONDS_PER_LINE):
            self.shown = now
            self._show(logs, self.place.step + 1, end="")

    def on_epoch_end(self, epoch, logs=None):
        self._show(logs, self.place.step, end="\n")

    def _show(self, logs, step, end):
        rate = self.throughput.rate
        steps = self.place.steps
        left = (self.epochs - self.place.epoch) * steps - step
        logs = logs or {}
        parts = [
            f"epoch {self.place.epoch + 1}/{self.epochs}",
            f"step {step}/{steps}",
            f"loss {logs.get('loss', math.nan):.4f}",
            f"mean IoU {logs.get('mean_iou', math.nan):.2%}",
        ]
        if "val_mean_iou" in logs:
            parts.append(f"validation {logs['val_mean_iou']:.2%}")
        if rate:
            seconds = left * self.throughput.batch_size / rate
            seconds += self._validation_seconds("val_mean_iou" in logs)
            parts += [f"{rate:.3g} images/s", f"{clock(seconds)} left"]
        parts.append(f"{peak_memory() / 2**30:.1f} GiB")
        if on_device := peak_device_memory():
            parts.append(f"{on_device / 2**30:.1f} GiB on a device")
        self._print("  ".join(parts), end)

    def _print(self, text, end):
        try:
            if self.redraw:
                # Clears what an earlier, longer line left.
                print(f"\r\033[K{text}", end=end, flush=True)
            else:
                print(text, flush=True)
        except BrokenPipeError:
            # Not from here: `place`, which comes later, saves first.
            self.place.stop.requested = self.place.stop.requested or 141
        except OSError as error:
            # A full disk, perhaps, that is not the run folder's.
            if not self.failed:
                _LOGGER.warning(
                    "The line of progress cannot be printed (%s). Training "
                    "goes on; its figures are in history.csv.",
                    error,
                )
            self.failed = True
