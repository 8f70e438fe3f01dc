"""`Report`: the result of an evaluation, for people and for programs."""

import dataclasses
import json
import math
import os
import pathlib
import textwrap
from collections.abc import Iterable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.cells import set_cell_size

from keras_danet import metrics
from keras_danet.files import read_json
from keras_danet.files import save_text
from keras_danet.inference import scores
from keras_danet.text_tables import harmless
from keras_danet.text_tables import table_lines

if TYPE_CHECKING:
    import pandas

    from keras_danet.inference.report_pictures import Sample

# Columns of a terminal, and of a class name among those of a table.
WIDTH = 80
MAX_NAME_WIDTH = 24
# Sums of counts stay within int64.
MAX_PIXELS = 2**62
# What is said of a class, by its column's heading in tables.
COLUMNS = {
    "class_iou": "IoU",
    "class_precision": "precision",
    "class_recall": "recall",
    "class_f1": "F1",
    "class_boundary_iou": "boundary",
    "class_share": "pixels",
}
# What is said of all classes together, by its name in tables.
SUMMARY = {
    "mean_iou": "mean IoU",
    "mean_boundary_iou": "mean Boundary IoU",
    "mean_accuracy": "mean accuracy",
    "mean_f1": "mean F1",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "pixel_accuracy": "pixel accuracy",
    "expected_calibration_error": "calibration error",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of an evaluation; every figure follows from the counts.

    Scores are fractions in [0, 1], NaN where nothing defines them: the IoU
    of a class in neither truth nor prediction, the precision of one that is
    not predicted, the recall of one that is not in the truth. Means are over
    the classes that have a score. NaN is `null` in JSON and `-` in tables.

    Args:
        dataset: string, name of the data set.
        split: string.
        protocol: string, how images went through the network.
        num_images: integer.
        class_names: tuple of strings.
        confusion_matrix: `(num_classes, num_classes)` int64 array of pixel
            counts; rows are the true classes.
        settings: the protocol as a dict, `InferenceProtocol.as_dict()`.
            Defaults to `None`, unknown.
        ignored_pixels: integer, pixels without a class. Defaults to `None`,
            unknown.
        image_sizes: tuple of (height, width, number of images). Defaults to
            `()`, unknown.
        boundary_counts: `(num_classes, 3)` int64 array of boundary pixels,
            as `scores.Counts`. Defaults to `None`, not counted.
        calibration_counts: `(15, 3)` int64 array, likewise. Defaults to
            `None`: not counted, or the predictor tells no confidence.
        weights: string, a digest of the model's weights and layers.
            Defaults to `None`.
        images: string, a digest of the images' names. Defaults to `None`.

    Example:

    >>> report = Report("mine", "val", "whole images", 1, ("road", "car"),
    ...     np.array([[3, 1], [0, 4]]))
    >>> report.mean_iou, report.class_recall
    (0.775, {'road': 0.75, 'car': 1.0})
    """

    dataset: str
    split: str
    protocol: str
    num_images: int
    class_names: tuple[str, ...]
    confusion_matrix: np.ndarray
    settings: Mapping[str, Any] | None = None
    ignored_pixels: int | None = None
    image_sizes: tuple[tuple[int, int, int], ...] = ()
    boundary_counts: np.ndarray | None = None
    calibration_counts: np.ndarray | None = None
    weights: str | None = None
    images: str | None = None

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur, in [0, 1]."""
        return float(metrics.mean_iou(self.confusion_matrix))

    @property
    def pixel_accuracy(self) -> float:
        """The share of the labelled pixels whose class is right."""
        return float(metrics.pixel_accuracy(self.confusion_matrix))

    @property
    def mean_accuracy(self) -> float:
        """The mean recall of the classes in the truth."""
        return scores.mean_of_defined([*self.class_recall.values()])

    @property
    def mean_f1(self) -> float:
        return scores.mean_of_defined([*self.class_f1.values()])

    @property
    def frequency_weighted_iou(self) -> float:
        """The IoU of each class, weighted by its share of the truth."""
        return scores.frequency_weighted_iou(self.confusion_matrix)

    @property
    def mean_boundary_iou(self) -> float:
        return scores.mean_of_defined([*self.class_boundary_iou.values()])

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of accuracy and confidence, over 15 bins."""
        if self.calibration_counts is None:
            return math.nan
        return scores.expected_calibration_error(self.calibration_counts)

    @property
    def class_iou(self) -> dict[str, float]:
        """Dict of class name to IoU; NaN for a class that does not occur."""
        return self._by_class(metrics.class_iou(self.confusion_matrix))

    @property
    def class_precision(self) -> dict[str, float]:
        """Of the pixels predicted as a class, the share that are."""
        return self._by_class(scores.class_precision(self.confusion_matrix))

    @property
    def class_recall(self) -> dict[str, float]:
        """Of a class's pixels, the share that is found."""
        return self._by_class(scores.class_recall(self.confusion_matrix))

    @property
    def class_f1(self) -> dict[str, float]:
        """2 tp / (2 tp + fp + fn)."""
        return self._by_class(scores.class_f1(self.confusion_matrix))

    @property
    def class_share(self) -> dict[str, float]:
        """The class's share of the labelled pixels."""
        return self._by_class(scores.class_share(self.confusion_matrix))

    @property
    def class_boundary_iou(self) -> dict[str, float]:
        """IoU of what lies within 2 % of the image's diagonal of a border."""
        if self.boundary_counts is None:
            return dict.fromkeys(self.class_names, math.nan)
        return self._by_class(scores.boundary_iou(self.boundary_counts))

    def _by_class(self, values):
        return dict(zip(self.class_names, map(float, values), strict=True))

    def table(self) -> str:
        """The report as text, one row per class, within 80 columns."""
        columns = [getattr(self, name) for name in COLUMNS]
        rows = [("class", *COLUMNS.values())]
        for name in self.class_names:
            shown = (percent(column[name]) for column in columns)
            rows.append((short_name(name), *shown))
        summary = [
            (title, percent(getattr(self, name)))
            for name, title in SUMMARY.items()
        ]
        lines = [*self.heading(), *table_lines(rows), ""]
        return "\n".join([*lines, *table_lines(summary), *self._notes()])

    def heading(self) -> list[str]:
        """Lines that say what was measured, and how."""
        text = (
            f"{self.dataset} {self.split}, {self.num_images} images; "
            f"{self.protocol}"
        )
        return textwrap.wrap(harmless(text), WIDTH)

    def _notes(self):
        missing = []
        if self.boundary_counts is None:
            missing.append("Boundaries were not counted.")
        if self.calibration_counts is None:
            missing.append(
                "Calibration was not measured: it needs a predictor with "
                "`label_and_confidence`."
            )
        if self.ignored_pixels:
            counted = int(self.confusion_matrix.sum())
            share = self.ignored_pixels / (self.ignored_pixels + counted)
            missing.append(
                f"{self.ignored_pixels} ignored pixels ({share:.2%} of all) "
                "were left out."
            )
        return missing

    def as_dict(self) -> dict[str, Any]:
        """The report as a dict that JSON can hold."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "protocol": self.protocol,
            "settings": self.settings and dict(self.settings),
            "num_images": self.num_images,
            "image_sizes": [list(size) for size in self.image_sizes],
            "ignored_pixels": self.ignored_pixels,
            "weights": self.weights,
            "images": self.images,
            **{name: number(getattr(self, name)) for name in SUMMARY},
            **{
                name: {k: number(v) for k, v in getattr(self, name).items()}
                for name in COLUMNS
            },
            "class_names": list(self.class_names),
            "confusion_matrix": self.confusion_matrix.tolist(),
            "boundary_counts": _listed(self.boundary_counts),
            "calibration_counts": _listed(self.calibration_counts),
        }

    def as_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.as_dict(), indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as JSON, whole or not at all."""
        save_text(self.as_json() + "\n", path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Report":
        """Reads what `save` wrote, also by older versions.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if it is not a report.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no report {path}. Expected the report.json that "
                "`keras-danet evaluate` wrote."
            )
        try:
            return _from_dict(cls, read_json(path))
        except (
            *(ValueError, LookupError, TypeError),
            *(AttributeError, OverflowError),
        ) as error:
            raise ValueError(
                f"{path} is not a report ({type(error).__name__}: {error}). "
                "Expected the report.json that `keras-danet evaluate` wrote."
            ) from error

    def to_dataframe(self) -> "pandas.DataFrame":
        """The scores of every class, a row each, as a pandas DataFrame.

        Raises:
            ImportError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "Report.to_dataframe() needs pandas: pip install pandas. "
                "Without it, Report.as_dict() has the same numbers."
            ) from error
        columns = {
            name.removeprefix("class_"): list(getattr(self, name).values())
            for name in COLUMNS
        }
        index = pandas.Index(list(self.class_names), name="class")
        return pandas.DataFrame(columns, index=index)

    def save_html(
        self,
        path: str | os.PathLike[str],
        samples: Iterable["Sample"] = (),
        palette: Iterable[tuple[int, int, int]] | None = None,
    ) -> None:
        """Writes the report as one page that needs nothing else.

        Args:
            path: path of the file.
            samples: `report_pictures.Sample`s, images to show with their
                truth and prediction. Defaults to `()`.
            palette: a colour for each class, for the samples. Defaults to
                `None`, colours that differ.
        """
        from keras_danet.inference.report_page import html_page

        save_text(html_page(self, samples, palette), path)


def percent(value: float) -> str:
    """A score for a table."""
    return "-" if math.isnan(value) else f"{value:.2%}"


def number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def short_name(name: str) -> str:
    """A class name that leaves room for the columns beside it."""
    name = harmless(name)
    if cell_len(name) <= MAX_NAME_WIDTH:
        return name
    return f"{set_cell_size(name, MAX_NAME_WIDTH - 3)}..."


def _listed(counts):
    return None if counts is None else counts.tolist()


def _from_dict(cls, content):
    names = content.get("class_names") or [*content["class_iou"]]
    if len(set(names)) < len(names):
        raise ValueError("two of its classes have the same name")
    num_images = content["num_images"]
    if type(num_images) is not int or num_images < 0:
        raise ValueError("num_images must be an integer, 0 or more")
    shapes = {
        "confusion_matrix": (len(names), len(names)),
        "boundary_counts": (len(names), 3),
        "calibration_counts": (scores.NUM_BINS, 3),
    }
    counts = {}
    for name, shape in shapes.items():
        values = content.get(name)
        if name == "confusion_matrix" or values is not None:
            counts[name] = np.array(values)
            if counts[name].shape != shape or counts[name].dtype != "int64":
                raise ValueError(f"{name} must hold integers of shape {shape}")
            if counts[name].min(initial=0) < 0:
                raise ValueError(f"{name} holds a negative number")
            if counts[name].sum(dtype="float64") >= MAX_PIXELS:
                raise ValueError(f"{name} counts more pixels than there are")
    texts = {key: str(content[key]) for key in ("dataset", "split", "protocol")}
    ignored = content.get("ignored_pixels")
    if ignored is not None and int(ignored) < 0:
        raise ValueError("ignored_pixels is negative")
    settings = content.get("settings")
    if not isinstance(settings, (dict, type(None))):
        raise ValueError("settings must be an object, or null")
    sizes = tuple(tuple(map(int, s)) for s in content.get("image_sizes", []))
    if any(len(size) != 3 for size in sizes):
        raise ValueError("image_sizes must hold (height, width, images)")
    return cls(
        **texts,
        num_images=num_images,
        class_names=tuple(map(str, names)),
        settings=settings,
        ignored_pixels=None if ignored is None else int(ignored),
        image_sizes=sizes,
        weights=content.get("weights"),
        images=content.get("images"),
        **counts,
    )
