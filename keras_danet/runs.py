"""What a training leaves in its run folder, and later steps find there."""

import csv
import dataclasses
import datetime
import io
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
from importlib import metadata

import keras

from keras_danet.data.class_tables import spread_color
from keras_danet.data.datasets import get_dataset
from keras_danet.data.decoding import read_image
from keras_danet.data.files import find_pairs
from keras_danet.data.folder import CLASSES_FILE
from keras_danet.data.folder import FOLDER
from keras_danet.data.folder import open_dataset
from keras_danet.data.folder import read_classes
from keras_danet.data.resampling import resize_image
from keras_danet.data.resampling import scaled_size
from keras_danet.files import MAX_JSON_BYTES
from keras_danet.files import read_json
from keras_danet.files import save_text
from keras_danet.models import DANet
from keras_danet.models import DilatedResNet
from keras_danet.recipe import TrainConfig
from keras_danet.recipe.config import LARGEST
from keras_danet.recipe.config import MOST_EPOCHS
from keras_danet.weights import sources
from keras_danet.weights.keras_files import load_keras_model

# Figures of a history, and between what they lie.
RANGES = {
    "epoch": (1, MOST_EPOCHS),
    "val_mean_iou": (0, 1),
    "gamma_position": (-LARGEST, LARGEST),
    "gamma_channel": (-LARGEST, LARGEST),
}


def write_run_config(
    run, config, root, placement, recipe, data_digest, steps_per_epoch
):
    """Writes `config.json`: what is run, on what, by which command.

    Resuming a run adds to its `sessions`. The classes of your own
    folder come with it, as `classes.json`.

    Args:
        run: `pathlib.Path` of the run folder.
        config: `TrainConfig`.
        root: path of the data set.
        placement: `distribution.Placement`.
        recipe: string, path of the recipe, or `None`.
        data_digest: string, identifies the data.
        steps_per_epoch: integer, for figures over steps.
    """
    path = run / "config.json"
    sessions = []
    if path.is_file():
        sessions = read_run_file(run).get("sessions", [])
    # An absolute root, so that the folder is found from anywhere; the drawn
    # scenes move with the run.
    inside = pathlib.Path(root).parent == run
    content = {
        "config": {
            **dataclasses.asdict(config),
            "data_root": None if inside else os.path.abspath(root),
        },
        "recipe": recipe and str(recipe),
        "backend": keras.backend.backend(),
        "data_digest": data_digest,
        "steps_per_epoch": steps_per_epoch,
        "sessions": [
            *sessions,
            {
                "started": datetime.datetime.now(datetime.UTC).isoformat(
                    "T", "seconds"
                ),
                "command": sys.argv,
                "distribute": placement.engine,
                "devices": placement.num_devices,
                "versions": versions(),
                **_commit(),
            },
        ],
    }
    save_text(json.dumps(content, indent=1) + "\n", path)
    if config.dataset == FOLDER:
        classes = pathlib.Path(root) / CLASSES_FILE
        save_text(classes.read_text("utf-8-sig"), run / CLASSES_FILE)


def read_run_config(run):
    """The `TrainConfig` of a run folder."""
    path = pathlib.Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} is not a run folder: it has no config.json. Expected the "
            "folder that `keras-danet train` made."
        )
    content = None
    try:
        content = read_run_file(run)
        if not isinstance(content.get("sessions", []), list):
            raise TypeError("its sessions are not a list")
        return TrainConfig.from_keys(content["config"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a run ({error}). Expected the file "
            f"that `keras-danet train` wrote.{_other_version(content)}"
        ) from error


def _other_version(content):
    """A sentence, if another version wrote what a `config.json` holds."""
    try:
        wrote = content["sessions"][-1]["versions"]["keras-danet"]
    except (IndexError, KeyError, TypeError):
        return ""
    ours = versions()["keras-danet"]
    if wrote in (None, ours):
        return ""
    return (
        f" It was written by keras-danet {wrote}, and this is "
        f"{ours or 'another version'}: use that version, or a later one."
    )


def read_history(path):
    """The rows of a `history.csv`, dicts; none without one.

    What training reads again is a float, `None` where a row has none: the
    epoch, its validation and the gammas. The rest are strings.

    Raises:
        ValueError: if it is no such table, or cut short.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        return []
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
        text = path.read_text("utf-8")
        if text and not text.endswith("\n"):
            raise ValueError("it ends within a line")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        for number, row in enumerate(rows, 1):
            _read_row(row, number)
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is not a history ({error}). Expected the file that "
            "`keras-danet train` wrote."
        ) from error
    return rows


def _read_row(row, number):
    """Makes floats of the figures of an epoch."""
    if None in row or None in row.values():
        raise ValueError(f"row {number} is not as long as the heading")
    for name in RANGES.keys() & row.keys():
        least, most = RANGES[name]
        row[name] = float(row[name]) if row[name] else None
        # Written so that NaN fails it too.
        if row[name] is not None and not least <= row[name] <= most:
            raise ValueError(f"{name} is {row[name]} in row {number}")
    if row.get("epoch") != number:
        raise ValueError(f"row {number} is of epoch {row.get('epoch')}")


def is_finished(history, config):
    """Whether a training has ended, with its epochs or by its patience.

    Args:
        history: rows of `read_history`.
        config: its `TrainConfig`.
    """
    best, waited = -math.inf, 0
    for row in history:
        found = row.get("val_mean_iou")
        if found is not None:
            waited = 0 if found > best else waited + 1
            best = max(best, found)
    ended = config.patience is not None and waited >= config.patience
    return ended or len(history) >= config.epochs


def read_run_file(run):
    """What a run's `config.json` holds, as it is."""
    return read_json(pathlib.Path(run) / "config.json")


def open_model(source):
    """The model that `source` names, and the settings of its run.

    Args:
        source: a run's folder, a `.keras` file, or a preset, as
            `DANet.from_preset` takes them.

    Returns:
        `(model, config)`: a `DANet`, or what else a `.keras` file holds, and
        a `TrainConfig`, `None` for what is not a run. A `DANet` of a run knows
        its classes.
    """
    kind, place = sources.find(source)
    if kind == "preset":
        return DANet.from_preset(place), None
    model = load_keras_model(place)
    config = config_of(source)
    if config and isinstance(model, DANet) and model.class_names is None:
        # Older runs kept them beside the model only.
        dataset = read_dataset(config, source)
        if dataset.num_classes == model.num_classes:
            model.class_names = dataset.class_names
            model.palette = dataset.palette
    return model, config


def config_of(source):
    """The `TrainConfig` of the run that `source` names, `None` for another."""
    folder = pathlib.Path(source)
    kind, place = sources.find(source)
    is_run = kind == "file" and place != folder and folder.is_dir()
    if not is_run or not (folder / "config.json").is_file():
        return None
    return read_run_config(folder)


def dataset_of_preset(source):
    """Name of the data set that a preset by name was trained on, or None.

    Raises:
        ValueError: if it is the preset of a backbone.
    """
    if str(source) in DilatedResNet.presets:
        raise ValueError(
            f"{source} is a backbone without a head, which has no classes. "
            "Expected a DANet: train one from it, with the recipe's "
            f"`backbone_weights={str(source)!r}`."
        )
    return DANet.presets.get(str(source), {}).get("dataset")


def classes_of(model):
    """(class names, palette) of a model, or placeholders."""
    count = model.inference_model if isinstance(model, DANet) else model
    count = count.output.shape[-1]
    names = getattr(model, "class_names", None)
    palette = getattr(model, "palette", None)
    return (
        names or tuple(f"class {index}" for index in range(count)),
        palette or tuple(map(spread_color, range(count))),
    )


def find_data_for(model, name, root):
    """The record and root of a data set that a model is to be measured on.

    Raises:
        ValueError: if it has other classes than the model.
    """
    config = TrainConfig(name, 1, 1, {"crop_size": (64, 64)}, data_root=root)
    dataset, root = find_data(config, None)
    names, _ = classes_of(model)
    known = getattr(model, "class_names", None)
    if len(names) != dataset.num_classes or (
        known and known != dataset.class_names
    ):
        raise ValueError(
            f"The model has {len(names)} classes"
            + (f" ({', '.join(names[:3])}, ...)" if known else "")
            + f", and {dataset.title} has {dataset.num_classes} "
            f"({', '.join(dataset.class_names[:3])}, ...). Expected the same: "
            "choose another --dataset, or train the model for these."
        )
    return dataset, root


def versions():
    """What computes here: a dict of package to version."""
    found = {"python": platform.python_version()}
    for name in ("keras-danet", "keras", keras.backend.backend(), "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _commit():
    """The commit of the working folder's repository, None without one.

    And whether files that it tracks were changed since.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    modified = None if commit is None or changes is None else bool(changes)
    return {"commit": commit, "modified": modified}


def _git(*arguments):
    """What git says here, None if it fails."""
    try:
        return subprocess.run(
            # Without writing to the repository.
            ["git", "--no-optional-locks", *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def find_data(config, run):
    """The data set's record and root folder; draws the scenes into a run."""
    variable = f"KERAS_DANET_{config.dataset.upper()}"
    root = config.data_root or os.environ.get(variable)
    if config.dataset == FOLDER:
        title, origin = (
            "your own data set",
            "`keras_danet.data.folder` describes the layout",
        )
    else:
        known = get_dataset(config.dataset)
        title, origin = known.title, f"It is available from {known.url}"
    if root is None and config.dataset == "scenes" and run is not None:
        from keras_danet.data.scenes import write_scenes

        root = pathlib.Path(run) / "scenes"
        if not root.exists():
            write_scenes(root)
    if root is None:
        raise ValueError(
            f"The folder of {title} is not known. Give --data FOLDER, set "
            "`data_root` in the recipe, or set the environment variable "
            f"{variable}. {origin}."
        )
    dataset = open_dataset(config.dataset, root)
    _check_classes(dataset, run, root)
    return dataset, str(root)


def read_dataset(config, run):
    """The data set's record for a run, without reading the data."""
    if config.dataset == FOLDER:
        return read_classes(pathlib.Path(run) / CLASSES_FILE)
    return get_dataset(config.dataset)


def _check_classes(dataset, run, root):
    """A run was trained on the classes that it keeps, and no others."""
    if run is None:
        return
    kept = pathlib.Path(run) / CLASSES_FILE
    if dataset.name != FOLDER or not kept.is_file():
        return
    if read_classes(kept).class_names != dataset.class_names:
        raise ValueError(
            f"{pathlib.Path(root) / CLASSES_FILE} has other classes than "
            f"{kept}, which the run was trained on. Expected "
            f"{', '.join(read_classes(kept).class_names)}. Received: "
            f"{', '.join(dataset.class_names)}. Change them back, or train "
            "again."
        )


def sample_images(config, run, count=2):
    """A few validation images of a run, resized as for its network.

    An empty list if they are missing.
    """
    try:
        dataset, root = find_data(config, run)
        pairs = find_pairs(dataset, root, config.val_split)
    except (OSError, ValueError):
        return []
    images = [read_image(pair.image) for pair in pairs[:count]]
    return [
        resize_image(image, scaled_size(image.shape[:2], *config.test_sides))
        for image in images
    ]
