"""Checkpoints: what a training resumes from.

A checkpoint is one file, `step-000001000.ckpt`: an uncompressed zip archive of
`header.json` and one `.npy` array per variable. Nothing in it is executed when
it is read, and nothing is read before its size is known to be right.
"""

import contextlib
import json
import pathlib
import re
import shutil
import zipfile

import keras
import numpy as np

from keras_danet.files import whole_or_not

FORMAT = "keras_danet checkpoint 1"
HEADER = "header.json"
# A history of a million epochs has less.
MAX_HEADER_BYTES = 2**27
_NAME = re.compile(r"step-(\d{9})\.ckpt")


def save_checkpoint(path, state, header):
    """Writes a checkpoint, whole or not at all.

    Args:
        path: path of the file.
        state: dict of string to array or variable.
        header: dict, what else there is to keep, for `json.dumps`.
    """
    arrays = {name: as_array(value) for name, value in state.items()}
    header = {**header, "format": FORMAT, "arrays": list(arrays)}
    with whole_or_not(path) as partial:
        # Stored as they are: weights hardly shrink.
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(HEADER, json.dumps(header))
            for number, array in enumerate(arrays.values()):
                with archive.open(f"{number}.npy", "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)


def as_array(value):
    """A variable as the NumPy array that a file keeps."""
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
        ValueError: if it is truncated, damaged or not one of our checkpoints.
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
    # A broken archive may raise anything.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be used as a checkpoint: {error}. Expected a whole "
            "file that `keras-danet train` wrote; remove it, and --resume "
            "uses the one before."
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
            warn(f"{error} Looking for an older one.")
            continue
        return path, header
    return None, None


def remove_leftovers(folder):
    """Removes what a killed process left half-written in a folder."""
    for path in pathlib.Path(folder).glob(".partial-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
