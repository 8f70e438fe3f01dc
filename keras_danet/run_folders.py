"""Run folders: opened by one training at a time, replaced and removed."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import shutil

from keras_danet.checkpointing import checkpoints
from keras_danet.runs import read_run_config

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
