"""Compares an export with the model that it was made from."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_danet import metrics
from keras_danet.data.resampling import resize_image
from keras_danet.data.resampling import scaled_size
from keras_danet.export.contract import Contract
from keras_danet.inference.scores import count_image
from keras_danet.inference.windows import softmax
from keras_danet.text_tables import table_lines

# The share of pixels that must have the same class, by quantization: float32
# graphs round otherwise, float16 has 11 bits, int8 has 256 steps.
LEAST_AGREEMENT = {
    "none": 0.9999,
    "float16": 0.999,
    "dynamic": 0.99,
    "int8": 0.99,
    "int16x8": 0.99,
}
# Of mean IoU, where there are labels.
MOST_LOSS = 0.01
# Of a probability, where the export gives them.
MOST_DIFFERENCE = 0.01


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image to compare on.

    Args:
        image: uint8 array `(height, width, 3)`, as the network sees it.
        label: uint8 array `(height, width)` of its classes, 255 for pixels
            without one; `None`, unknown.
    """

    image: np.ndarray
    label: np.ndarray | None = None

    def fitted(self, contract: Contract) -> "Sample":
        """Resized to what a network gets of it: one size, or test sides.

        A pixel of the label is the one in which its middle lies.
        """
        old = self.image.shape[:2]
        size: tuple[int, ...] = contract.size or tuple(
            map(int, scaled_size(old, *contract.test_sides))
        )
        if size == old:
            return self
        rows, columns = (
            ((np.arange(new) + 0.5) * before / new).astype(int)
            for new, before in zip(size, old, strict=True)
        )
        return Sample(
            np.round(resize_image(self.image, size)).astype("uint8"),
            None if self.label is None else self.label[rows][:, columns],
        )


@dataclasses.dataclass(frozen=True)
class Verification:
    """How far an export is from its model.

    Args:
        num_images, num_pixels: integers, what was compared.
        agreement: float, the share of the pixels with the same class.
        largest_lead: float. Where the classes differ, how far the model's was
            ahead of its second one, in units of its logits' deviation: the
            furthest. 0 if they never differ.
        largest_difference: float, of a logit or probability, where the export
            gives them; NaN where it gives labels only.
        mean_iou: float, the export's on the images with labels; NaN without.
        model_mean_iou: float, the model's on the same.
        least_agreement, most_loss: floats, what was required.
        outputs: string, what was compared besides classes: `"labels"`,
            nothing; `"logits"`; or `"probabilities"`.
        parts_at: string, the first layer whose features differ by more than
            a rounding, where that was looked for.
    """

    num_images: int
    num_pixels: int
    agreement: float
    largest_lead: float
    largest_difference: float
    mean_iou: float
    model_mean_iou: float
    least_agreement: float
    most_loss: float = MOST_LOSS
    outputs: str = "labels"
    parts_at: str | None = None

    @property
    def lost_iou(self) -> float:
        return self.model_mean_iou - self.mean_iou

    @property
    def margin(self) -> float:
        """By how much it is better than required; negative if it is not."""
        margins = [self.agreement - self.least_agreement]
        if not math.isnan(self.mean_iou):
            margins.append(self.most_loss - self.lost_iou)
        if self.outputs == "probabilities":
            margins.append(MOST_DIFFERENCE - self.largest_difference)
        return min(margins)

    @property
    def passed(self) -> bool:
        return self.margin >= 0

    def as_dict(self) -> dict[str, Any]:
        """Every figure, ready for JSON; NaN is `None`."""
        figures = {
            **dataclasses.asdict(self),
            "lost_iou": self.lost_iou,
            "passed": self.passed,
        }
        return {
            name: None
            if isinstance(value, float) and math.isnan(value)
            else value
            for name, value in figures.items()
        }

    def rows(self) -> list[tuple[str, str]]:
        """The figures and their names, for a table."""
        found = [
            (
                "same class",
                f"{self.agreement:.4%} of {self.num_pixels} pixels of "
                f"{self.num_images} images (needed: "
                f"{self.least_agreement:.2%})",
            )
        ]
        if self.agreement < 1:
            found.append(
                (
                    "where it differs",
                    "the model's class was ahead by at most "
                    f"{self.largest_lead:.1e} of the logits' deviation",
                )
            )
        if self.outputs != "labels":
            text = f"differ by {self.largest_difference:.1e} or less"
            if self.outputs == "probabilities":
                text += f" (allowed: {MOST_DIFFERENCE})"
            found.append((self.outputs, text))
        if not math.isnan(self.mean_iou):
            found.append(
                (
                    "mean IoU",
                    f"{self.mean_iou:.2%}, the model's "
                    f"{self.model_mean_iou:.2%} (allowed to lose: "
                    f"{self.most_loss:.2%})",
                )
            )
        if self.parts_at:
            found.append(("they part at", self.parts_at))
        return found

    def summary(self) -> str:
        """The figures as a table for a terminal."""
        return "\n".join(table_lines(self.rows(), num_texts=2))


class Reference:
    """What a model says of samples, to compare exports with.

    Args:
        model: `DANet`.
        samples: list of `Sample`.
    """

    def __init__(self, model, samples):
        self.model, self.samples = model, samples
        self.num_classes = model.num_classes
        self.labels, self.leads = [], []
        for sample in samples:
            logits = self._logits(sample)
            if not np.isfinite(logits).all():
                raise ValueError(
                    "The model computes NaN or infinity, so nothing can be "
                    "compared with it. Has its training diverged?"
                )
            self.labels.append(logits.argmax(-1).astype("uint8"))
            second, first = np.partition(logits, -2)[..., -2:].T
            self.leads.append(((first - second) / logits.std()).T)

    def _logits(self, sample):
        batch = sample.image[np.newaxis].astype("float32")
        return np.asarray(self.model.predict_on_batch(batch))[0]

    def compare(
        self, run, quantization, least_agreement=None, probabilities=False
    ):
        """Compares an export.

        Args:
            run: function of a batch of uint8 images to labels or logits.
            quantization: string, key of `LEAST_AGREEMENT`.
            least_agreement: float, another requirement. Defaults to `None`.
            probabilities: boolean, whether `run` gives these and no logits.
                Defaults to `False`.

        Returns:
            `Verification`.

        Raises:
            ValueError: if it gives another shape, or something that is no
                class.
        """
        same, pixels, largest, difference = 0, 0, 0.0, math.nan
        outputs = "labels"
        shape = self.num_classes, self.num_classes
        mine, theirs = np.zeros(shape, "int64"), np.zeros(shape, "int64")
        has_labels = False
        for sample, expected, leads in zip(
            self.samples, self.labels, self.leads, strict=True
        ):
            output = np.asarray(run(sample.image[np.newaxis]))
            received = _labels_of(output, expected.shape, self.num_classes)
            if output.ndim == 4:
                # Computed again: of many large images they would take
                # gigabytes.
                values = self._logits(sample)
                if probabilities:
                    values = softmax(values)
                error = np.abs(output[0] - values).max()
                difference = np.fmax(difference, error)
                outputs = "probabilities" if probabilities else "logits"
            if received.max(initial=0) >= self.num_classes:
                raise ValueError(
                    f"The export gives the class {received.max()}, and there "
                    f"are {self.num_classes}."
                )
            differs = received != expected
            same += int((~differs).sum())
            pixels += expected.size
            largest = max(largest, float(leads[differs].max(initial=0)))
            if sample.label is not None:
                has_labels = True
                for matrix, label in ((theirs, received), (mine, expected)):
                    matrix += count_image(
                        sample.label, label, self.num_classes, boundary=False
                    ).confusion
        iou = metrics.mean_iou if has_labels else lambda matrix: math.nan
        least = LEAST_AGREEMENT[quantization]
        return Verification(
            num_images=len(self.samples),
            num_pixels=pixels,
            agreement=same / pixels,
            largest_lead=largest,
            largest_difference=float(difference),
            mean_iou=float(iou(theirs)),
            model_mean_iou=float(iou(mine)),
            least_agreement=least
            if least_agreement is None
            else least_agreement,
            outputs=outputs,
        )


def _labels_of(output, shape, num_classes):
    needed = (1, *shape, num_classes) if output.ndim == 4 else (1, *shape)
    if output.shape != needed:
        raise ValueError(
            f"The export gives shape {output.shape}. Expected {needed}."
        )
    if output.ndim == 4:
        # A NaN is no class: argmax would take the first.
        if not np.isfinite(output).all():
            raise ValueError("The export gives logits that are not finite.")
        output = output.argmax(-1)
    return output[0].astype("uint8")


def noise(size, seed=0):
    """A sample of every pixel at random: what no photograph shows."""
    rng = np.random.default_rng(seed)
    return Sample(rng.integers(0, 256, (*size, 3), dtype="uint8"))
