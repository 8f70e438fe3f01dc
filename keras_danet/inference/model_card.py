"""A model's card: what it is, what it reached, and what it is not for.

Markdown with the front matter of the Hugging Face Hub. Every figure is that
of a report, or of the run that trained the model.
"""

import json
import math
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from keras_danet.inference.report import COLUMNS
from keras_danet.inference.report import SUMMARY
from keras_danet.inference.report import Report
from keras_danet.inference.report import percent
from keras_danet.models.freezing import backbone_of
from keras_danet.text_tables import markdown_table
from keras_danet.text_tables import markdown_text

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


def model_card(
    name: str,
    model: "DANet",
    report: Report,
    licence: str,
    training: dict | None = None,
) -> str:
    """The card of a model, as Markdown.

    Args:
        name: string, what the model is loaded by.
        model: `DANet`.
        report: `Report`, what was measured.
        licence: string, the terms of its training data.
        training: what the `config.json` of its run holds. Defaults to
            `None`, unknown.

    Returns:
        String.
    """
    parts = [
        _front_matter(name, report),
        f"# {name}",
        _network(model),
        _use(name),
        _results(report),
        _confidence(report),
        _limits(report),
        _training(training),
        "## Licence",
        f"The training data: {licence}. Ask their owners before you use these "
        "weights beyond those terms. The code is Apache-2.0.",
        f"```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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


def _results(report):
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
            f"{report.dataset}, split `{report.split}`, {report.num_images} "
            f"images. {report.protocol[:1].upper()}{report.protocol[1:]}.",
            markdown_table([("score", "value"), *summary]),
            markdown_table(rows),
        ]
    )


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


def _limits(report):
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
    config, sessions = training["config"], training.get("sessions") or [{}]
    versions = sessions[-1].get("versions") or {}
    facts = {
        "recipe": training.get("recipe"),
        "backbone's weights": config["model"].get("backbone_weights"),
        "started from": config["model"].get("start_from"),
        "data": f"{config['dataset']}, split {config['train_split']}",
        "epochs": config["epochs"],
        "batch": config["batch_size"],
        "crops": config["augmentation"].get("crop_size"),
        "seed": config["seed"],
        "versions": ", ".join(
            f"{package} {version}"
            for package, version in versions.items()
            if version
        ),
        "commit": sessions[-1].get("commit"),
    }
    # Only the file's name of a path: the folders are the machine's.
    rows = [
        (name, str(value).rpartition("/")[2])
        for name, value in facts.items()
        if value
    ]
    return "\n\n".join(
        ["## Training", markdown_table([("setting", "value"), *rows])]
    )
