"""The model measured on whole images, and the best one kept."""

import contextlib
import math
import time

import keras

from keras_danet.distribution.engines import Placement
from keras_danet.files import save_model
from keras_danet.inference.evaluation import evaluate


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
            the training ends. Defaults to `None`, never.
        stop: a `StopSignal`, asked after every image; where several
            processes measure together none may stop alone. Defaults to
            `None`.
        placement: a `distribution.Placement`, whose processes share the
            images. Defaults to `None`.
        num_crops: float, how many crops of the training have as many pixels
            as the images together. Defaults to `0`, unknown.

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
                quick=True,
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
                    "check-data` shows what is in them."
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
