"""What a grid's trainings lack, and what can be checked before the first."""

import json
import subprocess
import sys

from keras_danet.ablation.grid import Grid
from keras_danet.ablation.reading import MULTI_SCALE
from keras_danet.ablation.reading import read_training
from keras_danet.arguments import choice
from keras_danet.data.files import find_pairs
from keras_danet.distribution import engines
from keras_danet.distribution import keras_distributions
from keras_danet.distribution import tensorflow_strategies
from keras_danet.inference.protocols import InferenceProtocol
from keras_danet.inference.report import Report
from keras_danet.runs import find_data
from keras_danet.runs import is_finished

# Told on standard output: backends write on the other one.
OPEN_DEVICES = """
import json, sys
from keras_danet.ablation.steps import open_devices

try:
    open_devices(*json.loads(sys.argv[1]))
except ValueError as error:
    print(error)
    sys.exit(2)
"""


def steps_of(grid: Grid, variant, seed, scales=None, mirror=False) -> list:
    """The verbs that a training of a grid still needs, each with its words.

    Args:
        scales: tuple of numbers, for a second measurement at several scales.
            Defaults to `None`, without one.
        mirror: boolean, whether that sees mirror images, too.

    Returns:
        List of lists of words. It is empty for a run that was trained to its
        end and measured after that; its model may be gone, as its record can
        be kept without it.

    Raises:
        FileNotFoundError: if what was measured is no run.
        ValueError: if it is of another training, or cannot be read.
    """
    run = grid.run(variant, seed)
    settings = [*grid.settings]
    settings += [f"{key}={text}" for key, text in variant.settings.items()]
    train = ["train", grid.recipe, "--output", run, "--resume"]
    for setting in (*settings, f"seed={seed}"):
        train += ["--set", setting]
    steps = [train, ["evaluate", run]]
    if _is_measured(run, "report.json"):
        config, history = read_training(grid, variant, seed)
        if is_finished(history, config):
            steps = []
    model = run / "model.keras"
    if scales and (steps or (model.exists() and not _has(run, scales, mirror))):
        words = ["--output", run / MULTI_SCALE]
        words += ["--scales", ",".join(map(str, scales))]
        steps.append(["evaluate", run, *words, *["--mirror"] * mirror])
    return steps


def _is_measured(run, name):
    """Whether there is a report, and the model is not a later one."""
    report, model = run / name, run / "model.keras"
    if not report.is_file():
        return False
    return not model.exists() or (
        report.stat().st_mtime >= model.stat().st_mtime
    )


def _has(run, scales, mirror):
    """Whether a run was measured at these scales."""
    if not _is_measured(run, MULTI_SCALE):
        return False
    asked = InferenceProtocol(scales=scales, mirror=mirror).as_dict()
    found = Report.load(run / MULTI_SCALE).settings or {}
    return all(found.get(key) == asked[key] for key in ("scales", "mirror"))


def check_scales(scales, mirror) -> None:
    """Refuses scales that `evaluate` would refuse after the first training."""
    if scales:
        InferenceProtocol(scales=scales, mirror=mirror)
    elif mirror:
        raise ValueError(
            "--mirror is for the measurement at several scales. Give --scales "
            "as well, such as --scales 0.75,1,1.25."
        )


def check_data(grid: Grid, data: str | None) -> None:
    """Refuses a folder without the images that the grid's trainings read."""
    configs = [grid.config_of(*cell) for cell in grid.cells]
    root = data or grid.config.data_root
    if grid.config.dataset == "scenes" and not root:
        # They will be drawn.
        return
    dataset, root = find_data(grid.config.replace({"data_root": root}), None)
    for split in {
        split for c in configs for split in (c.train_split, c.val_split)
    }:
        find_pairs(dataset, root, split)


def check_devices(grid: Grid, distribute, devices, model_devices) -> None:
    """Refuses devices and batches that `train` would refuse.

    They are opened in a process of its own, because this one would keep them
    from the trainings.
    """
    choice("distribute", distribute, engines.DISTRIBUTIONS)
    sizes = {grid.config_of(*cell).batch_size for cell in grid.cells}
    words = distribute, devices, model_devices, sorted(sizes)
    if distribute == "none":
        open_devices(*words)
        return
    done = subprocess.run(
        [sys.executable, "-c", OPEN_DEVICES, json.dumps(words)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ValueError(done.stdout.strip() or done.stderr[-2000:])


def open_devices(distribute, devices, model_devices, batch_sizes) -> None:
    """Opens devices as `train` does, and gives them back.

    Raises:
        ValueError: if there are none such, or a batch does not divide.
    """
    cluster = tensorflow_strategies.read_cluster() or (0, 1)
    if cluster[1] > 1 or keras_distributions.read_processes():
        # The others would wait for it.
        return
    with engines.scope(distribute, devices, model_devices) as placement:
        for size in batch_sizes:
            placement.check_batch_size(size)
