"""What an export takes and gives, in words and numbers that travel with it."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

FORMATS = {
    "saved_model": ("none",),
    "tflite": ("none", "float16", "dynamic", "int8", "int16x8"),
    "onnx": ("none",),
    "openvino": ("none", "float16", "int8"),
    "pt2": ("none",),
}
# What is calibrated with images.
CALIBRATED = ("int8", "int16x8")
OUTPUTS = ("labels", "logits")
INPUT_DTYPES = ("uint8", "float32")
FILE = "export.json"
# What a server calls a model; a folder of digits is a version.
NAME = re.compile(r"(?!\d+$)[A-Za-z0-9_][A-Za-z0-9_.-]*")
# What a network computes: 8.4 megapixels, four images of Cityscapes; of many
# classes fewer, so that logits take 1 GiB at most.
MAX_PIXELS = 2**23
MAX_LOGITS = 2**28
# A photograph may have as many times more, if it is resized to fewer.
LARGER_FILES = 4
MAX_SIDE = 2**16


@dataclasses.dataclass(frozen=True)
class Contract:
    """Input and output of an export.

    Images are RGB in 0-255, `(batch, height, width, 3)`. Labels are uint8
    class indices `(batch, height, width)`, logits are float32 with the
    classes as their last axis.

    Args:
        format: string, key of `FORMATS`.
        quantization: string, one of the format's.
        outputs: `"labels"` or `"logits"`; a SavedModel has labels, and
            probabilities besides.
        class_names: tuple of strings.
        palette: tuple of a (red, green, blue) per class.
        size: (height, width) of every image, `None` for any.
        test_sides: (long, short) side that images had when the model was
            measured, each `None` for their own. A server's `encoded` and
            `colored` resize images so; whoever sends pixels does it.
        input_dtype: `"uint8"` or `"float32"`.
        max_pixels: integer; a server refuses to compute larger images.
    """

    format: str
    quantization: str
    outputs: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    size: tuple[int, int] | None = None
    test_sides: tuple[int | None, int | None] = (None, None)
    input_dtype: str = "uint8"
    max_pixels: int = MAX_PIXELS

    @property
    def max_file_pixels(self) -> int:
        """A server refuses image files of more, by their header."""
        return LARGER_FILES * self.max_pixels

    def as_dict(self) -> dict[str, Any]:
        """The contract as a dict that JSON can hold."""
        return {
            "task": "semantic segmentation",
            **dataclasses.asdict(self),
            "ignore_label": 255,
            "input": "images, (batch, height, width, 3), RGB, 0-255",
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Contract":
        """What `as_dict` returned, read from JSON.

        Raises:
            ValueError: if it is not that.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            contract = cls(**{n: _tuples(content[n]) for n in names})
            for name, is_right in _RIGHT.items():
                if not is_right(contract):
                    value = getattr(contract, name)
                    raise ValueError(f"`{name}` cannot be {value!r}")
            return contract
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"It does not describe an export: {error!r}."
            ) from error


def default_max_pixels(num_classes: int) -> int:
    """How many pixels a server computes at most, unless told otherwise."""
    return min(MAX_PIXELS, MAX_LOGITS // num_classes)


def _are_sides(sides):
    return (
        isinstance(sides, tuple)
        and len(sides) == 2
        and all(type(s) is int and 1 <= s <= MAX_SIDE for s in sides)
    )


def _are_test_sides(sides):
    known = tuple(1 if side is None else side for side in sides)
    return len(sides) == 2 and _are_sides(known)


def _are_colors(palette, count):
    return len(palette) == count and all(
        len(color) == 3 and all(x in range(256) for x in color)
        for color in palette
    )


# What a field of a contract that was read must be.
_RIGHT: dict[str, Callable[[Contract], bool]] = {
    "format": lambda c: c.format in FORMATS,
    "quantization": lambda c: c.quantization in FORMATS[c.format],
    "outputs": lambda c: c.outputs in OUTPUTS,
    "class_names": lambda c: (
        isinstance(c.class_names, tuple)
        and 0 < len(c.class_names) < 255
        and all(isinstance(name, str) for name in c.class_names)
    ),
    "palette": lambda c: _are_colors(c.palette, len(c.class_names)),
    "size": lambda c: c.size is None or _are_sides(c.size),
    "test_sides": lambda c: _are_test_sides(c.test_sides),
    "input_dtype": lambda c: c.input_dtype in INPUT_DTYPES,
    "max_pixels": lambda c: type(c.max_pixels) is int and c.max_pixels > 0,
}


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
