"""Reads weight files from untrusted sources: sizes first, code never.

A checkpoint comes from the internet. Nothing in it is unpickled or executed,
and nothing is allocated on its word alone: what a file claims to hold is
compared with its size before a tensor is made.
"""

import contextlib
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from keras_danet.weights import torch_files
from keras_danet.weights import torch_networks

# DANet-ResNet152 with gradients and momentum stays below 1 GB; a larger file
# is not a checkpoint of this kind.
MAX_FILE_BYTES = 2**32
MAX_TENSORS = 20_000
# In older versions a file could make the restricted reader run code.
SAFE_TORCH = (2, 10)
PADDLE_ENDINGS = (".pdparams", ".pdiparams")
TORCH_ENDINGS = (".pth", ".pt", ".tar", ".bin")
# What `read_weights` reads.
ENDINGS = (".npz", ".safetensors", *PADDLE_ENDINGS, *TORCH_ENDINGS)
# A mapped file is reopened after so many bytes, to release its memory.
MAPPED_BYTES = 2**22
# NumPy's names for safetensors' types; it knows bfloat16 through Keras.
SAFETENSORS = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
# Keys of the tensors in checkpoints that hold an optimizer or other state too.
STATE_KEYS = ("state_dict", "model", "model_state_dict")


def read_weights(path):
    """Reads the tensors of a checkpoint file.

    Args:
        path: path of a `.safetensors`, `.npz`, or PyTorch file (`.pth`,
            `.pt`, `.bin`, `.pth.tar`). PyTorch files need torch 2.10 or later.

    Returns:
        `(tensors, meta)`: dict of name to `StoredTensor`, and a dict of the
        file's metadata, empty if it has none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is too large or truncated, could only be read
            by running its code, or claims more than it holds.
        ImportError: if the package that reads it is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no checkpoint {path}. Expected the path of a .pth, "
            ".pth.tar, .safetensors or .npz file."
            + ("" if path.suffix else " Give a preset's name to from_preset.")
        )
    size = path.stat().st_size
    if not 0 < size <= MAX_FILE_BYTES:
        raise refused(path, f"it has {size} bytes", "")
    ending = path.suffix.lower()
    if ending == ".npz":
        read = _read_npz
    elif ending == ".safetensors":
        read = _read_safetensors
    elif ending in TORCH_ENDINGS:
        read = _read_torch
    elif ending in PADDLE_ENDINGS:
        raise refused(
            path,
            f"it is {torch_networks.PADDLE}",
            " Use the authors' or MMSegmentation's weights.",
        )
    else:
        raise refused(
            path,
            f"{ending or 'no ending'!r} is not a known ending",
            " Expected .pth, .pt, .bin, .pth.tar, .safetensors or .npz"
            + (
                "; Keras's own files are read by keras.saving.load_model."
                if ending in (".keras", ".h5")
                else "."
            ),
        )
    tensors, meta = read(path)
    check_count(path, len(tensors))
    return tensors, meta


def read_source(source):
    """`read_weights` for a path, `as_arrays` for a dict."""
    if isinstance(source, dict):
        return as_arrays(source)
    return read_weights(source)


def as_arrays(state_dict):
    """The tensors of a dict in memory: of NumPy, torch or another library.

    Args:
        state_dict: dict of name to array, or a checkpoint dict that keeps it
            under `"state_dict"`.

    Returns:
        `(tensors, meta)`, like `read_weights`.
    """
    tensors, meta = _unwrap(state_dict)
    return {
        name: value if isinstance(value, StoredTensor) else _as_array(value)
        for name, value in tensors.items()
    }, meta


class StoredTensor:
    """A tensor in a file: its shape and type, and its values on demand.

    The values may be mapped from the file and change with it: copy them to
    keep them.

    Args:
        shape: tuple of integers.
        dtype: a dtype or its name.
        read: function that returns the values, an array.
    """

    def __init__(self, shape, dtype, read):
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.read = read

    @property
    def ndim(self):
        return len(self.shape)

    def __array__(self, dtype=None, copy=None):
        array = self.read()
        return array if dtype is None else array.astype(dtype)


class _File:
    """Reads a file's tensors one at a time.

    What was read from a memory-mapped file stays in memory as long as the file
    is open, so it is reopened from time to time.

    Args:
        path: path of the file.
        open_file: function of the path that opens it and returns a function
            of a tensor's name that reads it.
        mapped: boolean, whether it is mapped into memory; if not, it is
            opened once.
    """

    def __init__(self, path, open_file, mapped=True):
        self.path = path
        self.open_file = open_file
        self.most_bytes = MAPPED_BYTES if mapped else math.inf
        self.get = None
        self.read_bytes = 0

    def tensor(self, name, shape, dtype):
        """The `StoredTensor` of that name."""
        return StoredTensor(shape, dtype, lambda: self.read(name))

    def read(self, name):
        with explained(self.path):
            if self.get is None or self.read_bytes > self.most_bytes:
                self.get, self.read_bytes = None, 0
                self.get = self.open_file(self.path)
            array = self.get(name)
        self.read_bytes += array.nbytes
        return array


def _read_npz(path):
    """NumPy's archive, whose headers are read before its arrays."""
    file, tensors, claimed = _File(path, _open_npz), {}, 0
    with explained(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_count(path, len(members))
        for member in members:
            with archive.open(member) as stream:
                shape, dtype = _npy_header(path, member, stream)
            claimed += math.prod(shape) * dtype.itemsize
            name = member.filename.removesuffix(".npy")
            tensors[name] = file.tensor(name, shape, dtype)
        check_claim(path, claimed)
    return tensors, {}


def _open_npz(path):
    return np.load(path, allow_pickle=False).__getitem__


def _npy_header(path, member, file):
    """Shape and dtype of an array, which must fill its member."""
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise refused(path, f"{member.filename} holds pickled objects", _CODE)
    size = math.prod(shape) * dtype.itemsize
    if size + file.tell() != member.file_size:
        raise refused(
            path,
            f"{member.filename} claims shape {shape}, {size} bytes, but has "
            f"{member.file_size - file.tell()}",
            "",
        )
    return shape, dtype


def _read_safetensors(path):
    """The format checks its own header against the file."""
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(
            f"{path} is read with safetensors, which is not installed: "
            "pip install safetensors"
        ) from error
    file, tensors = _File(path, _open_safetensors), {}
    with explained(path), safe_open(path, framework="numpy") as header:
        names = list(header.keys())
        check_count(path, len(names))
        for name in names:
            tensor = header.get_slice(name)
            shape, kind = tensor.get_shape(), tensor.get_dtype()
            if kind not in SAFETENSORS:
                raise refused(path, f"{name!r} has the type {kind}", _TYPES)
            tensors[name] = file.tensor(name, shape, SAFETENSORS[kind])
        return tensors, dict(header.metadata() or {})


def _open_safetensors(path):
    from safetensors import safe_open

    return safe_open(path, framework="numpy").get_tensor


def _read_torch(path):
    """PyTorch's file by its restricted reader, which runs no code."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch file and torch is not installed. Install "
            "torch, or convert the file to .safetensors elsewhere."
        ) from error
    found = tuple(map(int, torch.__version__.split(".")[:2]))
    if found < SAFE_TORCH:
        raise ImportError(
            f"Reading {path} safely needs torch "
            f"{'.'.join(map(str, SAFE_TORCH))} or later; this is "
            f"{torch.__version__}, whose restricted reader has a security hole "
            "(CVE-2026-24747). Update it: pip install --upgrade torch. Or "
            "convert the file to .safetensors elsewhere."
        )
    with explained(path):
        content, meta = _unwrap(_load_torch(path))
    for name, value in content.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise refused(path, f"{name!r} is not a dense tensor", "")
        stored = value.untyped_storage().nbytes()
        # A tensor may repeat its storage: petabytes from a few bytes.
        if value.numel() * value.element_size() > stored:
            raise refused(
                path,
                f"{name!r} claims shape {tuple(value.shape)} but has {stored} "
                "bytes",
                "",
            )
    # And many tensors may share one storage.
    check_claim(
        path, sum(v.numel() * v.element_size() for v in content.values())
    )
    # The format used before PyTorch 1.6 is read whole.
    file = _File(path, _open_torch, mapped=zipfile.is_zipfile(path))
    tensors = {}
    with explained(path):
        for name, value in content.items():
            dtype = _as_array(value).dtype
            tensors[name] = file.tensor(name, value.shape, dtype)
    return tensors, meta


def _load_torch(path):
    import torch

    zipped = torch_files.check(path)
    unread = [(_Unread, name) for name in torch_files.UNREAD]
    with torch.serialization.safe_globals(unread):
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipped
        )


def _open_torch(path):
    content, _ = _unwrap(_load_torch(path))
    return lambda name: _as_array(content[name])


def _as_array(value):
    """A tensor of another library as an array that shares its memory."""
    detach = getattr(value, "detach", None)
    value = detach().cpu() if detach else value
    if str(getattr(value, "dtype", "")) != "torch.bfloat16":
        return np.asarray(value)
    import torch

    # Torch does not know NumPy's bfloat16, which Keras brings along.
    return value.view(torch.int16).numpy().view("bfloat16")


class _Unread:
    """Replaces NumPy's numbers in a checkpoint, such as its score.

    PyTorch's reader would refuse the whole file because of them; their values
    are ignored.
    """

    def __init__(self, *_):
        pass

    def __setstate__(self, state):
        pass


def _unwrap(content):
    """The tensors and the meta of a checkpoint's content."""
    meta = {}
    if isinstance(content, dict):
        found = content.get("meta")
        meta = found if isinstance(found, dict) else {}
        for key in STATE_KEYS:
            if isinstance(content.get(key), dict):
                content = content[key]
                break
    if not isinstance(content, dict) or not all(
        isinstance(name, str) for name in content
    ):
        raise ValueError(
            "A checkpoint must be a dict of tensor name to tensor, or hold "
            f"one under one of {STATE_KEYS}. Received: "
            f"{type(content).__name__}"
        )
    return dict(content), meta


_TYPES = f" Expected one of {', '.join(SAFETENSORS)}."
_CODE = " Such a file can run code; ask for .safetensors instead."


class _Refused(ValueError):
    """A file that is not read, and why."""


@contextlib.contextmanager
def explained(path):
    """Adds the file's name to whatever its reader raises."""
    try:
        yield
    except _Refused:
        raise
    except torch_files.MoreThanTensors as error:
        raise refused(path, str(error), _CODE) from None
    except Exception as error:
        text = str(error)
        if "weights_only" in text:
            # PyTorch's own message says how to run the code anyway.
            raise refused(path, "it holds more than tensors", _CODE) from None
        reason = text.splitlines()[0] if text else type(error).__name__
        raise refused(path, reason, "") from error


def check_count(path, count):
    if not 0 < count <= MAX_TENSORS:
        raise refused(path, f"it has {count} tensors", "")


def check_claim(path, claimed):
    # Weights hardly compress: a claim far beyond the file's size is a zip bomb.
    size = os.path.getsize(path)
    if claimed > min(MAX_FILE_BYTES, 4 * size + 2**20):
        raise refused(
            path, f"its {size} bytes claim to unpack to {claimed}", ""
        )


def refused(path, reason, remedy):
    return _Refused(
        f"{path} is not read: {reason}."
        + (
            remedy
            or " Expected a complete checkpoint of at most "
            f"{MAX_FILE_BYTES} bytes and {MAX_TENSORS} tensors; download it "
            "again."
        )
    )
