"""A training process that is killed again and again, at any moment."""

import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_danet import runs
from keras_danet.data.scenes import write_scenes
from keras_danet.trainer.checkpoints import checkpoints
from keras_danet.trainer.checkpoints import newest_checkpoint

pytestmark = pytest.mark.slow

# On three backends more than thirty in all.
NUM_KILLS = 12
RECIPE = """
from keras_danet import TrainConfig

config = TrainConfig(
    dataset="scenes",
    epochs=8,
    batch_size=2,
    model={"depth": 18, "filters": 8},
    augmentation={"crop_size": (32, 32)},
    jit_compile=JIT,
)
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workshop")
    write_scenes(folder / "data", {"train": 30, "val": 3}, size=(32, 48))
    jit = keras.backend.backend() == "jax"
    (folder / "tiny.py").write_text(RECIPE.replace("JIT", str(jit)))
    finish(train(folder, "unbroken"))
    return folder


def train(folder, run, *options):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "keras_danet", "train", "tiny.py"),
            *("--data", "data", "--output", run, "--resume"),
            *("--checkpoint-every", "3", *options),
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def finish(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def weights(run):
    return [
        keras.ops.convert_to_numpy(weight)
        for weight in runs.open_model(run)[0].weights
    ]


def history(run):
    """Rows of history.csv without what a clock measured."""
    rows = (run / "history.csv").read_text().splitlines()
    names = rows[0].split(",")
    measured = {
        names.index(n) for n in ("images_per_second", "peak_memory_mib")
    }
    return [
        [v for n, v in enumerate(row.split(",")) if n not in measured]
        for row in rows
    ]


def kill_at_random(process, run, rng):
    """Kills it some moments after it has begun to train."""
    before = {path.name for path in checkpoints(run / "checkpoints")}
    while process.poll() is None:
        now = {path.name for path in checkpoints(run / "checkpoints")}
        if now - before or rng.uniform() < 0.001:
            break
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.8))
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_no_kill_changes_where_a_run_ends(workshop):
    rng = np.random.default_rng(0)
    run = workshop / "killed"
    kills = 0
    for number in range(NUM_KILLS):
        # Also while a thread writes what the next steps have changed.
        options = ("--background",) if number % 2 else ()
        process = train(workshop, "killed", *options)
        kills += kill_at_random(process, run, rng)
        # Nothing that was finished is lost.
        told = []
        newest_checkpoint(run / "checkpoints", told.append)
        assert not told
    finish(train(workshop, "killed"))
    assert kills == NUM_KILLS
    assert history(run) == history(workshop / "unbroken")
    for ours, theirs in zip(
        weights(run), weights(workshop / "unbroken"), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert not list(run.rglob(".partial-*"))


def test_sigterm_ends_in_143_and_is_gone_on_from(workshop):
    process = train(workshop, "stopped")
    run = workshop / "stopped"
    while not checkpoints(run / "checkpoints"):
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    finish(train(workshop, "stopped"))
    for ours, theirs in zip(
        weights(run), weights(workshop / "unbroken"), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
