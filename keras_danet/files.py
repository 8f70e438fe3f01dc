"""Files that appear whole or not at all, and the folders that hold them."""

import contextlib
import errno
import json
import logging
import math
import os
import pathlib
import tempfile
import zipfile

import filelock

_LOGGER = logging.getLogger("keras_danet")
# What the name of a file that is being written begins with.
PARTIAL = ".partial-"
# More than any JSON of ours has.
MAX_JSON_BYTES = 2**26


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
    partial = path.with_name(f"{PARTIAL}{path.name}")
    try:
        # It may be a link to somewhere else.
        partial.unlink(missing_ok=True)
        yield partial
        finish(partial, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def finish(partial, path):
    """Gives a written file its name, once it is on the disk."""
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def unwritable(path, error):
    """An OSError that names the file."""
    reason = error.strerror or str(error)
    if "requested and" in reason:
        # NumPy's words for a full disk.
        reason = os.strerror(errno.ENOSPC)
    return OSError(
        f"{path} cannot be written: {reason}. Make room, "
        "or write elsewhere; files finished before are whole."
    )


def sync_folder(folder):
    """Puts the names in a folder on the disk."""
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
            reserve(file, size)
        room.unlink()
        model.save(folder, zipped=False)
        with zipfile.ZipFile(partial, "w") as archive:
            for file in sorted(pathlib.Path(folder).rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder))


def reserve(path, size):
    """Reserves space for a file, new or not.

    If HDF5 or a memory-mapped array finds the disk full, the process crashes.

    Raises:
        OSError: if there is not as much.
    """
    with open(path, "ab") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:
            pass  # Not on every system,
        except OSError as error:
            # nor on every file system.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


@contextlib.contextmanager
def locked(path, taken):
    """Lets one process at a time use a file or folder, where a system can tell.

    Args:
        path: `pathlib.Path` of it; its parent exists.
        taken: string, what is said if another one uses it.

    Raises:
        BlockingIOError: if another one uses it.
    """
    lock = filelock.FileLock(
        path.with_name(f".{path.name}.lock"),
        timeout=0,
        # It may be another thread that ends the work.
        thread_local=False,
    )
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise BlockingIOError(taken) from error
    except (NotImplementedError, OSError) as error:
        # A file system without locks, or a folder of others.
        _LOGGER.warning(
            "%s cannot be locked (%s): see to it that nothing else uses it.",
            path,
            getattr(error, "strerror", None) or "no locks here",
        )
    try:
        yield
    finally:
        if lock.is_locked:
            # While it is held: a later one finds that its file has no name.
            with contextlib.suppress(OSError):
                os.unlink(lock.lock_file)
            lock.release()


def save_text(text, path):
    """Writes `text` to `path`, whole or not at all."""
    with whole_or_not(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_bytes(content, path):
    """Writes bytes to `path`, whole or not at all."""
    with whole_or_not(path) as partial:
        partial.write_bytes(content)


def read_json(path):
    """What a JSON file holds.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not JSON, or absurdly large or deep.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"it has {size} bytes, more than {MAX_JSON_BYTES}")
    try:
        return json.loads(path.read_text("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_folder(path):
    """Raises a FileExistsError where a file is in a folder's way."""
    path = pathlib.Path(path)
    for folder in (path, *path.parents):
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise FileExistsError(
                f"{folder} is a file. Expected a folder, or nothing, there. "
                "Move it away, or choose another folder."
            )


def make_folder(path, exist_ok=True):
    """Makes a folder and its parents.

    Raises:
        OSError: if it cannot be made, of the kind that the system raises; a
            FileExistsError if a file is in the way.
    """
    check_folder(path)
    try:
        os.makedirs(path, exist_ok=exist_ok)
    except OSError as error:
        raise type(error)(
            f"The folder {path} cannot be made: {error.strerror}. Expected "
            "one that can be written to. Choose another folder."
        ) from error
