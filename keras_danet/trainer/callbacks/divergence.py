"""Ends a training that diverges."""

import math

import keras

# A loss so many times the first one, for so many steps, does not come back.
DIVERGED = 20
DIVERGED_STEPS = 10
# A trained model may start with a loss near 0. A guess among 255 classes costs
# 5.5 an output, and DANet's four together 18.8.
LEAST_FIRST_LOSS = 1.0


class StopAtDivergence(keras.callbacks.Callback):
    """Ends a training whose loss is NaN, diverges or has no labelled pixel.

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
        # `fit` reports the mean over the epoch so far, which at first, and
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
                "Expected labels; `keras-danet check-data` shows what is "
                "in them."
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
