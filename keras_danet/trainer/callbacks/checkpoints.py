"""Checkpoints of a training, written while it runs."""

import json
import threading

import keras
import numpy as np

from keras_danet.trainer.checkpoints import as_array
from keras_danet.trainer.checkpoints import checkpoints
from keras_danet.trainer.checkpoints import load_checkpoint
from keras_danet.trainer.checkpoints import save_checkpoint
from keras_danet.trainer.stopping import StopSignal

# What the names of the user's own callbacks begin with in `parts`.
OWN = "own/"
# Against losses and weights that are NaN or infinite.
REMEDY = (
    "The learning rate is the usual cause: lower it (--set "
    "optimization.learning_rate=...), warm up (--set "
    "optimization.warmup_steps=...), or use "
    "dtype='float32' if it is a half precision. Another recipe is another "
    "training, and needs another --output."
)


def training_state(model):
    """All that the next step of a compiled model depends on.

    Weights, the seeds of dropout, the optimizer's variables (its step, its
    velocities, averages and gathered gradients) and the sums of the metrics.

    Args:
        model: a compiled `keras.Model` whose optimizer is built.

    Returns:
        Dict of string to `keras.Variable`, the same for the same model: names
        that Keras counts up in a process are not in it.
    """
    if keras.backend.backend() == "jax":
        # Within an epoch `fit` keeps them elsewhere.
        model.jax_state_sync()
    # What `fit` looks for in labels starts again with it.
    extremes = getattr(model, "extremes", None)
    sums = [
        variable
        for metric in model.metrics
        if metric is not extremes
        for variable in metric.variables
    ]
    return {
        f"{kind}/{number}": variable
        for kind, variables in (
            ("model", model.variables),
            ("optimizer", model.optimizer.variables),
            ("metrics", sums),
        )
        for number, variable in enumerate(variables)
    }


def _state_of(part):
    state = part.get_state()
    try:
        json.dumps(state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`get_state` of the callback {type(part).__name__} must give what "
            f"`json.dumps` takes, to be kept in a checkpoint: {error}. "
            f"Received: {state!r}"
        ) from error
    return state


class Checkpoints(keras.callbacks.Callback):
    """Saves where a training is, so that it can be resumed there.

    It comes last of the callbacks, because it saves what they did.

    Args:
        folder: `pathlib.Path`, where checkpoints lie.
        steps: integer, steps of an epoch.
        every: integer, steps from one checkpoint to the next. Defaults to
            `1000`.
        keep: integer, how many there may be. Defaults to `2`.
        stop: a `StopSignal`, granted after a checkpoint was written.
            Defaults to `None`.
        background: boolean, whether to write while training goes on, from a
            copy of the state. Defaults to `False`.
        run: string, identifies the training, so that checkpoints of several
            are not mixed. Defaults to `None`.
        files: function of (epoch, step), both from 0, to the names of the
            batch's images, for messages. Defaults to `None`.
        writes: boolean, whether anything is written; of several processes
            one does, and all take part in reading. Defaults to `True`.

    Attributes:
        parts: dict of string to the callbacks whose state is kept as well.
        newest: path of the newest checkpoint, `None` before the first.
        epoch, step: integers from 0, the next step to do. A step equal to
            `steps` is the end of an epoch, before its validation.
    """

    def __init__(
        self,
        folder,
        steps,
        every=1000,
        keep=2,
        stop=None,
        background=False,
        run=None,
        files=None,
        writes=True,
    ):
        super().__init__()
        self.run = run
        self.files = files or (lambda epoch, step: ["not known"])
        self.writes = writes
        self.folder = folder
        self.steps = steps
        self.parts = {}
        self.every = every
        self.keep = keep
        self.stop = stop or StopSignal()
        self.background = background
        self.epoch = self.step = 0
        self.logs = {}
        self.newest = None
        # What is newer than the resumed checkpoint is ignored.
        self._damaged = set()
        self._saved = None
        self._sums = None
        self._weights = None
        self._writer = None
        self._ends_with_epoch = False

    def restore(self, path, header):
        """Puts a checkpoint into the model and the callbacks."""
        state = training_state(self.model)
        sums = [name for name in state if name.startswith("metrics/")]
        load_checkpoint(
            path, {name: state[name] for name in state if name not in sums}
        )
        try:
            for name, part in self.parts.items():
                if not name.startswith(OWN):
                    part.set_state(header["parts"][name])
            self.epoch, self.step = int(header["epoch"]), int(header["step"])
            self.logs = dict(header["logs"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not say where the training was ({error!r}). "
                "Expected a file that `keras-danet train` wrote; remove it, "
                "and --resume uses the one before."
            ) from error
        for name, part in self.parts.items():
            # A callback of the user's may be new.
            if name.startswith(OWN) and name in header["parts"]:
                part.set_state(header["parts"][name])
        self.newest = path
        # The folder may have been named in another way.
        self._damaged = {
            p for p in checkpoints(self.folder) if p.name > path.name
        }
        self._saved = self.epoch, self.step
        # `fit` begins an epoch with empty metrics.
        self._sums = path if 0 < self.step < self.steps else None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self._sums:
            state = training_state(self.model)
            load_checkpoint(
                self._sums,
                {
                    name: variable
                    for name, variable in state.items()
                    if name.startswith("metrics/")
                },
            )
            self._sums = None

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self.logs = dict(logs or {})
        done = self.epoch * self.steps + self.step
        if self.stop.requested or done % self.every == 0:
            self.save()
            self.stop.check()
        # Within an epoch there would be figures of a part of it.
        if self.model.stop_training and self.step < self.steps:
            self.model.stop_training = False
            self._ends_with_epoch = True

    def on_epoch_end(self, epoch, logs=None):
        self.epoch, self.step, self.logs = epoch + 1, 0, {}
        if self._ends_with_epoch:
            self.model.stop_training = True
            self._ends_with_epoch = False
        # A validation costs more than what keeps its result; and where `fit`
        # ends it may put averages in the weights' place.
        ends = self.epoch == self.params["epochs"] or self.model.stop_training
        if ends:
            self._weights = [
                np.array(keras.ops.convert_to_numpy(variable))
                for variable in self.model.trainable_variables
            ]
        if "val_mean_iou" in (logs or {}) or ends or self.stop.requested:
            self.save()
        self.stop.check()

    def on_train_end(self, logs=None):
        self.finish()

    def put_weights_back(self):
        """Undoes what `fit` ends with: averages in the weights' place."""
        if self._weights is not None:
            for variable, value in zip(
                self.model.trainable_variables, self._weights, strict=True
            ):
                variable.assign(value)
            self._weights = None

    def save(self):
        """Writes a checkpoint of now, unless there is one already."""
        if self._saved == (self.epoch, self.step):
            return
        done = self.epoch * self.steps + self.step
        path = self.folder / f"step-{done:09}.ckpt"
        header = {
            "run": self.run,
            "epoch": self.epoch,
            "step": self.step,
            "logs": self.logs,
            "parts": {
                name: _state_of(part) for name, part in self.parts.items()
            },
        }
        self.finish()
        state = {
            name: as_array(variable)
            for name, variable in training_state(self.model).items()
        }
        self._check_finite(state, done)
        self._saved = self.epoch, self.step
        if not self.writes:
            return
        if not self.background:
            self._write(path, state, header)
            return
        # On a CPU arrays may be the variables' own memory.
        state = {name: np.array(array) for name, array in state.items()}
        self._error = None
        self._writer = threading.Thread(
            target=self._write_behind, args=(path, state, header)
        )
        self._writer.start()

    def trace(self, done):
        """Where to look for what went wrong within `done` steps."""
        epoch, last = divmod(done - 1, self.steps)
        # The update before may have been the one that spoilt it.
        files = "; ".join(
            f"step {step + 1}: {', '.join(self.files(epoch, step))}"
            for step in range(max(last - 1, 0), last + 1)
        )
        run = self.folder.parent
        start = (
            f" --set model.start_from={run} starts it from the best epoch of "
            "this one."
            if (run / "model.keras").exists()
            else ""
        )
        return (
            f"Last batches: {files}. The last good checkpoint: "
            f"{self.newest or 'none yet'}. {REMEDY}{start}"
        )

    def _check_finite(self, state, done):
        for name, array in state.items():
            kind, number = name.split("/")
            if kind == "model" and not np.isfinite(array).all():
                path = self.model.variables[int(number)].path
                epoch, last = divmod(done - 1, self.steps)
                raise ValueError(
                    f"The weight {path} became NaN or infinite after epoch "
                    f"{epoch + 1}, step {last + 1} of {self.steps}. "
                    f"{self.trace(done)}"
                )

    def finish(self):
        """Waits for what is written in the background; raises its error."""
        if self._writer:
            self._writer.join()
            self._writer = None
            if self._error:
                raise self._error

    def _write_behind(self, *arguments):
        try:
            self._write(*arguments)
        except Exception as error:
            self._error = error

    def _write(self, path, state, header):
        self.folder.mkdir(exist_ok=True)
        save_checkpoint(path, state, header)
        self.newest = path
        self._damaged.discard(path)
        whole = [p for p in checkpoints(self.folder) if p not in self._damaged]
        for old in whole[self.keep :]:
            old.unlink()
