"""The card: its figures are the report's, and no path is told."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from conftest import one_backend

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import TrainConfig
from keras_danet.cli import main
from keras_danet.inference import scores
from keras_danet.inference.model_card import Trained
from keras_danet.inference.model_card import is_card
from keras_danet.inference.model_card import model_card
from keras_danet.inference.report import Report

pytestmark = one_backend

# Of a car's 100 pixels 40 are found and 60 are taken for road.
COUNTS = np.array([[90, 10, 0], [60, 40, 0], [0, 0, 0]])
RECORD = {
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
        {
            "versions": {"keras": "3.15.1", "torch": None},
            "commit": "abc",
            "modified": True,
        }
    ],
}
TRAINING = Trained(TrainConfig.from_keys(RECORD["config"]), RECORD)


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
    assert "| started from | resnet50.h5 |" in card and "/home" not in card
    assert "| commit | abc, with uncommitted changes |" in card
    # What YAML reads is JSON.
    for line in card.split("---")[1].strip().splitlines():
        json.loads(line.partition(": ")[2])


def test_what_is_unknown_is_left_out(report):
    counts = np.diag([3, 3, 3])
    bare = Report("mine", "val", "whole images", 1, ("a", "b", "c"), counts)
    card = model_card("x", tiny.danet(3), bare, "not recorded")
    for word in ("Training", "Confidence", "confuses", "below 50%", "Not in"):
        assert word not in card


KERAS = "keras.applications.ResNet50"


@pytest.mark.parametrize(
    "model, start, expected",
    [
        ({}, None, "random weights"),
        ({"backbone_weights": "imagenet"}, None, "ImageNet weights"),
        (
            {"backbone": KERAS, "backbone_weights": "imagenet"},
            None,
            "ImageNet weights, of Keras",
        ),
        ({"start_from": "/home/me/first"}, None, "first"),
        (
            {"start_from": "/home/me/first"},
            {"attention": "position", "backbone_weights": "/x/w.h5"},
            "first (position attention; w.h5, then 9 epochs)",
        ),
    ],
)
def test_it_says_what_the_weights_were_before(report, model, start, expected):
    config = TRAINING.config.replace({"backbone_weights": None, **model})
    if start:
        start = TRAINING.config.replace({"epochs": 9, **start})
    training = dataclasses.replace(TRAINING, config=config, start=start)
    card = model_card("mine", tiny.danet(3), report, "CC", training)
    assert f"| started from | {expected} |" in card


def test_it_says_that_the_images_chose_the_weights(report):
    history = [{"val_mean_iou": score} for score in (None, 0.1, 0.3, 0.2)]
    training = dataclasses.replace(TRAINING, history=history)
    line = "- The weights are the best of 3 validations on these very images."
    card = model_card("mine", tiny.danet(3), report, "CC", training)
    assert line in card.splitlines()
    # Not where it was measured on others, and nothing was chosen by one.
    test = dataclasses.replace(report, split="test")
    once = dataclasses.replace(training, history=history[:2])
    for others in ((test, training), (report, once), (report, TRAINING)):
        card = model_card("mine", tiny.danet(3), others[0], "CC", others[1])
        assert "The weights are the best" not in card


def test_nothing_of_a_report_is_told_raw(report):
    words = {"dataset": "a\x1b[2J", "protocol": "b\x1b[2J", "split": "c\x1b[2J"}
    wild = dataclasses.replace(report, **words)
    card = model_card("d\x1b[2J", tiny.danet(3), wild, "CC", None, wild)
    assert "\x1b" not in card
    for letter in "abcd":
        assert f"{letter}\\x1b" in card.lower()


def test_several_scales_and_a_run_are_read_where_they_lie(
    report, tmp_path, capsys
):
    folder = tmp_path / "danet_mine"
    DANet(3, DilatedResNet(18, filters=8)).save_to_preset(folder)
    report.save(folder / "report.json")
    counts = np.array([[96, 4, 0], [50, 50, 0], [0, 0, 0]])
    several = {"confusion_matrix": counts, "protocol": "scales 1, 2"}
    dataclasses.replace(report, **several).save(
        folder / "report_multi_scale.json"
    )
    first, run = tmp_path / "first", tmp_path / "run"
    for place, changes in (
        (first, {"backbone_weights": "imagenet"}),
        (run, {"backbone_weights": None, "start_from": str(first)}),
    ):
        place.mkdir()
        config = {**RECORD["config"], "model": changes}
        record = json.dumps({**RECORD, "config": config})
        (place / "config.json").write_text(record)
    (run / "history.csv").write_text("epoch,val_mean_iou\n1,0.1\n2,0.3\n")
    words = ["card", str(folder), "--run", str(run)]
    assert main(words) == 0
    card = capsys.readouterr().out
    # 96 / 150 and 50 / 104.
    assert "\nScales 1, 2: mean IoU 56.04%.\n" in card
    assert "best of 2 validations" in card
    assert "first (position and channel attention; ImageNet weights, " in card
    dataclasses.replace(report, images="others", weights="x").save(
        folder / "report_multi_scale.json"
    )
    dataclasses.replace(report, images="these").save(folder / "report.json")
    assert main(words) == 2
    assert "measured differently: images is" in capsys.readouterr().err
    (run / "history.csv").write_text("epoch\n1")
    (folder / "report_multi_scale.json").unlink()
    assert main(words) == 2
    assert "history.csv is not a history" in capsys.readouterr().err


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
