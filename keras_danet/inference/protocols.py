"""What a network is shown of an image, and how its answers become one.

`InferenceProtocol` is the record of it that goes into every report.
`PROTOCOLS` has those of published figures by name.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any
from typing import Literal

from keras_danet import arguments
from keras_danet.data.resampling import scaled_size
from keras_danet.data.resampling import standardize_sides

# The size that images are resized to: the longer side, (long, short), `None`
# for their own, or "auto" for what the model was trained with.
Size = int | tuple[int | None, int | None] | None | Literal["auto"]
Sides = tuple[int | None, int | None]

# What is averaged where windows overlap, and over scales and mirror images.
AVERAGES = (
    ("softmax", "softmax"),
    ("logits", "logits"),
    ("logits", "softmax"),
    ("exponentials", "exponentials"),
)
BLENDS = ("uniform", "gaussian", "cosine")
LEAST_SCALE, MOST_SCALE = 1 / 16, 16
# Fields with a choice of words.
WORDS = {
    "sides": ("nearest", "long up", "limits down"),
    "image_resizing": ("antialiased", "bilinear", "corners"),
    "score_resizing": ("bilinear", "corners"),
    "last_window": ("shifted", "padded"),
    "padding": ("mean", "black", "grey", "none"),
    "blend": BLENDS,
}


@dataclasses.dataclass(frozen=True)
class InferenceProtocol:
    """How images go through a network: everything that a figure depends on.

    Args:
        name: string, the key in `PROTOCOLS`; `None` for settings of your own.
        size: (long, short), integers or `None`: what the sides of an image
            are resized to at scale 1, keeping the aspect ratio; (`None`,
            `None`) for its own; `"auto"` for what the model was trained with.
        sides: string, how a scale s makes sides of it. `"nearest"`: both are
            multiplied and rounded. `"long up"`: the long one is rounded up,
            the other follows it. `"limits down"`: `size` is multiplied and
            rounded down, and the image is fitted into that.
        canvas: (height, width), what a smaller image is padded to at first;
            `None` for no such padding.
        window, stride: (height, width) in pixels of the resized image;
            `None` for the whole image at once.
        last_window: string; where a window would reach over the border, it is
            `"shifted"` back to it, or cut there and `"padded"` to its size.
        padding: string, the pixels that windows and canvas are filled up with
            at their lower right: the `"mean"` pixel of the model, `"black"`
            (0), `"grey"` (127.5), or `"none"`: a smaller image makes a
            smaller window.
        blend: string, the weights of a window's pixels where windows overlap:
            `"uniform"`, or falling towards its border as `"gaussian"` or
            `"cosine"`.
        scales: tuple of numbers, each a pass with the image at this scale.
        chained: boolean, whether each scale's image is resized from the one
            before it.
        mirror: boolean, whether the mirror image makes another pass (with
            exponentials: each window's mirror image).
        average: pair of strings, what is averaged where windows overlap, and
            over scales and mirror images: a pair of `AVERAGES`. Exponentials
            are exp(logits + logits of the mirror image), in float64.
        image_resizing: string: `"antialiased"` as in training, `"bilinear"`
            (half-pixel centres) or `"corners"` (bilinear, the centres of the
            corner pixels stay), both without antialiasing.
        round_pixels: boolean, whether resized pixels become integers.
        score_resizing: string, the same for the way back to the image's size.
    """

    name: str | None = None
    size: Sides | Literal["auto"] = (None, None)
    sides: str = "nearest"
    canvas: tuple[int, int] | None = None
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    last_window: str = "shifted"
    padding: str = "mean"
    blend: str = "uniform"
    scales: tuple[float, ...] = (1.0,)
    chained: bool = False
    mirror: bool = False
    average: tuple[str, str] = ("softmax", "softmax")
    image_resizing: str = "antialiased"
    round_pixels: bool = False
    score_resizing: str = "bilinear"

    def __post_init__(self) -> None:
        for name, value in _checked(self).items():
            object.__setattr__(self, name, value)

    @property
    def num_passes(self) -> int:
        """How many results are averaged at the image's own size."""
        mirrored = self.mirror and self.average[1] != "exponentials"
        return len(self.scales) * (2 if mirrored else 1)

    def network_size(
        self, height: int, width: int, scale: float = 1.0
    ) -> tuple[int, int]:
        """(height, width) that an image is resized to at a scale."""
        if self.canvas:
            height = max(height, self.canvas[0])
            width = max(width, self.canvas[1])
        limits = (None, None) if self.size == "auto" else self.size
        if self.sides == "long up":
            longer, shorter = max(height, width), min(height, width)
            first = math.ceil((limits[0] or longer) * scale)
            second = max(math.floor(shorter * first / longer + 0.5), 1)
            return (first, second) if height > width else (second, first)
        if self.sides == "limits down":
            if limits == (None, None):
                limits = max(height, width), min(height, width)
            long, short = (
                None if side is None else max(int(side * scale), 1)
                for side in limits
            )
            size = scaled_size((height, width), long, short)
        else:
            size = scaled_size((height, width), *limits, scale)
        return tuple(size.tolist())

    def network_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """`network_size` at every scale."""
        return [self.network_size(height, width, x) for x in self.scales]

    def as_dict(self) -> dict[str, Any]:
        """Every setting, as JSON can hold it."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def __str__(self) -> str:
        what = "whole images"
        if self.window and self.stride:
            what = (
                f"windows of {_by(self.window)} every {_by(self.stride)} "
                "pixels of images"
            )
            if self.blend != "uniform":
                what += f" ({self.blend} weights)"
        if self.canvas:
            what += f" padded to {_by(self.canvas)}"
        scales = "one scale"
        if self.scales != (1.0,):
            word = "scale" if len(self.scales) == 1 else "scales"
            scales = f"{word} {', '.join(f'{x:g}' for x in self.scales)}"
        parts = [
            f"{what} {_describe(self.size)}",
            scales,
            "with mirror images" if self.mirror else "no mirroring",
        ]
        if self.window or self.num_passes > 1 or self.mirror:
            first, second = self.average
            means = first if first == second else f"{first}, then {second}"
            parts.append(f"mean of {means}")
        name = f"{self.name}: " if self.name else ""
        return name + ", ".join(parts)


def _by(pair):
    return f"{pair[0]} x {pair[1]}"


def _describe(sides):
    match sides:
        case "auto":
            return "at the model's test size"
        case None, None:
            return "at their own size"
        case long, None:
            which = f"to a long side of {long} pixels"
        case None, short:
            which = f"to a short side of {short} pixels"
        case long, short:
            which = f"to fit into {long} x {short} pixels (long x short side)"
    return f"resized {which} and logits back"


def _checked(given):
    """The fields that have more than one form, each in its own."""
    for name, words in WORDS.items():
        arguments.choice(name, getattr(given, name), words)
    for name in ("mirror", "chained", "round_pixels"):
        arguments.boolean(name, getattr(given, name))
    size = given.size
    if not (isinstance(size, str) and size == "auto"):
        size = standardize_sides(size)
    window, stride = _windows(given.window, given.stride)
    return {
        "size": size,
        "window": window,
        "stride": stride,
        "canvas": given.canvas and _pair("canvas", given.canvas),
        "scales": _scales(given.scales),
        "average": standardize_average(given.average),
        "mirror": bool(given.mirror),
    }


def _pair(name, value):
    one = arguments.plain(value)
    pair = (one, one) if arguments.is_integer(one) else value
    return arguments.integers(
        name,
        pair,
        "must be None, or (height, width) in pixels, two positive integers",
        length=2,
        least=1,
        most=2**20,
    )


def _windows(window, stride):
    if window is None:
        if stride is not None:
            raise ValueError(
                "`stride` is the way between windows, and there is no "
                f"`window`. Received: stride={arguments.shown(stride)}. Give "
                "`window` as well."
            )
        return None, None
    window = _pair("window", window)
    if stride is None:
        # Two thirds, as the authors and MMSegmentation have it.
        return window, tuple(max(side * 2 // 3, 1) for side in window)
    stride = _pair("stride", stride)
    if any(step > side for step, side in zip(stride, window, strict=True)):
        raise ValueError(
            "`stride` must be at most `window`, or windows would leave pixels "
            f"out. Received: stride={stride}, window={window}"
        )
    return window, stride


def _scales(scales):
    one = arguments.plain(scales)
    return arguments.numbers(
        "scales",
        (one,) if arguments.is_number(one) else scales,
        f"must be numbers from {LEAST_SCALE} to {MOST_SCALE}, such as "
        "(0.5, 1.0, 1.5)",
        least=LEAST_SCALE,
        most=MOST_SCALE,
    )


def standardize_average(average: str | Sequence[str]) -> tuple[str, str]:
    """The pair of `AVERAGES` that a word or a pair of words means."""
    words = ("softmax", "logits", "exponentials")
    if isinstance(average, str):
        arguments.choice("average", average, words)
        return average, average
    pair = arguments.as_sequence(average)
    for word in pair or ():
        arguments.choice("average", word, words)
    if pair not in AVERAGES:
        raise arguments.refusal(
            "average",
            f"must be one of {', '.join(words)}, or ('logits', 'softmax'): "
            "logits where windows overlap, softmax over scales and mirror "
            "images",
            average,
        )
    return pair


AUTHORS = InferenceProtocol(
    size=(2048, None),
    sides="long up",
    window=(768, 768),
    stride=(512, 512),
    last_window="padded",
    padding="black",
    mirror=True,
    average=("exponentials", "exponentials"),
    image_resizing="corners",
    score_resizing="corners",
)
MMSEGMENTATION = InferenceProtocol(
    size="auto",
    sides="limits down",
    padding="none",
    average=("logits", "softmax"),
    image_resizing="bilinear",
    round_pixels=True,
)
MMSEGMENTATION_SLIDE = dataclasses.replace(
    MMSEGMENTATION,
    size=(2049, 1025),
    window=(769, 769),
    stride=(513, 513),
    score_resizing="corners",
)
MMSEGMENTATION_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
PADDLESEG = InferenceProtocol(
    average=("logits", "softmax"), image_resizing="bilinear"
)
PADDLESEG_VOC = dataclasses.replace(
    PADDLESEG, canvas=(512, 512), padding="grey"
)
PADDLESEG_SCALES = (0.75, 1.0, 1.25)


def _multiscale(protocol, scales, **changes):
    return dataclasses.replace(protocol, scales=scales, mirror=True, **changes)


def _named(**protocols):
    return {
        name: dataclasses.replace(protocol, name=name)
        for name, protocol in protocols.items()
    }


# "authors", "authors_multiscale": Cityscapes in encoding/models/base.py
# (`MultiEvalModule`) of PyTorch-Encoding, and of junfu1115/DANet in 2018 with
# its eight scales in windows of 1024. Pixels are resized there after they are
# normalised, which is the same but for rounding; exponentials are float32
# there, and overflow beyond 88.
#
# "mmsegmentation...": mmseg/models/segmentors/encoder_decoder.py (`inference`,
# `aug_test`) and mmseg/datasets/pipelines/test_time_aug.py of MMSegmentation
# 0.x, which measured the figures of its DANet. cv2 resizes uint8 in fixed
# point there: now and then a pixel is rounded to its neighbour.
#
# "paddleseg...": paddleseg/core/infer.py (`aug_inference`) of PaddleSeg 2.0,
# which measured the figures of its DANet. It resizes each scale's image from
# the one before; later releases take the original and average logits. VOC
# images are padded to 512 x 512 with 127.5, and larger ones refused there.
PROTOCOLS: dict[str, InferenceProtocol] = _named(
    authors=AUTHORS,
    authors_multiscale=dataclasses.replace(
        AUTHORS,
        window=(1024, 1024),
        scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.2),
    ),
    mmsegmentation=MMSEGMENTATION,
    mmsegmentation_multiscale=_multiscale(
        MMSEGMENTATION, MMSEGMENTATION_SCALES
    ),
    mmsegmentation_slide=MMSEGMENTATION_SLIDE,
    mmsegmentation_slide_multiscale=_multiscale(
        MMSEGMENTATION_SLIDE, MMSEGMENTATION_SCALES
    ),
    paddleseg=PADDLESEG,
    paddleseg_flip=dataclasses.replace(PADDLESEG, mirror=True),
    paddleseg_multiscale=_multiscale(PADDLESEG, PADDLESEG_SCALES, chained=True),
    paddleseg_voc=PADDLESEG_VOC,
    paddleseg_voc_flip=dataclasses.replace(PADDLESEG_VOC, mirror=True),
    paddleseg_voc_multiscale=_multiscale(
        PADDLESEG_VOC, PADDLESEG_SCALES, chained=True
    ),
)

DEFAULTS: dict[str, Any] = {
    "window": None,
    "stride": None,
    "scales": (1.0,),
    "mirror": False,
    "average": "softmax",
    "blend": "uniform",
    "size": "auto",
}


def make_protocol(
    protocol: str | InferenceProtocol | None,
    model_size: Size,
    **given: Any,
) -> InferenceProtocol:
    """A protocol with the settings that are not `DEFAULTS` put in.

    Args:
        protocol: name in `PROTOCOLS`, a record, or `None`.
        model_size: what `size="auto"` stands for, in any form of a size.
        **given: the arguments of a `Predictor`, keys of `DEFAULTS`.

    Returns:
        An `InferenceProtocol`, whose size is never `"auto"`. It keeps the
        name if no setting of it was replaced.

    Raises:
        ValueError: for a name that is not there, or a setting that is none.
    """
    changes = {
        key: value
        for key, value in given.items()
        if not _is_default(value, DEFAULTS[key])
    }
    asked = replace_settings(protocol, **changes)
    if asked.size == "auto":
        asked = dataclasses.replace(asked, size=standardize_sides(model_size))
    return asked


def replace_settings(
    protocol: str | InferenceProtocol | None, **changes: Any
) -> InferenceProtocol:
    """A protocol with all of these settings put in, defaults or not.

    >>> replace_settings("authors_multiscale", scales=1).scales
    (1,)
    """
    base = InferenceProtocol(size="auto")
    if isinstance(protocol, InferenceProtocol):
        base = protocol
    elif protocol is not None:
        base = PROTOCOLS[arguments.choice("protocol", protocol, PROTOCOLS)]
    if "window" in changes and "stride" not in changes:
        changes["stride"] = None
    asked = dataclasses.replace(base, **changes)
    differing = {
        field.name
        for field in dataclasses.fields(base)
        if getattr(base, field.name) != getattr(asked, field.name)
    }
    if base.size == "auto":
        differing -= {"size"}
    return dataclasses.replace(asked, name=None) if differing else asked


def _is_default(value, default):
    found = arguments.as_sequence(value)
    return default == (arguments.plain(value) if found is None else found)
