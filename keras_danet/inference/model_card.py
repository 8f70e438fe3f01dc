"""A model's card: what it is, what it reached, and what it is not for.

Markdown with the front matter of the Hugging Face Hub. Every figure is that
of a report, or of the run that trained the model.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_danet.inference.report import COLUMNS
from keras_danet.inference.report import SUMMARY
from keras_danet.inference.report import Report
from keras_danet.inference.report import percent
from keras_danet.models.freezing import backbone_of
from keras_danet.recipe import TrainConfig
from keras_danet.text_tables import harmless
from keras_danet.text_tables import markdown_table
from keras_danet.text_tables import markdown_text
from keras_danet.weights.keras_applications import IMAGENET

if TYPE_CHECKING:
    from keras_danet.models import DANet

# What every card begins with.
FIRST_LINES = '---\nlibrary_name: "keras"\n'
LOW_IOU = 0.5
NUM_CONFUSIONS = 3
CITATION = """\
@inproceedings{fu2019dual,
  title={Dual Attention Network for Scene Segmentation},
  author={Fu, Jun and Liu, Jing and Tian, Haijie and Li, Yong and Bao, Yongjun
          and Fang, Zhiwei and Lu, Hanqing},
  booktitle={CVPR},
  year={2019}
}"""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run's folder says of its training.

    Args:
        config: `TrainConfig`.
        record: what its `config.json` holds.
        history: rows of `runs.read_history`. Defaults to `()`, unknown.
        start: `TrainConfig` of the run that it started from. Defaults to
            `None`: it did not, or that is gone.
    """

    config: TrainConfig
    record: dict
    history: Sequence[Mapping] = ()
    start: TrainConfig | None = None


def model_card(
    name: str,
    model: "DANet",
    report: Report,
    licence: str,
    training: Trained | None = None,
    multi_scale: Report | None = None,
) -> str:
    """The card of a model, as Markdown.

    Args:
        name: string, what the model is loaded by.
        model: `DANet`.
        report: `Report`, what was measured.
        licence: string, the terms of its training data.
        training: `Trained`. Defaults to `None`, unknown.
        multi_scale: `Report` of the same at several scales. Defaults to
            `None`, not measured.

    Returns:
        String.
    """
    parts = [
        _front_matter(name, report),
        f"# {name}",
        _network(model),
        _use(name),
        _results(report, multi_scale),
        _confidence(report),
        _limits(report, training),
        _training(training),
        "## Licence",
        f"The training data: {licence}. Ask their owners before you use these "
        "weights beyond those terms. The code is Apache-2.0.",
        f"```bibtex\n{CITATION}\n```",
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    # It may be printed, and names in it are untrusted.
    return "\n".join(map(harmless, text.split("\n")))


def is_card(path: pathlib.Path) -> bool:
    """Whether `model_card` made what is in a file."""
    with open(path, "rb") as file:
        return file.read(len(FIRST_LINES)) == FIRST_LINES.encode()


def _network(model):
    backbone = backbone_of(model)
    attention = " and ".join(model.attention) or "no"
    return (
        f"DANet with {attention} attention over {backbone.name}, "
        f"{model.num_classes} classes, "
        f"{model.inference_model.count_params():,} parameters. Input: images "
        "(height, width, 3), RGB in 0-255, of any size."
    )


def _front_matter(name, report):
    metric = {
        "task": {"type": "image-segmentation"},
        "dataset": {
            "name": report.dataset,
            "type": report.dataset,
            "split": report.split,
        },
        "metrics": [
            {
                "type": "mean_iou",
                "value": round(100 * report.mean_iou, 2),
                "name": "mean IoU, %",
            }
        ],
    }
    fields = {
        "library_name": "keras",
        "pipeline_tag": "image-segmentation",
        "license": "other",
        "tags": ["danet", "semantic-segmentation"],
        "datasets": [report.dataset],
        "model-index": [{"name": name, "results": [metric]}],
    }
    # JSON is YAML, so that no name needs quoting by hand.
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _use(name):
    return f"""\
```python
import keras_danet

model = keras_danet.DANet.from_preset({json.dumps(name)})
labels = keras_danet.Predictor(model)("street.jpg")  # (height, width) uint8
```"""


def _results(report, multi_scale):
    rows = [("class", *COLUMNS.values())]
    columns = [getattr(report, column) for column in COLUMNS]
    for name in report.class_names:
        scores = [percent(column[name]) for column in columns]
        rows.append((name, *scores))
    summary = [
        (title, percent(getattr(report, score)))
        for score, title in SUMMARY.items()
    ]
    return "\n\n".join(
        [
            "## Results",
            f"{markdown_text(report.dataset)}, split "
            f"`{markdown_text(report.split)}`, {report.num_images} images. "
            f"{_protocol(report)}.",
            markdown_table([("score", "value"), *summary]),
            *(
                [
                    f"{_protocol(multi_scale)}: mean IoU "
                    f"{percent(multi_scale.mean_iou)}."
                ]
                if multi_scale
                else []
            ),
            markdown_table(rows),
        ]
    )


def _protocol(report):
    text = markdown_text(report.protocol)
    return text[:1].upper() + text[1:]


def _confidence(report):
    counts = report.calibration_counts
    if counts is None:
        return ""
    pixels, _, right = counts[-1]
    if not pixels:
        return ""
    return (
        "## Confidence\n\n"
        "The expected calibration error is "
        f"{percent(report.expected_calibration_error)}. Of the "
        f"{percent(pixels / counts[:, 0].sum())} of the pixels with the "
        f"highest confidence, {percent(right / pixels)} are right."
    )


def _limits(report, training):
    low = [
        f"{markdown_text(name)} ({percent(iou)})"
        for name, iou in sorted(report.class_iou.items(), key=lambda i: i[1])
        if iou < LOW_IOU
    ]
    lines = [
        "## Limits",
        "- Measured on the images above only. Other places, cameras, weather "
        "and sizes are not, and results there may be much worse. It is not "
        "fit to decide about anybody's safety.",
        *_chosen(report, training),
    ]
    if low:
        lines.append(f"- IoU below {LOW_IOU:.0%}: {', '.join(low)}.")
    mistakes = _mistakes(report)
    if mistakes:
        lines.append(f"- What it confuses most: {'; '.join(mistakes)}.")
    unseen = [
        markdown_text(name)
        for name, iou in report.class_iou.items()
        if math.isnan(iou)
    ]
    if unseen:
        lines.append(f"- Not in these images: {', '.join(unseen)}.")
    return "\n\n".join([lines[0], "\n".join(lines[1:])])


def _chosen(report, training):
    """What is said of a model that was chosen by what it is measured on."""
    if not training:
        return []
    config = training.config
    measured = [
        row for row in training.history if row.get("val_mean_iou") is not None
    ]
    validation = (config.dataset, config.val_split)
    if (report.dataset, report.split) != validation or len(measured) < 2:
        return []
    return [
        f"- The weights are the best of {len(measured)} validations on these "
        "very images."
    ]


def _mistakes(report):
    """The largest shares of one class that are taken for another."""
    matrix = np.asarray(report.confusion_matrix, "float64")
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)
    np.fill_diagonal(share, 0)
    largest = np.argsort(share, axis=None)[::-1][:NUM_CONFUSIONS]
    names = [markdown_text(name) for name in report.class_names]
    pairs = [np.unravel_index(place, share.shape) for place in largest]
    return [
        f"{share[true, taken]:.0%} of {names[true]} is taken for {names[taken]}"
        for true, taken in pairs
        if share[true, taken] > 0
    ]


def _training(training):
    if not training:
        return ""
    config, session = training.config, _last_session(training.record)
    versions = session.get("versions")
    commit = session.get("commit")
    if commit and session.get("modified"):
        commit = f"{commit}, with uncommitted changes"
    facts = {
        "recipe": _file_name(training.record.get("recipe")),
        "started from": _start(config.model, training.start),
        "data": f"{config.dataset}, split {config.train_split}",
        "epochs": config.epochs,
        "batch": config.batch_size,
        "crops": [*config.augmentation.crop_size],
        "seed": config.seed,
        "versions": ", ".join(
            f"{package} {version}"
            for package, version in (
                versions.items() if isinstance(versions, dict) else ()
            )
            if version
        ),
        "commit": commit,
    }
    rows = [
        (name, str(value))
        for name, value in facts.items()
        if value not in (None, "")
    ]
    return "\n\n".join(
        ["## Training", markdown_table([("setting", "value"), *rows])]
    )


def _last_session(record):
    sessions = record.get("sessions") or [{}]
    return sessions[-1] if isinstance(sessions[-1], dict) else {}


def _start(network, start):
    """What a network's weights were before its training, in words."""
    if network.start_from:
        name = _file_name(network.start_from)
        if start is None:
            return name
        attention = " and ".join(start.model.attention_names) or "no"
        return (
            f"{name} ({attention} attention; {_start(start.model, None)}, "
            f"then {start.epochs} epochs)"
        )
    weights = network.backbone_weights
    if weights is None:
        return "random weights"
    source = "ImageNet weights" if weights == IMAGENET else _file_name(weights)
    return source if network.is_own else f"{source}, of Keras"


def _file_name(path):
    """Only the file's name of a path: the folders are the machine's."""
    return path and pathlib.PurePath(str(path)).name
