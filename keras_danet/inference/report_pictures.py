"""Images with their truth and prediction, small enough for a page."""

import base64
import dataclasses
import io

import numpy as np
from PIL import Image

from keras_danet.data.decoding import read_pair
from keras_danet.data.palettes import display_palette
from keras_danet.inference import sheets
from keras_danet.inference.visualization import overlay
from keras_danet.waiting import answering

# Pixels of a picture's long side, and JPEG's quality.
LONG_SIDE = 640
QUALITY = 85


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image of a report.

    Args:
        title: string, its name.
        iou: float, the mean IoU over the classes in its truth.
        panels: tuple of (caption, uint8 RGB picture).
        classes: tuple of the classes that are seen in them.
    """

    title: str
    iou: float
    panels: tuple[tuple[str, np.ndarray], ...]
    classes: tuple[int, ...]


def draw_sample(predictor, pair, dataset, record, iou):
    """Predicts an image again, and draws it for a report.

    Args:
        predictor: function from an image to its label map.
        pair: `Pair`.
        dataset: its `Dataset`.
        record: `ImageRecord`.
        iou: float, its score.

    Returns:
        A `Sample`.
    """
    image, label = answering(read_pair, pair, dataset)
    prediction = predictor(image)
    return make_sample(
        record.name, image, label, prediction, dataset.palette, iou
    )


def make_sample(title, image, label, prediction, palette, iou):
    """A `Sample` of an image, its truth and its prediction, at a small size.

    Ignored pixels show the grey image.
    """
    factor = min(1, LONG_SIDE / max(label.shape))
    size = tuple(max(1, round(factor * side)) for side in label.shape)
    small = sheets.resize_image(image, size)
    colors = display_palette(palette)
    panels = [("image", small)]
    seen = set()
    for caption, classes in (("truth", label), ("prediction", prediction)):
        classes = sheets.resize_map(np.asarray(classes), size)
        panels.append((caption, overlay(small, classes, colors)))
        seen |= set(np.unique(classes).tolist()) - {255}
    return Sample(title, iou, tuple(panels), tuple(sorted(seen)))


def data_url(picture):
    """A picture as the address of itself, for a page without other files."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=QUALITY)
    text = base64.b64encode(content.getvalue()).decode()
    return f"data:image/jpeg;base64,{text}"
