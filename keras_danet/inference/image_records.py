"""What was counted in each image: a line of JSON, written as it is measured.

The first line of the file says what is measured. Until all images are
counted the file has another name; a measurement that was stopped resumes
from it, if it is the same measurement.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_danet import metrics
from keras_danet.data.datasets import Dataset
from keras_danet.data.files import Pair
from keras_danet.files import locked
from keras_danet.files import make_folder
from keras_danet.files import whole_or_not
from keras_danet.inference.scores import Counts

FORMAT = 1
# More than any image has; products of two are int64.
MAX_SIDE = 2**31
# Labels are uint8, and 255 is none.
MAX_CLASSES = 255
# What a line that is no record raises.
_BROKEN = (ValueError, LookupError, TypeError, OverflowError, RecursionError)


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """What was counted in one image.

    Args:
        index: integer, its place among the images.
        name: string, its path below the folder that all of them share.
        size: (height, width).
        counts: `Counts`.
    """

    index: int
    name: str
    size: tuple[int, int]
    counts: Counts


def records_path(report: str | os.PathLike[str]) -> pathlib.Path:
    """The file of image records that belongs to a report's file.

    >>> records_path("run/report.json").name
    'report.images.jsonl'
    """
    return pathlib.Path(report).with_suffix(".images.jsonl")


def partial_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """The name of a file of image records while images are missing.

    >>> partial_path("report.images.jsonl").name
    'report.images.partial.jsonl'
    """
    path = pathlib.Path(path)
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def image_names(pairs: Sequence[Pair]) -> list[str]:
    """Paths of the images below the deepest folder that they share.

    >>> image_names([Pair("d/a/1.png", ""), Pair("d/b/1.png", "")])
    ['a/1.png', 'b/1.png']
    """
    paths = [os.path.abspath(pair.image) for pair in pairs]
    try:
        shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    # None at all, or several drives.
    except ValueError:
        return paths
    return [
        pathlib.Path(os.path.relpath(path, shared)).as_posix() for path in paths
    ]


def digest_of_names(names: Sequence[str]) -> str:
    """A short text that differs if the names, or their order, differ."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        # Names that are no text come with surrogates.
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def digest_of_labels(dataset: Dataset) -> str:
    """A short text that differs if label files' values mean other classes."""
    colors = sorted((dataset.label_colors or {}).items())
    meaning = repr((dataset.label_map, colors)).encode()
    return hashlib.blake2b(meaning, digest_size=16).hexdigest()


class RecordsFile:
    """The file of a measurement that is going on; from `open_records`.

    Attributes:
        done: dict of an image's index to its (height, width).
        total: `Counts` of these images.
        note: string, what was found at the beginning; empty if nothing.
    """

    def __init__(self, path, header, pairs, empty):
        self.path = pathlib.Path(path)
        self.partial = partial_path(path)
        self.header = header
        self.pairs = pairs
        self.names = image_names(pairs)
        self.done: dict[int, tuple[int, int]] = {}
        self.total = empty
        self.note = ""
        self._file = None

    def begin(self):
        """Reads what an earlier measurement left, and keeps it if it fits."""
        lines = []
        if self.partial.is_file():
            content = self.partial.read_bytes().split(b"\n")
            # What follows the last line's end is torn, or nothing.
            lines = self._read(content[:-1])
        first = _line(self.header)
        with whole_or_not(self.partial) as temporary:
            temporary.write_bytes(b"".join(x + b"\n" for x in (first, *lines)))
        self._file = open(self.partial, "ab", buffering=0)

    def _read(self, lines):
        if not lines or lines[0] != _line(self.header):
            self.note = (
                f"{self.partial} is of another measurement "
                f"({_difference(lines, self.header)}); all images are measured "
                "anew."
            )
            return []
        if self.header.get("weights") is None:
            self.note = (
                "A function cannot be recognised as the same one: all images "
                "are measured anew."
            )
            return []
        kept = []
        for line in lines[1:]:
            try:
                content = json.loads(line)
                record = _as_record(content, self.total)
                index = record.index
                fits = content["stamps"] == _stamps(self.pairs[index])
                fits = fits and record.name == self.names[index]
            # A line that a full disk cut, or a file that is gone.
            except (*_BROKEN, OSError):
                continue
            if fits and index not in self.done:
                self.done[index] = record.size
                self.total += record.counts
                kept.append(line)
        self.note = (
            f"resuming: {self.partial} already has {len(kept)} of "
            f"{len(self.pairs)} images"
        )
        return kept

    def write(self, index, size, counts):
        """Adds an image; it is in the file when this returns."""
        content = {
            "index": index,
            "image": self.names[index],
            "size": [int(side) for side in size],
            "stamps": _stamps(self.pairs[index]),
            **_sparse(counts),
        }
        line = _line(content) + b"\n"
        try:
            # One call: a process that is killed leaves a line or none. What
            # a full disk cuts is a torn line, and dropped.
            written = self._file.write(line)
            if written != len(line):
                raise OSError("No space left on device")
        except OSError as error:
            raise OSError(
                f"{self.partial} cannot be written: "
                f"{error.strerror or error}. Make room and start again: the "
                "images measured so far are kept."
            ) from error
        self.done[index] = size
        self.total += counts

    def close(self):
        if self._file:
            self._file.close()

    def finish(self):
        """Gives the file its name: all images are in it."""
        os.fsync(self._file.fileno())
        self.close()
        os.replace(self.partial, self.path)


@contextlib.contextmanager
def open_records(
    path: str | os.PathLike[str],
    header: dict[str, Any],
    pairs: Sequence[Pair],
    empty: Counts,
) -> Iterator[RecordsFile]:
    """The file of a measurement, with what an earlier one left of it.

    Args:
        path: path of the finished file.
        header: dict that JSON can hold, what is measured and how.
        pairs: list of `Pair`.
        empty: `Counts` of no image.

    Yields:
        A `RecordsFile`. Call `finish` once all images are in it; otherwise
        it stays for the next measurement.

    Raises:
        BlockingIOError: if another measurement writes it.
        OSError: if it cannot be written.
    """
    records = RecordsFile(path, header, pairs, empty)
    make_folder(records.path.parent)
    taken = (
        f"{records.path} is being written by another evaluation. Wait for it, "
        "or choose another --output."
    )
    with locked(records.path, taken), contextlib.closing(records):
        records.begin()
        yield records


def read_records(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], Callable[[], Iterator[ImageRecord]]]:
    """The header of a finished file, and a function that reads its images.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is not such a file; the function raises it too.
    """
    path = pathlib.Path(path)
    with open(path, "rb") as file:
        header = _parse(path, 1, file.readline())
    names = header.get("class_names")
    if header.get("format") != FORMAT or not isinstance(names, list):
        raise _malformed(path, 1, "it does not say what was measured")
    if len(names) > MAX_CLASSES:
        raise _malformed(path, 1, f"it has {len(names)} classes")
    empty = Counts.zeros(
        len(names),
        bool(header.get("boundary")),
        bool(header.get("calibration")),
    )

    def read():
        with open(path, "rb") as file:
            next(file)
            for number, line in enumerate(file, 2):
                content = _parse(path, number, line)
                try:
                    record = _as_record(content, empty)
                except _BROKEN as error:
                    raise _malformed(path, number, error) from error
                yield record

    return header, read


def _parse(path, number, line):
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, number, error) from error
    if not isinstance(content, dict):
        raise _malformed(path, number, "it is not an object")
    return content


def _malformed(path, number, why):
    return ValueError(
        f"Line {number} of {path} cannot be read ({why}). Expected the file "
        "that `keras-danet evaluate` wrote; measure again."
    )


def _line(content):
    return json.dumps(content, separators=(",", ":")).encode()


def _difference(lines, header):
    """The first key in which the first line differs from a header."""
    try:
        old = json.loads(lines[0])
        new = json.loads(_line(header))
        return next(f"its {key}" for key in new if old.get(key) != new[key])
    except (*_BROKEN, AttributeError, StopIteration):
        return "its first line"


def _stamps(pair):
    """Size and time of both files: whether they are still the same."""
    statuses = [os.stat(path) for path in pair]
    return [[status.st_size, status.st_mtime_ns] for status in statuses]


def _sparse(counts):
    """`Counts` as JSON, without zeros."""
    cells = np.flatnonzero(counts.confusion)
    content = {
        "ignored": counts.ignored,
        "cells": cells.tolist(),
        "pixels": counts.confusion.ravel()[cells].tolist(),
    }
    for name in ("boundary", "calibration"):
        values = getattr(counts, name)
        if values is not None:
            rows = np.flatnonzero(values.any(axis=1))
            content[name] = np.column_stack([rows, values[rows]]).tolist()
    return content


def _as_record(content, empty):
    """The record of a line; ValueError and others if it is none."""
    confusion = np.zeros_like(empty.confusion)
    cells, pixels = (_integers(content[key]) for key in ("cells", "pixels"))
    if cells.shape != pixels.shape or cells.ndim != 1:
        raise ValueError("its cells and pixels differ in number")
    confusion.ravel()[cells] = pixels
    parts = {}
    for name in ("boundary", "calibration"):
        zeros = getattr(empty, name)
        parts[name] = None
        if zeros is not None:
            rows = _integers(content[name]).reshape(-1, 4)
            parts[name] = np.zeros_like(zeros)
            parts[name][rows[:, 0]] = rows[:, 1:]
    height, width = map(int, content["size"])
    if not (0 < height < MAX_SIDE and 0 < width < MAX_SIDE):
        raise ValueError("its size is none of an image")
    ignored = int(content["ignored"])
    if not 0 <= ignored <= height * width:
        raise ValueError("it has more ignored pixels than pixels")
    counts = Counts(confusion, ignored, **parts)
    name, index = str(content["image"]), int(content["index"])
    if index < 0:
        raise ValueError("it has a negative number")
    return ImageRecord(index, name, (height, width), counts)


def _integers(values):
    array = np.asarray(values, "int64") if values else np.zeros(0, "int64")
    if (array < 0).any():
        raise ValueError("it has a negative number")
    return array


def image_score(record: ImageRecord) -> float | None:
    """The mean IoU over the classes in an image's truth; None without any."""
    matrix = record.counts.confusion
    present = matrix.sum(axis=1) > 0
    if not present.any():
        return None
    return float(metrics.class_iou(matrix)[present].mean())


def worst_images(
    records: Iterator[ImageRecord], count: int = 6
) -> list[tuple[float, ImageRecord]]:
    """The images with the lowest mean IoU over the classes in their truth.

    Returns:
        List of (mean IoU, `ImageRecord`), worst first; images without a
        labelled pixel are left out, and ties go in order.
    """
    worst: list[tuple[float, int, ImageRecord]] = []
    for record in records:
        score = image_score(record)
        if score is None:
            continue
        worst.append((score, record.index, record))
        worst = sorted(worst, key=lambda entry: entry[:2])[:count]
    return [(score, record) for score, _, record in worst]
