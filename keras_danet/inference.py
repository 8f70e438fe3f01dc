"""`Predictor`: an image of any size in, its label map out."""

import os

import keras
import numpy as np
from PIL import Image

from keras_danet.data.decoding import read_image
from keras_danet.memory import check_memory
from keras_danet.models import DANet
from keras_danet.models.functional import FunctionalModel


class Predictor:
    """Segments images of any size with a DANet.

    The whole image goes through the network at its own size, once.

    Args:
        model: a `DANet`, or what `optimize_for_inference` made of one.

    Call arguments:
        image: a path, a Pillow image, or an array `(height, width, 3)`, RGB
            in 0-255, uint8 or float.

    Returns:
        `(height, width)` uint8 array of class indices.

    Raises:
        ValueError: if the image has another shape, is empty, has values
            outside 0-255, is too large for the memory there is, or a file
            cannot be read.

    Example:

    >>> model = keras_danet.DANet(
    ...     num_classes=5, backbone=keras_danet.DilatedResNet(18, filters=8))
    >>> predictor = keras_danet.Predictor(model)
    >>> labels = predictor(np.zeros((37, 20, 3), "uint8"))
    >>> labels.shape, labels.dtype
    ((37, 20), dtype('uint8'))
    """

    # How a number measured with it was measured.
    protocol = "whole images, one scale, no mirroring"

    def __init__(self, model):
        if not isinstance(model, DANet) and not _gives_logits(model):
            raise ValueError(
                "`model` must be a DANet, or a functional model of images "
                "(batch, height, width, 3) to logits of their size, such as "
                "`optimize_for_inference` makes. "
                f"Received: {type(model).__name__}"
            )
        self.model = model
        self._fitting_sizes = []

    def __call__(self, image):
        return np.argmax(self.logits(image), axis=-1).astype("uint8")

    def logits(self, image):
        """The logits, `(height, width, num_classes)` float array."""
        image = self.as_array(image)
        self.check_size(*image.shape[:2])
        # Devices that share a batch equally get an image each: the same.
        batch = np.repeat(image[np.newaxis], _num_replicas(), axis=0)
        return self.model.predict_on_batch(batch)[0]

    def check_size(self, height, width):
        """Raises a ValueError if images of this size need too much memory."""
        # An estimate takes as long as a small image; of many sizes in a data
        # set only those need one that are larger than all before.
        if not any(
            height <= rows and width <= columns
            for rows, columns in self._fitting_sizes
        ):
            check_memory(self.model, 1, height, width)
            self._fitting_sizes.append((height, width))

    @staticmethod
    def as_array(image):
        """`image` in any accepted form as a `(height, width, 3)` array."""
        if isinstance(image, (str, os.PathLike)):
            return read_image(image)
        if isinstance(image, Image.Image):
            image = image.convert("RGB")
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
            raise ValueError(
                "An image must have the shape (height, width, 3), RGB in "
                f"0-255. Received: shape {image.shape}"
            )
        if image.dtype.kind not in "iuf":
            raise ValueError(
                "An image must be uint8 or float, RGB in 0-255. Received: "
                f"dtype {image.dtype}"
            )
        # Written so that NaN fails it too.
        if not 0 <= image.min() <= image.max() <= 255:
            raise ValueError(
                "An image must lie in 0-255. Received: values from "
                f"{image.min()} to {image.max()}"
            )
        return image


def _num_replicas():
    placed = keras.distribution.distribution()
    if placed is None:
        return 1
    mesh = placed.device_mesh
    return mesh.shape[mesh.axis_names.index(placed.batch_dim_name)]


def _gives_logits(model):
    """Whether a model makes of an image a map of the image's size."""
    shape = getattr(getattr(model, "input", None), "shape", ())
    if len(shape) != 4 or shape[-1] != 3:
        return False
    # What is downsampled is not of this size, whatever rounds it.
    size = tuple(
        side or other for side, other in zip(shape[1:3], (33, 49), strict=True)
    )
    output = model.compute_output_shape((1, *size, 3))
    return len(output) == 4 and tuple(output[1:3]) == size


def attention_maps(model, image, points, num_channels=3):
    """What a DANet's attentions look at in an image.

    One position's row of the N x N map is computed, never the map.

    Args:
        model: `DANet`.
        image: as `Predictor` takes it.
        points: sequence of (row, column) in pixels of the image.
        num_channels: integer, how many channels to show: those of channel
            attention's output that vary most over the image. Defaults to
            `3`.

    Returns:
        `(point_maps, channel_maps, channels)`: per point, a float array of
        the features' (height, width) that sums to 1; per channel, its output;
        and the channels' numbers. Empty for an attention that the model has
        not.
    """
    image = Predictor.as_array(image)
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
                row * height // image.shape[0],
                column * width // image.shape[1],
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
    features = inside(batch, training=False)
    return keras.ops.convert_to_numpy(features)[0].astype("float32")
