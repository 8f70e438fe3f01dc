"""All that is said of one image: classes, doubt, and what attention does."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_danet.arguments import integer
from keras_danet.explain.channels import ChannelAttention
from keras_danet.explain.channels import ChannelClasses
from keras_danet.explain.channels import channel_attention
from keras_danet.explain.channels import channel_classes
from keras_danet.explain.channels import grouped
from keras_danet.explain.observing import Observer
from keras_danet.explain.observing import checked_points
from keras_danet.explain.observing import class_shares
from keras_danet.explain.points import choose_points
from keras_danet.explain.points import classes_by_size
from keras_danet.explain.position import ClassAttention
from keras_danet.explain.position import Reach
from keras_danet.explain.position import class_attention
from keras_danet.explain.position import position_attention
from keras_danet.explain.position import reach
from keras_danet.explain.switching import without
from keras_danet.inference import Predictor
from keras_danet.inference.protocols import Size

# Points and channels that are chosen where none are given: with the image,
# two rows of a figure.
COUNT = 7


@dataclasses.dataclass(frozen=True)
class PointAttention:
    """What position attention does with an image.

    Args:
        points: list of (row, column).
        maps: float32 array `(points, height, width)`, as `position_attention`
            gives it.
        reach: `Reach` of these points.
        shares: float64 array `(points, num_classes)`, of the attention of
            each point the share that lies on each class.
        classes: `ClassAttention` of the whole image.
    """

    points: list[tuple[int, int]]
    maps: np.ndarray
    reach: Reach
    shares: np.ndarray
    classes: ClassAttention


@dataclasses.dataclass(frozen=True)
class Channels:
    """What channel attention does with an image.

    Args:
        attention: `ChannelAttention`.
        classes: `ChannelClasses`, which class each channel answers to.
        is_measured: boolean, whether `classes` are those of labelled images,
            and not those that the network sees in this image.
        chosen: list of integers, the channels to show.
        grouped: float64 array `(num_classes, num_classes)`, as `grouped`.
    """

    attention: ChannelAttention
    classes: ChannelClasses
    is_measured: bool
    chosen: list[int]
    grouped: np.ndarray


@dataclasses.dataclass(frozen=True)
class Explanation:
    """All that is said of one image.

    Args:
        image: uint8 array `(height, width, 3)`.
        label: integer array `(height, width)`, its classes.
        confidence: float32 array of that shape, the probability of the label.
        entropy: the same, of all probabilities, in nats.
        without: dict of an attention to the label map without it.
        position: `PointAttention`, `None` without position attention.
        channel: `Channels`, `None` without channel attention.
        class_names: tuple of strings.
        palette: tuple of a (red, green, blue) per class.
    """

    image: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray
    without: dict[str, np.ndarray]
    position: PointAttention | None
    channel: Channels | None
    class_names: tuple[str, ...]
    palette: tuple

    def as_dict(self) -> dict[str, Any]:
        """The numbers that are said of it, ready for JSON."""
        names = self.class_names
        found: dict[str, Any] = {
            "size": list(self.label.shape),
            "classes": {
                names[k]: float((self.label == k).mean())
                for k in classes_by_size(self.label)
            },
            "changed": {
                kind: float((other != self.label).mean())
                for kind, other in self.without.items()
            },
        }
        if self.position:
            found["points"] = self.points
            found["class_attention"] = _table(
                self.position.classes.matrix, names
            )
        if self.channel:
            classes = self.channel.classes
            found["channels"] = {
                str(channel): classes.names[channel]
                for channel in self.channel.chosen
            }
            found["channels_measured_on"] = (
                classes.num_images if self.channel.is_measured else 0
            )
            found["channel_attention"] = _table(self.channel.grouped, names)
        return found

    @property
    def points(self) -> list[dict[str, Any]]:
        """What is said of each point: its class, and where it looks."""
        if self.position is None:
            return []
        near = self.position.reach
        return [
            {
                "row": point[0],
                "column": point[1],
                "class": self.class_names[self.label[point]],
                "probability": float(self.confidence[point]),
                "attends_to": {
                    self.class_names[k]: float(shares[k])
                    for k in np.argsort(-shares, kind="stable")
                    if shares[k] > 0
                },
                "near": float(near.near[index]),
                "even_near": float(near.even_near[index]),
                "distance": float(near.distance[index]),
                "even_distance": float(near.even_distance[index]),
            }
            for index, (point, shares) in enumerate(
                zip(self.position.points, self.position.shares, strict=True)
            )
        ]


def _table(matrix, names):
    """Rows by class as dicts; rows and cells that are not known left out."""
    return {
        a: {b: float(x) for b, x in zip(names, row, strict=True) if x == x}
        for a, row in zip(names, matrix, strict=True)
        if not np.isnan(row).all()
    }


def _named(classes, k):
    """The channels that are named by a class, the strongest first."""
    found = classes.strongest(k, len(classes.responses))
    return [channel for channel in found if classes.classes[channel] == k]


class Explainer:
    """Explains what a network sees in images.

    Args:
        model: `DANet`, or the name of one: a run's folder, a `.keras` file, a
            preset.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.
        classes: `ChannelClasses` that were measured on labelled images.
            Defaults to `None`: each image's own, by what the network sees in
            it.

    Raises:
        ValueError: if it is no DANet, or `classes` are of another network.
    """

    def __init__(
        self,
        model: Any,
        size: Size = "auto",
        classes: ChannelClasses | None = None,
    ):
        self.observer = Observer(model, size)
        self.model = self.observer.model
        self.classes = classes
        if classes is not None:
            self._check_classes(classes)

    @functools.cached_property
    def _without(self):
        size = self.observer.predictor.size
        return {
            kind: Predictor(without(self.model, kind), size=size)
            for kind in self.model.attention
        }

    def __call__(
        self,
        image: Any,
        points: Sequence[tuple[int, int]] | None = None,
        channels: Sequence[int] | None = None,
    ) -> Explanation:
        """Explains one image.

        Args:
            image: as for `Predictor`.
            points: sequence of (row, column) in pixels of the image. Defaults
                to `None`, up to seven that `points.RULE` chooses.
            channels: sequence of integers. Defaults to `None`, of each class
                in the image, the channel that answers to it most of those that
                answer to none more, up to seven.

        Returns:
            An `Explanation`.

        Raises:
            ValueError: for points outside of the image, or channels that
                there are not.
        """
        observer = self.observer
        image = observer.read(image)
        if points is not None:
            points = checked_points(points, image.shape[:2])
        found = observer.predictor.uncertainty(image)
        others = {kind: p(image) for kind, p in self._without.items()}
        position = channel = None
        if "position" in others:
            if points is None:
                changed = others["position"] != found.label
                points = choose_points(found.label, changed, COUNT)
            position = self._position(image, found.label, points)
        if "channel" in others:
            channel = self._channel(image, found.label, channels)
        return Explanation(
            image.clip(0, 255).astype("uint8"),
            found.label,
            found.confidence,
            found.entropy,
            others,
            position,
            channel,
            tuple(observer.predictor.class_names),
            tuple(observer.predictor.palette),
        )

    def _position(self, image, label, points):
        model, size = self.model, self.observer.predictor.size
        maps = position_attention(model, image, points, size)
        shares = class_shares(label, maps.shape[1:], model.num_classes)
        return PointAttention(
            points,
            maps,
            reach(maps, points, image.shape[:2]),
            maps.reshape(len(points), -1).astype("float64") @ shares,
            class_attention(model, image, label, size),
        )

    def _channel(self, image, label, channels):
        model, size = self.model, self.observer.predictor.size
        attention = channel_attention(model, image, size)
        classes = self.classes
        if classes is None:
            classes = channel_classes(model, [(image, label)], size)
        if channels is None:
            channels = [
                named[0]
                for k in classes_by_size(label)
                if (named := _named(classes, k))
            ][:COUNT]
        else:
            count = len(attention.scores)
            must = f"must be from 0 to {count - 1}"
            channels = [
                integer("channels", k, must, least=0, most=count - 1)
                for k in channels
            ]
        return Channels(
            attention,
            classes,
            self.classes is not None,
            channels,
            grouped(attention.scores, classes.classes, model.num_classes),
        )

    def _check_classes(self, classes):
        channels = self.observer.attention("channel").output.shape[-1]
        names = tuple(self.observer.predictor.class_names)
        if len(classes.responses) != channels or classes.class_names != names:
            raise ValueError(
                f"The classes of {len(classes.responses)} channels were given "
                f"({', '.join(classes.class_names[:3])}, ...), and this "
                f"network has {channels} ({', '.join(names[:3])}, ...). "
                "Measure them with this network."
            )
