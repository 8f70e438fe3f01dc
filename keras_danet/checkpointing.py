"""How a run survives: files appear whole or not at all, and it can go on.

A checkpoint is one file, `step-000001000.ckpt`: an uncompressed zip archive of
`header.json` and one `.npy` array per variable. Nothing in it is executed when
it is read, and nothing is read before its size is known to be right.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
import re
import shutil
import signal
import tempfile
import threading
import zipfile

import keras
import numpy as np

FORMAT = "keras_danet checkpoint 1"
HEADER = "header.json"
# A history of a million epochs has less.
MAX_HEADER_BYTES = 2**27
_NAME = re.compile(r"step-(\d{9})\.ckpt")


@contextlib.contextmanager
def whole_or_not(path):
    """Gives a path beside `path` to write to, which then replaces it.

    What was written is on the disk before it gets its name, so that not even
    a loss of power leaves half a file of that name. After an error nothing
    is left.

    Args:
        path: path of the file.

    Yields:
        `pathlib.Path` in the same folder.

    Raises:
        OSError: if it cannot be written; names the file.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error.strerror or error}. Make room, "
            "or write elsewhere; what was finished before is whole."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder):
    # A new name lies in the folder. Not every system lets one be opened.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_model(model, path):
    """Writes `model` to `path` (`.keras`), whole or not at all."""
    optimizer = getattr(model, "optimizer", None)
    variables = model.variables + (optimizer.variables if optimizer else [])
    # HDF5 adds about 1,300 bytes to a variable.
    size = 2**16 + sum(
        2048 + math.prod(v.shape) * (8 if "64" in v.dtype else 4)
        for v in variables
    )
    with (
        whole_or_not(path) as partial,
        # Keras would keep the archive's weights in memory, all at once.
        tempfile.TemporaryDirectory(
            prefix=f"{partial.name}-", dir=partial.parent
        ) as folder,
    ):
        room = pathlib.Path(folder, "room")
        for file in (partial, room):
            _reserve(file, size)
        room.unlink()
        model.save(folder, zipped=False)
        with zipfile.ZipFile(partial, "w") as archive:
            for file in sorted(pathlib.Path(folder).rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder))


def _reserve(path, size):
    """Takes room on the disk: where HDF5 finds none, the process crashes."""
    with open(path, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:
            pass  # Not on every system,
        except OSError as error:
            # nor on every file system.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


def save_text(text, path):
    """Writes `text` to `path`, whole or not at all."""
    with whole_or_not(path) as partial:
        partial.write_text(text, encoding="utf-8")


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
    return {
        f"{kind}/{number}": variable
        for kind, variables in (
            ("model", model.variables),
            ("optimizer", model.optimizer.variables),
            ("metrics", model.metrics_variables),
        )
        for number, variable in enumerate(variables)
    }


def save_checkpoint(path, state, header):
    """Writes a checkpoint, whole or not at all.

    Args:
        path: path of the file.
        state: dict of string to array or variable.
        header: dict, what else there is to keep, for `json.dumps`.
    """
    arrays = {name: _as_array(value) for name, value in state.items()}
    header = {**header, "format": FORMAT, "arrays": list(arrays)}
    with whole_or_not(path) as partial:
        # Stored as they are: weights hardly shrink.
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(HEADER, json.dumps(header))
            for number, array in enumerate(arrays.values()):
                with archive.open(f"{number}.npy", "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)


def _as_array(value):
    array = np.asarray(keras.ops.convert_to_numpy(value))
    # NumPy's own format has no bfloat16, which float32 holds exactly.
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def read_header(path):
    """Reads what a checkpoint says of itself.

    Args:
        path: path of the file.

    Returns:
        The dict that was saved.

    Raises:
        ValueError: if it is truncated, damaged or no checkpoint of ours.
    """
    with _opened(path) as archive:
        return _header(archive)


def _header(archive):
    entry = archive.getinfo(HEADER)
    if entry.file_size > MAX_HEADER_BYTES or entry.compress_type:
        raise ValueError(f"its {HEADER} has {entry.file_size} bytes")
    header = json.loads(archive.read(entry))
    found = header.get("format") if isinstance(header, dict) else None
    if found != FORMAT:
        raise ValueError(f"its format is {found!r}, not {FORMAT!r}")
    # What is stored as it is cannot unpack to more than the file has.
    if any(entry.compress_type for entry in archive.infolist()):
        raise ValueError("something in it is compressed")
    return header


@contextlib.contextmanager
def _opened(path):
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise
    # Of a broken archive anything may come.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be used as a checkpoint: {error}. Expected a whole "
            "file that `keras-danet train` wrote; remove it, and --resume "
            "takes the one before."
        ) from error


def load_checkpoint(path, state):
    """Puts the arrays of a checkpoint into variables.

    Every array is compared with its variable before a byte of it is read,
    and no variable changes unless all of them fit.

    Args:
        path: path of the file.
        state: dict of string to `keras.Variable`; what is not in it is left
            alone.

    Raises:
        ValueError: if the file is damaged or of another model.
    """
    with _opened(path) as archive:
        names = _header(archive)["arrays"]
        missing = [name for name in state if name not in names]
        if missing:
            raise ValueError(f"it has no {missing[0]}; it is another model's")
        arrays = {
            name: _read_array(archive, names.index(name), name, variable)
            for name, variable in state.items()
        }
    for name, variable in state.items():
        variable.assign(arrays[name])


def _read_array(archive, number, name, variable):
    entry = archive.getinfo(f"{number}.npy")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name} has version {version} of NumPy's format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        expected = tuple(variable.shape)
        size = dtype.itemsize * int(np.prod(shape, dtype="int64"))
        if shape != expected or dtype.hasobject or entry.file_size < size:
            raise ValueError(
                f"{name} has shape {shape} and dtype {dtype}, where the model "
                f"has {expected}; it is another model's"
            )
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def checkpoints(folder):
    """The checkpoints of a folder, newest first.

    Args:
        folder: path, which need not exist.

    Returns:
        List of `pathlib.Path`.
    """
    return sorted(
        (
            path
            for path in pathlib.Path(folder).glob("step-*.ckpt")
            if _NAME.fullmatch(path.name) and path.is_file()
        ),
        reverse=True,
    )


def newest_checkpoint(folder, warn):
    """The newest checkpoint that is whole, and its header.

    Args:
        folder: path.
        warn: function of a string, called for each file that is not whole.

    Returns:
        (path, header); `(None, None)` where there is none.
    """
    for path in checkpoints(folder):
        try:
            with _opened(path) as archive:
                header = _header(archive)
                # Reads every byte, against the sums that were written.
                broken = archive.testzip()
                if broken:
                    raise ValueError(f"{broken} in it is damaged")
        except (ValueError, OSError) as error:
            warn(f"{error} An older one is looked for.")
            continue
        return path, header
    return None, None


def remove_leftovers(folder):
    """Removes what a killed process left half-written in a folder."""
    for path in pathlib.Path(folder).glob(".partial-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class StopSignal:
    """Turns SIGTERM and Ctrl-C into a wish that is granted between two steps.

    A second Ctrl-C ends the training at once.

    Attributes:
        requested: integer, the exit code that was asked for: 143 by SIGTERM,
            130 by Ctrl-C, 0 before.
    """

    def __init__(self):
        self.requested = 0

    @contextlib.contextmanager
    def listening(self):
        """Listens to both; in the main thread only, as Python has it."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {
            number: signal.getsignal(number)
            for number in (signal.SIGTERM, signal.SIGINT)
        }

        def request(number, _):
            self.requested = 128 + number
            signal.signal(signal.SIGINT, previous[signal.SIGINT])

        for number, handler in previous.items():
            # Shells let what runs behind them ignore Ctrl-C.
            if handler != signal.SIG_IGN:
                signal.signal(number, request)
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def check(self):
        """Raises SystemExit if a signal has come."""
        if self.requested:
            raise SystemExit(self.requested)


class Checkpoints(keras.callbacks.Callback):
    """Keeps where a training is, so that it can be gone on from there.

    It belongs at the end of the callbacks, because it keeps what they did.

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
        run: string, tells trainings from each other whose checkpoints must
            not be mixed. Defaults to `None`.

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
    ):
        super().__init__()
        self.run = run
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
        self._saved = None
        self._sums = None
        self._weights = None
        self._writer = None

    def restore(self, path, header):
        """Puts a checkpoint into the model and the callbacks."""
        if header.get("run") != self.run:
            raise ValueError(
                f"{path} is of a training with another recipe or other data. "
                "Remove it, and --resume takes the one before."
            )
        state = training_state(self.model)
        sums = [name for name in state if name.startswith("metrics/")]
        load_checkpoint(
            path, {name: state[name] for name in state if name not in sums}
        )
        try:
            for name, part in self.parts.items():
                part.set_state(header["parts"][name])
            self.epoch, self.step = int(header["epoch"]), int(header["step"])
            self.logs = dict(header["logs"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not say where the training was ({error!r}). "
                "Expected a file that `keras-danet train` wrote; remove it, "
                "and --resume takes the one before."
            ) from error
        self.newest = path
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

    def on_epoch_end(self, epoch, logs=None):
        self.epoch, self.step, self.logs = epoch + 1, 0, {}
        # A validation costs more than what keeps its result; and where `fit`
        # ends it may put averages in the weights' place.
        ends = self.epoch == self.params["epochs"]
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
                name: part.get_state() for name, part in self.parts.items()
            },
        }
        self.finish()
        state = {
            name: _as_array(variable)
            for name, variable in training_state(self.model).items()
        }
        self._check_finite(state)
        self._saved = self.epoch, self.step
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

    def _check_finite(self, state):
        for name, array in state.items():
            kind, number = name.split("/")
            if kind == "model" and not np.isfinite(array).all():
                path = self.model.variables[int(number)].path
                raise ValueError(
                    f"The weight {path} is no number any more, after epoch "
                    f"{self.epoch + 1}, step {self.step} of {self.steps}. The "
                    f"last good checkpoint: {self.newest or 'none yet'}. Lower "
                    "`learning_rate` (--set learning_rate=...), or use "
                    "dtype='float32' if it is a half precision."
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
        # What is newer was damaged when this training went on, and counts
        # for nothing.
        whole = [old for old in checkpoints(self.folder) if old <= path]
        for old in whole[self.keep :]:
            old.unlink()
