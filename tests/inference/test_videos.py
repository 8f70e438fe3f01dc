"""Videos that are read and written: sizes, times, turns, and bad files."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.inference import videos
from keras_danet.inference.inputs import Input
from keras_danet.inference.videos import FrameFiles
from keras_danet.inference.videos import VideoFile
from keras_danet.inference.videos import VideoWriter

av = pytest.importorskip("av", reason="videos need PyAV: pip install av")
pytestmark = one_backend

SIZE = (48, 64)
# Neither regular nor multiples of a frame's time.
TIMES = (0, 100, 150, 400, 401, 900, 1000, 2000)


def corners(height=SIZE[0], width=SIZE[1]):
    """Four quarters of red, green, blue and white, in reading order."""
    picture = np.zeros((height, width, 3), "uint8")
    colors = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 220))
    for k, color in enumerate(colors):
        rows = slice(k // 2 * height // 2, (k // 2 + 1) * height // 2)
        columns = slice(k % 2 * width // 2, (k % 2 + 1) * width // 2)
        picture[rows, columns] = color
    return picture


def encode(path, pictures, times=TIMES, codec="libx264", kind=None, **context):
    """Writes a video by PyAV itself, with times in milliseconds."""
    tick = Fraction(1, 1000)
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = tick
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for picture, time in zip(pictures, times, strict=False):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode(path):
    """(seconds, RGB array) of each frame, by PyAV itself."""
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]


def turned(path, matrix):
    """Writes a matrix (a, b, c, d) into the header of the only track."""
    data = bytearray(path.read_bytes())
    # Version 0: the matrix comes 40 bytes after the box's own words.
    start = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">i", data[start : start + 4]) == (1 << 16,)
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(
        ">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30
    )
    path.write_bytes(data)


def test_times_and_colors_are_those_of_the_file(tmp_path):
    path = encode(tmp_path / "a.mp4", [corners()] * len(TIMES))
    video = VideoFile(path)
    assert video.size == SIZE and video.count == len(TIMES)
    frames = list(video.frames())
    assert video.error is None
    assert [frame.time * 1000 for frame in frames] == list(TIMES)
    assert [frame.name for frame in frames[:2]] == ["000001", "000002"]
    # Away from the borders, where neighbouring colours mix.
    image = frames[0].image[6::24, 6::32].astype(int)
    np.testing.assert_allclose(image, corners()[6::24, 6::32], atol=8)


@pytest.mark.parametrize(
    "matrix, expected",
    [
        # How many quarter turns against the clock np.rot90 makes.
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
        ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
        ((1, 0, 0, -1), lambda x: x[::-1]),
        ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    ],
)
def test_frames_are_turned_as_players_turn_them(tmp_path, matrix, expected):
    path = encode(tmp_path / "a.mp4", [corners()] * 3)
    turned(path, matrix)
    video = VideoFile(path)
    expected = expected(corners())
    assert video.size == expected.shape[:2]
    image = next(video.frames()).image
    # One point of each quarter.
    np.testing.assert_allclose(
        image[6::24, 6::32].astype(int),
        expected[6::24, 6::32].astype(int),
        atol=8,
    )


def test_our_turns_are_those_of_the_decoder(tmp_path):
    """PyAV names the angle; a test of our reading of the matrix."""
    path = encode(tmp_path / "a.mp4", [corners()] * 3)
    turned(path, (0, 1, -1, 0))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    # Against the clock.
    assert frame.rotation == -90


@pytest.mark.parametrize("size", [SIZE, (47, 63), (1, 1), (33, 64)])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_what_is_written_has_the_size_and_times(
    tmp_path, monkeypatch, size, codec
):
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    source = VideoFile(encode(tmp_path / "a.mp4", [corners()] * len(TIMES)))
    source.size = size
    writer = VideoWriter(tmp_path / "b.mp4", source)
    picture = corners(*size)
    for frame in source.frames():
        writer.write(writer.prepare(picture), frame.time)
    writer.finish()
    with av.open(str(tmp_path / "b.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p"
        assert context.name == {"libx264": "h264"}.get(codec, codec)
    times, pictures = zip(*decode(tmp_path / "b.mp4"), strict=True)
    assert [time * 1000 for time in times] == list(TIMES)
    height, width = size
    assert pictures[0].shape == (height + height % 2, width + width % 2, 3)
    if min(size) > 30:
        np.testing.assert_allclose(
            pictures[0][6:height:24, 6:width:32].astype(int),
            picture[6::24, 6::32].astype(int),
            atol=8,
        )


def test_a_pixel_that_is_no_square_stays_so(tmp_path):
    shape = Fraction(4, 3)
    path = encode(
        tmp_path / "a.mp4", [corners()] * 3, sample_aspect_ratio=shape
    )
    source = VideoFile(path)
    assert source.pixel_shape == shape
    writer = VideoWriter(tmp_path / "b.mp4", source)
    for frame in source.frames():
        writer.write(writer.prepare(frame.image), frame.time)
    writer.finish()
    assert VideoFile(tmp_path / "b.mp4").pixel_shape == shape
    turned(path, (0, 1, -1, 0))
    assert VideoFile(path).pixel_shape == 1 / shape


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_video_that_breaks_off_gives_what_there_is(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 256, (60, *SIZE, 3), np.uint8)
    codec = "mpeg4" if ending == "avi" else "libx264"
    times = range(0, 40 * 60, 40)
    path = tmp_path / f"a.{ending}"
    options = {"movflags": "faststart"} if ending == "mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for picture, _ in zip(noise, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = VideoFile(path)
    assert len(list(video.frames())) == 60 and video.error is None
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    video = VideoFile(path)
    found = len(list(video.frames()))
    assert 5 < found < 40
    assert f"{path} breaks off or is damaged" in video.error
    assert f"{found} frames could be read" in video.error


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_video_with_sound_that_breaks_off(tmp_path, ending):
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{ending}"
    options = {"movflags": "faststart"} if ending == "mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width = SIZE
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=8000)
        for number in range(100):
            picture = rng.integers(0, 256, (*SIZE, 3), "uint8")
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(video.encode(frame))
            samples = rng.uniform(-0.1, 0.1, (1, 400)).astype("float32")
            # Sound lasts for a second more than its pictures.
            for part in range(1 + 25 * (number == 99)):
                frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
                frame.sample_rate, frame.pts = 8000, 400 * (number + part)
                frame.time_base = Fraction(1, 8000)
                container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    found = VideoFile(path)
    assert len(list(found.frames())) == 100 and found.error is None
    data = path.read_bytes()
    for cut in (len(data) // 2, len(data) // 2 + 77):
        path.write_bytes(data[:cut])
        found = VideoFile(path)
        assert 20 < len(list(found.frames())) < 80
        assert "breaks off or is damaged" in found.error


def test_files_that_are_no_videos(tmp_path, monkeypatch):
    def fails(path):
        with pytest.raises(ValueError) as error:
            VideoFile(path)
        assert str(path) in str(error.value)
        return str(error.value)

    path = tmp_path / "a.mp4"
    assert "there is no such file" in fails(path)
    path.mkdir()
    assert "it is not a file" in fails(path)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert "it is empty (0 bytes)" in fails(empty)
    empty.write_bytes(b"no video" * 100)
    assert "Invalid data" in fails(empty)
    # Its index is at its end.
    good = encode(tmp_path / "good.mp4", [corners()] * 8)
    empty.write_bytes(good.read_bytes()[:-400])
    assert "cannot be read" in fails(empty)
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), "float32"), format="fltp", layout="mono"
        )
        frame.rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert "no video that can be decoded" in fails(sound)
    # A list of other files, which FFmpeg would open.
    listed = tmp_path / "list.mp4"
    listed.write_text(f"ffconcat version 1.0\nfile '{good}'\n")
    assert "cannot be read" in fails(listed)
    monkeypatch.setattr(videos, "MAX_PIXELS", 1000)
    assert "cannot be read" in fails(good) or "too large" in fails(good)


def test_an_absurd_size_is_refused_before_it_is_allocated(tmp_path):
    path = encode(
        tmp_path / "a.avi", [corners()] * 8, codec="mpeg4", kind="avi"
    )
    data = bytearray(path.read_bytes())
    # (width, height) in the header of the stream's format.
    start = data.index(b"strf") + 8 + 4
    assert struct.unpack("<ii", data[start : start + 8]) == SIZE[::-1]
    data[start : start + 8] = struct.pack("<ii", 2**20, 2**20)
    path.write_bytes(data)
    try:
        video = VideoFile(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        # The frames themselves may tell their size.
        assert video.size == SIZE


def test_absurd_claims_of_time_are_not_believed(tmp_path):
    path = encode(tmp_path / "a.mp4", [corners()] * 8)
    data = bytearray(path.read_bytes())
    for box in (b"mvhd", b"mdhd"):
        start = data.index(box) + 4 + 16
        data[start : start + 4] = b"\xff\xff\xff\xfe"
    path.write_bytes(data)
    video = VideoFile(path)
    assert video.count == 8 and 0 < video.rate <= 1000
    assert len(list(video.frames())) == 8


def test_numbered_frames_keep_their_time(tmp_path):
    for number in (3, 4, 7, 8):
        image = Image.fromarray(corners())
        image.save(tmp_path / f"{number:05}.png")
    (tmp_path / "00004.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "00008.png")
    # Another pattern's.
    Image.new("RGB", (8, 8)).save(tmp_path / "9.png")
    item = Input(tmp_path / "%05d.png", "frames", "frames")
    source = FrameFiles(item, 10)
    frames = list(source.frames())
    assert [frame.name for frame in frames] == ["00003", "00007"]
    assert [frame.time for frame in frames] == [0, Fraction(4, 10)]
    assert source.error.startswith("2 of the 4 frames")
    assert "00004.png cannot be read" in source.error


def test_a_first_frame_that_cannot_be_read_is_left_out(tmp_path):
    for number in (1, 2):
        Image.fromarray(corners()).save(tmp_path / f"{number}.png")
    (tmp_path / "0.png").symlink_to(tmp_path / "none")
    item = Input(tmp_path / "%d.png", "frames", "frames")
    source = FrameFiles(item, 10)
    assert [frame.name for frame in source.frames()] == ["1", "2"]
    assert source.error.startswith("1 of the 3 frames")
    for number in (1, 2):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(ValueError, match="no frame that can be read"):
        FrameFiles(item, 10)


def test_the_number_of_a_frame_is_the_patterns(tmp_path):
    for number in (1, 5, 10**30):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:05}_v2.png")
    item = Input(tmp_path / "%05d_v2.png", "v2", "frames")
    source = FrameFiles(item, 10)
    frames = list(source.frames())
    assert [frame.time for frame in frames[:2]] == [0, Fraction(4, 10)]
    # A number is only a name: no pause is longer than a container can say.
    writer = VideoWriter(tmp_path / "a.mp4", source)
    for frame in frames:
        writer.write(writer.prepare(frame.image), frame.time)
    writer.finish()
    assert len(list(VideoFile(tmp_path / "a.mp4").frames())) == 3


def test_a_disk_that_fills_up_is_named(tmp_path):
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (30, *SIZE, 3), np.uint8)
    source = VideoFile(encode(tmp_path / "a.mp4", noise, range(0, 1200, 40)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"b\.mp4 cannot be written"):
            writer = VideoWriter(tmp_path / ".partial-b.mp4", source)
            for frame in source.frames():
                writer.write(writer.prepare(frame.image), frame.time)
            writer.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.abandon()
