"""What is written into a run folder, and what is read from one."""

import json
import os
import subprocess
import sys

import pytest
from conftest import one_backend

from keras_danet import TrainConfig
from keras_danet import runs
from keras_danet.data.scenes import write_scenes
from keras_danet.distribution.engines import Placement

pytestmark = one_backend


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "5",
        json.dumps({"config": {"dataset": "scenes"}, "sessions": 5}),
        "[" * 100_000,
    ],
)
def test_a_config_that_is_none_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json does not describe"):
        runs.read_run_config(tmp_path)


def git(folder, *words):
    who = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    subprocess.run(["git", *who, *words], cwd=folder, check=True)


def test_a_run_tells_whether_its_commit_is_what_ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    config = TrainConfig("scenes", 1, 1, {"crop_size": (32, 32)})
    run = tmp_path / "run"
    run.mkdir()

    def told():
        runs.write_run_config(run, config, "x", Placement(), None, "x", 1)
        session = runs.read_run_file(run)["sessions"][-1]
        return session["commit"], session["modified"]

    assert told() == (None, None)
    (tmp_path / "recipe.py").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "recipe.py")
    git(tmp_path, "commit", "-qm", "first")
    commit, modified = told()
    # The run itself is not tracked.
    assert len(commit) == 40 and modified is False
    (tmp_path / "recipe.py").write_text("2")
    assert told() == (commit, True)


HEAD = "epoch,loss,val_mean_iou,gamma_position\n"


@pytest.mark.parametrize(
    "text, message",
    [
        (HEAD + "1,0.5,0.1", "ends within a line"),
        (HEAD + "1,0.5\n", "row 1 is not as long"),
        (HEAD + "1,0.5,0.1,0.1,0.1\n", "row 1 is not as long"),
        (HEAD + "1,0.5,0.1,0.1\n1,0.5,0.1,0.1\n", "row 2 is of epoch 1.0"),
        (HEAD + "1,0.5,7,0.1\n", "val_mean_iou is 7.0 in row 1"),
        (HEAD + "1,0.5,nan,0.1\n", "val_mean_iou is nan in row 1"),
        (HEAD + "1,0.5,much,0.1\n", "could not convert"),
        (HEAD + "1,0.5,0.1,inf\n", "gamma_position is inf"),
        ("loss\n1\n", "row 1 is of epoch None"),
        (HEAD + "1" * 200_000 + "\n", "field larger"),
    ],
)
def test_a_history_that_is_none_is_named(tmp_path, text, message):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        runs.read_history(path)
    assert str(path) in str(caught.value)


def test_a_history_has_numbers_where_they_were_measured(tmp_path):
    path = tmp_path / "history.csv"
    assert runs.read_history(path) == []
    path.write_text(HEAD + "1,nan,,0.5\n2,0.5,0,-0.5\n")
    assert runs.read_history(path) == [
        {
            "epoch": 1,
            "loss": "nan",
            "val_mean_iou": None,
            "gamma_position": 0.5,
        },
        {"epoch": 2, "loss": "0.5", "val_mean_iou": 0, "gamma_position": -0.5},
    ]


LIMITED = """
import resource, sys
from keras_danet.cli import main

limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main())
"""
RECIPE = """
from keras_danet import TrainConfig

config = TrainConfig(
    dataset="scenes",
    epochs=1,
    batch_size=2,
    model={"depth": 18, "filters": 8},
    augmentation={"crop_size": (32, 32)},
    loader="numpy",
)
"""


@pytest.mark.parametrize(
    "limit, file", [(1_000_000, "model.keras"), (100, "config.json")]
)
def test_a_full_disk_ends_a_training_with_the_files_name(tmp_path, limit, file):
    """HDF5, where it meets one by itself, ends in a segmentation fault."""
    write_scenes(tmp_path / "data", {"train": 2, "val": 1}, size=(32, 48))
    (tmp_path / "tiny.py").write_text(RECIPE)
    done = subprocess.run(
        [
            *(sys.executable, "-c", LIMITED, str(limit), "train", "tiny.py"),
            *("--data", "data", "--output", "run"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done
    message = f"error: {tmp_path / 'run' / file} cannot be written: File too"
    assert message in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["data", "tiny.py"]
