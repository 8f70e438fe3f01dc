"""`predict_files`: what is written, what is skipped, and what is refused."""

import errno
import math
import os
import pathlib

import numpy as np
import pytest
from conftest import one_backend
from pictures import photo
from PIL import Image
from predicted import SIZE
from predicted import Counting
from predicted import names_in
from predicted import statuses

from keras_danet import Predictor
from keras_danet.data.decoding import read_image
from keras_danet.inference import large_results
from keras_danet.inference import predict_large
from keras_danet.inference import results
from keras_danet.inference.inputs import find_inputs
from keras_danet.inference.prediction import predict_files
from keras_danet.inference.visualization import display_palette
from keras_danet.inference.visualization import overlay

pytestmark = one_backend


def test_every_kind_holds_what_the_predictor_says(predictor, photos, tmp_path):
    predictor = Predictor(predictor.model, scales=(0.75, 1), mirror=True)
    output = tmp_path / "out"
    kinds = [kind for kind in results.ENDINGS if kind != "sheet"]
    (outcome,) = predict_files(predictor, [photos / "a.png"], output, kinds)
    image = read_image(photos / "a.png")
    sure = predictor.uncertainty(image)
    found = {
        kind: np.asarray(Image.open(path))
        for kind, path in outcome.files.items()
        if path.suffix == ".png"
    }
    np.testing.assert_array_equal(found["label"], sure.label)
    expected = overlay(image, sure.label, display_palette(predictor.palette))
    np.testing.assert_array_equal(found["overlay"], expected)
    values = np.load(outcome.files["probabilities"])
    assert values.dtype == "float16" and values.shape == (*SIZE, 5)
    np.testing.assert_allclose(
        values, predictor.probabilities(image), atol=2**-11
    )
    for kind, most in (
        ("confidence", 1),
        ("entropy", math.log(5)),
        ("spread", 1),
    ):
        assert found[kind].dtype == "uint16"
        # Half of a step, and float32 rounding.
        np.testing.assert_allclose(
            found[kind] * (most / 65535),
            getattr(sure, kind),
            atol=0.5 * most / 65535 + 1e-6,
        )
        text = Image.open(outcome.files[kind]).text["Description"]
        assert "value / 65535" in text
    assert found["spread"].max() > 100
    assert (
        f"x {math.log(5):.6f}"
        in (Image.open(outcome.files["entropy"]).text["Description"])
    )
    assert outcome.classes == tuple(
        predictor.class_names[k] for k in np.unique(sure.label)
    )


@pytest.mark.parametrize(
    "kinds",
    [
        ("confidence",),
        ("entropy",),
        ("probabilities",),
        ("probabilities", "confidence", "entropy"),
        ("probabilities", "spread", "label"),
    ],
)
def test_a_choice_of_kinds_has_the_same_values(predictor, kinds):
    image = np.asarray(photo(*SIZE))
    found = results.predict(predictor, image, kinds)
    sure = predictor.uncertainty(image)
    np.testing.assert_array_equal(found.label, sure.label)
    for kind in set(kinds) - {"probabilities", "label"}:
        np.testing.assert_allclose(
            getattr(found, kind), getattr(sure, kind), atol=1e-5
        )


def test_what_is_done_is_skipped(predictor, photos, tmp_path):
    output = tmp_path / "out"
    counting = Counting(predictor)
    outcomes = predict_files(counting, [photos], output)
    assert statuses(outcomes) == ["done"] * 3 and counting.calls == 3
    assert names_in(output) == sorted(
        ["predict.json"]
        + [
            f"{name}_{kind}.png"
            for name in ("a", "b", "deep/a")
            for kind in ("label", "overlay")
        ]
    )
    before = {name: (output / name).stat() for name in names_in(output)}
    outcomes = predict_files(counting, [photos], output)
    assert statuses(outcomes) == ["present"] * 3 and counting.calls == 3
    # As after a stop between the two files of an image.
    (output / "b_overlay.png").unlink()
    photo(*SIZE).save(photos / "c.png")
    outcomes = predict_files(counting, [photos], output)
    assert statuses(outcomes) == ["present", "done", "done", "present"]
    assert counting.calls == 5
    for name in ("a_label.png", "deep/a_label.png"):
        assert (output / name).stat().st_mtime_ns == before[name].st_mtime_ns
    # Another kind needs what there is as well.
    outcomes = predict_files(counting, [photos], output, ["confidence"])
    assert statuses(outcomes) == ["done"] * 4


def test_names_that_are_too_long(predictor, photos, tmp_path):
    name = "x" * 240
    (photos / "a.png").rename(photos / f"{name}.png")
    outcomes = predict_files(predictor, [photos], tmp_path / "out")
    found = {o.input.name: o.status for o in outcomes}
    assert found == {name: "failed", "b": "done", "deep/a": "done"}
    assert any("has too long a name" in (o.error or "") for o in outcomes)


def test_memory_that_a_backend_lacks(predictor, photos, tmp_path, monkeypatch):
    class OutOfMemoryError(RuntimeError):
        pass

    errors = [
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        MemoryError(),
    ]

    def fail(*_):
        raise errors.pop()

    monkeypatch.setattr(Predictor, "__call__", fail)
    outcomes = predict_files(predictor, [photos], tmp_path / "out")
    assert statuses(outcomes) == ["failed"] * 3
    assert all(str(o.input.path) in o.error for o in outcomes)
    assert "does not fit into memory" in outcomes[0].error
    errors = [RuntimeError("a fault")]
    with pytest.raises(RuntimeError, match="a fault"):
        predict_files(predictor, [photos], tmp_path / "out")


def test_a_bad_file_is_named_and_the_rest_goes_on(
    predictor, photos, tmp_path, monkeypatch
):
    (photos / "b.png").write_bytes(b"no image")
    Image.fromarray(np.zeros(SIZE, "uint16")).save(photos / "c.png")
    photo(*SIZE, mode="RGBA").save(photos / "d.png")
    (photos / "e.jpg").touch()
    told = []
    output = tmp_path / "out"
    given = [photos, tmp_path / "none.png"]
    outcomes = predict_files(predictor, given, output, report=told.append)
    assert told == outcomes
    found = {o.input.name: o for o in outcomes}
    assert {name: o.status for name, o in found.items()} == {
        **{"a": "done", "b": "failed", "c": "failed", "d": "done"},
        **{"e": "failed", "deep/a": "done", "none": "failed"},
    }
    for name, words in (
        ("b", "b.png cannot be read"),
        ("c", "more than 8 bits"),
        ("e", "it is empty (0 bytes)"),
        ("none", "there is no such file"),
    ):
        assert words in found[name].error
    assert len(names_in(output)) == 7
    # Neither does a single image that does not fit.
    real = Predictor._check_batch

    def check(self, count, height, width):
        if height > SIZE[0] + 1:
            raise ValueError("too large")
        real(self, count, height, width)

    monkeypatch.setattr(Predictor, "_check_batch", check)
    outcomes = predict_files(predictor, [photos / "deep"], tmp_path / "other")
    (outcome,) = outcomes
    assert outcome.error == f"{photos / 'deep' / 'a.png'}: too large"
    assert not (tmp_path / "other").exists()


def test_a_full_disk_ends_it_with_whole_files(
    predictor, photos, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    real = pathlib.Path.write_bytes

    def full(self, data):
        if self.name == ".partial-b_label.png":
            real(self, bytes(data)[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"b_label\.png cannot be written: No sp"):
        predict_files(predictor, [photos], output)
    assert not list(output.rglob(".partial-*"))
    for path in output.rglob("*.png"):
        Image.open(path).load()
    monkeypatch.undo()
    outcomes = predict_files(predictor, [photos], output)
    assert set(statuses(outcomes)) <= {"done", "present"}


def test_a_full_disk_is_named_where_numpy_writes(
    predictor, photos, tmp_path, monkeypatch
):
    # What NumPy says of one.
    def full(*_):
        raise OSError("98304 requested and 16320 written")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="written: No space left on device"):
        predict_files(predictor, [photos], tmp_path / "o", ["probabilities"])


def test_inputs_are_never_replaced(predictor, photos):
    # Results among the images are not images.
    for _ in range(2):
        outcomes = predict_files(predictor, [photos], photos)
        assert len(outcomes) == 3
    before = (photos / "a_label.png").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="would replace an input"):
            predict_files(
                predictor,
                [photos / "a.png", photos / "a_label.png"],
                photos,
                overwrite=overwrite,
            )
    # By another way to the same file.
    link = photos.parent / "link"
    link.symlink_to(photos)
    with pytest.raises(ValueError, match="would replace an input"):
        predict_files(
            predictor,
            [link / "a.png", link / "a_overlay.png"],
            photos,
            overwrite=True,
        )
    assert (photos / "a_label.png").read_bytes() == before


def test_wrong_kinds(predictor, photos, tmp_path):
    for save in (["labels"], [], ["label", "depth"]):
        with pytest.raises(ValueError, match="must be of label, overlay"):
            predict_files(predictor, [photos], tmp_path / "out", save)


def test_inputs_are_found_and_their_names_differ(tmp_path):
    for name in (
        *("a.png", "a.JPG", "b.png", "c.mp4", "x/a.png", "y/a.png"),
        *("x/n.txt", "f/c_001.png", "f/c_002.png", "f/.h.png", "s[1].png"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    notes = []

    def found(*given):
        given = [tmp_path / part for part in given]
        inputs = find_inputs(given, tmp_path / "out", notes.append)
        return {i.path.relative_to(tmp_path).as_posix(): i.name for i in inputs}

    assert found("a.png", "b.png", "a.png", "x/../b.png") == {
        "a.png": "a",
        "b.png": "b",
    }
    assert found("a.png", "a.JPG") == {"a.png": "a_png", "a.JPG": "a_JPG"}
    assert found("x", "y/a.png") == {"x/a.png": "x_a", "y/a.png": "y_a"}
    assert found("*.png") == {"a.png": "a", "b.png": "b", "s[1].png": "s[1]"}
    assert found("s[1].png") == {"s[1].png": "s[1]"}
    assert found("**/c_*.png") == {
        "f/c_001.png": "c_001",
        "f/c_002.png": "c_002",
    }
    assert found("f/c_%03d.png") == {"f/c_%03d.png": "c"}
    assert found("c.mp4") == {"c.mp4": "c"}
    notes.clear()
    assert set(found("*")) == {
        *("a.png", "a.JPG", "b.png", "c.mp4", "x/a.png", "y/a.png"),
        *("f/c_001.png", "f/c_002.png", "s[1].png"),
    }
    assert notes == [
        f"skipped 1 file in {tmp_path / 'x'} that is not an image: n.txt"
    ]
    # A link has results of its own name; one to a folder has none.
    (tmp_path / "x/link.png").symlink_to("a.png")
    (tmp_path / "z").symlink_to("x")
    assert found("x", "z") == {"x/a.png": "a", "x/link.png": "link"}
    for given, words in (
        ("z*.png", "matches no image and no video"),
        ("f/c_%04d.png", "matches no frame"),
        ("f/d_%03d.png", "matches no frame"),
        ("none/%03d.png", "matches no frame"),
    ):
        with pytest.raises(FileNotFoundError, match=words):
            found(given)
    (tmp_path / "a_png.webp").touch()
    with pytest.raises(ValueError, match="would be called a_png"):
        found("a.png", "a.JPG", "a_png.webp")


def test_a_name_is_that_of_the_folder_if_frames_have_none(tmp_path):
    folder = tmp_path / "street"
    folder.mkdir()
    for number in (10, 9):
        (folder / f"{number:03}.png").touch()
    (item,) = find_inputs([folder / "%03d.png"], tmp_path)
    assert item.name == "street" and item.kind == "frames"
    assert [path.name for path in item.files] == ["009.png", "010.png"]


def test_a_very_large_image_goes_window_by_window(
    predictor, photos, tmp_path, monkeypatch
):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "large.tif"
    image = np.asarray(photo(150, 200))
    tifffile.imwrite(path, image, tile=(32, 48), photometric="rgb")
    monkeypatch.setattr(large_results, "MAX_PIXELS", 150 * 200 - 1)
    windowed = Predictor(predictor.model, window=64, stride=48, size=None)
    expected = predict_large(windowed, path, tmp_path / "expected.npy")
    notes = []
    output = tmp_path / "out"
    kinds = ["label", "overlay", "confidence"]
    # Of a process that was killed.
    left = output / ".partial-large_label.png.folder"
    left.mkdir(parents=True)
    (left / "label.npy").touch()
    given = [path, photos / "a.png"]
    outcomes = predict_files(windowed, given, output, kinds, note=notes.append)
    assert statuses(outcomes) == ["done", "done"]
    assert "overlay would not fit into memory" in notes[0]
    label = np.asarray(Image.open(output / "large_label.png"))
    np.testing.assert_array_equal(label, expected.label)
    sure = np.load(output / "large_confidence.npy")
    assert sure.shape == (150, 200) and 0 < sure.min() <= sure.max() <= 1
    assert not list(output.glob(".partial-*"))
    outcomes = predict_files(windowed, given, output, kinds)
    assert statuses(outcomes) == ["present", "present"]
    # More than a PNG should hold.
    monkeypatch.setattr(large_results, "MAX_PNG_PIXELS", 1000)
    predict_files(windowed, [path], tmp_path / "array", kinds)
    label = np.load(tmp_path / "array" / "large_label.npy", mmap_mode="r")
    np.testing.assert_array_equal(label, expected.label)
    sized = Predictor(predictor.model, size=64)
    (outcome,) = predict_files(sized, [path], tmp_path / "other", ["label"])
    assert outcome.status == "failed" and "--size image" in outcome.error


def test_folders_that_are_not_read_are_named(
    predictor, photos, tmp_path, monkeypatch
):
    (photos / "more").symlink_to(tmp_path)
    real = os.scandir

    def scandir(path):
        if pathlib.Path(path).name == "deep":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    notes = []
    found = find_inputs([photos], tmp_path / "out", notes.append)
    assert {item.name for item in found} == {"a", "b", "deep"}
    assert "more (a link to a folder)" in notes[0]
    outcomes = predict_files(predictor, [photos], tmp_path / "out")
    found = {o.input.name: o.status for o in outcomes}
    assert found == {"a": "done", "b": "done", "deep": "failed"}


def test_an_image_that_is_called_as_a_result_is_named(predictor, photos):
    (photos / "b_label.png").write_bytes((photos / "a.png").read_bytes())
    (photos / "my_overlay.png").write_bytes((photos / "a.png").read_bytes())
    (photos / "street_labels").mkdir()
    (photos / "a_labels").mkdir()
    notes = []
    found = find_inputs([photos], photos, notes.append)
    assert [item.name for item in found] == ["a", "b", "deep/a"]
    assert notes == [
        f"left out street_labels, my_overlay.png in {photos}, which is named "
        "as results are. Rename it if it is meant, or choose another --output."
    ]


def test_a_pipe_is_not_waited_for(predictor, tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    (outcome,) = predict_files(predictor, [tmp_path], tmp_path / "out")
    assert outcome.status == "failed"
    assert "pipe.tif cannot be read: it is not a file" in outcome.error
    with pytest.raises(ValueError, match="it is not a file"):
        predict_large(predictor, tmp_path / "pipe.tif", tmp_path / "large.npy")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        predict_large(predictor, tmp_path / "no.tif", tmp_path / "large.npy")
