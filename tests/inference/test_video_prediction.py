"""Videos and numbered frames through `predict_files`."""

import contextlib
import errno
import json

import numpy as np
import pytest
from conftest import one_backend
from pictures import photo
from PIL import Image
from predicted import SIZE
from predicted import Counting
from predicted import names_in
from predicted import statuses

from keras_danet.files import whole_or_not
from keras_danet.inference import prediction
from keras_danet.inference import video_prediction
from keras_danet.inference import visualization
from keras_danet.inference.prediction import predict_files
from keras_danet.inference.visualization import display_palette
from keras_danet.inference.visualization import overlay

pytestmark = one_backend


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
    # Another video of that name is none that was mended.
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "street.mp4"
    other.write_bytes(whole)
    with pytest.raises(FileExistsError, match="of another file of that name"):
        predict_files(predictor, [other], output)
    video.write_bytes(whole)
    (outcome,) = predict_files(predictor, [video], output)
    assert outcome.status == "done"
    assert len(list((output / "street_labels").iterdir())) == 12
    assert statuses(predict_files(predictor, [video], output)) == ["present"]


def test_a_video_does_not_replace_results_of_images(
    predictor, video, photos, tmp_path
):
    (photos / "deep").rename(photos / "street_labels")
    video.rename(photos / "street.mp4")
    output = tmp_path / "out"
    with pytest.raises(ValueError, match="would both be called.*street_labels"):
        predict_files(predictor, [photos], output)
    assert not output.exists()


def test_a_folder_of_ones_own_is_not_taken_for_results(
    predictor, video, tmp_path
):
    own = tmp_path / "street_labels"
    own.mkdir()
    (own / "000001.png").touch()
    predict_files(predictor, [video], tmp_path, ["overlay"])
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="was not written here"):
            predict_files(predictor, [video], tmp_path, overwrite=overwrite)
    assert (own / "000001.png").exists()


def test_a_killed_process_has_told_of_unfinished_videos(
    predictor, video, tmp_path, monkeypatch
):
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) * 2 // 3])
    other = tmp_path / "whole.mp4"
    other.write_bytes(whole)
    output, seen = tmp_path / "out", []
    real = video_prediction.open_source

    def look(*arguments):
        with contextlib.suppress(FileNotFoundError):
            record = json.loads((output / "predict.json").read_text())
            seen.append(record["unfinished"])
        return real(*arguments)

    monkeypatch.setattr(video_prediction, "open_source", look)
    outcomes = predict_files(predictor, [video, other], output)
    assert statuses(outcomes) == ["partial", "done"]
    # What is on the disk while the second one is predicted.
    assert seen == [["street", "whole"]]
    record = json.loads((output / "predict.json").read_text())
    assert record["unfinished"] == ["street"]


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
