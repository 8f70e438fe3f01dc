"""The card: its figures are the report's, and no path is told."""

import json

import numpy as np
import pytest
import tiny
from conftest import one_backend

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet.cli import main
from keras_danet.inference import scores
from keras_danet.inference.model_card import is_card
from keras_danet.inference.model_card import model_card
from keras_danet.inference.report import Report

pytestmark = one_backend

# Of a car's 100 pixels 40 are found and 60 are taken for road.
COUNTS = np.array([[90, 10, 0], [60, 40, 0], [0, 0, 0]])
TRAINING = {
    "recipe": "training/mine.py",
    "config": {
        "dataset": "camvid",
        "train_split": "train",
        "epochs": 7,
        "batch_size": 4,
        "augmentation": {"crop_size": [64, 64]},
        "model": {"backbone_weights": "/home/me/secret/resnet50.h5"},
        "seed": 3,
    },
    "sessions": [
        {"versions": {"keras": "3.15.1", "torch": None}, "commit": "abc"}
    ],
}


@pytest.fixture
def report():
    calibration = np.zeros((15, 3), "int64")
    calibration[7] = 50, 25 * scores.UNITS, 20
    calibration[14] = 150, 147 * scores.UNITS, 120
    return Report(
        "camvid",
        "val",
        "whole images",
        2,
        ("road", "side_car", "sky"),
        COUNTS,
        calibration_counts=calibration,
    )


def test_every_figure_is_that_of_the_report(report):
    card = model_card("mine", tiny.danet(3), report, "CC BY 4.0", TRAINING)
    # By hand: 90 / (90 + 60 + 10), 40 / (40 + 10 + 60).
    assert "| road | 56.25% |" in card
    assert "| side\\_car | 36.36% |" in card
    assert "| mean IoU | 46.31% |" in card
    assert '"value": 46.31' in card
    assert "60% of side\\_car is taken for road; 10% of road" in card
    assert "IoU below 50%: side\\_car (36.36%)" in card
    assert "Not in these images: sky." in card
    # 0.25 * |0.4 - 0.5| + 0.75 * |0.8 - 0.98|
    assert "calibration error is 16.00%" in card
    assert "75.00% of the pixels with the highest confidence, 80.00%" in card
    assert "| epochs | 7 |" in card and "CC BY 4.0" in card
    assert "| versions | keras 3.15.1 |" in card
    assert "resnet50.h5" in card and "/home" not in card
    # What YAML reads is JSON.
    for line in card.split("---")[1].strip().splitlines():
        json.loads(line.partition(": ")[2])


def test_what_is_unknown_is_left_out(report):
    counts = np.diag([3, 3, 3])
    bare = Report("mine", "val", "whole images", 1, ("a", "b", "c"), counts)
    card = model_card("x", tiny.danet(3), bare, "not recorded")
    for word in ("Training", "Confidence", "confuses", "below 50%", "Not in"):
        assert word not in card


def test_the_command_writes_it(report, tmp_path, capsys):
    folder = tmp_path / "danet_mine"
    DANet(3, DilatedResNet(18, filters=8)).save_to_preset(folder)
    assert main(["card", str(folder)]) == 2
    assert "There is no report" in capsys.readouterr().err
    report.save(folder / "report.json")
    assert main(["card", str(folder)]) == 0
    card = capsys.readouterr().out
    assert 'from_preset("danet_mine")' in card
    output = folder / "README.md"
    assert main(["card", str(folder), "--output", str(output)]) == 0
    assert output.read_text() == card and is_card(output)
    assert main(["card", str(folder), "--output", str(output)]) == 0

    output.write_text("my thesis")
    assert main(["card", str(folder), "--output", str(output)]) == 2
    assert "not a model card" in capsys.readouterr().err
    assert output.read_text() == "my thesis"
    assert main(["card", str(folder), "--run", str(folder)]) == 2
    assert "does not describe a run" in capsys.readouterr().err
