"""How good a model is: `evaluate` counts, `Report` shows the result."""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_danet import metrics
from keras_danet.data.datasets import Dataset
from keras_danet.data.decoding import read_pair
from keras_danet.data.files import Pair
from keras_danet.distribution.engines import Placement
from keras_danet.files import save_text
from keras_danet.text_tables import harmless
from keras_danet.text_tables import table_lines


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of an evaluation; every figure follows from the matrix.

    Args:
        dataset: string, name of the data set.
        split: string.
        protocol: string, how images went through the network.
        num_images: integer.
        class_names: tuple of strings.
        confusion_matrix: `(num_classes, num_classes)` int64 array of pixel
            counts; rows are the true classes.
    """

    dataset: str
    split: str
    protocol: str
    num_images: int
    class_names: tuple[str, ...]
    confusion_matrix: np.ndarray

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur, in [0, 1]."""
        return float(metrics.mean_iou(self.confusion_matrix))

    @property
    def pixel_accuracy(self) -> float:
        return float(metrics.pixel_accuracy(self.confusion_matrix))

    @property
    def class_iou(self) -> dict[str, float]:
        """Dict of class name to IoU; NaN for a class that does not occur."""
        iou = metrics.class_iou(self.confusion_matrix)
        return dict(zip(self.class_names, map(float, iou), strict=True))

    def table(self) -> str:
        """The report as text, one row per class."""
        share = self.confusion_matrix.sum(axis=1)
        share = share / max(int(share.sum()), 1)
        rows = [("class", "IoU", "pixels")]
        for (name, iou), part in zip(
            self.class_iou.items(), share, strict=True
        ):
            shown = "-" if math.isnan(iou) else f"{iou:.2%}"
            rows.append((name, shown, f"{part:.2%}"))
        rows.append(("mean IoU", f"{self.mean_iou:.2%}", ""))
        rows.append(("accuracy", f"{self.pixel_accuracy:.2%}", ""))
        heading = (
            f"{self.dataset} {self.split}, {self.num_images} images; "
            f"{self.protocol}"
        )
        return "\n".join([harmless(heading), *table_lines(rows)])

    def as_json(self) -> str:
        """The report as JSON text."""
        content = {
            "dataset": self.dataset,
            "split": self.split,
            "protocol": self.protocol,
            "num_images": self.num_images,
            "mean_iou": _number(self.mean_iou),
            "pixel_accuracy": _number(self.pixel_accuracy),
            "class_iou": {k: _number(v) for k, v in self.class_iou.items()},
            "confusion_matrix": self.confusion_matrix.tolist(),
        }
        return json.dumps(content, indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as JSON, whole or not at all."""
        save_text(self.as_json() + "\n", path)


def evaluate(
    predictor: Callable[[np.ndarray], np.ndarray],
    pairs: Sequence[Pair],
    dataset: Dataset,
    split: str,
    progress: Callable[[int, int], None] | None = None,
    placement: Placement | None = None,
) -> Report:
    """Predicts every image and counts every labelled pixel.

    Args:
        predictor: a `Predictor`, or any function from an image, uint8
            `(height, width, 3)`, to a `(height, width)` label map.
        pairs: list of `data.files.Pair`.
        dataset: `data.datasets.Dataset` that they belong to.
        split: string, for the report.
        progress: function of (number done, total number), called after each
            image. Defaults to `None`.
        placement: a `distribution.Placement`, whose processes share the
            images and return the same report. Defaults to `None`.

    Returns:
        A `Report`.

    Raises:
        ValueError: if a file is unreadable, holds unknown label values, or
            image and label differ in size.
    """
    placement = placement or Placement()
    which, processes = placement.measuring_shard
    mine = pairs[which::processes]
    matrix = np.zeros((dataset.num_classes,) * 2, "int64")
    for index, pair in enumerate(mine):
        image, label = read_pair(pair, dataset)
        matrix += metrics.confusion_matrix(
            label, predictor(image), dataset.num_classes
        )
        if progress:
            progress(index + 1, len(mine))
    return Report(
        dataset=dataset.name,
        split=split,
        protocol=str(getattr(predictor, "protocol", "unknown")),
        num_images=len(pairs),
        class_names=dataset.class_names,
        confusion_matrix=placement.sum_over_processes(matrix),
    )


def _number(value):
    """JSON has no NaN."""
    return None if math.isnan(value) else value
