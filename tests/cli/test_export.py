"""What `export` says before it exports."""

import argparse

import numpy as np
import pytest
from conftest import one_backend

from keras_danet.cli import export
from keras_danet.export import exporting
from keras_danet.export.contract import Contract
from keras_danet.recipe import TrainConfig

pytestmark = one_backend


def test_an_unfinished_run_is_named(tmp_path, capsys):
    crop = {"crop_size": (32, 32)}
    config = TrainConfig("scenes", epochs=3, batch_size=1, augmentation=crop)
    # Without its history nobody knows.
    export._warn_if_unfinished(tmp_path, config)
    history = tmp_path / "history.csv"
    history.write_text("epoch,loss\n1,0.5\n2,0.4\n3,0.3\n")
    export._warn_if_unfinished(tmp_path, config)
    assert capsys.readouterr().err == ""
    history.write_text("epoch,loss\n1,0.5\n2,0.4\n")
    export._warn_if_unfinished(tmp_path, config)
    assert "is not finished (2 of 3 epochs)" in capsys.readouterr().err


def test_a_preset_without_data_is_compared_on_the_street(capsys):
    given = argparse.Namespace(data=None, model="my_preset", images=8)
    assert export.samples_of(given, None, None) == []
    said = capsys.readouterr().err
    assert "the street of the package only: my_preset is no run" in said
    # Calibration has nothing in its place.
    with pytest.raises(ValueError, match="Give --data NAME ROOT"):
        export.samples_of(given, None, None, "train", 32)
    contract = Contract("onnx", "none", "labels", ("a",), ((0, 0, 0),))
    street, *noises = exporting._fitted([], contract)
    assert street.image.shape == (360, 480, 3) and street.label is None
    # A drawing has even surfaces, and noise has none.
    steps = [
        np.abs(np.diff(x.image.astype(int), axis=1)).mean()
        for x in (street, noises[0])
    ]
    assert steps[0] < 20 < 60 < steps[1]
