"""A video in; out come a video with the overlay and results of each frame."""

import contextlib
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_danet.files import finish
from keras_danet.files import make_folder
from keras_danet.files import sync_folder
from keras_danet.files import unwritable
from keras_danet.inference import results
from keras_danet.inference.inputs import VIDEO
from keras_danet.inference.inputs import Input
from keras_danet.inference.overlapping import overlapped
from keras_danet.inference.predictor import Predictor
from keras_danet.inference.videos import FrameFiles
from keras_danet.inference.videos import VideoFile
from keras_danet.inference.videos import VideoWriter
from keras_danet.text_tables import harmless
from keras_danet.waiting import Countdown
from keras_danet.waiting import tick


def result_path(output: pathlib.Path, name: str, kind: str) -> pathlib.Path:
    """The video of overlays, or the folder of frames, of a kind of result."""
    if kind == "overlay":
        return output / f"{name}_overlay.mp4"
    return output / f"{name}_{'labels' if kind == 'label' else kind}"


def open_source(item: Input, frame_rate: float) -> VideoFile | FrameFiles:
    """Opens a video or numbered frames; raises a ValueError if it cannot."""
    if item.kind == VIDEO:
        return VideoFile(item.path)
    return FrameFiles(item, frame_rate)


def predict_video(
    predictor: Predictor,
    source: VideoFile | FrameFiles,
    files: dict[str, pathlib.Path],
    begin: Callable[[], Any] = lambda: None,
) -> tuple[tuple[str, ...], str | None]:
    """Predicts every frame and writes all results, or none of them.

    Decoding, drawing and encoding go on while the network computes.

    Args:
        predictor: `Predictor`.
        source: `VideoFile` or `FrameFiles`; it can be read once.
        files: dict of kind of result to what `result_path` says.
        begin: function, called before the first file is written. Defaults to
            one that does nothing.

    Returns:
        `(classes, error)`: names of the classes that were found, and what is
        wrong with the source, or `None`.

    Raises:
        ValueError: if a frame does not fit into memory.
        OSError: if a result cannot be written.
    """
    begin()
    with _whole(files) as targets:
        found = _Film(predictor, source, targets).run()
    names = predictor.class_names
    return tuple(names[k] for k in np.flatnonzero(found)), source.error


class _Film:
    """One video on its way through the steps."""

    def __init__(self, predictor, source, targets):
        self.predictor, self.source = predictor, source
        self.targets = targets
        self.counts = np.zeros(len(predictor.class_names), bool)
        self.writer = None
        if "overlay" in targets:
            self.writer = VideoWriter(targets["overlay"], source)

    def run(self):
        """Whether each class was found."""
        what = harmless(f"frames of {self.source.path.name}")
        try:
            with Countdown(what, unit="frames") as countdown:
                steps = overlapped(
                    self.source.frames(),
                    self._predict,
                    self._draw,
                    self._deliver,
                    _bytes_of,
                    tick,
                )
                for number, _ in enumerate(steps, 1):
                    count = self.source.count
                    # The estimate may be too small.
                    countdown(number, count and max(number, count))
            if self.writer:
                self.writer.finish()
        except BaseException:
            if self.writer:
                self.writer.abandon()
            raise
        return self.counts

    def _predict(self, frame):
        kinds = self.targets.keys()
        return frame, results.predict(self.predictor, frame.image, kinds)

    def _draw(self, predicted):
        frame, prediction = predicted
        for kind, folder in self.targets.items():
            if kind != "overlay":
                path = folder / f"{frame.name}{results.ENDINGS[kind]}"
                results.save(
                    path, kind, frame.image, prediction, self.predictor
                )
        drawn = None
        if self.writer:
            overlay = results.picture(
                "overlay", frame.image, prediction, self.predictor
            )
            drawn = self.writer.prepare(overlay)
        found = np.bincount(
            prediction.label.ravel(), minlength=len(self.counts)
        )
        return frame.time, drawn, found > 0

    def _deliver(self, drawn):
        time, picture, found = drawn
        self.counts |= found
        if self.writer:
            self.writer.write(picture, time)


@contextlib.contextmanager
def _whole(files):
    """Gives paths to write to, files and folders that then get their names."""
    partial = _beside(files, "partial")
    _remove(partial)
    for path in files.values():
        make_folder(path.parent)
    try:
        yield partial
        for kind, path in files.items():
            try:
                _finish(partial[kind], path)
            except OSError as error:
                raise unwritable(path, error) from error
    finally:
        _remove(partial)


def _finish(partial, path):
    if partial.is_file():
        finish(partial, path)
        return
    (old,) = _beside({"": path}, "old").values()
    _remove({"": old})
    if path.is_dir():
        path.rename(old)
    partial.rename(path)
    sync_folder(path.parent)
    _remove({"": old})


def _beside(files, word):
    return {
        kind: path.with_name(f".{word}-{path.name}")
        for kind, path in files.items()
    }


def _remove(files):
    for path in files.values():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _bytes_of(item):
    parts = item if isinstance(item, tuple) else (item,)
    return sum(getattr(part, "nbytes", 0) for part in parts)
