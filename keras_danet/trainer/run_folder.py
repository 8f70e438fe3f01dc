"""Run folders: one training at a time, and nothing of an older one is lost."""

import contextlib
import itertools
import logging
import os
import pathlib
import shutil

from keras_danet.files import check_folder
from keras_danet.files import locked
from keras_danet.files import make_folder
from keras_danet.runs import read_run_config
from keras_danet.trainer.checkpoints import checkpoints

_LOGGER = logging.getLogger("keras_danet")


@contextlib.contextmanager
def open_run_folder(run, overwrite=False, resume=False):
    """Makes a folder for a run, or opens one to resume.

    A folder that is empty, or holds only what a run leaves if it is killed
    before it has a `config.json`, counts as none.

    A new run that ends without a model or checkpoint leaves nothing new. The
    run that it replaces is renamed to `{run}.old-1`, or the next number that
    is free, and never removed. It gets its name back if the new one leaves
    nothing.

    Args:
        run: path of the folder.
        overwrite: boolean, whether it may replace an older run.
        resume: boolean, whether to resume an older run.

    Yields:
        `run` as an absolute `pathlib.Path`.

    Raises:
        FileExistsError: if `run` exists and may be neither replaced nor
            resumed, or a file is in the way.
        BlockingIOError: if another training uses it.
        OSError: if it is to be replaced and cannot be renamed.
        ValueError: if it has no name.
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
            f"folder in it, for this run alone. Received: {run}. "
            "Choose another --output."
        )
    check_folder(run / "checkpoints")
    taken = (
        f"Another training uses the run folder {run}. Wait until it has ended, "
        "or end it, or choose another --output."
    )
    with (
        _in_its_place(run),
        locked(run, taken),
        _opened(run, overwrite, resume),
    ):
        yield run


@contextlib.contextmanager
def _in_its_place(run):
    """Makes the folders above a run; those that end up empty go again."""
    made = [folder for folder in run.parents if not folder.exists()]
    try:
        make_folder(run.parent)
        yield
    finally:
        # Innermost first; the system keeps those that hold something.
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _opened(run, overwrite, resume):
    resumes = resume and not _is_blank(run)
    replaced = None
    if resumes:
        # Refuses what is not a run before anything in it is touched.
        read_run_config(run)
    elif not _is_blank(run):
        _check_replaceable(run, overwrite)
        replaced = _free_name(run)
        _rename(run, replaced)
        _LOGGER.warning("The run in %s was renamed to %s.", run, replaced)
    before = None
    if run.exists():
        _remove_half_made(run)
        before = set(run.iterdir())
    # Whoever makes the folder first may remove it.
    make_folder(run, exist_ok=before is not None)
    try:
        yield
    finally:
        if not resumes and not _is_useful(run):
            _remove_new(run, before)
            if replaced and not run.exists():
                _rename(replaced, run)
                _LOGGER.warning(
                    "The run in %s has its name back: the new one left no "
                    "checkpoint.",
                    run,
                )


def _free_name(run):
    names = (
        run.with_name(f"{run.name}.old-{number}")
        for number in itertools.count(1)
    )
    return next(name for name in names if not os.path.lexists(name))


def _rename(path, target):
    try:
        os.rename(path, target)
    except OSError as error:
        raise OSError(
            f"{path} cannot be renamed to {target}: {error.strerror}. "
            "Expected a folder that can be renamed; a mount point cannot. "
            "Choose another --output, or empty it by hand."
        ) from error


def _is_useful(run):
    """Whether there is something to use, or to resume."""
    return (run / "model.keras").exists() or checkpoints(run / "checkpoints")


def _is_blank(run):
    """Whether a run may begin there as if there were no folder."""
    return not run.exists() or all(map(_is_before_config, run.iterdir()))


def _is_before_config(path):
    """Whether a run makes it before it has a `config.json`."""
    # Data stay; and a volume may have a folder of its file system.
    return _is_half_made(path) or path.name in ("scenes", "lost+found")


def _is_half_made(path):
    """Whether it is of a run that was killed while it wrote or drew."""
    return path.name.startswith((".partial-", ".scenes-"))


def _remove_half_made(run):
    for path in filter(_is_half_made, list(run.iterdir())):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_new(run, before):
    """Removes what was not there before, the folder as well if it is new."""
    if not run.exists():
        return
    # Renamed first, so that a kill leaves no half of the drawn scenes.
    # `config.json` goes last, because it marks a run folder.
    new = set(run.iterdir()) - (before or set())
    removed = run / ".partial-removed"
    removed.mkdir()
    for path in sorted(new, key=lambda path: path.name == "config.json"):
        path.rename(removed / path.name)
    shutil.rmtree(removed)
    if before is None:
        run.rmdir()


def _check_replaceable(run, overwrite):
    # Never a folder that is something else.
    if not (run / "config.json").is_file():
        raise FileExistsError(
            f"{run} exists and is not a run folder (it has no config.json), so "
            "it is not overwritten. Choose another with --output."
        )
    if not overwrite:
        begun = (
            checkpoints(run / "checkpoints")
            or not (run / "model.keras").exists()
        )
        resume = "Resume it with --resume, choose" if begun else "Choose"
        raise FileExistsError(
            f"The run folder {run} exists. {resume} another with --output, or "
            f"begin a new one with --overwrite, which renames it to "
            f"{run.name}.old-1."
        )
    if pathlib.Path.cwd().is_relative_to(run):
        raise FileExistsError(
            f"{run} is the working directory, which is not renamed. Change to "
            "another one first, or choose another --output."
        )
