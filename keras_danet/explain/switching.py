"""What each attention adds: the network with it and without."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_danet import metrics
from keras_danet.explain.observing import Observer
from keras_danet.explain.observing import checked_label
from keras_danet.inference import Predictor
from keras_danet.inference.protocols import Size
from keras_danet.inference.scores import count_image
from keras_danet.models import DANet
from keras_danet.models.functional import FunctionalModel


def without(model: DANet, *kinds: str) -> FunctionalModel:
    """The network with some attentions switched off.

    Their `gamma` counts as 0, so that each gives its input unchanged; nothing
    else differs, and the weights are the model's own.

    Args:
        model: `DANet`.
        *kinds: `"position"`, `"channel"`, or both.

    Returns:
        A functional model of images to the fused logits.

    Raises:
        ValueError: if the model does not have such an attention.
    """
    observer = Observer(model)
    switched_off = [observer.attention(kind) for kind in kinds]

    def call(layer, *args, **kwargs):
        return args[0] if layer in switched_off else layer(*args, **kwargs)

    network = model.inference_model
    images = keras.Input(
        batch_shape=network.input.shape, dtype=network.input.dtype
    )
    copy = keras.models.clone_model(
        network,
        input_tensors=images,
        clone_function=lambda layer: layer,
        call_function=call,
    )
    return FunctionalModel(images, copy.output)


@dataclasses.dataclass(frozen=True)
class Contribution:
    """What an attention, or both, adds to a network that has it.

    Args:
        kind: `"position"`, `"channel"`, or `"position and channel"`.
        class_names: tuple of strings.
        with_it, without_it: float64 arrays `(num_classes,)`, IoU over all
            images; NaN for classes that neither labels nor predictions have.
        changed: float, the share of all pixels that get another class.
        image_gains: float64 array, of each image the mean IoU, over the
            classes that its label has, with the attention minus without.
    """

    kind: str
    class_names: tuple[str, ...]
    with_it: np.ndarray
    without_it: np.ndarray
    changed: float
    image_gains: np.ndarray

    @property
    def gains(self) -> np.ndarray:
        """IoU of each class, with the attention minus without it."""
        return self.with_it - self.without_it

    @property
    def classes_by_gain(self) -> list[str]:
        """The classes' names, those that gain most first; NaN left out."""
        order = np.argsort(-self.gains, kind="stable")
        return [
            self.class_names[i] for i in order if not np.isnan(self.gains[i])
        ]

    def as_dict(self) -> dict[str, Any]:
        """All but the images, ready for JSON."""
        return {
            "kind": self.kind,
            "mean_iou_gain": float(np.nanmean(self.gains)),
            "changed": self.changed,
            "classes": {
                name: {
                    "without": float(self.without_it[index]),
                    "with": float(self.with_it[index]),
                }
                for name in self.classes_by_gain
                for index in [self.class_names.index(name)]
            },
        }

    @property
    def images_by_gain(self) -> list[int]:
        """The images' numbers, those that gain most first."""
        return np.argsort(-self.image_gains, kind="stable").tolist()


def contribution(
    model: Any, pairs: Iterable, size: Size = "auto"
) -> list[Contribution]:
    """What each attention of a network adds, measured on labelled images.

    The network is run as it is, with each attention switched off (`without`),
    and with both. That is not the same as a network that was trained without
    it: what the other layers learned counts on it.

    Args:
        model: `DANet`, or the name of one: a run's folder, a `.keras` file, a
            preset.
        pairs: iterable of (image, label), images as for `Predictor`, labels
            integer arrays of their (height, width), 255 for pixels without a
            class. They are read one by one.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.

    Returns:
        A `Contribution` for each attention, and for both together if there
        are two, sorted by the mean IoU that they add.

    Raises:
        ValueError: for a model without attention, labels that do not fit, or
            no images.
    """
    observer = Observer(model, size)
    kinds = observer.model.attention
    if not kinds:
        raise ValueError("This model has no attention to switch off.")
    switched_off: list[tuple[str, ...]] = [(kind,) for kind in kinds]
    switched_off += [kinds] if len(kinds) > 1 else []
    predictors = [observer.predictor] + [
        Predictor(without(observer.model, *off), size=observer.predictor.size)
        for off in switched_off
    ]
    classes = observer.model.num_classes
    totals = np.zeros((len(predictors), classes, classes), "int64")
    changed, pixels = np.zeros(len(switched_off), "int64"), 0
    image_gains: list[list[float]] = [[] for _ in switched_off]
    for image, label in pairs:
        image = observer.read(image)
        label = checked_label(label, image.shape[:2], classes)
        found = [predictor(image) for predictor in predictors]
        counts = [
            count_image(
                label.astype("uint8"), each, classes, boundary=False
            ).confusion
            for each in found
        ]
        totals += counts
        pixels += label.size
        scores = [_mean_iou_of_labelled(count) for count in counts]
        for index in range(len(switched_off)):
            changed[index] += (found[0] != found[index + 1]).sum()
            image_gains[index].append(scores[0] - scores[index + 1])
    if not totals[0].any():
        raise ValueError(
            "Expected at least one image with a label that has pixels of a "
            "class."
        )
    results = [
        Contribution(
            " and ".join(off),
            tuple(observer.predictor.class_names),
            metrics.class_iou(totals[0]),
            metrics.class_iou(totals[index + 1]),
            float(changed[index] / pixels),
            np.array(image_gains[index]),
        )
        for index, off in enumerate(switched_off)
    ]
    return sorted(results, key=lambda found: -np.nanmean(found.gains))


def _mean_iou_of_labelled(confusion):
    """Over the classes in the image's label: those that could be found."""
    present = confusion.sum(1) > 0
    if not present.any():
        return np.nan
    return float(metrics.class_iou(confusion)[present].mean())
