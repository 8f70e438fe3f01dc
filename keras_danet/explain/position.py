"""Where position attention looks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_danet.data.resampling import largest_class
from keras_danet.explain.observing import Observer
from keras_danet.explain.observing import checked_label
from keras_danet.explain.observing import checked_points
from keras_danet.explain.observing import class_shares
from keras_danet.inference.protocols import Size
from keras_danet.layers.tiled_attention import attend


def position_attention(
    model: Any,
    image: Any,
    points: Sequence[tuple[int, int]],
    size: Size = "auto",
) -> np.ndarray:
    """Where points of an image attend to.

    Only the rows of the N x N map for `points` are computed, never the map,
    and of the network only what lies before position attention.

    Args:
        model: a `DANet` with position attention, or the name of one: a run's
            folder, a `.keras` file, a preset.
        image: as for `Predictor`.
        points: sequence of (row, column) in pixels of the image.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.

    Returns:
        float32 array `(points, height, width)` in the resolution of the
        features. Each map sums to 1: how much of what the point gathers comes
        from each position.

    Raises:
        ValueError: for a model without position attention, or a point
            outside the image.

    Reference:
        - [Dual Attention Network for Scene Segmentation, section 3.2](
          https://arxiv.org/abs/1809.02983), figure 6

    Example:

    >>> from keras_danet import explain
    >>> model = keras_danet.DANet(
    ...     num_classes=5, backbone=keras_danet.DilatedResNet(18, filters=8))
    >>> maps = explain.position_attention(
    ...     model, np.zeros((64, 96, 3), "uint8"), [(0, 0), (40, 90)])
    >>> maps.shape, np.round(maps.sum((1, 2)), 5).tolist()
    ((2, 8, 12), [1.0, 1.0])
    """
    observer = Observer(model, size)
    layer = observer.attention("position")
    image = observer.read(image)
    points = checked_points(points, image.shape)
    query, key = _query_and_key(observer, layer, image)
    return point_maps(query, key, points, image.shape[:2])


def point_maps(query, key, points, image_size):
    """The rows of the attention's map for some points.

    Args:
        query: array `(height, width, depth)` of the points' image.
        key: array `(height, width, depth)`, of the same image, or of another
            one in which the points look.
        points: list of (row, column) in pixels of the points' image.
        image_size: (height, width) of the points' image.

    Returns:
        float32 array `(points, height, width)` of the size of `key`.
    """
    height, width, depth = query.shape
    rows = [point[0] * height // image_size[0] for point in points]
    columns = [point[1] * width // image_size[1] for point in points]
    energy = query[rows, columns] @ key.reshape(-1, depth).T
    weights = np.exp(energy - energy.max(-1, keepdims=True, initial=-np.inf))
    weights /= weights.sum(-1, keepdims=True)
    return weights.reshape(-1, *key.shape[:2])


def _query_and_key(observer, layer, image):
    features = observer.compute(image, layer.input)

    def project():
        return [
            ops.convert_to_numpy(ops.cast(part(features), "float32"))[0]
            for part in (layer.query, layer.key)
        ]

    return observer.run(project)


@dataclasses.dataclass(frozen=True)
class Reach:
    """How far points look; an array of a number per point each.

    Args:
        near: the share of a point's attention within `radius` of it.
        even_near: the same, were attention even over the image.
        distance: the mean distance of what it attends to, in pixels.
        even_distance: the same, were attention even.
        radius: float, in pixels of the image.
    """

    near: np.ndarray
    even_near: np.ndarray
    distance: np.ndarray
    even_distance: np.ndarray
    radius: float


def reach(
    maps: np.ndarray,
    points: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    radius: float | None = None,
) -> Reach:
    """How much points gather from near and from far.

    Args:
        maps: what `position_attention` returned.
        points: its points.
        image_size: (height, width) of the image in pixels.
        radius: float, what is near, in pixels. Defaults to `None`, an eighth
            of the image's diagonal.

    Returns:
        A `Reach`.

    Example:

    >>> maps = np.zeros((1, 2, 4))
    >>> maps[0, 0, 0] = 0.75
    >>> maps[0, 0, 3] = 0.25
    >>> found = keras_danet.explain.reach(maps, [(8, 8)], (32, 64), radius=10)
    >>> float(found.near[0]), float(found.even_near[0])
    (0.75, 0.125)
    """
    points = checked_points(points, image_size)
    height, width = image_size
    if radius is None:
        radius = np.hypot(height, width) / 8
    rows, columns = maps.shape[1:]
    # Middles of positions and of pixels.
    y = (np.arange(rows) + 0.5) * height / rows - 0.5
    x = (np.arange(columns) + 0.5) * width / columns - 0.5
    row, column = np.array(points, "float64").reshape(-1, 2).T
    distances = np.hypot(
        y[:, None] - row[:, None, None], x - column[:, None, None]
    )
    is_near = distances <= radius
    axes = (1, 2)
    return Reach(
        near=(maps * is_near).sum(axes),
        even_near=is_near.mean(axes),
        distance=(maps * distances).sum(axes),
        even_distance=distances.mean(axes),
        radius=float(radius),
    )


@dataclasses.dataclass(frozen=True)
class ClassAttention:
    """Which class looks at which.

    Args:
        matrix: float64 array `(num_classes, num_classes)`. Row `a`, column
            `b`: the share of the attention of class a's positions that lies
            on class b. A row sums to 1, less what lies on pixels without a
            class; it is NaN where the image has none of the class.
        shares: float64 array `(num_classes,)`, of the image that each class
            has: what a row would be, were attention even.
        class_names: tuple of strings.
    """

    matrix: np.ndarray
    shares: np.ndarray
    class_names: tuple[str, ...]

    @property
    def preference(self) -> np.ndarray:
        """`matrix` in multiples of even attention; NaN for absent classes."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.shares > 0, self.matrix / self.shares, np.nan)


def class_attention(
    model: Any,
    image: Any,
    labels: np.ndarray | None = None,
    size: Size = "auto",
) -> ClassAttention:
    """Which class looks at which, from all rows of the N x N map.

    The map is never whole: its product with the classes of the positions is
    computed in tiles, as in the network.

    Args:
        model: a `DANet` with position attention, or the name of one.
        image: as for `Predictor`.
        labels: integer array `(height, width)` of the image's classes, 255
            for pixels without one. Defaults to `None`, the network's own.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.

    Returns:
        A `ClassAttention`.

    Raises:
        ValueError: for a model without position attention, or labels that do
            not fit the image.
    """
    observer = Observer(model, size)
    layer = observer.attention("position")
    image = observer.read(image)
    network, num_classes = observer.model, observer.model.num_classes
    if labels is not None:
        labels = checked_label(labels, image.shape[:2], num_classes)
    tensors = {"features": layer.input}
    if labels is None:
        tensors["logits"] = network.inference_model.output
    values = observer.compute(image, tensors)
    features = values["features"]
    if labels is None:
        logits = ops.convert_to_numpy(values["logits"])[0]
        labels = largest_class(logits, image.shape[:2])
    _, height, width, _ = features.shape
    shares = class_shares(labels, (height, width), num_classes)

    def gather():
        query, key = (
            ops.reshape(ops.cast(part(features), "float32"), (1, -1, depth))
            for part, depth in (
                (layer.query, layer.query.filters),
                (layer.key, layer.key.filters),
            )
        )
        values = ops.convert_to_tensor(shares[np.newaxis])
        return ops.convert_to_numpy(attend(query, key, values))[0]

    gathered = observer.run(gather).astype("float64")
    weights = shares.astype("float64")
    totals = weights.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = (weights.T @ gathered) / totals[:, np.newaxis]
    matrix[totals == 0] = np.nan
    return ClassAttention(
        matrix,
        totals / len(weights),
        tuple(observer.predictor.class_names),
    )
