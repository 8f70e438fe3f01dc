"""Run folders: opened by one training at a time, replaced and removed."""

import contextlib
import logging
import os
import pathlib
import shutil
import tempfile

from keras_danet.data.scenes import SPLITS
from keras_danet.files import check_folder
from keras_danet.files import make_folder
from keras_danet.runs import read_run_config
from keras_danet.trainer.checkpoints import checkpoints

# Within a run folder, where a kill leaves it to the next start.
_REMOVED = ".partial-removed"
_LOGGER = logging.getLogger("keras_danet")


@contextlib.contextmanager
def open_run_folder(run, config, overwrite=False, resume=False):
    """Makes a folder for a run, or opens one to resume.

    A folder that holds nothing, or only what a run leaves that is killed
    before it has a `config.json`, is as good as none.

    A new run that ends without a model or checkpoint leaves nothing new. The
    run that it replaces waits beside it, hidden as `.{name}-replaced`, until
    the new one has a model; it comes back if the new one comes to nothing or
    is removed.

    Args:
        run: path of the folder.
        config: `TrainConfig`, that of the run to resume, if any.
        overwrite: boolean, whether it may replace an older run.
        resume: boolean, whether to resume an older run.

    Yields:
        `run` as an absolute `pathlib.Path`.

    Raises:
        FileExistsError: if `run` exists and may be neither replaced nor gone
            on with, or a file is in the way.
        BlockingIOError: if another training uses it.
        OSError: if it is to be replaced and cannot be moved.
        ValueError: if it was begun with another `config`, or has no name.
    """
    if resume and overwrite:
        raise ValueError(
            "A run is either resumed (--resume) or replaced "
            "(--overwrite). Received: both."
        )
    run = pathlib.Path(os.path.realpath(run))
    if not run.name:
        raise ValueError(
            "The root of a file system cannot be a run folder. Expected a "
            f"folder within it, which a run has for itself. Received: {run}. "
            "Choose another --output."
        )
    check_folder(run / "checkpoints")
    make_folder(run.parent)
    with _alone(run), _opened(run, config, overwrite, resume):
        yield run


@contextlib.contextmanager
def _opened(run, config, overwrite, resume):
    # A process that was killed may have left several. What is brought back to
    # be replaced again is told of once, if it comes back in the end.
    _settle(run, tells=not overwrite)
    goes_on = resume and not _is_blank(run)
    if goes_on:
        _check_same(run, config)
    elif not _is_blank(run):
        _check_replaceable(run, overwrite)
        _set_aside(run)
    before = None
    if run.exists():
        _remove_half_made(run)
        before = set(run.iterdir())
    # Whoever makes the folder first may remove it.
    make_folder(run, exist_ok=before is not None)
    try:
        yield
    finally:
        if not goes_on and not _is_useful(run):
            _remove_new(run, before)
        _settle(run)


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
            if not _is_at(file, path):
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


def _is_at(file, path):
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _beside(run):
    """Hidden places beside a run.

    Returns:
        Paths of the run that it replaces, of one that was to replace that and
        is replaced itself before it has a model, and of what is removed.
    """
    return [
        run.with_name(f".{run.name}-{what}")
        for what in ("replaced", "unfinished", "removed")
    ]


def _set_aside(run):
    replaced, unfinished, _ = _beside(run)
    # What waits for a model waits on.
    _rename(run, unfinished if replaced.exists() else replaced)


def _settle(run, tells=True):
    """Keeps what is needed of a run and of those that it replaces, if any.

    Wherever a process was killed, the next one comes to an end from there.
    """
    replaced, unfinished, removed = _beside(run)
    shutil.rmtree(removed, ignore_errors=True)
    waiting = [path for path in (unfinished, replaced) if path.exists()]
    if not _is_useful(run):
        if waiting:
            _bring_back(waiting[0], run)
            if tells:
                _LOGGER.warning(
                    "The previous run in %s was restored: its replacement "
                    "saved no checkpoint, or was removed.",
                    run,
                )
    elif _has_model(run):
        _remove(waiting, removed)
    else:
        # It is not worth a finished run yet, maybe a mistake of one step.
        _remove([path for path in waiting if path != replaced], removed)
        if replaced in waiting:
            _LOGGER.warning(
                "%s has no model.keras yet, so the run that it is to replace "
                "is kept in %s. --resume continues the new one. To have "
                "the old one back, remove %s: the next start renames the old "
                "one, or you do.",
                run,
                replaced,
                run,
            )


def _bring_back(waiting, run):
    """Puts a run back where it was before it was to be replaced."""
    if run.exists():
        if not all(map(_is_made, run.iterdir())):
            _check_replaceable(run, overwrite=True)
        _remove([run], _beside(run)[-1])
    _rename(waiting, run)


def _remove(paths, aside):
    """Removes files and folders of one file system, each at once.

    They are moved into a new folder, `aside`, first: a kill within leaves no
    half of a run, nor of its data.
    """
    try:
        for path in paths:
            aside.mkdir(exist_ok=True)
            _rename(path, pathlib.Path(tempfile.mkdtemp(dir=aside), path.name))
    finally:
        # Others may still read a file, which some file systems then keep.
        shutil.rmtree(aside, ignore_errors=True)


def _rename(path, target):
    try:
        os.rename(path, target)
    except OSError as error:
        raise OSError(
            f"{path} cannot be renamed to {target}: {error.strerror}. "
            "Expected a folder that can be, as a mount point cannot. Choose "
            "another --output, or empty it by hand."
        ) from error


def _has_model(run):
    return (run / "model.keras").exists()


def _is_useful(run):
    """Whether there is something to use, or to resume."""
    return _has_model(run) or checkpoints(run / "checkpoints")


def _is_blank(run):
    """Whether a run may begin there as if there were no folder."""
    # The data stay; and a volume may have a folder of its file system.
    return not run.exists() or all(
        _is_half_made(path) or path.name in ("scenes", "lost+found")
        for path in run.iterdir()
    )


def _is_half_made(path):
    """Whether it is of a run that was killed while it wrote or drew."""
    return path.name.startswith((".partial-", ".scenes-"))


def _is_made(path):
    """Whether a run makes it before it has a `config.json`."""
    return _is_half_made(path) or (
        path.name == "scenes"
        and path.is_dir()
        and {inside.name for inside in path.iterdir()}
        <= {split + end for split in SPLITS for end in ("", "annot", ".txt")}
    )


def _remove_half_made(run):
    for path in filter(_is_half_made, list(run.iterdir())):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_new(run, before):
    """Removes what was not there before, the folder as well if it is new."""
    if not run.exists():
        return
    if before is None:
        _remove([run], _beside(run)[-1])
        return
    # The last that goes is what tells a run folder from others.
    new = set(run.iterdir()) - before
    _remove(
        sorted(new, key=lambda path: path.name == "config.json"), run / _REMOVED
    )


def _check_same(run, config):
    """A run is resumed as it was begun, or not at all."""
    before, now = read_run_config(run).values(), config.values()
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
        begun = (run / "config.json").is_file() and (
            checkpoints(run / "checkpoints")
            or not (run / "model.keras").exists()
        )
        resume = "Resume it with --resume, choose" if begun else "Choose"
        raise FileExistsError(
            f"The run folder {run} exists. {resume} another with --output, or "
            "replace it with --overwrite."
        )
    # Never a folder that is something else.
    if not (run / "config.json").is_file():
        raise FileExistsError(
            f"{run} is not a run folder (it has no config.json), so it is not "
            "overwritten. Choose another with --output."
        )
