"""Weight files of strangers: what is read, and what is refused unread."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from conftest import one_backend

from keras_danet.weights import files
from keras_danet.weights import torch_files

pytestmark = one_backend

TENSORS = {
    "a.weight": np.arange(24, dtype="float32").reshape(2, 3, 4),
    "a.count": np.array(7, "int64"),
}


def write_torch(path, content, **options):
    torch.save(content, path, **options)


def torch_tensors():
    return {name: torch.tensor(value) for name, value in TENSORS.items()}


def write_safetensors(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def assert_read(path, meta=None):
    tensors, found = files.read_weights(path)
    assert set(tensors) == set(TENSORS)
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        np.testing.assert_array_equal(tensors[name], value)
    assert found == (meta or {})


def assert_refused(path, reason):
    with pytest.raises(ValueError, match=reason) as error:
        files.read_weights(path)
    assert str(error.value).startswith(f"{path} is not read: ")
    assert "\n" not in str(error.value)


def test_npz_is_read(tmp_path):
    np.savez(tmp_path / "plain.npz", **TENSORS)
    assert_read(tmp_path / "plain.npz")
    np.savez_compressed(tmp_path / "small.npz", **TENSORS)
    assert_read(tmp_path / "small.npz")


def test_safetensors_is_read(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "w.safetensors"
    numpy.save_file(TENSORS, path, metadata={"align_corners": "true"})
    assert_read(path, {"align_corners": "true"})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("ending", ["w.pth", "w.pth.tar"])
def test_torch_files_are_read(tmp_path, zipped, ending):
    path = tmp_path / ending
    option = {"_use_new_zipfile_serialization": zipped}
    write_torch(path, torch_tensors(), **option)
    assert_read(path)
    meta = {"CLASSES": ["a", "b"], "config": "x = 1"}
    content = {"state_dict": torch_tensors(), "meta": meta, "epoch": 3}
    write_torch(path, content, **option)
    assert_read(path, meta)


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_of_numpy_beside_the_tensors_are_passed_over(tmp_path, zipped):
    # As in the authors' files: the best score, of NumPy's own type.
    path = tmp_path / "danet.pth.tar"
    content = {
        "epoch": 3,
        "state_dict": torch_tensors(),
        "optimizer": {},
        "best_pred": np.float64(0.8),
    }
    write_torch(path, content, _use_new_zipfile_serialization=zipped)
    assert_read(path)
    # MMSegmentation's, of the colours of the classes.
    content["meta"] = {"PALETTE": np.zeros((2, 3)), "names": {"a"}}
    write_torch(path, content, _use_new_zipfile_serialization=zipped)
    assert files.read_weights(path)[1]["names"] == {"a"}
    content["state_dict"]["score"] = np.float64(0.8)
    write_torch(path, content, _use_new_zipfile_serialization=zipped)
    assert_refused(path, "'score' is not a dense tensor")


def test_types_that_numpy_lacks_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    write_torch(path, {"w": torch.ones(3).to(torch.float8_e4m3fn)})
    assert_refused(path, "only dense tensors of booleans, integers and floats")


def test_dicts_in_memory():
    tensors, meta = files.as_arrays({"state_dict": TENSORS, "meta": {}})
    assert tensors["a.weight"] is TENSORS["a.weight"]
    assert meta == {}
    for wrong in ([1], {1: np.ones(1)}, "x"):
        with pytest.raises(ValueError, match="must be a dict of tensor name"):
            files.as_arrays(wrong)


def test_tensors_in_memory():
    half = torch.full((3,), 1.5, dtype=torch.bfloat16, requires_grad=True)
    tensors, _ = files.as_arrays({"x": half, "y": half[0]})
    np.testing.assert_array_equal(tensors["x"], np.full(3, 1.5, "float32"))
    assert tensors["y"] == 1.5
    # The same memory, as what is read anew is twice as large in full.
    with torch.no_grad():
        half[0] = 2.5
    assert tensors["x"][0] == 2.5


@pytest.mark.parametrize("kind", ["npz", "pth", "old.pth", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_are_read_one_at_a_time(tmp_path, monkeypatch, kind, dtype):
    path = tmp_path / f"w.{kind}"
    values = {
        f"w{index}": torch.full((2, 3), index + 0.5).to(getattr(torch, dtype))
        for index in range(5)
    }
    if kind == "npz" and dtype == "bfloat16":
        pytest.skip("NumPy has no bfloat16")
    if kind == "npz":
        np.savez(path, **{name: v.numpy() for name, v in values.items()})
    elif kind == "safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(values, path)
    else:
        zipped = kind == "pth"
        write_torch(path, values, _use_new_zipfile_serialization=zipped)
    opened = []
    for opener in ("_open_npz", "_open_safetensors", "_open_torch"):
        function = getattr(files, opener)
        monkeypatch.setattr(
            files,
            opener,
            lambda path, f=function: opened.append(path) or f(path),
        )
    monkeypatch.setattr(files, "MAPPED_BYTES", 20)
    tensors, _ = files.read_weights(path)
    assert opened == []
    for index in range(5):
        tensor = tensors[f"w{index}"]
        assert (tensor.shape, tensor.dtype.name) == ((2, 3), dtype)
        array = np.asarray(tensor)
        assert array.dtype.name == dtype
        np.testing.assert_array_equal(array.astype("float32"), index + 0.5)
    # 60 or 120 bytes in pieces of at most 20 and a tensor.
    expected = {"old.pth": 1}.get(kind, 5 if dtype == "float32" else 3)
    assert len(opened) == expected
    if kind != "old.pth":
        path.unlink()
        with pytest.raises(ValueError, match=f"{path} is not read"):
            for name in ("w0", "w1", "w2"):
                np.asarray(tensors[name])


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_not_run(tmp_path, zipped):
    path, trap = tmp_path / "w.pth", tmp_path / "trap"
    content = {**torch_tensors(), "x": Malicious(trap)}
    write_torch(path, content, _use_new_zipfile_serialization=zipped)
    assert_refused(path, "more than tensors. Such a file can run code")
    assert not trap.exists()


class Call:
    """Is a call of anything when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def claiming(path, zipped, claim):
    """A file whose only storage, of 3 numbers, claims more in its pickle."""
    write_torch(
        path,
        {"x": torch.zeros(3)},
        _use_new_zipfile_serialization=zipped,
    )
    content = path.read_bytes()
    start = content.index(b"cpu")
    count = content.index(b"K\3", start)
    longer = b"\x8a\4" + claim.to_bytes(4, "little")
    content = content[:count] + longer + content[count + 2 :]
    if not zipped:
        path.write_bytes(content)
        return
    text = content[content.index(b"\x80\2") :].partition(b"u.")[0] + b"u."
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, text if name.endswith(".pkl") else data)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        Call(torch.FloatTensor, 10**9),
        Call(torch.FloatStorage, 10**9),
        Call(torch.UntypedStorage, 10**9),
        Call(bytearray, 4 * 10**9),
        Call(torch._utils._rebuild_tensor_v2, 3, 0, (1,), (1,), False, {}),
        Call(str.encode, "x", "utf-16"),
        torch.nn.Linear(1, 1),
    ],
)
def test_nothing_is_made_of_thin_air(tmp_path, zipped, call):
    path = tmp_path / "w.pth"
    content = {**torch_tensors(), "y": [call]}
    write_torch(path, content, _use_new_zipfile_serialization=zipped)
    assert_refused(path, "more than tensors|only dense tensors|is damaged")


@pytest.mark.parametrize("zipped", [True, False])
def test_storages_that_claim_more_than_the_file(tmp_path, zipped):
    path = tmp_path / "w.pth"
    claiming(path, zipped, 10**9)
    assert_refused(path, "claims? 4000000000 bytes")


def small_pickle(*parts):
    """A pickle of opcodes and of values, each without its frame."""
    return b"\x80\2" + b"".join(
        part if isinstance(part, bytes) else pickle.dumps(part, 2)[2:-1]
        for part in parts
    )


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"".join(
    (
        b"(",
        pickle.dumps("storage", 2)[2:-1],
        b"ctorch\nFloatStorage\n",
        pickle.dumps("key", 2)[2:-1],
        pickle.dumps("cpu", 2)[2:-1],
        b"K\3tQ",
    )
)
ORDERED = b"ccollections\nOrderedDict\n"


@pytest.mark.parametrize(
    "parts, reason",
    [
        # Its storage would be made larger for it.
        ((TENSOR, b"(", STORAGE, 0, (10**9,), (1,), b"tR."), "claims shape"),
        ((TENSOR, b"(", STORAGE, 2, (2,), (1,), b"tR."), "claims shape"),
        ((TENSOR, b"(", STORAGE, -1, (1,), (1,), b"tR."), "something else"),
        # A long list that is copied again and again.
        (
            (b"]q\1(", b"K\0" * 300, b"e](", (ORDERED + b"h\1\x85R") * 30)
            + (b"e.",),
            "unpacks to more than it holds",
        ),
        ((b"0.",), "the instruction POP"),
        ((b"c__builtin__\neval\n."), "'__builtin__.eval'"),
        ((b"]", 1, 2, b"s."), "items for something without items"),
        ((b"K\0}b."), "state for something without state"),
        ((b"X\1\0\0\0xQ."), "is damaged"),
        ((b"h\5."), "is damaged"),
        ((b"t."), "is damaged"),
        ((b"K\0"), "exhausted"),
        ((STORAGE, STORAGE.replace(b"K\3", b"K\4"), b"."), "several sizes"),
    ],
)
def test_pickles_are_followed(parts, reason):
    parts = (parts,) if isinstance(parts, bytes) else parts
    with pytest.raises(ValueError, match=reason):
        torch_files.follow(io.BytesIO(small_pickle(*parts)))


def test_an_archive_has_one_directory(tmp_path):
    # zipfile reads the last one, PyTorch the one whose place the end tells.
    path = tmp_path / "w.pth"
    write_torch(path, torch_tensors())
    content = path.read_bytes()
    path.write_bytes(b"PK\3\4" + content)
    assert_refused(path, "two directories")
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"x"
    assert_refused(path, "two directories")


def test_a_pickle_in_npz_is_not_run(tmp_path):
    path, trap = tmp_path / "w.npz", tmp_path / "trap"
    np.savez(path, x=np.array([Malicious(trap)], dtype=object))
    assert_refused(path, "x.npy holds pickled objects")
    assert not trap.exists()


def test_zip_bombs_are_not_unpacked(tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, x=np.zeros(2**24, "float32"))
    assert path.stat().st_size < 2**17
    assert_refused(path, r"claim to unpack to 67108864")
    torch_file = tmp_path / "w.pth"
    with zipfile.ZipFile(torch_file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**24)
    assert_refused(torch_file, "its members are compressed")


def test_headers_that_claim_petabytes(tmp_path):
    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (2**48,)}
    np.lib.format.write_array_header_1_0(header, claim)
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue() + b"\0" * 16)
    assert_refused(path, r"claims shape \(281474976710656,\)")

    pytest.importorskip("safetensors")
    path = tmp_path / "w.safetensors"
    entry = {"dtype": "F32", "shape": [2**48], "data_offsets": [0, 2**50]}
    write_safetensors(path, {"x": entry}, b"\0" * 16)
    assert_refused(path, "safetensors")
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert_refused(path, "safetensors")


def test_a_tensor_that_repeats_its_storage(tmp_path):
    path = tmp_path / "w.pth"
    write_torch(path, {"x": torch.zeros(1).expand(2**40)})
    assert_refused(path, r"'x' claims shape \(1099511627776,\) but has 4 bytes")


def test_what_is_no_tensor(tmp_path):
    path = tmp_path / "w.pth"
    write_torch(path, {"x": 3})
    assert_refused(path, "'x' is not a dense tensor")
    write_torch(path, {"x": torch.eye(2).to_sparse()})
    assert_refused(path, "sparse.*only dense tensors")
    write_torch(path, [1, 2])
    assert_refused(path, "must be a dict of tensor name")


@pytest.mark.parametrize("ending", ["npz", "safetensors", "pth"])
def test_truncated_files(tmp_path, ending):
    path = tmp_path / f"w.{ending}"
    if ending == "npz":
        np.savez(path, **TENSORS)
    elif ending == "safetensors":
        numpy = pytest.importorskip("safetensors.numpy")
        numpy.save_file(TENSORS, path)
    else:
        write_torch(path, torch_tensors())
    whole = path.read_bytes()
    for length in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_refused(path, "is not read")
    path.write_bytes(b"")
    assert_refused(path, "it has 0 bytes")


def test_other_files(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"or \.npz file\.$"):
        files.read_weights(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="to from_preset"):
        files.read_weights("danet_resnet50_cityscapes")
    for name, reason in (
        ("w.keras", "'.keras' is not a known ending.*load_model"),
        ("w", "'no ending'"),
        ("w.pkl", "'.pkl'"),
        ("w.pdparams", "a PaddleSeg network.*pools in the shortcuts"),
        ("w.pdiparams", "a PaddleSeg network"),
    ):
        (tmp_path / name).write_bytes(b"x")
        assert_refused(tmp_path / name, reason)
    path = tmp_path / "w.npz"
    np.savez(path)
    assert_refused(path, "it has 0 tensors")
    np.savez(path, **TENSORS)
    monkeypatch.setattr(files, "MAX_TENSORS", 1)
    assert_refused(path, "it has 2 tensors")
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
    assert_refused(path, r"it has \d+ bytes")


@pytest.mark.parametrize("version", ["2.9.1+cpu", "2.6.0", "1.13.1"])
def test_a_torch_with_a_hole_reads_nothing(tmp_path, monkeypatch, version):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(2)}, path)
    assert list(files.read_weights(path)[0]) == ["a"]
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError, match=r"2\.10 or later.*--upgrade torch"):
        files.read_weights(path)
    monkeypatch.setattr(torch, "__version__", "2.10.0a0+git")
    assert list(files.read_weights(path)[0]) == ["a"]
