"""What a DANet's attentions look at in an image."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_danet.distribution.keras_distributions import turn_of
from keras_danet.inference.predictor import PATIENCE
from keras_danet.inference.predictor import Predictor
from keras_danet.inference.protocols import Size
from keras_danet.models.fit_checks import pixels_of
from keras_danet.models.fit_checks import warn_of_pixels
from keras_danet.models.functional import FunctionalModel
from keras_danet.waiting import answering


def attention_maps(
    model: keras.Model,
    image: Any,
    points: Sequence[tuple[int, int]],
    num_channels: int = 3,
    size: Size = "auto",
) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
    """What a DANet's attentions look at in an image.

    Only the rows of the N x N map for `points` are computed, never the map.

    Args:
        model: `DANet`.
        image: as for `Predictor`.
        points: sequence of (row, column) in pixels of the image.
        num_channels: integer, how many channels to show: those of channel
            attention's output that vary most over the image. Defaults to
            `3`.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.

    Returns:
        `(point_maps, channel_maps, channels)`: per point, a float array of
        the features' (height, width) that sums to 1; per channel, its output;
        and the channels' numbers. Empty for an attention that the model does
        not have.
    """
    predictor = Predictor(model, size=size)
    image = predictor.as_array(image)
    rows, columns = image.shape[:2]
    predictor.check_size(rows, columns)
    warn_of_pixels(model, pixels_of(image))
    image = predictor.resize(image)
    point_maps, channel_maps, channels = [], [], []
    if "position" in model.attention:
        layer = model.get_layer("position_attention")
        query, key = (
            _features(model, part(layer.input), image)
            for part in (layer.query, layer.key)
        )
        height, width, depth = query.shape
        for row, column in points:
            cell = query[
                row * height // rows,
                column * width // columns,
            ]
            energy = key.reshape(-1, depth) @ cell
            weights = np.exp(energy - energy.max())
            point_maps.append((weights / weights.sum()).reshape(height, width))
    if "channel" in model.attention:
        output = model.get_layer("channel_attention").output
        features = _features(model, output, image)
        deviation = features.std(axis=(0, 1))
        channels = np.argsort(-deviation)[:num_channels].tolist()
        channel_maps = [features[..., channel] for channel in channels]
    return point_maps, channel_maps, channels


def _features(model, tensor, image):
    """The value of a symbolic tensor of `model` for one image, float32."""
    inside = FunctionalModel(model.input, tensor)
    batch = keras.ops.convert_to_tensor(image[np.newaxis], dtype="float32")
    with turn_of(model, PATIENCE):
        features = answering(functools.partial(inside, training=False), batch)
    return keras.ops.convert_to_numpy(features)[0].astype("float32")
