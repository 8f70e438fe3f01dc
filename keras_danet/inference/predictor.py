"""`Predictor`: an image of any size in, its label map out."""

import functools
import math
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any
from typing import Literal

import keras
import numpy as np
from PIL import Image

from keras_danet.data.decoding import MAX_PIXELS
from keras_danet.data.decoding import read_image
from keras_danet.data.decoding import read_open_image
from keras_danet.data.resampling import largest_class
from keras_danet.data.resampling import resize_image
from keras_danet.data.resampling import resize_logits
from keras_danet.data.resampling import scaled_size
from keras_danet.data.resampling import standardize_sides
from keras_danet.distribution.keras_distributions import num_shares
from keras_danet.distribution.keras_distributions import turn_of
from keras_danet.models import DANet
from keras_danet.models.fit_checks import pixels_of
from keras_danet.models.fit_checks import warn_of_pixels
from keras_danet.models.functional import FunctionalModel
from keras_danet.models.memory import check_memory
from keras_danet.models.memory import count_multiplications
from keras_danet.runs import classes_of
from keras_danet.runs import open_model
from keras_danet.waiting import answering

# The size that images are resized to: the longer side, (long, short), `None`
# for their own, or "auto" for what the model was trained with.
Size = int | tuple[int | None, int | None] | None | Literal["auto"]


def _as_numpy(image):
    """An array from an array, a tensor or nested lists."""
    if keras.ops.is_tensor(image):
        image = keras.ops.convert_to_numpy(image)
    elif hasattr(image, "detach"):
        # A torch tensor on another backend.
        image = image.detach().cpu().float()
    try:
        image = np.asarray(image)
    # Rows of different lengths.
    except ValueError as error:
        raise ValueError(
            "An image must be an array (height, width, 3), RGB in 0-255. "
            f"Received: one of {type(image).__name__} ({error})"
        ) from error
    # NumPy has no native bfloat16.
    return image.astype("float32") if image.dtype.name == "bfloat16" else image


def _reshaping(shape):
    """A hint how to turn this shape into an image, if that is clear."""
    if len(shape) == 4:
        return ". Give one image of the batch at a time."
    if len(shape) == 3 and shape[0] == 3:
        return ". Put channels last: image.transpose(1, 2, 0)."
    if len(shape) == 2:
        return ". Grey needs three channels: np.stack([image] * 3, -1)."
    return ""


# Images with fewer pixels are not worth a time estimate, which is measured on
# an image of TRIAL pixels.
LARGE = 2**21
TRIAL = 2**17

# Seconds to wait for a thread that trains the same model.
PATIENCE = 30

# Threads take turns: memory is checked for one image, each would use all
# cores, and Keras's trainers are not thread-safe.
_one_at_a_time = threading.Lock()


class Predictor:
    """Segments images of any size with a DANet.

    The whole image goes through the network once: at its own size, or resized
    to `size` as training resizes its crops (bilinear, with antialiasing). The
    logits are resized back to the image (bilinear), so that a label map
    always has the image's size. Threads may share a predictor.

    Args:
        model: a `DANet`, or what `optimize_for_inference` made of one; or the
            name of one: a run's folder, a `.keras` file, a preset.
        size: the size that the network sees; the aspect ratio is kept. An
            integer, the pixels of the longer side; or (long, short), which
            neither side exceeds. Either of the two may be `None`; the greater
            of two integers is the long side. `None` is the image's own size.
            Defaults to `"auto"`: the `TrainConfig.test_sides` of the run that
            `model` names, else `model.test_size`.

    Call arguments:
        image: a path, a Pillow image, the bytes of a file, a file open for
            reading them, or an array or tensor `(height, width, 3)`, RGB in
            0-255, uint8 or float. Photographs are turned upright by their
            EXIF orientation.

    Attributes:
        protocol: string, how a figure measured with it was obtained.
        class_names, palette: tuples of a name and a color per class.

    Returns:
        `(height, width)` uint8 array of class indices.

    Raises:
        ValueError: if the image has another shape, is empty, has values
            outside 0-255, is too large for the available memory, or a file
            cannot be read; or if `size` is not a size.

    Example:

    >>> model = keras_danet.DANet(
    ...     num_classes=5, backbone=keras_danet.DilatedResNet(18, filters=8))
    >>> predictor = keras_danet.Predictor(model, size=32)
    >>> labels = predictor(np.zeros((37, 20, 3), "uint8"))
    >>> labels.shape, labels.dtype
    ((37, 20), dtype('uint8'))
    """

    def __init__(
        self,
        model: keras.Model | str | os.PathLike[str],
        size: Size = "auto",
    ):
        config = None
        if isinstance(model, (str, os.PathLike)):
            model, config = open_model(model)
        if isinstance(size, str) and size == "auto":
            kept = getattr(model, "test_size", None)
            size = config.test_sides if config else kept
        if not isinstance(model, DANet) and not _gives_logits(model):
            raise ValueError(
                "`model` must be a DANet, or a functional model of images "
                "(batch, height, width, 3) to logits of their size, such as "
                "`optimize_for_inference` makes. "
                f"Received: {type(model).__name__}"
            )
        self.model = model
        self.class_names, self.palette = classes_of(model)
        self.size = standardize_sides(size)
        self._forward = _forward(model)
        self._fitting_sizes: list[tuple[int, int]] = []
        self._speed = None

    def __call__(self, image: Any) -> np.ndarray:
        return self._resized(largest_class, image)

    def logits(self, image: Any) -> np.ndarray:
        """The logits, `(height, width, num_classes)` float array."""
        return self._resized(resize_logits, image)

    def _resized(self, resize, image):
        image = answering(self.as_array, image)
        return answering(resize, self._logits(image), image.shape[:2])

    @property
    def protocol(self) -> str:
        return f"whole images {_describe(self.size)}, one scale, no mirroring"

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of what the network sees of such an image."""
        return tuple(scaled_size((height, width), *self.size).tolist())

    def resize(self, image: np.ndarray) -> np.ndarray:
        """What the network sees of an image."""
        return resize_image(image, self.network_size(*image.shape[:2]))

    def check_size(self, height: int, width: int) -> None:
        """Raises a ValueError if images of this size need too much memory."""
        height, width = self.network_size(height, width)
        # An estimate takes as long as a small image. A size needs one only
        # if it does not fit into a size that was checked before.
        if not any(
            height <= rows and width <= columns
            for rows, columns in self._fitting_sizes
        ):
            check_memory(self.model, 1, height, width)
            self._fitting_sizes.append((height, width))

    def expected_seconds(self, height: int, width: int) -> float:
        """About how long such an image will take, judged by a small one.

        Returns:
            Float; 0 for an image that is small at the network's size.
        """
        size = self.network_size(height, width)
        if math.prod(size) < LARGE:
            return 0.0
        if self._speed is None:
            small = scaled_size(
                size, None, None, math.sqrt(TRIAL / math.prod(size))
            )
            batch = np.zeros((*small, 3), "uint8")
            # The first one compiles.
            for _ in range(2):
                started = time.perf_counter()
                self._logits(batch)
                seconds = time.perf_counter() - started
            trial = self.network_size(*small)
            self._speed = count_multiplications(self.model, *trial) / seconds
        return count_multiplications(self.model, *size) / self._speed

    def _logits(self, image):
        """The logits at the size that the network sees."""
        warn_of_pixels(self.model, pixels_of(image))
        batch = answering(self.resize, image)[np.newaxis]
        with turn_of(self.model, PATIENCE), _one_at_a_time:
            self.check_size(*image.shape[:2])
            # A distribution is set per thread, so this stays in the thread.
            if keras.distribution.distribution() is not None:
                return self._forward(batch)
            return answering(self._forward, batch)

    @staticmethod
    def as_array(image: Any) -> np.ndarray:
        """`image` in any accepted form as a `(height, width, 3)` array."""
        if isinstance(image, (str, os.PathLike)):
            return read_image(image)
        is_file = isinstance(image, (bytes, bytearray, memoryview))
        if is_file or isinstance(image, Image.Image) or hasattr(image, "read"):
            return read_open_image(image)
        image = _as_numpy(image)
        if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
            raise ValueError(
                "An image must have the shape (height, width, 3), RGB in "
                f"0-255. Received: shape {image.shape}{_reshaping(image.shape)}"
            )
        if image.shape[0] * image.shape[1] > MAX_PIXELS:
            raise ValueError(
                f"An image may have at most {MAX_PIXELS} pixels. Received: "
                f"shape {image.shape}. Cut it into pieces."
            )
        if image.dtype.kind not in "iuf":
            raise ValueError(
                "An image must be uint8 or float, RGB in 0-255. Received: "
                f"dtype {image.dtype}"
            )
        # Written so that NaN fails it too.
        if not 0 <= image.min() <= image.max() <= 255:
            raise ValueError(
                "An image must be in 0-255. Received: values from "
                f"{image.min()} to {image.max()}"
            )
        return image if image.dtype == "uint8" else image.astype("float32")


def _describe(sides):
    match sides:
        case None, None:
            return "at their own size"
        case long, None:
            which = f"to a long side of {long} pixels"
        case None, short:
            which = f"to a short side of {short} pixels"
        case long, short:
            which = f"to fit into {long} x {short} pixels (long x short side)"
    return f"resized {which} and logits back"


def _forward(model):
    """A function from an image batch to the first image's logits, NumPy."""
    strategy = getattr(model, "distribute_strategy", None)
    if getattr(strategy, "num_replicas_in_sync", 1) > 1:
        return _forward_on_one_replica(model)
    if keras.backend.backend() != "jax":
        return lambda batch: _predict_on_batch(model, batch)
    # `predict_on_batch` donates the weights' memory to JAX while it runs, so
    # that other readers, such as `attention_maps`, would find none.
    network = getattr(model, "inference_model", model)
    variables = network.variables

    def call(values, batch):
        mapping = zip(variables, values, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            return network(batch, training=False)

    compiled = sys.modules["jax"].jit(call)

    def forward(batch):
        # The options of `compile` apply here, too.
        is_eager = model.run_eagerly or not model.jit_compile
        # During an epoch `fit` keeps the weights elsewhere.
        model.jax_state_sync()
        values = [_nearest(variable.value) for variable in variables]
        output = (call if is_eager else compiled)(values, batch)
        if not output.is_fully_addressable:
            from jax.experimental import multihost_utils

            output = multihost_utils.process_allgather(output, tiled=True)
        return np.asarray(output[0])

    return forward


def _forward_on_one_replica(model):
    """`_forward` for a model on several replicas of a TensorFlow strategy.

    `predict_on_batch` computes on all replicas and gathers the results: each
    worker would wait until all others have an image of this size, too.
    """
    network = getattr(model, "inference_model", model)

    def call(batch):
        return network(batch, training=False)

    compiled = sys.modules["tensorflow"].function(call, reduce_retracing=True)

    def forward(batch):
        output = (call if model.run_eagerly else compiled)(batch)
        return keras.ops.convert_to_numpy(output)[0]

    return forward


def _nearest(value):
    """This process's copy of a weight, to compute without the others."""
    if value.is_fully_addressable or not value.is_fully_replicated:
        return value
    return value.addressable_data(0)


def _predict_on_batch(model, batch):
    # A batch must divide among the devices: each gets the same image.
    batch = np.repeat(batch, num_shares(), axis=0)
    return model.predict_on_batch(batch)[0]


def _gives_logits(model):
    """Whether a model maps an image to a map of the image's size."""
    shape = getattr(getattr(model, "input", None), "shape", ())
    if len(shape) != 4 or shape[-1] != 3:
        return False
    # Odd sides, which no rounding of a downsampled size can give.
    size = tuple(
        side or other for side, other in zip(shape[1:3], (33, 49), strict=True)
    )
    output = model.compute_output_shape((1, *size, 3))
    return len(output) == 4 and tuple(output[1:3]) == size


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
    predictor = Predictor(model, size)
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
