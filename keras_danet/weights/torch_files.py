"""PyTorch's files: what one would make is worked out before it is read.

Such a file is a pickle beside raw numbers. PyTorch's restricted reader runs
no code of it, but it makes tensors and buffers of any size that some bytes
ask for, of memory that nothing was written to. So the pickle is followed
first, without doing what it says: only what a state dict is made of may be
in it, and no tensor may be larger than what the file holds for it.
"""

import io
import struct
import zipfile
from pickletools import genops

# A state dict is described in some hundred bytes a tensor.
MAX_PICKLE_BYTES = 2**22
# Bytes of one number, by the kinds of storage that weights are kept in.
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
# What NumPy's numbers and arrays are pickled by, before and from NumPy 2 on.
# Nothing is made of them.
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
    """A file that holds what no state dict is made of."""


def check(path):
    """Works out what PyTorch would make of a file.

    Args:
        path: path of the file.

    Returns:
        Whether it is a zip archive, the format since PyTorch 1.6.

    Raises:
        MoreThanTensors: if it holds more than a state dict is made of.
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
            f"its tensors claim {sum(held.values())} bytes and it has {size}"
        )
    return zipped


def _check_archive(file):
    """What a zip archive's storages have in bytes."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # PyTorch stores; only a bomb compresses.
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise ValueError("its members are compressed")
        _check_directory(file, archive)
        # As their bytes stand there: an extra field can give another name.
        names = [member.orig_filename.lower() for member in members]
        pickles = [
            member
            for member, name in zip(members, names, strict=True)
            if name.endswith("/data.pkl")
        ]
        if len(set(names)) < len(names) or len(pickles) != 1:
            raise ValueError("it is no archive of PyTorch's")
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
                f"its storage {key!r} claims {size} bytes and has "
                f"{held.get(key, 0)}"
            )
    return claimed


def _check_directory(file, archive):
    """Holds the archive's directory to the one that PyTorch would find.

    `zipfile` looks for it backwards from the end, PyTorch where the end says
    that it is.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 98))
    end = file.read().rjust(98, b"\0")
    start = struct.unpack("<L", end[-6:-2])[0]
    if end[56:60] == b"PK\6\7":
        # The longer form, and where it is.
        start = struct.unpack("<Q", end[48:56])[0]
        if struct.unpack("<Q", end[64:72])[0] != size - 98:
            raise ValueError("its archive has two directories")
    if archive.comment or start != archive.start_dir:
        raise ValueError("its archive has two directories")


def _check_stream(file):
    """What the storages of the format before PyTorch 1.6 have in bytes."""
    # Magic number, version of the format, the writer's machine.
    for _ in range(3):
        follow(file)
    _, claimed = follow(file)
    written, _ = follow(file)
    if not isinstance(written, list) or set(claimed) - set(written):
        raise ValueError("it claims tensors that were not written")
    return claimed


def follow(file):
    """Follows one pickle of a file without doing what it says.

    Args:
        file: binary file; it is left behind the pickle.

    Returns:
        `(value, storages)`: what the pickle stands for, as far as it is
        numbers, text, lists and tuples, and a dict of the storages that it
        asks for to their bytes.
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
    """Something outside of the pickle that it asks for."""


class _Dict(list):
    """The keys and values of a dict."""


class _Storage(int):
    """A storage, how many numbers it has."""


class _Made:
    """What a call would make."""


class _Tensor(_Made):
    """A tensor."""


class _Follower:
    """The stack of a pickle that is followed."""

    def __init__(self):
        self.stack = []
        self.marks = []
        self.memo = {}
        self.storages = {}
        # What calls would copy: one list again and again takes any memory.
        self.copied = 0

    def step(self, opcode, argument, position):
        """Does to the stack what an opcode does."""
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
        """The values that an opcode takes; without a count from the mark."""
        start = len(self.stack) - int(count) if count else self.marks.pop()
        if start < 0:
            raise IndexError
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def add(self, kind, values):
        if type(self.stack[-1]) is not kind:
            raise _more_than_tensors("items of what has none")
        self.stack[-1].extend(values)

    def storage(self, title, kind, key, _, size, view=None):
        if title != "storage" or view is not None or kind not in STORAGES:
            raise _more_than_tensors(f"a {title!r} of {kind}")
        claimed = size * STORAGES[kind]
        # Asked for twice, it is made once.
        if size < 0 or self.storages.setdefault(key, claimed) != claimed:
            raise ValueError(f"its storage {key!r} has several sizes")
        return _Storage(size)

    def call(self, name, arguments):
        if type(name) is not _Name or name not in CALLS:
            raise _more_than_tensors(f"a call of {str(name)[:80]!r}")
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
            raise _more_than_tensors(f"a call of {name!r} of something else")
        if name == "collections.OrderedDict":
            return _Dict(first or ())
        return first if type(first) is _Tensor else _Made()

    def build(self, state):
        made = self.stack[-1]
        if type(made) is _Dict and type(state) is _Dict:
            self.copied += len(state)
        elif type(made) is not _Made:
            raise _more_than_tensors("the state of what has none")


def _tensor(name, storage, offset, size, stride):
    """Refuses a tensor beyond its storage, which would be made larger."""
    if type(storage) is not _Storage or min((offset, *size, *stride)) < 0:
        raise _more_than_tensors(f"a call of {name!r} of something else")
    last = offset + sum(
        (length - 1) * step for length, step in zip(size, stride, strict=True)
    )
    if 0 not in size and last >= storage:
        raise ValueError(
            f"a tensor claims shape {size} and its storage has {storage:d} "
            "numbers"
        )
    return _Tensor()


def _known(name):
    if name not in NAMES and name.startswith("torch."):
        raise ValueError(
            f"it holds {name[:80]!r}, and of PyTorch's own kinds only dense "
            "tensors of booleans, integers and floats are read"
        )
    if name not in NAMES:
        raise _more_than_tensors(repr(name[:80]))
    return _Name(name)


def _more_than_tensors(what):
    return MoreThanTensors(f"it holds {what}, which is more than tensors")
