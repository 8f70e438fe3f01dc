"""What `fit` says about wrong labels, images and learning rates.

None of it slows a step down: the lowest and highest values are kept with the
metrics, on the device, and read after the first step and every epoch.
"""

import contextlib
import re
import warnings

import keras
import numpy as np
from keras import ops

from keras_danet.layers import Normalization
from keras_danet.losses import SumOfLosses
from keras_danet.losses.pixels import PixelLoss
from keras_danet.metrics import SegmentationMetrics
from keras_danet.metrics import wrong_labels
from keras_danet.optimizers import SGD

# Larger than any pixel, even if averaging over replicas divides it.
NOTHING = 1e30
# Normalised images stay below it; raw pixels do not.
MOST_NORMALISED = 16
NAN = float("nan")
# The messages of TensorFlow and torch.
WRONG_LABEL = re.compile(
    r"label value of (-?\d+) which is outside the valid range"
    r"|Target (-?\d+) is out of bounds"
)


def ignored_labels(judges):
    """What each loss or metric that reads label maps leaves out.

    Args:
        judges: iterable of losses and metrics.

    Returns:
        List of one set per loss or metric of a known kind; each holds one
        integer or none.
    """
    found = []
    for judge in judges:
        if isinstance(judge, SumOfLosses):
            found += ignored_labels(loss for _, loss in judge.losses)
        elif isinstance(judge, (PixelLoss, SegmentationMetrics)):
            found.append({judge.ignore_label})
        elif isinstance(judge, keras.losses.SparseCategoricalCrossentropy):
            found.append({judge.ignore_class} - {None})
        elif _ignores_none(judge):
            found.append(set())
    return found


def _ignores_none(judge):
    """Whether it is Keras's crossentropy, as a function or as a metric."""
    function = getattr(judge, "function", None)
    function = getattr(function, "func", function)
    return function is keras.losses.sparse_categorical_crossentropy or (
        isinstance(judge, keras.metrics.SparseCategoricalCrossentropy)
    )


def ignored_by_all(losses):
    """The label that losses leave out; `None` if there is none.

    Raises:
        ValueError: if they disagree.
    """
    found = set().union(*ignored_labels(losses))
    if len(found) > 1:
        raise ValueError(
            "The losses ignore different labels: a pixel would be void for "
            "one and a class for another. Give all of them the same "
            f"`ignore_label`. Received: {sorted(found)}"
        )
    return next(iter(found), None)


class Extremes(keras.Metric):
    """The lowest and highest wrong label, and pixel, of an epoch so far.

    Args:
        num_classes: integer.
        ignored: set of labels to leave out, or `None` to judge no labels.
    """

    def __init__(self, num_classes, ignored):
        super().__init__(name="extremes", dtype="float32")
        self.num_classes = num_classes
        self.ignored = ignored
        # Lowest and highest label, lowest and highest pixel.
        self.values = [
            self.add_variable((), _start(sign), "float32", name=name)
            for sign, name in (
                (1, "lowest_label"),
                (-1, "highest_label"),
                (1, "lowest_pixel"),
                (-1, "highest_pixel"),
            )
        ]

    def update_state(self, images, labels):
        """Looks at a batch; at its images only if they are floats."""
        # `train_on_batch` passes arrays.
        if self.ignored is not None and hasattr(labels, "shape"):
            labels = ops.convert_to_tensor(labels)
            self._widen(*self.values[:2], labels, self._wrong(labels))
        if hasattr(images, "shape") and _is_float(images):
            self._widen(*self.values[2:], images, True)

    def _wrong(self, labels):
        whole = ops.cast(labels, "int32")
        fine = ops.logical_and(whole >= 0, whole < self.num_classes)
        for label in self.ignored:
            fine = ops.logical_or(fine, whole == label)
        # Fractions and NaN do not survive the cast.
        fine = ops.logical_and(fine, ops.cast(whole, labels.dtype) == labels)
        return ops.logical_not(fine)

    def _widen(self, lowest, highest, values, counted):
        values = ops.cast(values, "float32")
        # NaN and infinity count as very large values.
        known = ops.abs(values) < NOTHING / 100
        values = ops.where(known, values, NOTHING / 100)
        low = ops.where(counted, values, NOTHING)
        high = ops.where(counted, values, -NOTHING)
        low, high = (
            ops.min(low, initial=NOTHING),
            ops.max(high, initial=-NOTHING),
        )
        lowest.assign(ops.minimum(lowest, low))
        highest.assign(ops.maximum(highest, high))

    def result(self):
        return self.values[0]

    def reset_state(self):
        for sign, variable in zip((1, -1, 1, -1), self.values, strict=True):
            variable.assign(sign * NOTHING)

    def found(self, strategy=None):
        """[(lowest, highest) label, the same of pixels], `None` for none."""
        low, high, dark, light = (_parts(v, strategy) for v in self.values)
        pairs = (min(low), max(high)), (min(dark), max(light))
        return [pair if pair[0] <= pair[1] else None for pair in pairs]


def _start(sign):
    return keras.initializers.Constant(sign * NOTHING)


def _is_float(tensor):
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def _parts(variable, strategy):
    """A variable's values, one for each replica that has its own."""
    value = variable.value
    parts = strategy.experimental_local_results(value) if strategy else [value]
    return [float(ops.convert_to_numpy(part)) for part in parts]


def check_labels(found, num_classes, ignored, where):
    """Raises a ValueError for wrong labels.

    Args:
        found: (lowest, highest) of them.
        num_classes: integer.
        ignored: set of labels.
        where: string, such as "Training".
    """
    # A stand-in for NaN or infinity; replicas may have divided it.
    values = dict.fromkeys(NAN if abs(v) > NOTHING / 1e4 else v for v in found)
    told = f"{where}: {wrong_labels(values, num_classes, ignored)}"
    if where == "Training":
        told += (
            " The weights may be NaN since the step that met it: create or "
            "load the model again."
        )
    raise ValueError(told)


def warn_of_pixels(model, found):
    """Warns once per model, with the text of `pixel_warning`.

    Args:
        model: a DANet, or a copy of one for inference.
        found: (lowest, highest) pixel of float images, or `None`.
    """
    means = [x.mean for x in model.layers if isinstance(x, Normalization)]
    # A model whose mean is not in 0-255 units expects other images.
    if found is None or not means or max(means[0]) <= 1:
        return
    told = pixel_warning(*found)
    if told and not model.__dict__.get("told_of_pixels"):
        model.__dict__["told_of_pixels"] = True
        warnings.warn(told, stacklevel=3)


def pixel_warning(low, high):
    """The warning about images with such pixels, `None` if they are fine."""
    seen = f"Received: values from {low:.4g} to {high:.4g}."
    if low >= 0 and 0 < high <= 1:
        return (
            "The images are in 0-1, which the model sees as nearly black: a "
            "DANet expects RGB in 0-255 and normalises it itself. Do not "
            f"divide by 255. {seen}"
        )
    if low < 0 and high <= MOST_NORMALISED:
        return (
            "The images look normalised already: a DANet expects RGB in "
            "0-255 and normalises it itself. Give it the raw pixels, or make "
            f"the model with pixel_mean=0, pixel_std=1. {seen}"
        )
    return None


def pixels_of(images):
    """(lowest, highest) of an array of floats, `None` for anything else."""
    if ops.is_tensor(images) and _is_float(images):
        images = ops.convert_to_numpy(images)
    if not isinstance(images, np.ndarray) or images.dtype.kind != "f":
        return None
    return (float(images.min()), float(images.max())) if images.size else None


@contextlib.contextmanager
def explained(model):
    """Turns a backend's error about a label into one that says what to do.

    Keras's own losses fail on a wrong label before it is noticed here.
    """
    try:
        yield
    except Exception as error:
        found = WRONG_LABEL.search(str(error))
        if not found:
            raise
        label = float(found[1] or found[2])
        ignored = model.extremes.ignored or set()
        if not 0 <= label < model.num_classes:
            raise ValueError(
                wrong_labels([label], model.num_classes, ignored)
            ) from error
        raise


class FitChecks(keras.callbacks.Callback):
    """Checks after the first step and after every epoch of `fit`."""

    def __init__(self, initial_epoch=0):
        super().__init__()
        self.initial_epoch = initial_epoch

    def on_train_begin(self, logs=None):
        self.begun = 0
        self.model.__dict__["told_of_rate"] = False
        steps = self.params.get("steps")
        epochs = self.params["epochs"] - self.initial_epoch
        warn_of_rate(self.model, steps * epochs if steps else 1)

    def on_train_batch_begin(self, batch, logs=None):
        # Not `on_train_batch_end`: Keras would then wait for every step.
        self.begun += 1
        if self.begun == 2:
            self.model.check_extremes("Training")

    def on_epoch_end(self, epoch, logs=None):
        self.model.check_extremes("Training")
        # A stream's steps per epoch may not have been known before.
        epochs = epoch + 1 - self.initial_epoch
        left = self.params["epochs"] - epoch - 1
        warn_of_rate(self.model, self.begun * left // epochs)


def warn_of_rate(model, batches):
    """Warns once if a learning rate is 0, or will be within some batches.

    Args:
        model: a compiled DANet.
        batches: integer, how many more it is to be trained on; 0 if unknown.
    """
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    schedule = getattr(optimizer, "_learning_rate", None)
    kind = keras.optimizers.schedules.LearningRateSchedule
    if model.told_of_rate or not isinstance(schedule, kind):
        return
    done = int(ops.convert_to_numpy(optimizer.iterations))
    steps = optimizer.gradient_accumulation_steps or 1
    if isinstance(optimizer, SGD):
        batches = -(-batches // steps)
    else:  # Keras's own count batches.
        done *= steps
    # Two steps, the next ones or the last: a warm-up may begin at 0, and
    # TensorFlow counts one step too many when a stream ends.
    step = done if batches else done - 2
    if _rate(schedule, step) == _rate(schedule, step + 1) == 0:
        what = f"is 0 after {step} steps: training has no effect any more"
    elif batches > 1 and _rate(schedule, done + batches - 1) == 0:
        what = "will be 0 before this training ends"
    else:
        return
    model.__dict__["told_of_rate"] = True
    total = schedule.get_config().get("total_steps")
    planned = f" (total_steps={total})" if total is not None else ""
    warnings.warn(
        f"The learning rate {what}. The schedule{planned} has ended, or "
        "ends too soon. To continue, compile again with the `total_steps` of "
        "the whole training, or with an optimizer whose rate ends above 0.",
        stacklevel=3,
    )


def _rate(schedule, step):
    return float(ops.convert_to_numpy(schedule(step)))
