"""Reads Keras files from untrusted sources: sizes first, code never."""

import math
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_danet.weights.files import MAX_FILE_BYTES
from keras_danet.weights.files import check_claim
from keras_danet.weights.files import check_count
from keras_danet.weights.files import explained
from keras_danet.weights.files import refused

# DANet-ResNet152 with its optimizer takes 1 GB; a file that claims to unpack to
# more than this is not one of our models.
MAX_MODEL_BYTES = 2**33


def check_h5(path):
    """Inspects a Keras `.weights.h5` file before Keras reads it.

    Args:
        path: path of the file.

    Returns:
        How many floating-point numbers it has.

    Raises:
        ValueError: if it is too large or truncated, links to other files, or
            claims more than it holds.
    """
    path = Path(path)
    if not 0 < path.stat().st_size <= MAX_FILE_BYTES:
        raise refused(path, f"it has {path.stat().st_size} bytes", "")
    claimed = count = floats = 0
    with explained(path), h5py.File(path, "r") as file:
        waiting = [file]
        while waiting:
            group = waiting.pop()
            for name in group:
                count += 1
                # Groups count as well: they might contain each other.
                check_count(path, count)
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise refused(path, f"{name!r} links elsewhere", "")
                item = group[name]
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                    continue
                if item.external or item.is_virtual:
                    raise refused(path, f"{name!r} is stored elsewhere", "")
                # How Keras stores a bfloat16.
                half = item.dtype == "V2" and item.attrs.get("dtype")
                if item.dtype.kind not in "fiub" and half != "bfloat16":
                    raise refused(path, f"{name!r} holds no numbers", "")
                claimed += math.prod(item.shape) * item.dtype.itemsize
                if item.dtype.kind == "f" or half:
                    floats += math.prod(item.shape)
        check_claim(path, claimed)
    return floats


def halve_kernels(path):
    """Rewrites a `.weights.h5` file with its kernels rounded to float16.

    Keras reads them into variables of any dtype. Vectors stay as they are:
    a variance may be too large for float16, and they are few.

    Args:
        path: path of a file that Keras wrote.

    Raises:
        ValueError: if a kernel has numbers that float16 has not.
    """
    path = Path(path)
    whole = path.with_name(f"whole-{path.name}")
    path.rename(whole)

    def copy(name, item):
        if isinstance(item, h5py.Group):
            to = target.require_group(name)
        elif item.dtype != "float32" or item.ndim < 2:
            to = target.create_dataset(name, data=item[()])
        else:
            with np.errstate(over="ignore"):
                kernel = item[()].astype("float16")
            if not np.isfinite(kernel).all():
                raise ValueError(
                    f"{name!r} has numbers above 65504, the largest float16, "
                    "or none. Keep the kernels as they are: leave out "
                    "`kernel_dtype`."
                )
            to = target.create_dataset(name, data=kernel)
        to.attrs.update(item.attrs)

    with h5py.File(whole, "r") as source, h5py.File(path, "w") as target:
        target.attrs.update(source.attrs)
        source.visititems(copy)
    whole.unlink()


def load_keras_model(path):
    """The model of a `.keras` file, or of a folder that Keras saved unzipped.

    Args:
        path: path of either, as `sources.find` gives it.

    Returns:
        A model that is not compiled.

    Raises:
        ValueError: if it cannot be read, or unpacks to too much.
    """
    path = Path(path)
    try:
        if path.is_dir():
            check_h5(path / "model.weights.h5")
        else:
            with zipfile.ZipFile(path) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > MAX_MODEL_BYTES:
                raise ValueError(f"it unpacks to {size} bytes")
        return keras.saving.load_model(path, compile=False)
    # Keras has no common error for broken files.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be loaded: {error}. Expected a whole model that "
            "Keras saved; save it, or train it, again."
        ) from error
