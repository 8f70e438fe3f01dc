"""What channel attention does to channels, and what channels answer to."""

import dataclasses
import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from keras_danet.explain.observing import Observer
from keras_danet.explain.observing import checked_label
from keras_danet.explain.observing import class_shares
from keras_danet.inference.protocols import Size


@dataclasses.dataclass(frozen=True)
class ChannelAttention:
    """What channel attention did with one image.

    Args:
        before, after: float32 arrays `(height, width, channels)`, the
            features that it got and those that it gave.
        scores: float32 array `(channels, channels)`, from where each channel
            (row) gathers; a row sums to 1.
    """

    before: np.ndarray
    after: np.ndarray
    scores: np.ndarray


def channel_attention(
    model: Any, image: Any, size: Size = "auto"
) -> ChannelAttention:
    """The channels before and after channel attention, and its map.

    Args:
        model: a `DANet` with channel attention, or the name of one: a run's
            folder, a `.keras` file, a preset.
        image: as for `Predictor`.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.

    Returns:
        A `ChannelAttention`.

    Raises:
        ValueError: for a model without channel attention.

    Reference:
        - [Dual Attention Network for Scene Segmentation, section 3.3](
          https://arxiv.org/abs/1809.02983), figure 6
    """
    observer = Observer(model, size)
    layer = observer.attention("channel")
    features = observer.compute(observer.read(image), layer.input)

    def attend():
        after, scores = layer(features, return_attention_scores=True)
        return [
            ops.convert_to_numpy(ops.cast(x, "float32"))[0]
            for x in (features, after, scores)
        ]

    return ChannelAttention(*observer.run(attend))


@dataclasses.dataclass(frozen=True)
class ChannelClasses:
    """Which class each channel answers to most.

    Args:
        responses: float array `(channels, num_classes)`: by how many standard
            deviations of the channel its mean on a class lies above its mean
            on all others. NaN for classes that the images do not have.
        class_names: tuple of strings.
        num_images: integer, how many images it was measured on.
    """

    responses: np.ndarray
    class_names: tuple[str, ...]
    num_images: int

    @property
    def classes(self) -> np.ndarray:
        """int array `(channels,)`, the class of each channel."""
        # A channel that is constant answers to nothing: to the first class.
        return np.nan_to_num(self.responses, nan=-np.inf).argmax(1)

    @property
    def names(self) -> list[str]:
        """The name of each channel's class."""
        return [self.class_names[index] for index in self.classes]

    def strongest(self, class_index: int, count: int = 1) -> list[int]:
        """The channels that answer to a class most, the first one first."""
        responses = self.responses[:, class_index]
        order = np.argsort(-np.nan_to_num(responses, nan=-np.inf))
        return order[:count].tolist()

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "class_names": list(self.class_names),
            "num_images": self.num_images,
            "responses": [
                [None if math.isnan(x) else x for x in row]
                for row in self.responses.tolist()
            ],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "ChannelClasses":
        """What `as_dict` returned.

        Raises:
            ValueError: if it is not that.
        """
        try:
            names = tuple(map(str, content["class_names"]))
            responses = np.array(content["responses"], "float64")
            if responses.ndim != 2 or responses.shape[1] != len(names):
                raise ValueError(f"responses of shape {responses.shape}")
            return cls(responses, names, int(content["num_images"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"It does not describe the classes of channels: {error!r}."
            ) from error


def channel_classes(
    model: Any, pairs: Iterable, size: Size = "auto"
) -> ChannelClasses:
    """Which class each channel of channel attention's output answers to.

    Args:
        model: a `DANet` with channel attention, or the name of one.
        pairs: iterable of (image, label), images as for `Predictor`, labels
            integer arrays of their (height, width), 255 for pixels without a
            class.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.

    Returns:
        A `ChannelClasses`. The images are read one by one, and sums kept.

    Raises:
        ValueError: for a model without channel attention, labels that do not
            fit, or no images.
    """
    observer = Observer(model, size)
    layer = observer.attention("channel")
    num_classes = observer.model.num_classes

    def features_and_labels():
        for image, label in pairs:
            image = observer.read(image)
            label = checked_label(label, image.shape[:2], num_classes)
            after = observer.compute(image, layer.output)
            yield ops.convert_to_numpy(ops.cast(after, "float32"))[0], label

    return classes_of_features(
        features_and_labels(), tuple(observer.predictor.class_names)
    )


def classes_of_features(
    pairs: Iterable, class_names: tuple[str, ...]
) -> ChannelClasses:
    """`channel_classes` of features that were computed before.

    Args:
        pairs: iterable of (features, label), float arrays `(height, width,
            channels)` and integer arrays of the images' (height, width).
        class_names: tuple of strings.
    """
    num_classes = len(class_names)
    sums: tuple = ()
    count = 0
    for after, label in pairs:
        count += 1
        shares = class_shares(label, after.shape[:2], num_classes)
        found = _sums(after.reshape(-1, after.shape[-1]), shares)
        sums = tuple(map(operator.add, sums, found)) if sums else found
    if not count or not sums[0].any():
        raise ValueError(
            "Expected at least one image with a label that has pixels of a "
            "class."
        )
    return ChannelClasses(_responses(*sums), class_names, count)


def _sums(rows, shares):
    rows, shares = rows.astype("float64"), shares.astype("float64")
    weight = shares.sum(1)
    return shares.sum(0), shares.T @ rows, weight @ np.square(rows)


def _responses(weights, sums, squares):
    """(mean on a class - mean on the others) / deviation over both."""
    total = weights.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / weights[:, np.newaxis]
        others = (sums.sum(0) - sums) / (total - weights)[:, np.newaxis]
        mean = sums.sum(0) / total
        deviation = np.sqrt(np.maximum(squares / total - mean**2, 0))
        found = np.where(deviation > 0, (means - others) / deviation, 0)
    found[weights == 0] = np.nan
    return found.T


def grouped(
    scores: np.ndarray, classes: np.ndarray, num_classes: int
) -> np.ndarray:
    """The map of channels, summed up by the classes of the channels.

    Args:
        scores: array `(channels, channels)` of `ChannelAttention`.
        classes: int array `(channels,)` of `ChannelClasses`.
        num_classes: integer.

    Returns:
        float64 array `(num_classes, num_classes)`: of what the channels of a
        class (row) gather, the share that comes from those of another; NaN in
        the rows of classes without a channel.

    Example:

    >>> scores = np.array([[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0, 1, 0]])
    >>> keras_danet.explain.grouped(scores, np.array([0, 0, 1]), 2)
    array([[0.8, 0.2],
           [1. , 0. ]])
    """
    members = np.eye(num_classes)[classes]
    with np.errstate(invalid="ignore"):
        counts = members.sum(0)[:, np.newaxis]
        return members.T @ scores.astype("float64") @ members / counts
