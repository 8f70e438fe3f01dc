"""What is kept of a prediction: its kinds, their pictures and their files."""

import dataclasses
import math
import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np

from keras_danet.files import whole_or_not
from keras_danet.inference import visualization
from keras_danet.inference.predictor import Predictor
from keras_danet.waiting import answering

# What `predict_files` can save, and the endings of the files.
ENDINGS = {
    "label": ".png",
    "overlay": ".png",
    "probabilities": ".npy",
    "confidence": ".png",
    "entropy": ".png",
    "spread": ".png",
    "sheet": ".png",
}
# A PNG's largest value, with 16 bits.
WHITE = 2**16 - 1


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network says of one image; `None` for what was not wanted.

    Args:
        label: `(height, width)` uint8.
        probabilities: `(height, width, classes)` float32.
        confidence, entropy, spread: `(height, width)` float32, as
            `Predictor.uncertainty` gives them.
    """

    label: np.ndarray
    probabilities: np.ndarray | None = None
    confidence: np.ndarray | None = None
    entropy: np.ndarray | None = None
    spread: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return sum(
            value.nbytes for value in vars(self).values() if value is not None
        )


def check_kinds(predictor: Predictor, kinds: Collection[str]) -> None:
    """Raises a ValueError for what cannot be saved of this model."""
    unknown = [kind for kind in kinds if kind not in ENDINGS]
    if unknown or not kinds:
        raise ValueError(
            f"What is saved must be of {', '.join(ENDINGS)}. Received: "
            f"{', '.join(map(repr, unknown)) or 'nothing'}"
        )


def predict(
    predictor: Predictor, image: np.ndarray, kinds: Collection[str]
) -> Prediction:
    """Predicts what the wanted kinds need, by as few passes as possible."""
    found: dict[str, Any] = {}
    passes = {"spread"} if "probabilities" in kinds else {"spread", "entropy"}
    if passes & set(kinds):
        found = predictor.uncertainty(image)._asdict()
    if "probabilities" in kinds:
        label, values = predictor.label_and_probabilities(image)
        found |= {"label": label, "probabilities": values}
        answering(_complete, found, kinds)
    elif not found and "confidence" in kinds:
        label, confidence = predictor.label_and_confidence(image)
        found = {"label": label, "confidence": confidence}
    elif not found:
        found = {"label": predictor(image)}
    return Prediction(**found)


def _complete(found, kinds):
    """Adds what follows from the probabilities, without another pass."""
    values = found["probabilities"]
    if "confidence" in kinds:
        found.setdefault("confidence", values.max(axis=-1))
    if "entropy" in kinds and "entropy" not in found:
        found["entropy"] = sum(
            -part * np.log(np.maximum(part, 1e-30))
            for part in np.moveaxis(values, -1, 0)
        )


def save(
    path: pathlib.Path,
    kind: str,
    image: np.ndarray,
    prediction: Prediction,
    predictor: Predictor,
) -> None:
    """Writes one kind of result of an image to `path`, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    if kind == "label":
        visualization.save_png(path, prediction.label, predictor.palette)
    elif kind == "probabilities":
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_not(path) as partial, open(partial, "wb") as file:
            np.save(file, np.asarray(prediction.probabilities, "float16"))
    elif kind in ("confidence", "entropy", "spread"):
        most, meaning = scale_of(kind, len(predictor.class_names))
        values = getattr(prediction, kind) * (WHITE / most)
        grey = np.rint(values.clip(0, WHITE)).astype("uint16")
        visualization.save_png(path, grey, text={"Description": meaning})
    else:
        visualization.save_png(
            path, picture(kind, image, prediction, predictor)
        )


def picture(
    kind: str, image: np.ndarray, prediction: Prediction, predictor: Predictor
) -> np.ndarray:
    """The overlay or the sheet, uint8 RGB."""
    colors = visualization.display_palette(predictor.palette)
    if kind == "overlay":
        return visualization.overlay(image, prediction.label, colors)
    return visualization.compare(
        image, None, prediction.label, colors, predictor.class_names
    )


def scale_of(kind: str, num_classes: int) -> tuple[float, str]:
    """The value that is white in a grey picture, and what its text says."""
    if kind == "entropy":
        most = math.log(max(num_classes, 2))
        return most, (
            f"Entropy of the class probabilities in nats: value / {WHITE} x "
            f"{most:.6f}, the logarithm of {num_classes} classes"
        )
    what = {
        "confidence": "Probability of the predicted class",
        "spread": "Root of the summed variances of the class probabilities "
        "over scales and mirror images",
    }[kind]
    return 1.0, f"{what}: value / {WHITE}"


def classes_in(label: np.ndarray, predictor: Predictor) -> tuple[str, ...]:
    """Names of the classes that a label map holds."""
    present = np.flatnonzero(np.bincount(label.ravel()))
    return tuple(predictor.class_names[index] for index in present)
