"""Run folders: what a training leaves, and how every later step finds it."""

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from importlib import metadata

import keras

from keras_danet.checkpointing import checkpoints
from keras_danet.checkpointing import save_text
from keras_danet.data.datasets import get_dataset
from keras_danet.data.decoding import read_image
from keras_danet.data.files import find_pairs
from keras_danet.data.folder import CLASSES_FILE
from keras_danet.data.folder import FOLDER
from keras_danet.data.folder import open_dataset
from keras_danet.data.folder import read_classes
from keras_danet.models import DANet
from keras_danet.models.weight_files import load_keras_model
from keras_danet.recipes import TrainConfig

# DANet-ResNet152 with its optimizer takes 1 GB; what says it unpacks to more
# than this is no model of ours.
MAX_MODEL_BYTES = 2**33
_LOGGER = logging.getLogger("keras_danet")


@contextlib.contextmanager
def open_run_folder(run, config, overwrite=False, resume=False):
    """Makes an empty folder for a run, or opens one to go on with.

    A new run that ends without a model and a checkpoint leaves nothing. One
    that replaces another keeps it beside itself until it ends, and then the
    new one stays if it has either; else the old one comes back.

    Args:
        run: path of the folder.
        config: `TrainConfig`, that of the run to go on with, if any.
        overwrite: boolean, whether it may replace an older run.
        resume: boolean, whether to go on with an older run.

    Yields:
        `run` as an absolute `pathlib.Path`.

    Raises:
        FileExistsError: if `run` exists and may be neither replaced nor gone
            on with, or a file is in the way.
        BlockingIOError: if another training uses it.
        ValueError: if it was begun with another `config`.
    """
    if resume and overwrite:
        raise ValueError(
            "A run is either gone on with (--resume) or replaced "
            "(--overwrite). Received: both."
        )
    run = pathlib.Path(os.path.realpath(run))
    for folder in (*reversed(run.parents), run, run / "checkpoints"):
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(
                f"{folder} is a file. Expected a folder, or nothing, there. "
                "Move it away, or choose another --output."
            )
    run.parent.mkdir(parents=True, exist_ok=True)
    with _alone(run), _opened(run, config, overwrite, resume):
        yield run


@contextlib.contextmanager
def _opened(run, config, overwrite, resume):
    waiting = run.with_name(f".{run.name}-replaced")
    # A process that was killed may have left both.
    _choose(run, waiting)
    before = set(run.iterdir()) if run.exists() else None
    if resume and before and not all(map(_is_leftover, before)):
        _check_same(run, config)
        yield
        return
    if run.exists() and not resume:
        _check_replaceable(run, overwrite)
        os.rename(run, waiting)
        before = None
    # Whoever makes the folder first may remove it.
    run.mkdir(exist_ok=before is not None)
    try:
        yield
    finally:
        if not _is_useful(run):
            _remove_new(run, before)
        _choose(run, waiting)


@contextlib.contextmanager
def _alone(run):
    """Lets one training at a time use a folder, where the system can tell."""
    path = run.with_name(f".{run.name}.lock")
    with contextlib.ExitStack() as held:
        try:
            import fcntl

            # The system takes the lock back however the process ends.
            file = held.enter_context(open(path, "w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file.fileno()).st_nlink:
                raise BlockingIOError("removed by whoever has just had it")
        except BlockingIOError as error:
            raise BlockingIOError(
                f"Another training uses the run folder {run}. Wait until it "
                "has ended, or end it, or choose another --output."
            ) from error
        except (ImportError, OSError):
            # Windows, a file system without locks, a folder of others.
            pass
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _choose(run, waiting):
    """Keeps one of a run and of the one that it replaces, if it does."""
    if not waiting.exists():
        return
    if _is_useful(run):
        shutil.rmtree(waiting)
        return
    if run.exists():
        if not all(map(_is_leftover, run.iterdir())):
            _check_replaceable(run, overwrite=True)
        # Aside first: a kill within leaves no half of a run.
        removed = run.with_name(f".{run.name}-removed")
        shutil.rmtree(removed, ignore_errors=True)
        os.rename(run, removed)
        os.rename(waiting, run)
        shutil.rmtree(removed)
    else:
        os.rename(waiting, run)
    _LOGGER.warning(
        "%s is what it was before it was to be replaced: the new run came to "
        "no checkpoint.",
        run,
    )


def _is_useful(run):
    """Whether there is something to use, or to go on with."""
    return (run / "model.keras").exists() or checkpoints(run / "checkpoints")


def _is_leftover(path):
    """Whether it is of a run that was killed before it had a `config.json`."""
    return path.name == "scenes" or path.name.startswith(".partial-")


def _remove_new(run, before):
    """Removes what was not there before, the folder as well if it is new."""
    if before is None:
        shutil.rmtree(run, ignore_errors=True)
        return
    for path in set(run.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _check_same(run, config):
    """A run is gone on with as it was begun, or not at all."""
    before = dataclasses.asdict(read_run_config(run))
    now = dataclasses.asdict(config)
    # Data may move; whether it is the same is told by its digest.
    changes = [
        f"{name} was {before[name]!r} and is {value!r}"
        for name, value in now.items()
        if before[name] != value and name != "data_root"
    ]
    if changes:
        raise ValueError(
            f"{run} was begun with another recipe: {'; '.join(changes)}. "
            "Expected the same, so that it ends as it would have; change it "
            "back, or choose another --output."
        )


def _check_replaceable(run, overwrite):
    if not overwrite:
        raise FileExistsError(
            f"The run folder {run} exists. Choose another with --output, or "
            "replace it with --overwrite."
        )
    # Never a folder that is something else.
    if any(run.iterdir()) and not (run / "config.json").is_file():
        raise FileExistsError(
            f"{run} is not a run folder (it has no config.json), so it is not "
            "overwritten. Choose another with --output."
        )


def write_run_config(
    run, config, root, distribute, devices, recipe, data_digest
):
    """Writes `config.json`: what is run, on what, by which command.

    Going on with a run adds to its `sessions`. The classes of one's own
    folder come with it, as `classes.json`.

    Args:
        run: `pathlib.Path` of the run folder.
        config: `TrainConfig`.
        root: path of the data set.
        distribute: string, name of the engine.
        devices: integer.
        recipe: string, path of the recipe, or `None`.
        data_digest: string, which tells the data from others.

    Raises:
        ValueError: if the run was begun on other data or another backend.
    """
    path = run / "config.json"
    sessions = []
    if path.is_file():
        old = _read_json(path)
        sessions = old.get("sessions", [])
        for what, before, now in (
            ("backend", old.get("backend"), keras.backend.backend()),
            ("list of files or classes", old.get("data_digest"), data_digest),
        ):
            if before != now:
                raise ValueError(
                    f"{run} was begun on another {what}: {before}. Received: "
                    f"{now}. Go on with the same, or choose another --output."
                )
    # An absolute root, so that the folder is found from anywhere; the drawn
    # scenes move with the run.
    inside = pathlib.Path(root).parent == run
    content = {
        "config": {
            **dataclasses.asdict(config),
            "data_root": None if inside else os.path.abspath(root),
        },
        "recipe": recipe and str(recipe),
        "backend": keras.backend.backend(),
        "data_digest": data_digest,
        "sessions": [
            *sessions,
            {
                "started": datetime.datetime.now(datetime.UTC).isoformat(
                    "T", "seconds"
                ),
                "command": sys.argv,
                "distribute": distribute,
                "devices": devices,
                "versions": _versions(),
                "commit": _commit(),
            },
        ],
    }
    save_text(json.dumps(content, indent=1) + "\n", path)
    if config.dataset == FOLDER:
        classes = pathlib.Path(root) / CLASSES_FILE
        save_text(classes.read_text("utf-8-sig"), run / CLASSES_FILE)


def read_run_config(run):
    """The `TrainConfig` of a run folder."""
    path = pathlib.Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} is not a run folder: it has no config.json. Expected the "
            "folder that `keras-danet train` made."
        )
    try:
        content = _read_json(path)
        if not isinstance(content.get("sessions", []), list):
            raise TypeError("its sessions are no list")
        return TrainConfig(**content["config"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a run ({error}). Expected the file "
            "that `keras-danet train` wrote."
        ) from error


def _read_json(path):
    return json.loads(path.read_text("utf-8"))


def load_run_model(run):
    """The trained model of a run folder."""
    path = pathlib.Path(run) / "model.keras"
    model = load_keras_model(path, MAX_MODEL_BYTES)
    if not isinstance(model, DANet):
        raise ValueError(
            f"{path} holds a {type(model).__name__}, not a DANet. Expected the "
            "file that `keras-danet train` wrote; train again."
        )
    return model


def _versions():
    found = {"python": platform.python_version()}
    for name in ("keras-danet", "keras", keras.backend.backend(), "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _commit():
    """The commit of the working folder's repository, None without one."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def find_data(config, run):
    """The data set's record and root folder; draws the scenes into a run."""
    variable = f"KERAS_DANET_{config.dataset.upper()}"
    root = config.data_root or os.environ.get(variable)
    if config.dataset == FOLDER:
        title, origin = (
            "your own data set",
            "`keras_danet.data.folder` says how",
        )
    else:
        known = get_dataset(config.dataset)
        title, origin = known.title, f"It can be had from {known.url}"
    if root is None and config.dataset == "scenes":
        from keras_danet.data.scenes import write_scenes

        root = pathlib.Path(run) / "scenes"
        if not root.exists():
            write_scenes(root)
    if root is None:
        raise ValueError(
            f"Where {title} lies is not known. Give --data FOLDER, "
            f"set `data_root` in the recipe, or the environment variable "
            f"{variable}. {origin}."
        )
    dataset = open_dataset(config.dataset, root)
    _check_classes(dataset, run, root)
    return dataset, str(root)


def read_dataset(config, run):
    """The data set's record for a run, without a look at the data itself."""
    if config.dataset == FOLDER:
        return read_classes(pathlib.Path(run) / CLASSES_FILE)
    return get_dataset(config.dataset)


def _check_classes(dataset, run, root):
    """A run was trained on the classes that it keeps, and no others."""
    kept = pathlib.Path(run) / CLASSES_FILE
    if dataset.name != FOLDER or not kept.is_file():
        return
    if read_classes(kept).class_names != dataset.class_names:
        raise ValueError(
            f"{pathlib.Path(root) / CLASSES_FILE} has other classes than "
            f"{kept}, which the run was trained on. Expected "
            f"{', '.join(read_classes(kept).class_names)}. Received: "
            f"{', '.join(dataset.class_names)}. Change them back, or train "
            "again."
        )


def sample_images(config, run, count=2):
    """A few validation images of a run, uint8; none if they are not there."""
    try:
        dataset, root = find_data(config, run)
        pairs = find_pairs(dataset, root, config.val_split)
    except (OSError, ValueError):
        return []
    return [read_image(pair.image) for pair in pairs[:count]]
