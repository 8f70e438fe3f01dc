"""What is written into a run folder, and what is read from one."""

import json
import os
import subprocess
import sys

import pytest
from conftest import one_backend

from keras_danet import runs
from keras_danet.data.scenes import write_scenes

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
