"""PyTorch files: what one would allocate is worked out before it is read.

Such a file is a pickle next to raw numbers. PyTorch's restricted reader runs
none of its code, but a few bytes can make it allocate uninitialized tensors
and buffers of any size. So the pickle is traced first without executing it:
it may only contain the parts of a state dict, and no tensor may be larger
than the data that the file holds for it.
"""

import io
import struct
import zipfile
from pickletools import genops

# A state dict takes a few hundred bytes per tensor.
MAX_PICKLE_BYTES = 2**22
# Bytes per number of the kinds of storage that weights are kept in.
STORAGES = {
    "torch.BoolStorage": 1,
    "torch.ByteStorage": 1,
    "torch.CharStorage": 1,
    "torch.ShortStorage": 2,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.IntStorage": 4,
    "torch.FloatStorage": 4,
    "torch.LongStorage": 8,
    "torch.DoubleStorage": 8,
}
TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
COPIES = {
    "collections.OrderedDict": list,
    "__builtin__.set": list,
    "torch.Size": tuple,
    "torch.device": str,
}
# What NumPy pickles numbers and arrays with, before and since NumPy 2. They are
# not built.
UNREAD = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
)
CALLS = {
    *TENSORS,
    *COPIES,
    *UNREAD,
    "_codecs.encode",
    "torch._utils._rebuild_parameter",
}
DTYPES = {
    f"torch.{kind}{bits}" for kind in ("int", "float") for bits in (16, 32, 64)
}
NAMES = {
    *STORAGES,
    *CALLS,
    *DTYPES,
    "torch.bfloat16",
    "torch.uint8",
    "torch.bool",
}
CONSTANTS = {
    "BINFLOAT",
    "BININT",
    "BININT1",
    "BININT2",
    "BINUNICODE",
    "LONG1",
    "SHORT_BINSTRING",
}
VALUES = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}


class MoreThanTensors(ValueError):
    """A file that holds more than a state dict."""


def check(path):
    """Works out what PyTorch would build from a file.

    Args:
        path: path of the file.

    Returns:
        Whether it is a zip archive, the format since PyTorch 1.6.

    Raises:
        MoreThanTensors: if it holds more than a state dict.
        ValueError: if it is damaged or claims more than it holds.
    """
    zipped = zipfile.is_zipfile(path)
    with open(path, "rb") as file:
        if not zipped and file.read(4) == b"PK\3\4":
            raise ValueError("the end of its archive is missing")
        file.seek(0)
        held = _check_archive(file) if zipped else _check_stream(file)
        size = file.seek(0, io.SEEK_END)
    if sum(held.values()) > size:
        raise ValueError(
            f"its tensors claim {sum(held.values())} bytes but it has {size}"
        )
    return zipped


def _check_archive(file):
    """The sizes of a zip archive's storages, in bytes."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # PyTorch does not compress; a zip bomb does.
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise ValueError("its members are compressed")
        _check_directory(file, archive)
        # The names as stored: an extra field can replace `filename`.
        names = [member.orig_filename.lower() for member in members]
        pickles = [
            member
            for member, name in zip(members, names, strict=True)
            if name.endswith("/data.pkl")
        ]
        if len(set(names)) < len(names) or len(pickles) != 1:
            raise ValueError("it is not a PyTorch archive")
        if pickles[0].file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"its pickle has {pickles[0].file_size} bytes")
        _, claimed = follow(io.BytesIO(archive.read(pickles[0])))
        held = {
            member.orig_filename.partition("/data/")[2]: member.file_size
            for member in members
        }
    for key, size in claimed.items():
        if held.get(key) != size:
            raise ValueError(
                f"its storage {key!r} claims {size} bytes but has "
                f"{held.get(key, 0)}"
            )
    return claimed


def _check_directory(file, archive):
    """Checks that PyTorch would find the same directory in the archive.

    `zipfile` locates it backwards from the end record, PyTorch by the offset
    that the end record states.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 98))
    end = file.read().rjust(98, b"\0")
    start = struct.unpack("<L", end[-6:-2])[0]
    if end[56:60] == b"PK\6\7":
        # The ZIP64 end record, and its position.
        start = struct.unpack("<Q", end[48:56])[0]
        if struct.unpack("<Q", end[64:72])[0] != size - 98:
            raise ValueError("its archive has two directories")
    if archive.comment or start != archive.start_dir:
        raise ValueError("its archive has two directories")


def _check_stream(file):
    """The sizes of the storages in the format before PyTorch 1.6, in bytes."""
    # Magic number, format version, the writer's machine.
    for _ in range(3):
        follow(file)
    _, claimed = follow(file)
    written, _ = follow(file)
    if not isinstance(written, list) or set(claimed) - set(written):
        raise ValueError("it claims tensors that were not written")
    return claimed


def follow(file):
    """Traces one pickle in a file without executing it.

    Args:
        file: binary file; its position is then after the pickle.

    Returns:
        `(value, storages)`: the pickle's value, as far as it consists of
        numbers, text, lists and tuples, and a dict of the storages that it
        asks for to their sizes in bytes.
    """
    follower = _Follower()
    start = file.tell()
    try:
        for opcode, argument, position in genops(file):
            if position - start > MAX_PICKLE_BYTES:
                raise ValueError(f"its pickle exceeds {MAX_PICKLE_BYTES} bytes")
            follower.step(opcode.name, argument, position - start)
        return follower.stack[-1], follower.storages
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError("its pickle is damaged") from error


class _Name(str):
    """Something outside the pickle that it refers to."""


class _Dict(list):
    """The keys and values of a dict."""


class _Storage(int):
    """A storage: how many numbers it has."""


class _Made:
    """The result of a call."""


class _Tensor(_Made):
    """A tensor."""


class _Follower:
    """The stack of a pickle that is traced."""

    def __init__(self):
        self.stack = []
        self.marks = []
        self.memo = {}
        self.storages = {}
        # What calls would copy: copying one list repeatedly fills memory.
        self.copied = 0

    def step(self, opcode, argument, position):
        """Applies an opcode to the stack."""
        if opcode in CONSTANTS:
            self.stack.append(argument)
        elif opcode in VALUES:
            self.stack.append(VALUES[opcode])
        elif opcode in ("EMPTY_LIST", "EMPTY_DICT"):
            self.stack.append([] if opcode == "EMPTY_LIST" else _Dict())
        elif opcode == "MARK":
            self.marks.append(len(self.stack))
        elif opcode in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(self.pop(opcode[5:])))
        elif opcode in ("APPEND", "APPENDS"):
            self.add(list, self.pop("1" if opcode == "APPEND" else ""))
        elif opcode in ("SETITEM", "SETITEMS"):
            self.add(_Dict, self.pop("2" if opcode == "SETITEM" else ""))
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif opcode == "GLOBAL":
            self.stack.append(_known(argument.replace(" ", ".", 1)))
        elif opcode == "BINPERSID":
            self.stack.append(self.storage(*self.stack.pop()))
        elif opcode == "REDUCE":
            arguments = self.stack.pop()
            self.stack.append(self.call(self.stack.pop(), arguments))
        elif opcode == "BUILD":
            self.build(self.stack.pop())
        elif opcode not in ("PROTO", "STOP"):
            raise _more_than_tensors(f"the instruction {opcode}")
        if self.copied > position:
            raise ValueError("its pickle unpacks to more than it holds")

    def pop(self, count):
        """The values that an opcode takes; without a count, since the mark."""
        start = len(self.stack) - int(count) if count else self.marks.pop()
        if start < 0:
            raise IndexError
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def add(self, kind, values):
        if type(self.stack[-1]) is not kind:
            raise _more_than_tensors("items for something without items")
        self.stack[-1].extend(values)

    def storage(self, title, kind, key, _, size, view=None):
        if title != "storage" or view is not None or kind not in STORAGES:
            raise _more_than_tensors(f"a {title!r} of {kind}")
        claimed = size * STORAGES[kind]
        # A storage that is asked for twice is made once.
        if size < 0 or self.storages.setdefault(key, claimed) != claimed:
            raise ValueError(f"its storage {key!r} has several sizes")
        return _Storage(size)

    def call(self, name, arguments):
        if type(name) is not _Name or name not in CALLS:
            raise _more_than_tensors(f"a call to {str(name)[:80]!r}")
        if type(arguments) is not tuple:
            raise TypeError
        if name in UNREAD:
            return _Made()
        first = arguments[0] if arguments else None
        self.copied += sum(
            len(argument)
            for argument in arguments
            if isinstance(argument, str | list | tuple)
        )
        if name in TENSORS:
            return _tensor(name, *arguments[:4])
        if name == "torch._utils._rebuild_parameter":
            allowed = type(first) is _Tensor
        elif name == "_codecs.encode":
            allowed = type(first) is str and arguments[1:] == ("latin1",)
        else:
            allowed = not arguments or (
                type(first) is COPIES[name] and len(arguments) == 1
            )
        if not allowed:
            raise _more_than_tensors(f"a call to {name!r} with something else")
        if name == "collections.OrderedDict":
            return _Dict(first or ())
        return first if type(first) is _Tensor else _Made()

    def build(self, state):
        made = self.stack[-1]
        if type(made) is _Dict and type(state) is _Dict:
            self.copied += len(state)
        elif type(made) is not _Made:
            raise _more_than_tensors("a state for something without state")


def _tensor(name, storage, offset, size, stride):
    """Refuses a tensor beyond its storage, which PyTorch would enlarge."""
    if type(storage) is not _Storage or min((offset, *size, *stride)) < 0:
        raise _more_than_tensors(f"a call to {name!r} with something else")
    last = offset + sum(
        (length - 1) * step for length, step in zip(size, stride, strict=True)
    )
    if 0 not in size and last >= storage:
        raise ValueError(
            f"a tensor claims shape {size} but its storage has {storage:d} "
            "numbers"
        )
    return _Tensor()


def _known(name):
    if name not in NAMES and name.startswith("torch."):
        raise ValueError(
            f"it holds {name[:80]!r}, and of PyTorch's types only dense "
            "tensors of booleans, integers and floats are read"
        )
    if name not in NAMES:
        raise _more_than_tensors(repr(name[:80]))
    return _Name(name)


def _more_than_tensors(what):
    return MoreThanTensors(f"it holds {what}, which is more than tensors")
