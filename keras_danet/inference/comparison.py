"""Which of several models is better, and how sure that is."""

import dataclasses
import json
import math
import operator
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_danet.inference.image_records import read_records
from keras_danet.inference.image_records import records_path
from keras_danet.inference.report import Report
from keras_danet.inference.report import number
from keras_danet.inference.report import percent
from keras_danet.inference.report import short_name
from keras_danet.text_tables import harmless
from keras_danet.text_tables import table_lines

NUM_RESAMPLES = 1000
# Of resamples whose images are drawn at once.
CHUNK = 100
# Percentiles of a 95 % interval.
INTERVAL = (2.5, 97.5)


@dataclasses.dataclass(frozen=True)
class ImageCounts:
    """What the IoU of any set of images needs; one row for each image.

    Args:
        names: tuple of strings.
        hits, truth, prediction: int64 arrays `(num_images, num_classes)`,
            pixels that are right, true and predicted.
    """

    names: tuple[str, ...]
    hits: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several reports of the same images, compared with the first.

    Args:
        titles: tuple of strings, what each report is called.
        reports: tuple of `Report`.
        intervals: tuple, for each report but the first, of an array
            `(1 + num_classes, 2)`: the lower and upper end of the 95 %
            interval of the difference of mean IoU, then of each class's IoU,
            NaN where nothing defines it; or `None` without one.
        notes: tuple of strings, what differs and what is missing.
    """

    titles: tuple[str, ...]
    reports: tuple[Report, ...]
    intervals: tuple[np.ndarray | None, ...]
    notes: tuple[str, ...]

    def rows(self) -> list[tuple[str, list[float]]]:
        """(name, IoU in each report): of the mean, then of every class."""
        first = self.reports[0]
        ious = [report.class_iou for report in self.reports]
        means = [report.mean_iou for report in self.reports]
        return [
            ("mean IoU", means),
            *(
                (name, [iou[name] for iou in ious])
                for name in first.class_names
            ),
        ]

    def table(self) -> str:
        """The comparison as text."""
        first = self.reports[0]
        letters = [_letter(k) for k in range(len(self.reports))]
        lines = [
            harmless(
                f"{first.dataset} {first.split}, {first.num_images} images"
            ),
            *(
                harmless(f"{letter}: {title}")
                for letter, title in zip(letters, self.titles, strict=True)
            ),
            "",
        ]
        heading = ["class", "A"]
        for letter, interval in zip(letters[1:], self.intervals, strict=True):
            heading += [letter, f"{letter} - A"]
            heading += ["95 % interval"] if interval is not None else []
        rows = [heading]
        for index, (name, ious) in enumerate(self.rows()):
            row = [short_name(name), percent(ious[0])]
            for iou, interval in zip(ious[1:], self.intervals, strict=True):
                row += [percent(iou), _signed(iou - ious[0])]
                if interval is not None:
                    row.append(_span(interval[index]))
            rows.append(row)
        return "\n".join([*lines, *table_lines(rows), *self._explained()])

    def _explained(self):
        lines = [""] if self.notes else []
        if any(interval is not None for interval in self.intervals):
            lines = [
                "",
                f"Intervals: {NUM_RESAMPLES} resamples of the images, the "
                "same for both models.",
            ]
        return [*lines, *map(harmless, self.notes)]

    def as_json(self) -> str:
        """The comparison as JSON text."""
        first = self.reports[0]
        count = len(self.reports)
        content = {
            "dataset": first.dataset,
            "split": first.split,
            "num_images": first.num_images,
            "reports": [self._entry(k) for k in range(count)],
            "notes": list(self.notes),
        }
        return json.dumps(content, indent=1)

    def _entry(self, k) -> dict[str, Any]:
        """What JSON says of one report."""
        (_, means), *classes = self.rows()
        names = [name for name, _ in classes]
        entry = {
            "report": self.titles[k],
            "protocol": self.reports[k].protocol,
            "mean_iou": number(means[k]),
            "class_iou": {name: number(ious[k]) for name, ious in classes},
        }
        if not k:
            return entry
        interval = self.intervals[k - 1]
        gaps = []
        for index, (_, ious) in enumerate(self.rows()):
            ends = None
            if interval is not None and not np.isnan(interval[index]).any():
                ends = interval[index].tolist()
            gaps.append(
                {
                    "difference": number(ious[k] - ious[0]),
                    "interval": ends,
                }
            )
        entry["mean_iou_difference"] = gaps[0]
        entry["class_iou_difference"] = dict(zip(names, gaps[1:], strict=True))
        return entry


def compare_reports(
    sources: Sequence[str | os.PathLike[str]], seed: int = 0
) -> Comparison:
    """Compares models by their reports.

    Where the file of image records lies beside a report, images are drawn
    again with replacement, the same ones for both models, and the middle
    95 % of the differences are the interval.

    Args:
        sources: list of at least two paths: a `report.json`, or the folder
            of a run.
        seed: integer, of the images that are drawn. Defaults to `0`.

    Returns:
        A `Comparison`.

    Raises:
        FileNotFoundError: if a report is not there.
        ValueError: if there are fewer than two, or they measure different
            things.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    if len(sources) < 2:
        raise ValueError(
            "A comparison needs at least two reports. Received: "
            f"{len(sources)}."
        )
    paths = [_report_path(source) for source in sources]
    reports = [Report.load(path) for path in paths]
    for path, report in zip(paths[1:], reports[1:], strict=True):
        _check_same(paths[0], reports[0], path, report)
    notes = _protocol_notes(reports)
    counted = []
    for path, report in zip(paths, reports, strict=True):
        counts, note = _image_counts(path, report)
        counted.append(counts)
        notes += [note] if note else []
    intervals: list[np.ndarray | None] = []
    for path, counts in zip(paths[1:], counted[1:], strict=True):
        if counts is None or counted[0] is None:
            intervals.append(None)
            continue
        same_names = counts.names == counted[0].names
        if not same_names or not np.array_equal(counts.truth, counted[0].truth):
            what = "labels" if same_names else "images"
            raise ValueError(
                f"{path} was measured on other {what} than {paths[0]}. "
                "Expected the same; measure again on the same files."
            )
        intervals.append(bootstrap(counted[0], counts, seed))
    return Comparison(
        tuple(map(str, sources)), tuple(reports), tuple(intervals), tuple(notes)
    )


def bootstrap(
    first: ImageCounts,
    second: ImageCounts,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> np.ndarray:
    """95 % intervals of how much the second's IoU exceeds the first's.

    Returns:
        Float64 array `(1 + num_classes, 2)`, lower and upper ends: of the
        difference of mean IoU, and of each class's. NaN for a class that is
        in no resample.
    """
    rng = np.random.default_rng(seed)
    num_images = len(first.hits)
    # Sums below 2**53 are exact in float64, and BLAS adds floats.
    parts = [
        (part.hits.astype("float64"), _union(part).astype("float64"))
        for part in (first, second)
    ]
    differences = []
    for start in range(0, num_resamples, CHUNK):
        rows = min(CHUNK, num_resamples - start)
        drawn = rng.integers(0, num_images, (rows, num_images))
        # How often each image is in each resample.
        places = drawn + num_images * np.arange(rows)[:, np.newaxis]
        often = np.bincount(places.ravel(), minlength=rows * num_images)
        often = often.reshape(rows, num_images).astype("float64")
        ious = [_ious(often @ hits, often @ union) for hits, union in parts]
        differences.append(ious[1] - ious[0])
    return _percentiles(np.concatenate(differences))


def _union(part):
    return part.truth + part.prediction - part.hits


def _ious(hits, union):
    """Mean IoU and IoU of every class, a row for each resample."""
    iou = np.full(hits.shape, np.nan)
    np.divide(hits, union, out=iou, where=union > 0)
    defined = ~np.isnan(iou)
    total = np.where(defined, iou, 0).sum(axis=1)
    mean = np.full(len(iou), np.nan)
    count = defined.sum(axis=1)
    np.divide(total, count, out=mean, where=count > 0)
    return np.column_stack([mean, iou])


def _percentiles(differences):
    ends = np.full((differences.shape[1], 2), np.nan)
    for column, values in enumerate(differences.T):
        values = values[~np.isnan(values)]
        if values.size:
            ends[column] = np.percentile(values, INTERVAL)
    return ends


def _report_path(source):
    path = pathlib.Path(source)
    return path / "report.json" if path.is_dir() else path


def _check_same(first_path, first, path, report):
    for what, key in (
        ("data set", "dataset"),
        ("split", "split"),
        ("classes", "class_names"),
        ("number of images", "num_images"),
        ("images", "images"),
    ):
        one, two = getattr(first, key), getattr(report, key)
        if one != two and None not in (one, two):
            shown = [
                f"{value[:3]!r} and others" if key == "class_names" else value
                for value in (one, two)
            ]
            raise ValueError(
                f"{first_path} and {path} cannot be compared: their {what} "
                f"differ ({shown[0]} and {shown[1]}). Expected reports of the "
                "same images; measure both models on the same split."
            )
    truths = [one.confusion_matrix.sum(axis=1) for one in (first, report)]
    if not np.array_equal(*truths):
        counted = [int(truth.sum()) for truth in truths]
        raise ValueError(
            f"{first_path} and {path} cannot be compared: their labels "
            f"differ, {counted[0]} and {counted[1]} labelled pixels. Expected "
            "the same labels; measure again on the same files."
        )


def _protocol_notes(reports):
    notes = []
    first = reports[0]
    for k, report in enumerate(reports[1:], 1):
        settings = first.settings, report.settings
        differ = first.protocol != report.protocol or (
            None not in settings and settings[0] != settings[1]
        )
        if differ:
            notes.append(
                f"The protocols differ. A: {first.protocol}. {_letter(k)}: "
                f"{report.protocol}."
            )
    return notes


def _image_counts(path, report):
    """(`ImageCounts`, or `None`; why there are none)."""
    beside = records_path(path)
    if not beside.is_file():
        return None, (
            f"No intervals for {path}: there is no {beside.name} beside it, "
            "which `keras-danet evaluate` writes."
        )
    header, read = read_records(beside)
    if tuple(header["class_names"]) != report.class_names:
        return None, f"No intervals for {path}: {beside.name} is of another."
    rows = (
        (
            record.index,
            record.name,
            np.diagonal(record.counts.confusion).copy(),
            record.counts.confusion.sum(axis=1),
            record.counts.confusion.sum(axis=0),
        )
        for record in read()
    )
    found = sorted(rows, key=operator.itemgetter(0))
    if not found:
        return None, f"No intervals for {path}: {beside.name} has no image."
    _, names, *arrays = zip(*found, strict=True)
    counts = ImageCounts(names, *map(np.stack, arrays))
    matrix = report.confusion_matrix
    sums = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    parts = counts.hits, counts.truth, counts.prediction
    if len(found) != report.num_images or not all(
        np.array_equal(part.sum(axis=0), whole)
        for part, whole in zip(parts, sums, strict=True)
    ):
        return None, (
            f"No intervals for {path}: {beside.name} is of another evaluation. "
            "Measure again."
        )
    return counts, ""


def _letter(index):
    return chr(ord("A") + index) if index < 26 else f"#{index + 1}"


def _signed(value):
    return "-" if math.isnan(value) else f"{100 * value:+.2f}"


def _span(ends):
    if np.isnan(ends).any():
        return "-"
    low, high = (f"{100 * end:+.2f}" for end in ends)
    return f"{low} to {high}"
