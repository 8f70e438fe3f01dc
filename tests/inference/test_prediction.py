"""`predict_files`: what is written, what is skipped, and what is refused."""

import dataclasses
import errno
import json
import math
import os
import pathlib

import numpy as np
import pytest
from conftest import one_backend
from pictures import photo
from PIL import Image

from keras_danet import Predictor
from keras_danet.data.decoding import read_image
from keras_danet.files import whole_or_not
from keras_danet.inference import large_results
from keras_danet.inference import predict_large
from keras_danet.inference import prediction
from keras_danet.inference import results
from keras_danet.inference import visualization
from keras_danet.inference.inputs import find_inputs
from keras_danet.inference.prediction import predict_files
from keras_danet.inference.records import digest_of
from keras_danet.inference.visualization import display_palette
from keras_danet.inference.visualization import overlay

pytestmark = one_backend

SIZE = (40, 56)


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for k, name in enumerate(("a.png", "b.png", "deep/a.png")):
        photo(SIZE[0] + k, SIZE[1]).save(folder / name)
    return folder


class Counting:
    """A predictor that counts the images it is asked for."""

    def __init__(self, predictor):
        self.predictor, self.calls = predictor, 0

    def __getattr__(self, name):
        return getattr(self.predictor, name)

    def __call__(self, image):
        self.calls += 1
        return self.predictor(image)


def names_in(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


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


def test_results_of_something_else_are_not_mistaken(
    predictor, photos, tmp_path
):
    output = tmp_path / "out"
    image = photos / "a.png"
    predict_files(predictor, [image], output)

    def refused(predictor=predictor, given=image):
        with pytest.raises(FileExistsError) as error:
            predict_files(predictor, [given], output)
        assert "--overwrite" in str(error.value)
        return str(error.value)

    # Also where the other model has no result of that name yet.
    for given in (image, photos / "b.png"):
        mirrored = Predictor(predictor.model, mirror=True)
        assert "by another protocol" in refused(mirrored, given)
        gamma = predictor.model.get_layer("position_attention").gamma
        gamma.assign(gamma + 0.1)
        assert "another model" in refused(given=given)
        gamma.assign(gamma - 0.1)
    # Another image of the same name, or the same one once it is changed.
    assert "of another file" in refused(given=photos / "deep" / "a.png")
    os.utime(image, ns=(0, 0))
    assert "before it was changed" in refused()
    (output / "predict.json").unlink()
    assert "no predict.json says" in refused()
    (output / "predict.json").write_text("{}")
    with pytest.raises(ValueError, match="is not what `keras-danet predict`"):
        predict_files(predictor, [image], output)


def test_a_model_that_is_loaded_again_is_the_same(predictor, tmp_path):
    predictor.model.save(tmp_path / "model.keras")
    found = [digest_of(Predictor(tmp_path / "model.keras")) for _ in range(2)]
    assert found == [digest_of(predictor)] * 2


def test_overwriting_that_is_stopped_goes_on(
    predictor, photos, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    predict_files(predictor, [photos], output)
    other = Counting(Predictor(predictor.model, mirror=True))
    real = results.save

    def stopping(path, *arguments):
        if path.name == "b_label.png":
            raise KeyboardInterrupt
        real(path, *arguments)

    monkeypatch.setattr(results, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict_files(other, [photos], output, overwrite=True)
    record = json.loads((output / "predict.json").read_text())
    assert {"b", "deep/a"} <= set(record["unfinished"])
    monkeypatch.setattr(results, "save", real)
    # Not the first model's results.
    outcomes = predict_files(other, [photos], output)
    assert statuses(outcomes)[1:] == ["done", "done"]
    assert statuses(predict_files(other, [photos], output)) == ["present"] * 3


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
    assert [o.error for o in outcomes] == ["too large"]
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
    bare = Counting(predictor)
    bare.model = dataclasses.make_dataclass("Bare", [("attention", tuple)])(())
    with pytest.raises(ValueError, match="no attention module"):
        results.check_kinds(bare, ["attention"])


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
    for given, words in (
        ("z*.png", "matches no image and no video"),
        ("f/c_%04d.png", "matches no frame"),
        ("f/d_%03d.png", "matches no frame"),
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
    assert outcome.status == "failed" and "size=None" in outcome.error


# Videos


@pytest.fixture
def video(tmp_path):
    av = pytest.importorskip("av", reason="videos need PyAV: pip install av")
    path = tmp_path / "street.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        # Frames of about the same number of bytes.
        stream.codec_context.gop_size = 1
        for k in range(12):
            image = np.roll(np.asarray(photo(*SIZE)), 3 * k, axis=1)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def frames_of(path):
    import av

    with av.open(str(path)) as container:
        return [
            (frame.time, frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]


def test_a_video_has_a_label_of_each_frame_and_a_video(
    predictor, video, tmp_path
):
    output = tmp_path / "out"
    counting = Counting(predictor)
    (outcome,) = predict_files(counting, [video], output)
    assert outcome.status == "done" and counting.calls == 12
    assert outcome.files == {
        "label": output / "street_labels",
        "overlay": output / "street_overlay.mp4",
    }
    sources, shown = frames_of(video), frames_of(output / "street_overlay.mp4")
    assert [time for time, _ in shown] == [time for time, _ in sources]
    colors = display_palette(predictor.palette)
    for k, ((_, image), (_, picture)) in enumerate(
        zip(sources, shown, strict=True), 1
    ):
        path = output / "street_labels" / f"{k:06}.png"
        label = np.asarray(Image.open(path))
        # Colours of a decoder may differ by a rounding.
        assert (label == predictor(image)).mean() > 0.98
        expected = overlay(image, label, colors).astype(int)
        assert np.abs(picture - expected).mean() < 12
    assert len(names_in(output)) == 14
    assert statuses(predict_files(counting, [video], output)) == ["present"]
    # Frames that are there are no whole video.
    (output / "street_overlay.mp4").unlink()
    assert statuses(predict_files(counting, [video], output)) == ["done"]
    assert counting.calls == 24
    files = ["label", "overlay", "confidence", "probabilities"]
    (outcome,) = predict_files(counting, [video], output, files)
    assert len(list((output / "street_confidence").iterdir())) == 12
    assert np.load(output / "street_probabilities" / "000012.npy").shape == (
        *SIZE,
        5,
    )


def test_a_video_that_breaks_off_is_done_again(predictor, video, tmp_path):
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) * 2 // 3])
    output = tmp_path / "out"
    for _ in range(2):
        (outcome,) = predict_files(predictor, [video], output)
        assert outcome.status == "partial" and outcome.classes
        assert "street.mp4 breaks off or is damaged" in outcome.error
        count = len(list((output / "street_labels").iterdir()))
        assert 1 <= count < 12
        assert len(frames_of(output / "street_overlay.mp4")) == count
    assert not list(output.glob(".*"))


def test_a_video_that_fails_leaves_nothing(
    predictor, video, photos, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    real = whole_or_not

    def full(path):
        if path.name == "000003.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path)

    monkeypatch.setattr(visualization, "whole_or_not", full)
    with pytest.raises(OSError, match="No space left"):
        predict_files(predictor, [photos, video], output)
    # The images before it are whole, and nothing is there of the video.
    assert len(names_in(output)) == 7
    assert not list(output.glob("*street*"))
    monkeypatch.undo()
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(b"no video")
    outcomes = predict_files(predictor, [bad, video, photos], output)
    assert statuses(outcomes) == ["failed", "done", *["present"] * 3]
    assert "bad.mkv cannot be read" in outcomes[0].error


def test_a_folder_that_is_not_ours_is_not_replaced(predictor, video, tmp_path):
    output = tmp_path / "out"
    (output / "street_labels").mkdir(parents=True)
    (output / "street_labels" / "000001.png").touch()
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not written here"):
            predict_files(predictor, [video], output, overwrite=overwrite)
    assert names_in(output) == ["street_labels/000001.png"]


def test_numbered_frames_are_a_video(predictor, tmp_path):
    pytest.importorskip("av", reason="videos need PyAV: pip install av")
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in (5, 6, 8):
        photo(*SIZE).save(frames / f"{number:05}.png")
    output = tmp_path / "out"
    given = [frames / "%05d.png"]
    (outcome,) = predict_files(predictor, given, output, frame_rate=10)
    assert outcome.status == "done" and outcome.error is None
    assert names_in(output / "frames_labels") == [
        "00005.png",
        "00006.png",
        "00008.png",
    ]
    shown = frames_of(output / "frames_overlay.mp4")
    assert [time for time, _ in shown] == pytest.approx([0, 0.1, 0.3])
    label = np.asarray(Image.open(output / "frames_labels" / "00008.png"))
    np.testing.assert_array_equal(label, predictor(np.asarray(photo(*SIZE))))


def test_videos_need_their_package(predictor, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").touch()
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match="PyAV, which is not installed"):
        predict_files(predictor, [tmp_path / "a.mp4"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert prediction.DEFAULT_KINDS == ("label", "overlay")
