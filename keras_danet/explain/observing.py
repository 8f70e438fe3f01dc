"""What a network computes on its way to one image's labels."""

import functools
import operator
import os
from typing import Any

import keras
import numpy as np

from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.distribution.keras_distributions import turn_of
from keras_danet.inference import Predictor
from keras_danet.inference.predictor import PATIENCE
from keras_danet.inference.protocols import Size
from keras_danet.models import DANet
from keras_danet.models.fit_checks import pixels_of
from keras_danet.models.fit_checks import warn_of_pixels
from keras_danet.models.functional import FunctionalModel
from keras_danet.waiting import answering


class Observer:
    """Looks inside a DANet while it sees an image, whole and at one scale.

    Args:
        model: a `DANet`, or the name of one: a run's folder, a `.keras` file,
            a preset.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.

    Raises:
        ValueError: if it is no DANet.
    """

    def __init__(
        self,
        model: DANet | str | os.PathLike[str],
        size: Size = "auto",
    ):
        self.predictor = Predictor(model, size=size)
        self.model = self.predictor.model
        if not isinstance(self.model, DANet):
            raise ValueError(
                "Only a DANet can be explained, and this is a "
                f"{type(self.model).__name__}. Give the model that it was "
                "made from."
            )

    def attention(self, kind: str) -> keras.layers.Layer:
        """The layer of an attention.

        Raises:
            ValueError: if the model has none of that kind.
        """
        if kind not in self.model.attention:
            has = " and ".join(self.model.attention) or "none"
            raise ValueError(
                f"This model has no {kind} attention. It has: {has}."
            )
        return self.model.get_layer(f"{kind}_attention")

    def read(self, image: Any) -> np.ndarray:
        """An image as an array, checked for what the network can take."""
        image = answering(self.predictor.as_array, image)
        self.predictor.check_size(*image.shape[:2])
        warn_of_pixels(self.model, pixels_of(image))
        return image

    def compute(self, image, tensors):
        """The values of symbolic tensors of the model for an image.

        Args:
            image: what `read` gave.
            tensors: structure of tensors, all of which one pass computes.

        Returns:
            The structure with tensors `(1, height, width, channels)`.
        """
        inside = FunctionalModel(self.model.input, tensors)
        small = self.predictor.resize(image)[np.newaxis]
        batch = keras.ops.convert_to_tensor(small, dtype="float32")
        return self.run(functools.partial(inside, training=False), batch)

    def run(self, function, *arguments):
        """A computation with the model's weights, in its turn."""
        with turn_of(self.model, PATIENCE):
            return answering(function, *arguments)


def class_shares(label, size, num_classes):
    """How much of each position of a feature map is of each class.

    Args:
        label: integer array `(height, width)`; pixels that are no class, such
            as 255, count for none.
        size: (height, width) of the feature map.
        num_classes: integer.

    Returns:
        float32 array `(height * width, num_classes)`; a row sums to the share
        of pixels that have a class. A position without a pixel of its own has
        that of its middle.
    """
    (height, width), (rows, columns) = label.shape, size
    row_of = _cell_of(height, rows)
    column_of = _cell_of(width, columns)
    cell = row_of[:, np.newaxis] * columns + column_of
    counts = np.bincount(cell.ravel(), minlength=rows * columns)
    valid = (label >= 0) & (label < num_classes)
    index = cell[valid] * num_classes + label[valid]
    shares = np.bincount(index, minlength=rows * columns * num_classes)
    shares = shares.reshape(-1, num_classes).astype("float32")
    shares /= np.maximum(counts, 1)[:, np.newaxis]
    for position in np.flatnonzero(counts == 0):
        row, column = divmod(position, columns)
        value = label[
            int((row + 0.5) * height / rows),
            int((column + 0.5) * width / columns),
        ]
        if 0 <= value < num_classes:
            shares[position, value] = 1
    return shares


def _cell_of(pixels, cells):
    """The cell in which the middle of each pixel lies."""
    return ((np.arange(pixels) + 0.5) * cells / pixels).astype(int)


def checked_label(label, size, num_classes) -> np.ndarray:
    """A label map that fits an image.

    Raises:
        ValueError: for another shape, or classes that there are not.
    """
    label = np.asarray(label)
    if label.ndim == 3 and label.shape[-1] == 1:
        label = label[..., 0]
    if label.shape != tuple(size) or label.dtype.kind not in "iu":
        raise ValueError(
            f"The label map must be an integer array {tuple(size)}, as its "
            f"image. Received: {label.dtype} {label.shape}"
        )
    wrong = np.unique(label[(label < 0) | (label >= num_classes)])
    wrong = wrong[wrong != IGNORE_LABEL]
    if len(wrong):
        raise ValueError(
            f"The label map has the value {wrong[0]}, and there are "
            f"{num_classes} classes. Expected 0 to {num_classes - 1}, or "
            f"{IGNORE_LABEL} for pixels without one."
        )
    return label


def checked_points(points, size) -> list[tuple[int, int]]:
    """Points inside an image.

    Raises:
        ValueError: names the first that is not.
    """
    found = []
    for point in points:
        try:
            row, column = map(operator.index, point)
        except (TypeError, ValueError):
            row = column = -1
        if not (0 <= row < size[0] and 0 <= column < size[1]):
            raise ValueError(
                "A point is (row, column), integers, in an image of "
                f"{size[0]}x{size[1]} pixels, counted from 0 at the top left. "
                f"Received: {point!r}"
            )
        found.append((row, column))
    return found
