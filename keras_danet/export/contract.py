"""What an export takes and gives, in words and numbers that travel with it."""

import dataclasses
import re
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
FILE = "export.json"
# What a server calls a model; a folder of digits is a version.
NAME = re.compile(r"(?!\d+$)[A-Za-z0-9_][A-Za-z0-9_.-]*")
# What a network computes: 8.4 megapixels, four images of Cityscapes.
MAX_PIXELS = 2**23
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
        outputs: `"labels"` or `"logits"`; a SavedModel has both.
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
            given = {name: _tuples(content[name]) for name in names}
            if given["quantization"] not in FORMATS[given["format"]]:
                raise ValueError(f"there is no {given['quantization']}")
            size = given["size"]
            if size is not None and (
                len(size) != 2 or not all(0 < s <= MAX_SIDE for s in size)
            ):
                raise ValueError(f"no image has the size {size}")
            if not all(isinstance(n, str) for n in given["class_names"]):
                raise ValueError("its classes have no names")
            return cls(**given)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"It does not describe an export: {error!r}."
            ) from error


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
