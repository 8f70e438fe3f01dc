"""Videos in and out through PyAV, an optional package."""

import contextlib
import dataclasses
import math
import pathlib
import struct
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from keras_danet.data.decoding import read_image
from keras_danet.files import unwritable
from keras_danet.inference.inputs import Input
from keras_danet.inference.inputs import frames_of

# More than 8K has; larger ones are refused before anything is decoded.
MAX_PIXELS = 2**26
# Containers that read no other file or address, whatever they hold.
_CONTAINERS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi"),
    *("mpeg", "mpegts", "asf", "flv", "ogg", "mpegvideo", "h264", "hevc"),
)
# Ticks of time in a second: the MPEG-4 encoder has 16 bits for them.
_MAX_TICKS = 2**16 - 1
# A duration or a rate beyond these is not believed.
_MAX_SECONDS, _MAX_RATE = 10**6, 1000
# An MP4 has 31 bits for the time between two frames, in units of a tick's
# denominator, which is at least 10,000 there and less than 20,000 if doubled.
_MAX_PAUSE, _MAX_PAUSE_SECONDS = 2**31 - 1, 10**5


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Args:
        image: `(height, width, 3)` uint8, RGB, upright.
        name: string, how its results are called.
        time: `Fraction`, seconds since the first frame.
    """

    image: np.ndarray
    name: str
    time: Fraction

    @property
    def nbytes(self) -> int:
        return self.image.nbytes


def check_installed() -> None:
    """Raises an ImportError that says how to install PyAV, without it."""
    try:
        import av  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Videos are read and written by PyAV, which is not installed",
            name="av",
        ) from error


class VideoFile:
    """The frames of a video file, upright, with their times.

    Args:
        path: path of the file.

    Attributes:
        size: (height, width) of the first frame, upright.
        rate: `Fraction`, frames in a second, about.
        tick: `Fraction`, the seconds that times are multiples of.
        count: integer, about how many frames, or `None`.
        pixel_shape: `Fraction`, a pixel's width divided by its height.
        error: string, what is wrong with the file, once its frames were
            read, or `None`.

    Raises:
        ValueError: if it cannot be read, has no video or is absurdly large.
    """

    def __init__(self, path: pathlib.Path):
        import av

        self.path = path
        self.error: str | None = None
        # Seconds at which the packets of other streams end.
        self._reached = Fraction(0)
        check_installed()
        _check_regular(path)
        options = {
            "max_pixels": str(MAX_PIXELS),
            "format_whitelist": ",".join(_CONTAINERS),
            "protocol_whitelist": "file",
        }
        try:
            self._container: Any = av.open(
                f"file:{path}",
                options=options,
                metadata_errors="replace",
            )
        except (av.FFmpegError, ValueError) as error:
            raise _unreadable(path, _said(error)) from error
        try:
            self._find_stream()
        except BaseException:
            self._container.close()
            raise

    def _find_stream(self):
        # A song's cover is no video.
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & 0x400 and stream.codec_context
        ]
        if not streams:
            raise _unreadable(self.path, "it has no video that can be decoded")
        self._stream = stream = streams[0]
        context = stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            raise ValueError(
                f"{self.path} is too large: frames of {context.height} x "
                f"{context.width} pixels (height x width). Expected at most "
                f"{MAX_PIXELS} pixels; scale it down."
            )
        context.options = {"max_pixels": str(MAX_PIXELS)}
        stream.thread_type = "AUTO"
        rate = stream.average_rate or stream.guessed_rate
        believed = rate and 1 / _MAX_RATE <= rate <= _MAX_RATE
        self.rate = Fraction(rate) if believed else Fraction(25)
        self.tick = Fraction(stream.time_base or 1 / self.rate)
        self.count = self._estimate()
        # The first frame tells the size: a container's is only a claim.
        self._decoded = self._decode()
        self._first = next(self._decoded, None)
        if self._first is None:
            raise _unreadable(self.path, self.error or "it has no frame")
        image, self._turned = _upright(self._first, self.path)
        self.size = image.shape[:2]
        shape = stream.sample_aspect_ratio or context.sample_aspect_ratio
        shape = Fraction(shape) if shape and 0 < shape < 100 else Fraction(1)
        self.pixel_shape = 1 / shape if self._turned else shape

    def _estimate(self):
        """About how many frames there are, by what the container claims."""
        stream, container = self._stream, self._container
        if 0 < stream.frames <= _MAX_SECONDS * _MAX_RATE:
            return stream.frames
        seconds = (container.duration or 0) / 1e6
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        known = 0 < seconds <= _MAX_SECONDS
        return math.ceil(seconds * self.rate) if known else None

    def frames(self) -> Iterator[Frame]:
        """Yields each `Frame`; `error` says if the file breaks off."""
        start: Any = None
        time: Any = None
        number = 0
        frame, self._first = self._first, None
        # The thread that reads closes: another might do so too early.
        with contextlib.closing(self._container):
            while frame is not None:
                number += 1
                before = time
                time = self._time_of(frame, start, before)
                if start is None:
                    start, time = time, Fraction(0)
                image, _ = _upright(frame, self.path)
                yield Frame(image, f"{number:06}", time)
                lasts = (frame.duration or 0) * (frame.time_base or 0)
                frame = next(self._decoded, None)
            end = max(time + (lasts or 1 / self.rate), self._reached - start)
            self._check_end(number, end)

    def _time_of(self, frame, start, before):
        """Seconds since the first frame; of the first, the file's own."""
        if frame.pts is None or frame.time_base is None:
            return 0 if before is None else before + 1 / self.rate
        time = frame.pts * Fraction(frame.time_base)
        if before is None:
            return time
        # Encoders need times that grow.
        time -= start
        return time if time > before else before + self.tick

    def _decode(self):
        import av

        try:
            for packet in self._container.demux():
                if packet.stream is not self._stream:
                    # Sound may last longer than its pictures.
                    self._reached = max(self._reached, _end_of(packet))
                    continue
                if packet.is_corrupt:
                    self.error = self.error or "a part of it is missing"
                try:
                    yield from packet.decode()
                except av.error.InvalidDataError as error:
                    self.error = self.error or _said(error)
        except (av.FFmpegError, ValueError) as error:
            self.error = self.error or _said(error)

    def _check_end(self, number, end):
        claimed = (self._container.duration or 0) / 1e6
        missing = claimed - float(end)
        is_short = missing > 0.5 + 2 / self.rate
        if is_short and claimed <= _MAX_SECONDS:
            self.error = self.error or f"its last {missing:.1f} s are missing"
        if self.error:
            self.error = (
                f"{self.path} breaks off or is damaged ({self.error}): "
                f"{number} frames could be read, and have results. Replace "
                "the file, and predict it again."
            )


def _end_of(packet):
    """Seconds at which a packet ends, 0 if it does not say."""
    if packet.pts is None or packet.time_base is None:
        return Fraction(0)
    return (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base)


class FrameFiles:
    """Numbered image files as the frames of a video.

    A number that is missing, or a file that cannot be read, leaves a gap in
    time. The attributes are those of `VideoFile`.

    Args:
        frames: `Input` of the kind `"frames"`.
        rate: float, numbers in a second.

    Raises:
        ValueError: if none of the files can be read.
    """

    def __init__(self, frames: Input, rate: float):
        self.path = frames.path
        self._frames = sorted(frames_of(frames.path))
        self.rate = Fraction(rate).limit_denominator(1001)
        self.tick = 1 / self.rate
        self.count = len(self._frames)
        self.size = self._first_size()
        self.pixel_shape = Fraction(1)
        self.error: str | None = None

    def _first_size(self):
        """(height, width) of the first frame that can be read."""
        first = None
        for _, path in self._frames:
            try:
                return read_image(path).shape[:2]
            except (ValueError, OSError) as error:
                first = first or error
        raise ValueError(f"{self.path} has no frame that can be read: {first}")

    def frames(self) -> Iterator[Frame]:
        first, _ = self._frames[0]
        bad = []
        for number, path in self._frames:
            try:
                image = read_image(path)
                if image.shape[:2] != self.size:
                    raise ValueError(
                        f"{path} has another (height, width) than the first "
                        f"frame: {image.shape[:2]} instead of {self.size}. "
                        "Expected frames of one size."
                    )
            except (ValueError, OSError) as error:
                bad.append(str(error))
                continue
            yield Frame(image, path.stem, (number - first) * self.tick)
        if bad:
            self.error = (
                f"{len(bad)} of the {self.count} frames {self.path} are left "
                f"out. The first: {bad[0]}"
            )


class VideoWriter:
    """Writes pictures as a video: H.264, or MPEG-4 where there is none.

    A player shows every picture at its time. 4:2:0 halves the colours, so an
    odd side is one pixel larger, with the last row or column again.

    Args:
        path: path of the file, which ends in `.mp4`.
        source: `VideoFile` or `FrameFiles`, for size, rate and times.

    Raises:
        OSError: if it cannot be written.
    """

    def __init__(self, path: pathlib.Path, source: Any):
        import av

        # It may be a partial file, which then gets its name.
        self.path = path.with_name(path.name.removeprefix(".partial-"))
        self._lock = threading.Lock()
        self.size = tuple(side + side % 2 for side in source.size)
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"preset": "veryfast", "crf": "20"}
        with _as_os_error(self.path):
            self._container: Any = av.open(f"file:{path}", "w", format="mp4")
            self._stream: Any = self._container.add_stream(
                codec,
                rate=source.rate.limit_denominator(_MAX_TICKS),
                options=options if codec == "libx264" else {"qscale": "3"},
            )
        context: Any = self._stream.codec_context
        context.height, context.width = self.size
        context.pix_fmt = "yuv420p"
        self.tick = source.tick
        if codec == "mpeg4" or self.tick.denominator > 2**31 - 1:
            self.tick = Fraction(1, min(self.tick.denominator, _MAX_TICKS))
        context.time_base = self.tick
        context.sample_aspect_ratio = source.pixel_shape.limit_denominator(255)
        # What HD has, said so that players need not guess: limited BT.709.
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1
        self._last, self._step = -1, max(1, round(1 / source.rate / self.tick))

    def prepare(self, picture: np.ndarray) -> Any:
        """A picture as the encoder needs it; any thread may do it."""
        import av

        height, width = picture.shape[:2]
        rows, columns = self.size[0] - height, self.size[1] - width
        if rows in (0, 1) and columns in (0, 1) and rows + columns:
            picture = np.pad(picture, ((0, rows), (0, columns), (0, 0)), "edge")
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        return frame.reformat(
            width=self.size[1],
            height=self.size[0],
            format="yuv420p",
            dst_colorspace="ITU709",
            dst_color_range="MPEG",
            threads=1,
        )

    def write(self, frame: Any, time: Fraction) -> None:
        """Encodes a prepared picture for its time, in order of time."""
        pause = min(
            _MAX_PAUSE_SECONDS // self.tick,
            _MAX_PAUSE // self.tick.numerator,
        )
        wanted = min(round(time / self.tick), self._last + pause)
        self._last = max(self._last + 1, wanted)
        frame.pts, frame.time_base = self._last, self.tick
        frame.duration = self._step
        with self._lock, _as_os_error(self.path):
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        with _as_os_error(self.path):
            self._container.mux(self._stream.encode(None))
            self._container.close()

    def abandon(self) -> None:
        """Closes the file as it is, unless a thread is still writing it."""
        if self._lock.acquire(timeout=1):
            with contextlib.suppress(Exception):
                self._container.close()


@contextlib.contextmanager
def _as_os_error(path):
    """PyAV's errors as those of the system that they come from."""
    import av

    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise unwritable(path, error) from error


def _upright(frame, path):
    """An RGB array as players show the frame, and whether its sides swap."""
    import av

    colorspace = None
    # Where a video does not say, HD has the one and SD the other.
    if frame.colorspace == 2:
        colorspace = "ITU709" if frame.height >= 720 else "ITU601"
    try:
        image = frame.reformat(
            format="rgb24", src_colorspace=colorspace, threads=1
        ).to_ndarray()
    except (av.FFmpegError, ValueError) as error:
        raise _unreadable(path, _said(error)) from error
    a, b, c, d = _matrix(frame)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        flip = slice(None, None, -1 if d < 0 else 1)
        mirror = slice(None, None, -1 if a < 0 else 1)
        return np.ascontiguousarray(image[flip, mirror]), False
    flip = slice(None, None, -1 if b < 0 else 1)
    mirror = slice(None, None, -1 if c < 0 else 1)
    turned = image.transpose(1, 0, 2)[flip, mirror]
    return np.ascontiguousarray(turned), True


def _matrix(frame):
    """How a container turns its frames: x' = ax + cy, y' = bx + dy."""
    # Iterating over this mapping gives its values.
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            return a, b, c, d
    return 1, 0, 0, 1


def _check_regular(path):
    if not path.is_file():
        what = "it is not a file" if path.exists() else "there is no such file"
        raise _unreadable(path, what)
    if not path.stat().st_size:
        raise _unreadable(path, "it is empty (0 bytes)")


def _said(error):
    return getattr(error, "strerror", None) or str(error)


def _unreadable(path, error):
    return ValueError(
        f"{path} cannot be read: {error}. Expected a complete video, such as "
        "an .mp4 or .mkv; replace it, or leave it out."
    )
