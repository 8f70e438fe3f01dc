"""Where a training is, for whoever looks at it."""

import logging
import math
import shutil
import time

import keras

from keras_danet.trainer.callbacks.figures import peak_device_memory
from keras_danet.trainer.callbacks.figures import peak_memory
from keras_danet.waiting import clock

_LOGGER = logging.getLogger("keras_danet")

# In a log file, a line now and then shows that it is alive.
SECONDS_PER_LINE = 60


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
        """How long the remaining validations will take."""
        if not self.validation:
            return 0
        # This epoch's is over once its figure is known.
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
            parts.append(f"val {logs['val_mean_iou']:.2%}")
        if rate:
            seconds = left * self.throughput.batch_size / rate
            seconds += self._validation_seconds("val_mean_iou" in logs)
            parts += [f"{clock(seconds)} left", f"{rate:.3g} images/s"]
        parts.append(f"{peak_memory() / 2**30:.1f} GiB")
        if on_device := peak_device_memory():
            parts.append(f"{on_device / 2**30:.1f} GiB on a device")
        if self.redraw:
            # A line that is too long would scroll; the first parts matter most.
            columns = shutil.get_terminal_size().columns
            while len("  ".join(parts)) >= columns and len(parts) > 1:
                parts.pop()
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
                    "The progress line cannot be printed (%s). Training "
                    "continues; its figures are in history.csv.",
                    error,
                )
            self.failed = True
