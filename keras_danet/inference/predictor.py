"""`Predictor`: an image of any size in, its label map out."""

import math
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_danet.data.decoding import MAX_PIXELS
from keras_danet.data.resampling import largest_class
from keras_danet.data.resampling import resize_logits
from keras_danet.data.resampling import scaled_size
from keras_danet.distribution.keras_distributions import turn_of
from keras_danet.inference.forward import computes_on_cpu
from keras_danet.inference.forward import gives_logits
from keras_danet.inference.forward import make_forward
from keras_danet.inference.forward import mean_pixel
from keras_danet.inference.images import as_array
from keras_danet.inference.passes import Passes
from keras_danet.inference.passes import Uncertainty
from keras_danet.inference.protocols import InferenceProtocol
from keras_danet.inference.protocols import Size
from keras_danet.inference.protocols import make_protocol
from keras_danet.inference.windows import Windows
from keras_danet.models import DANet
from keras_danet.models.fit_checks import pixels_of
from keras_danet.models.fit_checks import warn_of_pixels
from keras_danet.models.memory import check_memory
from keras_danet.models.memory import count_multiplications
from keras_danet.models.memory import features_stride
from keras_danet.runs import classes_of
from keras_danet.runs import open_model
from keras_danet.waiting import answering

# Images with fewer pixels are not worth a time estimate, which is measured on
# an image of TRIAL pixels.
LARGE = 2**21
TRIAL = 2**17

# Seconds to wait for a thread that trains the same model.
PATIENCE = 30

# Pixels of a batch of windows: on a CPU more only take memory.
CPU_BATCH, BATCH = 2**18, 2**22

# Threads take turns: memory is checked for one image, each would use all
# cores, and Keras's trainers are not thread-safe.
_one_at_a_time = threading.Lock()


class Predictor:
    """Segments images of any size with a DANet.

    By default the whole image goes through the network once: at its own size,
    or resized to `size` as training resizes its crops (bilinear, with
    antialiasing). It can go in windows, at several scales and mirrored, by
    settings of your own or by those of a published figure (`protocol`). The
    results are resized back to the image (bilinear) and averaged, so that a
    label map always has the image's size. Threads may share a predictor.

    Args:
        model: a `DANet`, or what `optimize_for_inference` made of one; or the
            name of one: a run's folder, a `.keras` file, a preset.
        window: (height, width) in pixels of what the network sees at a time,
            or one integer for both; `None` for the whole image. Windows start
            at multiples of `stride`, the last one is shifted back to the
            border; a smaller image is padded with the mean pixel.
        stride: (height, width), at most `window`. Defaults to `None`, two
            thirds of the window.
        scales: numbers from 1/16 to 16, factors on the image's size: one
            pass for each. Defaults to `(1.0,)`.
        mirror: boolean, whether the mirror image is seen as well. Defaults to
            `False`.
        average: what is averaged where windows overlap, and over scales and
            mirror images: `"softmax"`, `"logits"`, `"exponentials"` (the
            authors': exponentials of the sums of logits), or a pair, as
            `("logits", "softmax")`. Defaults to `"softmax"`.
        size: the size that the network sees; the aspect ratio is kept. An
            integer, the pixels of the longer side; or (long, short), which
            neither side exceeds. Either of the two may be `None`; the greater
            of two integers is the long side. `None` is the image's own size.
            Defaults to `"auto"`: the `TrainConfig.test_sides` of the run that
            `model` names, else `model.test_size`.
        protocol: a name in `inference.PROTOCOLS` ("authors",
            "mmsegmentation_slide", ...), or an `InferenceProtocol`. Other
            arguments that are not their default replace its settings.
            Defaults to `None`.
        blend: the weights of a window's pixels where windows overlap:
            `"uniform"`, `"gaussian"` or `"cosine"`. Defaults to `"uniform"`.

    Call arguments:
        image: a path, a Pillow image, the bytes of a file, a file open for
            reading them, or an array or tensor `(height, width, 3)`, RGB in
            0-255, uint8 or float. Photographs are turned upright by their
            EXIF orientation.

    Attributes:
        protocol: `InferenceProtocol`, how a figure measured with it was
            obtained.
        class_names, palette: tuples of a name and a color per class.

    Returns:
        `(height, width)` uint8 array of class indices.

    Raises:
        ValueError: if the image has another shape, is empty, has values
            outside 0-255, is too large for the available memory, or a file
            cannot be read; or if an argument is not what it must be.

    Example:

    >>> model = keras_danet.DANet(
    ...     num_classes=5, backbone=keras_danet.DilatedResNet(18, filters=8))
    >>> predictor = keras_danet.Predictor(model, size=32)
    >>> labels = predictor(np.zeros((37, 20, 3), "uint8"))
    >>> labels.shape, labels.dtype
    ((37, 20), dtype('uint8'))
    >>> predictor = keras_danet.Predictor(
    ...     model, window=(32, 32), scales=(0.5, 1), mirror=True)
    >>> predictor.probabilities(np.zeros((37, 50, 3), "uint8")).shape
    (37, 50, 5)
    """

    def __init__(
        self,
        model: keras.Model | str | os.PathLike[str],
        window: int | Sequence[int] | None = None,
        stride: int | Sequence[int] | None = None,
        scales: float | Sequence[float] = (1.0,),
        mirror: bool = False,
        average: str | Sequence[str] = "softmax",
        size: Size = "auto",
        protocol: str | InferenceProtocol | None = None,
        blend: str = "uniform",
    ):
        given = {
            "window": window,
            "stride": stride,
            "scales": scales,
            "mirror": mirror,
            "average": average,
            "size": size,
            "blend": blend,
        }
        # Before a preset is downloaded for nothing.
        make_protocol(protocol, None, **given)
        config = None
        if isinstance(model, (str, os.PathLike)):
            model, config = open_model(model)
        if not isinstance(model, DANet) and not gives_logits(model):
            raise ValueError(
                "`model` must be a DANet, or a functional model of images "
                "(batch, height, width, 3) to logits of their size, such as "
                "`optimize_for_inference` makes. "
                f"Received: {type(model).__name__}"
            )
        kept = getattr(model, "test_size", None)
        kept = config.test_sides if config else kept
        self.protocol = make_protocol(protocol, kept, **given)
        self.model = model
        self.class_names, self.palette = classes_of(model)
        self._check_window()
        self._pixel = _padding(self.protocol.padding, model)
        self._forward = make_forward(model)
        self._fitting_sizes: list[tuple[int, int, int]] = []
        self._speed = None

    def __call__(self, image: Any) -> np.ndarray:
        image = answering(as_array, image)
        passes = self._passes(image)
        if passes.is_plain:
            return answering(
                largest_class, passes.whole_logits(), image.shape[:2]
            )
        return passes.labels()

    def logits(self, image: Any) -> np.ndarray:
        """The logits, `(height, width, num_classes)` float array.

        Raises:
            ValueError: where the average is not one of logits.
        """
        image = answering(as_array, image)
        passes = self._passes(image)
        if passes.is_plain:
            passes.check_room(1)
            logits = passes.whole_logits()
            return answering(resize_logits, logits, image.shape[:2])
        if not passes.has_logits:
            raise ValueError(
                "This average is not one of logits alone: use "
                "`probabilities`, or average='logits'. "
                f"Received: {self.protocol}"
            )
        return passes.mean()

    def probabilities(self, image: Any) -> np.ndarray:
        """The classes' probabilities, `(height, width, num_classes)` float32.

        They sum to 1. The largest one is the class of the label map, but where
        rounding makes two equal.
        """
        return self._passes(answering(as_array, image)).probabilities()

    def label_and_probabilities(
        self, image: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """The label map, and `probabilities`."""
        passes = self._passes(answering(as_array, image))
        return passes.label_and_probabilities()

    def label_and_confidence(self, image: Any) -> tuple[np.ndarray, np.ndarray]:
        """The label map, and the probability of each pixel's label, float32.

        No more than one pass's worth of classes is held in memory.
        """
        passes = self._passes(answering(as_array, image))
        return passes.label_and_confidence()

    def uncertainty(self, image: Any) -> Uncertainty:
        """The label map with three maps of how far to trust it.

        Returns:
            `Uncertainty`, a tuple of `(height, width)` arrays: `label`, uint8;
            `confidence`, the probability of the label, float32; `entropy` of
            the probabilities in nats, from 0 to log(number of classes);
            `spread` over scales and mirror images, the root of the summed
            variances of the probabilities: 0 with one pass.
        """
        return self._passes(answering(as_array, image)).uncertainty()

    @property
    def size(self) -> tuple[int | None, int | None]:
        """The (long, short) side that images are resized to at scale 1."""
        return self.protocol.size  # type: ignore[return-value]

    @property
    def window(self) -> tuple[int, int] | None:
        return self.protocol.window

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the largest that the network sees of an image.

        Windows over it may show less at a time.
        """
        return self.protocol.network_size(
            height, width, max(self.protocol.scales)
        )

    def resize(self, image: np.ndarray) -> np.ndarray:
        """What the network sees of an image at the largest scale."""
        size = self.network_size(*image.shape[:2])
        passes = self._passes(image)
        return passes.resize(passes.padded(), size)

    def check_size(self, height: int, width: int) -> None:
        """Raises a ValueError if images of this size need too much memory."""
        size = self.network_size(height, width)
        self._check_pixels(size)
        self._check_batch(1, *Windows(size, self.protocol).shape)

    def expected_seconds(self, height: int, width: int) -> float:
        """About how long such an image will take, judged by a small one.

        Returns:
            Float; 0 for an image that is small at the network's size.
        """
        grids = [
            Windows(size, self.protocol)
            for size in self.protocol.network_sizes(height, width)
        ]
        pixels = sum(grid.count * math.prod(grid.shape) for grid in grids)
        if pixels < LARGE:
            return 0.0
        if self._speed is None:
            largest = max((grid.shape for grid in grids), key=math.prod)
            self._speed = self._measure(largest)
        total = sum(
            grid.count * count_multiplications(self.model, *grid.shape)
            for grid in grids
        )
        return total * (2 if self.protocol.mirror else 1) / self._speed

    def _measure(self, size):
        """Multiplications per second, of a smaller image."""
        factor = min(1, math.sqrt(TRIAL / math.prod(size)))
        small = tuple(scaled_size(size, None, None, factor).tolist())
        batch = np.zeros((1, *small, 3), "uint8")
        # The first one compiles.
        for _ in range(2):
            started = time.perf_counter()
            self._compute(batch)
            seconds = time.perf_counter() - started
        return count_multiplications(self.model, *small) / seconds

    def passes(
        self, image: Any, protocol: InferenceProtocol | None = None
    ) -> Passes:
        """What `inference.large_images` takes windows of.

        Args:
            image: anything with `shape` (height, width, 3) that gives pixels
                for `image[top:bottom, left:right]`.
            protocol: `InferenceProtocol`. Defaults to `None`, its own.
        """
        return Passes(
            image,
            protocol or self.protocol,
            self._pixel,
            self._compute,
            self._batch_size,
            len(self.class_names),
        )

    def _passes(self, image):
        warn_of_pixels(self.model, pixels_of(image))
        self._check_pixels(self.network_size(*image.shape[:2]))
        return self.passes(image)

    def _compute(self, batch):
        """The logits of a batch of windows."""
        # Only a training is waited for with a limit, not other predictions.
        with _one_at_a_time, turn_of(self.model, PATIENCE):
            self._check_batch(*batch.shape[:3])
            # A distribution is set per thread, so this stays in the thread.
            if keras.distribution.distribution() is not None:
                logits = self._forward(batch)
            else:
                logits = answering(self._forward, batch)
        # One number that no NaN and no infinity leaves finite.
        if not np.isfinite(logits.sum(dtype="float64")):
            raise ValueError(
                "The network computes NaN or infinity for this image. "
                "Expected finite logits: its training may have diverged, or "
                "its file is damaged. Use other weights."
            )
        return logits

    def _batch_size(self, windows):
        """How many windows go through the network at a time."""
        # Also a window that is larger than the image is filled up.
        self._check_batch(1, *windows.shape)
        most = CPU_BATCH if computes_on_cpu() else BATCH
        size = windows.batch_size(most // math.prod(windows.shape))
        while size > 1:
            try:
                self._check_batch(size, *windows.shape)
                break
            except ValueError:
                size = windows.batch_size(size - 1)
        return size

    def _check_batch(self, count, height, width):
        # An estimate takes as long as a small image. A size needs one only
        # if it does not fit into a size that was checked before.
        if not any(
            count <= images and height <= rows and width <= columns
            for images, rows, columns in self._fitting_sizes
        ):
            check_memory(
                self.model,
                count,
                height,
                width,
                remedy=self.window and "Choose a smaller `window`.",
            )
            self._fitting_sizes.append((count, height, width))

    def _check_pixels(self, size):
        # Windows need little memory, but the image that they are cut from.
        if math.prod(size) > MAX_PIXELS:
            raise ValueError(
                f"The image would be resized to {size[0]} x {size[1]} pixels "
                f"(height x width). Expected at most {MAX_PIXELS} pixels; "
                "choose a smaller `size` or smaller `scales`. Received: "
                f"{self.protocol}"
            )

    def _check_window(self):
        if self.window is None:
            return
        stride = features_stride(self.model)
        if min(self.window) < stride:
            raise ValueError(
                f"`window` must be at least {stride} x {stride}, the pixels "
                "to each of the network's features. Received: "
                f"window={self.window}"
            )

    as_array = staticmethod(as_array)


def _padding(kind, model):
    if kind == "mean":
        return mean_pixel(model)
    return np.full(3, {"grey": 127.5}.get(kind, 0), "float32")
