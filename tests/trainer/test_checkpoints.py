"""What a checkpoint keeps, and what no accident may take from it."""

import errno
import json
import os
import pathlib
import resource
import signal
import struct
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from keras_danet.files import save_model
from keras_danet.files import save_text
from keras_danet.trainer import checkpoints as checkpointing
from keras_danet.trainer.checkpoints import checkpoints
from keras_danet.trainer.checkpoints import load_checkpoint
from keras_danet.trainer.checkpoints import newest_checkpoint
from keras_danet.trainer.checkpoints import read_header
from keras_danet.trainer.checkpoints import save_checkpoint


def variables(*values):
    return {
        f"v/{number}": keras.Variable(np.asarray(value, "float32"))
        for number, value in enumerate(values)
    }


def numbers(state):
    return [keras.ops.convert_to_numpy(v).tolist() for v in state.values()]


def test_there_and_back(tmp_path):
    path = tmp_path / "step-000000007.ckpt"
    state = variables([[1.5, -2.0]], 3.25, np.zeros((0, 2)))
    save_checkpoint(path, state, {"epoch": 3, "logs": {"loss": 0.5}})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    header = read_header(path)
    assert header["epoch"] == 3 and header["logs"] == {"loss": 0.5}
    other = variables([[0, 0]], 0, np.zeros((0, 2)))
    load_checkpoint(path, other)
    assert numbers(other) == [[[1.5, -2.0]], 3.25, []]
    # A part of it, by name.
    one = {"v/1": keras.Variable(0.0)}
    load_checkpoint(path, one)
    assert numbers(one) == [3.25]


def test_numpy_reads_it_without_us(tmp_path):
    save_checkpoint(tmp_path / "a.ckpt", variables([1, 2], [[3]]), {})
    with np.load(tmp_path / "a.ckpt", allow_pickle=False) as file:
        assert file["0"].tolist() == [1, 2] and file["1"].tolist() == [[3]]


def test_all_dtypes_are_kept_exactly(tmp_path):
    values = {
        "float16": np.float16(1 / 3),
        "float32": np.float32(1 / 3),
        "int32": np.int32(-(2**31)),
        "uint8": np.uint8(255),
        "bool": np.bool_(True),
    }
    state = {
        name: keras.Variable(value, dtype=name, trainable=False)
        for name, value in values.items()
    }
    third = keras.ops.cast(np.float32(1 / 3), "bfloat16")
    state["bfloat16"] = keras.Variable(third, dtype="bfloat16")
    save_checkpoint(tmp_path / "a.ckpt", state, {})
    for name, variable in state.items():
        fresh = {name: keras.Variable(0, dtype=name, trainable=False)}
        load_checkpoint(tmp_path / "a.ckpt", fresh)
        ours, theirs = (
            keras.ops.convert_to_numpy(keras.ops.cast(v, "float32"))
            for v in (fresh[name], variable)
        )
        assert ours == theirs, name
        assert fresh[name].dtype == name


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_passed_over(tmp_path, cut):
    save_checkpoint(
        tmp_path / "step-000000001.ckpt", variables([1.0]), {"n": 1}
    )
    newest = tmp_path / "step-000000002.ckpt"
    save_checkpoint(newest, variables([2.0]), {"n": 2})
    newest.write_bytes(newest.read_bytes()[: int(cut * newest.stat().st_size)])
    told = []
    path, header = newest_checkpoint(tmp_path, told.append)
    assert path.name == "step-000000001.ckpt" and header["n"] == 1
    (message,) = told
    assert str(newest) in message and "remove it" in message
    with pytest.raises(ValueError, match="cannot be used as a checkpoint"):
        read_header(newest)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "step-000000001.ckpt"
    save_checkpoint(path, variables(np.arange(1000)), {})
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 500.0))] ^= 1
    path.write_bytes(content)
    told = []
    assert newest_checkpoint(tmp_path, told.append) == (None, None)
    assert "0.npy" in told[0]


def write_zip(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def npy(header, data=b""):
    text = (str(header) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def header(**values):
    return json.dumps(
        {"format": checkpointing.FORMAT, "arrays": ["v/0"], **values}
    )


FLOATS = {"descr": "<f4", "fortran_order": False, "shape": (1,)}
FOREIGN = {
    "no archive": b"\x80\x04pickle",
    "empty": b"",
    "other archive": {"weights.h5": "x"},
    "no JSON": {"header.json": "{"},
    "a list": {"header.json": "[]"},
    "another format": {"header.json": '{"format": "torch"}'},
    "no array": {"header.json": header()},
    "a pickle": {
        "header.json": header(),
        "0.npy": npy({**FLOATS, "descr": "|O"}, b"cos\nsystem\n"),
    },
    "no NumPy": {"header.json": header(), "0.npy": "float"},
    "another shape": {
        "header.json": header(),
        "0.npy": npy({**FLOATS, "shape": (2,)}, b"12345678"),
    },
    "no data": {"header.json": header(), "0.npy": npy(FLOATS)},
    "terabytes": {
        "header.json": header(),
        "0.npy": npy({**FLOATS, "shape": (2**40,)}, b"1234"),
    },
    "other names": {"header.json": header(arrays=["w"]), "0.npy": ""},
    "no names": {"header.json": header(arrays=7)},
}


def test_what_would_unpack_to_gigabytes_is_not_unpacked(tmp_path):
    path = tmp_path / "step-000000001.ckpt"
    write_zip(path, {"header.json": header()})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.npy", npy(FLOATS, bytes(2**20)))
    told = []
    assert newest_checkpoint(tmp_path, told.append) == (None, None)
    assert "something in it is compressed" in told[0]


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_refused(tmp_path, name):
    path = tmp_path / "step-000000001.ckpt"
    if isinstance(FOREIGN[name], bytes):
        path.write_bytes(FOREIGN[name])
    else:
        write_zip(path, FOREIGN[name])
    state = variables([5.0])
    with pytest.raises(ValueError, match="cannot be used as a checkpoint") as e:
        load_checkpoint(path, state)
    assert str(path) in str(e.value) and "Expected" in str(e.value)
    assert numbers(state) == [[5.0]]


def test_a_header_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    path = tmp_path / "step-000000001.ckpt"
    write_zip(
        path,
        {"header.json": " " * 2**20},
        compression=zipfile.ZIP_DEFLATED,
    )
    with pytest.raises(ValueError, match="header.json has 1048576 bytes"):
        read_header(path)


def test_a_full_disk_takes_nothing(tmp_path):
    """Where a file may have no more than 4 KB, as on a disk that is full."""
    old = tmp_path / "step-000000001.ckpt"
    save_checkpoint(old, variables([1.0]), {})
    before = old.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        for path in (tmp_path / "step-000000002.ckpt", old):
            with pytest.raises(OSError, match="cannot be written") as caught:
                save_checkpoint(path, variables(np.zeros(9999)), {})
            assert str(path) in str(caught.value)
        with pytest.raises(OSError, match=r"a.txt cannot be .*Make room"):
            save_text("x" * 9999, tmp_path / "a.txt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == [old.name]
    assert old.read_bytes() == before


@pytest.mark.parametrize(
    "save, name",
    [
        (lambda path: save_checkpoint(path, variables([1.0]), {}), "a.ckpt"),
        (lambda path: save_text("text", path), "history.csv"),
    ],
)
def test_a_device_that_is_full_is_named_as_the_file(
    tmp_path, save, name, monkeypatch
):
    """As Linux's own stand-in for a full disk has it."""
    path = tmp_path / name
    path.write_text("before")
    remove = pathlib.Path.unlink

    def link(partial, **options):
        remove(partial, **options)
        # The next time it is removed for good.
        monkeypatch.undo()
        partial.symlink_to("/dev/full")

    monkeypatch.setattr(pathlib.Path, "unlink", link)
    with pytest.raises(OSError, match=f"{path} cannot be written: No space"):
        save(path)
    assert os.listdir(tmp_path) == [name] and path.read_text() == "before"


def test_room_is_taken_for_all_that_keras_writes(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        os, "posix_fallocate", lambda *arguments: sizes.append(arguments[2])
    )
    model = keras.Sequential([keras.Input((512,)), keras.layers.Dense(512)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True))
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / "model.keras"
    save_model(model, path)
    # Of the archive, and of what goes into it.
    needed = path.stat().st_size
    assert len(sizes) == 2 and needed < min(sizes) < 1.5 * needed
    # Some file systems cannot.
    path.unlink()

    def fail(*arguments):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    save_model(model, path)
    monkeypatch.delattr(os, "posix_fallocate")
    save_model(model, path)
    assert path.stat().st_size == needed


def test_an_error_of_the_disk_takes_nothing(tmp_path, monkeypatch):
    old = tmp_path / "step-000000001.ckpt"
    save_checkpoint(old, variables([1.0]), {})

    def fail(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        save_checkpoint(old, variables([2.0]), {})
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == [old.name]
    load_checkpoint(old, state := variables([0.0]))
    assert numbers(state) == [[1.0]]


def test_nothing_is_written_through_a_link(tmp_path):
    other = tmp_path / "other"
    other.write_text("kept")
    (tmp_path / ".partial-a.txt").symlink_to(other)
    save_text("new", tmp_path / "a.txt")
    assert other.read_text() == "kept"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()


def test_best_model_is_whole_or_not_there(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    path = tmp_path / "model.keras"
    save_model(model, path)
    kept = path.read_bytes()

    def fail(folder, zipped):
        pathlib.Path(folder, "model.weights.h5").write_bytes(b"half")
        raise OSError("disk full")

    model.save = fail
    with pytest.raises(OSError, match="disk full"):
        save_model(model, path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]
    assert path.read_bytes() == kept


WRITER = """
import sys, numpy as np
from keras_danet.trainer.checkpoints import save_checkpoint
arrays = {str(n): np.full(250_000, n, "float32") for n in range(20)}
print("ready", flush=True)
for step in range(1, 1000):
    save_checkpoint(f"{sys.argv[1]}/step-{step:09}.ckpt", arrays, {"n": step})
    print(step, flush=True)
"""


def test_killed_while_it_writes(tmp_path):
    """Whatever a killed process had finished is whole; the rest is not seen."""
    rng = np.random.default_rng(0)
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        written = int(process.stdout.readline())
        try:
            process.wait(rng.uniform(0, 0.2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        written = [written, *map(int, process.communicate()[0].split())][-1]
        found = [int(p.stem.removeprefix("step-")) for p in checkpoints(folder)]
        assert max(found) in (written, written + 1)
        for path in checkpoints(folder)[:3]:
            told = []
            assert newest_checkpoint(folder, told.append)[0] is not None
            assert not told
            state = {"19": keras.Variable(np.zeros(250_000, "float32"))}
            load_checkpoint(path, state)
            assert numbers(state)[0][::99999] == [19.0] * 3
        checkpointing.remove_leftovers(folder)
        assert not [p for p in folder.iterdir() if p.suffix != ".ckpt"]
