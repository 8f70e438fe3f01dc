"""`predict_files`: images, folders and videos in, files of results out."""

import contextlib
import dataclasses
import os
import pathlib
import threading
import time
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from typing import Any
from typing import Literal

from keras_danet.arguments import number
from keras_danet.data.decoding import read_image
from keras_danet.files import PARTIAL
from keras_danet.files import check_folder
from keras_danet.files import locked
from keras_danet.files import make_folder
from keras_danet.inference import large_results
from keras_danet.inference import results
from keras_danet.inference import video_prediction
from keras_danet.inference.inputs import IMAGE
from keras_danet.inference.inputs import VIDEO
from keras_danet.inference.inputs import Input
from keras_danet.inference.inputs import find_inputs
from keras_danet.inference.overlapping import overlapped
from keras_danet.inference.predictor import Predictor
from keras_danet.inference.records import Record
from keras_danet.inference.videos import check_installed
from keras_danet.models.memory import is_out_of_memory
from keras_danet.text_tables import harmless
from keras_danet.waiting import LOG_SECONDS
from keras_danet.waiting import Countdown
from keras_danet.waiting import clock
from keras_danet.waiting import tick

DEFAULT_KINDS = ("label", "overlay")
# Bytes of a file's name that file systems take.
MAX_NAME = 255


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Args:
        input: `Input`.
        files: dict of kind of result to the path of its file; for frames, of
            the folder that holds one file for each.
        status: `"done"`; `"present"`, if all results were there; `"partial"`,
            if what could be read has results; `"failed"`, if nothing has.
        classes: tuple of names of the classes that were found, in the model's
            order; `None` for what was not predicted now.
        error: string, what is wrong with the input, or `None`.
    """

    input: Input
    files: dict[str, pathlib.Path]
    status: Literal["done", "present", "partial", "failed"]
    classes: tuple[str, ...] | None = None
    error: str | None = None


def predict_files(
    predictor: Predictor,
    inputs: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    save: Collection[str] = DEFAULT_KINDS,
    overwrite: bool = False,
    frame_rate: float = 25,
    report: Callable[[Outcome], Any] = lambda outcome: None,
    note: Callable[[str], Any] = lambda text: None,
) -> list[Outcome]:
    """Segments images, folders and videos, and writes results of each.

    Files are read, drawn and written while the network computes. A file that
    cannot be read is left out, and the rest goes on. Every file of results is
    whole, whenever the process is stopped; called again, only what has no
    results yet is predicted. The folder's `predict.json` says which model,
    which protocol and which inputs the results are of.

    Args:
        predictor: `Predictor`.
        inputs: paths of images, of videos and of folders with them; patterns
            such as `photos/*.jpg`; numbered frames such as
            `frames/%05d.png`. `find_inputs` says more.
        output: folder to write to; it is made if there is none.
        save: collection of what is written: `"label"`, class indices
            (palette PNG); `"overlay"`, the image under the classes' colours;
            `"probabilities"`, float16 `(height, width, classes)` (`.npy`);
            `"confidence"`, `"entropy"` and `"spread"` (grey PNG of 16 bits);
            `"sheet"` and `"attention"`, pictures. An image has a file
            `NAME_label.png` of each kind. A video has a folder `NAME_labels`
            or `NAME_confidence` with a file for each frame, and its overlay
            is `NAME_overlay.mp4`. Defaults to `("label", "overlay")`.
        overwrite: boolean, whether results that are there are replaced.
            Defaults to `False`.
        frame_rate: float from 0.01 to 1000, numbered frames in a second of
            their video. Defaults to 25.
        report: function that gets the `Outcome` of each input as it is known.
            Defaults to one that does nothing.
        note: function that gets sentences for people, such as how long a very
            large image will take. Defaults to one that does nothing.

    Returns:
        List of an `Outcome` for each input, in order.

    Raises:
        BlockingIOError: if another process predicts into the folder.
        FileExistsError: if results are there that are not of the same model,
            protocol and input, and `overwrite` is false.
        ValueError: if nothing can be saved of a kind in `save`, or a result
            would replace an input.
        OSError: if a result cannot be written, such as on a full disk.

    Example:

    >>> import tempfile
    >>> from PIL import Image
    >>> predictor = Predictor(
    ...     keras_danet.DANet(3, keras_danet.DilatedResNet(18, filters=8)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (40, 32)).save(f"{folder}/street.png")
    ...     outcomes = predict_files(predictor, [folder], f"{folder}/results")
    >>> outcomes[0].status, outcomes[0].files["label"].name
    ('done', 'street_label.png')
    """
    output = pathlib.Path(output)
    check_folder(output)
    kinds = tuple(dict.fromkeys(save))
    results.check_kinds(predictor, kinds)
    must = "must be frames in a second, from 0.01 to 1000"
    number("frame_rate", frame_rate, must, least=0.01, most=1000)
    found = find_inputs(inputs, output, note)
    if any(item.kind == VIDEO for item in found):
        check_installed()
    record = Record(output, predictor, frame_rate)
    work = _Work(predictor, output, kinds, record, frame_rate, note)
    work.choose(found, overwrite)
    return work.run(found, report)


class _Work:
    """One call of `predict_files`."""

    def __init__(self, predictor, output, kinds, record, frame_rate, note):
        self.predictor, self.output, self.kinds = predictor, output, kinds
        self.record, self.frame_rate, self.note = record, frame_rate, note
        self.wanted: list[Input] = []
        self.redone: list[str] = []
        self.is_begun, self.lock = False, threading.Lock()
        self.held = contextlib.ExitStack()
        self.written = 0.0
        self.large: set[Input] = set()

    def files_of(self, item):
        """Path of every result, by kind."""
        if item in self.large:
            return large_results.files_of(item, self.output, self.kinds)
        return {
            kind: self.output / f"{item.name}_{kind}{results.ENDINGS[kind]}"
            if item.kind == IMAGE
            else video_prediction.result_path(self.output, item.name, kind)
            for kind in self.kinds
        }

    def choose(self, found, overwrite):
        """Finds what has to be predicted; refuses what would do harm."""
        self.large = set(filter(large_results.is_large, found))
        inputs = {os.path.realpath(p) for item in found for p in item.files}
        self._check_names(found)
        for item in found:
            files = self.files_of(item)
            present = [k for k, path in files.items() if os.path.lexists(path)]
            for kind, path in files.items():
                self._check_result(path, kind, item, inputs)
            # A file that was broken, and has been mended since.
            is_known = overwrite or self.record.is_unfinished(item)
            for kind in () if is_known else present:
                self._check_present(files[kind], kind, item)
            is_done = len(present) == len(files) and not (
                overwrite or item.name in self.record.unfinished
            )
            if not is_done:
                self.wanted.append(item)
                self.redone += [item.name] * bool(present)
        different = self.record.difference()
        if different and not overwrite and self.wanted:
            raise FileExistsError(
                f"{self.output} holds results of {different}. Choose another "
                "--output, or replace them with --overwrite."
            )

    def _check_names(self, found):
        owners = {
            path: item
            for item in found
            for path in self.files_of(item).values()
        }
        for path, item in owners.items():
            # A video's folder may be that of an image's results.
            for folder in path.parents:
                if folder in owners:
                    raise ValueError(
                        f"Results of {owners[folder].path} and of {item.path} "
                        f"would both be called {folder}. Rename one of the "
                        "two, or predict them into two folders."
                    )

    def _check_result(self, path, kind, item, inputs):
        real = os.path.realpath(path)
        inside = any(name.startswith(real + os.sep) for name in inputs)
        if real in inputs or inside:
            raise ValueError(
                f"A result would replace an input, {path}. Choose another "
                "--output."
            )
        if os.path.isdir(path) and not self.record.has(item.name, kind):
            raise FileExistsError(
                f"{path} is a folder that was not written here. Move it away, "
                "or choose another --output."
            )

    def _check_present(self, path, kind, item):
        if self.record.is_of(item, kind):
            return
        if why := self.record.difference():
            text = f"{path} exists, a result of {why}"
        elif self.record.has(item.name, kind):
            text = (
                f"{path} exists, the result of another file of that name, of "
                f"{item.path} before it was changed, or of another model"
            )
        else:
            text = (
                f"{path} exists, and no predict.json says what it was made from"
            )
        raise FileExistsError(
            f"{text}. Choose another --output, or replace it with --overwrite."
        )

    def run(self, found, report):
        outcomes = {}

        def tell(outcome):
            outcomes[outcome.input] = outcome
            name = outcome.input.name
            if outcome.status == "done":
                self.record.unfinished.discard(name)
            elif outcome.status == "partial":
                self.record.unfinished.add(name)
            # A killed process does not do what was done again.
            if time.monotonic() - self.written > LOG_SECONDS:
                self._write_record()
            report(outcome)

        chosen = set(self.wanted)
        for item in found:
            if item not in chosen:
                tell(Outcome(item, self.files_of(item), "present"))
            elif problem := self._name_problem(item):
                tell(self._failed(item, problem))
                self.wanted.remove(item)
        images, others = [], []
        for item in self.wanted:
            is_plain = item.kind == IMAGE and item not in self.large
            (images if is_plain else others).append(item)
        try:
            with (
                Countdown(unit="images") as countdown,
                contextlib.closing(self._images(images)) as predicted,
            ):
                for done, outcome in enumerate(predicted, 1):
                    countdown(done, len(images))
                    countdown.clear()
                    tell(outcome)
            for item in others:
                alone = self._video if item.kind != IMAGE else self._large
                tell(alone(item))
                self._write_record()
        finally:
            self._write_record()
            self.held.close()
        return [outcomes[item] for item in found]

    def _write_record(self):
        if self.is_begun:
            # On a full disk what it says of unfinished results stays.
            with contextlib.suppress(OSError):
                self.record.write()
            self.written = time.monotonic()

    def begin(self):
        """Before the first result is written; not where there is none."""
        with self.lock:
            if self.is_begun:
                return
            make_folder(self.output)
            self.held.enter_context(
                locked(
                    self.record.path,
                    f"Something else is predicting into {self.output}. Wait "
                    "for it, or choose another --output.",
                )
            )
            # All results of a video that breaks off are there.
            videos = [i.name for i in self.wanted if i.kind != IMAGE]
            kinds = {item: [*self.files_of(item)] for item in self.wanted}
            self.record.begin(kinds, self.redone + videos)
            self.is_begun, self.written = True, time.monotonic()

    def _images(self, items):
        self.is_single = len(items) == 1
        return overlapped(
            map(_read, items),
            self._predict,
            self._save,
            size=_bytes_of,
            tick=tick,
        )

    def _predict(self, read):
        item, image = read
        if isinstance(image, Exception):
            return self._failed(item, image)
        try:
            return item, image, self._predict_image(item, image)
        # Such as an image that does not fit into memory.
        except Exception as error:
            if isinstance(error, ValueError) or is_out_of_memory(error):
                return self._failed(item, error)
            raise

    def _predict_image(self, item, image):
        height, width = image.shape[:2]
        what = f"{item.path}, {height} x {width} pixels"
        self.predictor.check_size(height, width)
        expected = self.predictor.expected_seconds(height, width)
        if expected > LOG_SECONDS:
            self.note(
                f"{what}, will take about {clock(expected)}; a smaller --size "
                "is faster"
            )
        with contextlib.ExitStack() as stack:
            if self.is_single or expected > LOG_SECONDS:
                stack.enter_context(
                    Countdown(harmless(what), expected=expected)
                )
            return results.predict(self.predictor, image, self.kinds)

    def _save(self, predicted):
        if isinstance(predicted, Outcome):
            return predicted
        item, image, prediction = predicted
        files = self.files_of(item)
        self.begin()
        for kind, path in files.items():
            results.save(path, kind, image, prediction, self.predictor)
        classes = results.classes_in(prediction.label, self.predictor)
        return Outcome(item, files, "done", classes)

    def _failed(self, item, error):
        text = str(error) or "it does not fit into memory."
        if str(item.path) not in text:
            text = f"{item.path}: {text}"
        return Outcome(item, self.files_of(item), "failed", error=text)

    def _name_problem(self, item):
        """What is wrong with the names of an input's results, or `None`."""
        names = [path.name for path in self.files_of(item).values()]
        longest = max(len(os.fsencode(name)) for name in names)
        if longest + len(PARTIAL) > MAX_NAME:
            return (
                f"{item.path} has too long a name: those of its results would "
                f"have more than {MAX_NAME} bytes. Rename it."
            )
        return None

    def _large(self, item):
        files = self.files_of(item)
        if left := set(self.kinds) - set(files):
            self.note(
                f"{item.path} is predicted window by window, and has "
                f"{' and '.join(files)}; {' and '.join(sorted(left))} would "
                "not fit into memory and are left out"
            )
        try:
            self.begin()
            classes = large_results.predict(self.predictor, item, files)
        except (ValueError, MemoryError, ImportError) as error:
            return self._failed(item, error)
        return Outcome(item, files, "done", classes)

    def _video(self, item):
        files = self.files_of(item)
        try:
            source = video_prediction.open_source(item, self.frame_rate)
        except (ValueError, OSError) as error:
            return self._failed(item, error)
        try:
            classes, damage = video_prediction.predict_video(
                self.predictor, source, files, self.begin
            )
        except Exception as error:
            if isinstance(error, ValueError) or is_out_of_memory(error):
                return self._failed(item, error)
            raise
        status = "partial" if damage else "done"
        return Outcome(item, files, status, classes, damage)


def _read(item):
    try:
        return item, read_image(item.path)
    except (ValueError, OSError, MemoryError) as error:
        return item, error


def _bytes_of(item):
    """The bytes that an item takes on its way through the steps."""
    if isinstance(item, Outcome):
        return 0
    return sum(getattr(part, "nbytes", 0) for part in item)
