"""What is kept of an image, so that a point of it costs no network."""

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_danet.data.resampling import largest_class
from keras_danet.data.resampling import resize_image
from keras_danet.data.resampling import resize_logits
from keras_danet.data.resampling import scaled_size
from keras_danet.explain.channels import classes_of_features
from keras_danet.explain.observing import Observer
from keras_danet.explain.observing import checked_points
from keras_danet.explain.observing import class_shares
from keras_danet.explain.position import Reach
from keras_danet.explain.position import point_maps
from keras_danet.explain.position import reach
from keras_danet.explain.switching import without
from keras_danet.inference import Predictor
from keras_danet.inference.picture_arguments import as_image
from keras_danet.inference.protocols import Size
from keras_danet.inference.windows import softmax

# Of an image with more, a smaller one is kept.
MOST_PIXELS = 2**21
# Classes that are kept of each pixel, the most probable ones.
MOST_CLASSES = 5
# Predictions that an image keeps.
MOST_PREDICTIONS = 4


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What an image was taken for.

    Args:
        label: uint8 array `(height, width)`.
        classes: uint8 array `(height, width, k)`, each pixel's most probable
            classes, its label first.
        probabilities: float16 array `(height, width, k)`, theirs.
    """

    label: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Point:
    """What a point was taken for, and where it looks.

    Args:
        row, column: integers, in pixels.
        classes: tuple of (class index, probability), its label first.
        attention: float32 array of the features' (height, width) that sums to
            1; `None` without position attention.
        reach: `Reach` of that one map, or `None`.
        on_classes: float array `(num_classes,)`, how much of the attention is
            on each class; empty without position attention.
    """

    row: int
    column: int
    classes: tuple[tuple[int, float], ...]
    attention: np.ndarray | None
    reach: Reach | None
    on_classes: np.ndarray


class Explorer:
    """Makes `View`s of images, with one network. Threads may share it.

    Args:
        model: a `DANet`, or the name of one: a run's folder, a `.keras` file,
            a preset.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.

    Raises:
        ValueError: if it is no DANet.
    """

    def __init__(self, model: Any, size: Size = "auto"):
        self.observer = Observer(model, size)
        self.class_names = tuple(self.observer.predictor.class_names)
        self.palette = self.observer.predictor.palette
        self.attention = tuple(self.observer.model.attention)
        self._predictors: dict[tuple[str, ...], Predictor] = {
            (): self.observer.predictor
        }
        # A network uses all cores for one image.
        self._lock = threading.Lock()

    def view(self, image: Any) -> "View":
        """Runs the network once, for all that a `View` needs.

        Args:
            image: as for `Predictor`.
        """
        image = shrunk(as_image(self.observer.predictor.as_array(image), ""))
        model = self.observer.model
        tensors = {"logits": model.inference_model.output}
        if "position" in self.attention:
            layer = self.observer.attention("position")
            tensors["position"] = layer.input
        if "channel" in self.attention:
            layer = self.observer.attention("channel")
            tensors["channel"] = layer.output
        with self._lock:
            predictor = self.observer.predictor
            predictor.passes(image).check_room(1)
            values = self.observer.compute(self.observer.read(image), tensors)
            logits = _numpy(values["logits"])
            query = key = channels = None
            if "position" in values:
                query, key = self.observer.run(
                    self._project, values["position"]
                )
            if "channel" in values:
                channels = _numpy(values["channel"])
        if not np.isfinite(logits.sum(dtype="float64")):
            raise ValueError(
                "The network computes NaN or infinity for this image. Its "
                "training may have diverged: use other weights."
            )
        size = image.shape[:2]
        label = largest_class(logits, size)
        shares = softmax(resize_logits(logits, size))
        return View(
            self, image, _prediction(label, shares), query, key, channels
        )

    def predict(
        self,
        image: np.ndarray,
        off: Sequence[str] = (),
        scales: Sequence[float] = (1.0,),
        mirror: bool = False,
    ) -> Prediction:
        """What the image is taken for by a changed network, or in passes."""
        off = tuple(kind for kind in self.attention if kind in off)
        with self._lock:
            first = self.observer.predictor
            if off not in self._predictors:
                self._predictors[off] = Predictor(
                    without(self.observer.model, *off), size=first.size
                )
            protocol = dataclasses.replace(
                first.protocol, scales=tuple(scales), mirror=mirror
            )
            passes = self._predictors[off].passes(image, protocol)
            return _prediction(*passes.label_and_probabilities())

    def _project(self, features):
        layer = self.observer.attention("position")
        return _numpy(layer.query(features)), _numpy(layer.key(features))


class View:
    """What `Explorer` keeps of an image.

    Args:
        explorer: `Explorer`.
        image: uint8 array `(height, width, 3)`.
        prediction: `Prediction` of the whole image at one scale.
        query, key: float32 arrays `(height, width, depth)` in the resolution
            of the features, or `None`.
        channels: float32 array `(height, width, channels)`, channel
            attention's output, or `None`.
    """

    def __init__(self, explorer, image, prediction, query, key, channels):
        self.explorer = explorer
        self.image = image
        self.query, self.key = query, key
        self.channels = channels
        self._first = prediction
        self._shares = None
        self._predictions: dict[tuple, Prediction] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[:2]

    def prediction(
        self,
        off: Sequence[str] = (),
        scales: Sequence[float] = (1.0,),
        mirror: bool = False,
    ) -> Prediction:
        """What the image is taken for; computed when it is first asked for.

        Args:
            off: the attentions that are switched off, `"position"`,
                `"channel"` or both.
            scales, mirror: as for `Predictor`.
        """
        key = tuple(sorted(off)), tuple(scales), mirror
        if key == ((), (1.0,), False):
            return self._first
        found = self._predictions.get(key)
        if found is None:
            found = self.explorer.predict(self.image, off, scales, mirror)
            while len(self._predictions) >= MOST_PREDICTIONS:
                self._predictions.pop(next(iter(self._predictions)), None)
            self._predictions[key] = found
        return found

    def at(
        self, row: int, column: int, prediction: Prediction | None = None
    ) -> Point:
        """A point: its classes, and where it looks.

        Args:
            row, column: integers, in pixels from the top left.
            prediction: one of `prediction`. Defaults to `None`, that of the
                whole image at one scale.

        Raises:
            ValueError: if it is outside the image.
        """
        [(row, column)] = checked_points([(row, column)], self.size)
        prediction = prediction or self._first
        classes = tuple(
            zip(
                prediction.classes[row, column].tolist(),
                prediction.probabilities[row, column].tolist(),
                strict=True,
            )
        )
        if self.query is None:
            return Point(row, column, classes, None, None, np.zeros(0))
        [found] = maps = self.across(self, [(row, column)])
        return Point(
            row,
            column,
            classes,
            found,
            reach(maps, [(row, column)], self.size),
            found.ravel() @ self.shares,
        )

    def across(
        self, other: "View", points: Sequence[tuple[int, int]]
    ) -> np.ndarray:
        """What points of this image find in another one.

        As `position_attention` has it, but with the keys of the other image.

        Returns:
            float32 array `(points, height, width)` of the other's features.

        Raises:
            ValueError: without position attention, or for a point outside
                this image.
        """
        self.explorer.observer.attention("position")
        points = checked_points(points, self.size)
        return point_maps(self.query, other.key, points, self.size)

    @property
    def shares(self) -> np.ndarray:
        """`class_shares` of the features' positions."""
        if self._shares is None:
            self._shares = class_shares(
                self._first.label,
                self.key.shape[:2],
                len(self.explorer.class_names),
            )
        return self._shares

    def channel_classes(self):
        """`ChannelClasses` by this image's own prediction."""
        return classes_of_features(
            [(self.channels, self._first.label)], self.explorer.class_names
        )


def shrunk(image: np.ndarray, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """An image with at most so many pixels, uint8.

    >>> shrunk(np.full((40, 90, 3), 7, "uint8"), 900).shape
    (20, 45, 3)
    """
    pixels = image.shape[0] * image.shape[1]
    if pixels <= most_pixels:
        return image
    scale = (most_pixels / pixels) ** 0.5
    size = scaled_size(image.shape[:2], None, None, scale).tolist()
    return np.rint(resize_image(image, size)).astype("uint8")


def _numpy(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))[0]


def _prediction(label, probabilities):
    """The most probable classes of each pixel."""
    count = min(MOST_CLASSES, probabilities.shape[-1])
    index = label[..., np.newaxis].astype("int64")
    order = probabilities.copy()
    # First also where rounding makes a tie of what was none.
    np.put_along_axis(order, index, 2, -1)
    best = np.argpartition(-order, count - 1, -1)[..., :count]
    values = np.take_along_axis(order, best, -1)
    best = np.take_along_axis(best, np.argsort(-values, -1, "stable"), -1)
    return Prediction(
        label,
        best.astype("uint8"),
        np.take_along_axis(probabilities, best, -1).astype("float16"),
    )
