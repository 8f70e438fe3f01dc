"""What a word that names a model means: a preset, a file, or a run's folder."""

import json
import os
from pathlib import Path

from keras_danet.data.datasets import did_you_mean
from keras_danet.models import presets
from keras_danet.models import weight_files

RUN_MODEL = "model.keras"


def find(source):
    """Where the model that `source` names is kept.

    Args:
        source: a preset's name, `"hf://user/repo"`, the folder of a preset
            or of a model that Keras saved unzipped, a run's folder, or a
            `.keras` file.

    Returns:
        `(kind, place)`: `"preset"` and what `presets.find` reads, or
        `"file"` and the path that `weight_files.load_keras_model` reads.

    Raises:
        ValueError, FileNotFoundError: if it is none of them, with what it is.
    """
    source = os.fspath(source)
    known = {**presets.DANET, **presets.BACKBONES}
    if source in known or source.startswith("hf://"):
        return "preset", source
    path = Path(source)
    if path.is_dir():
        return _find_in(path)
    if path.is_file():
        return "file", _checked_file(path)
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"There is no {source}. {EXPECTED}")
    raise ValueError(
        f"There is no preset {source!r}, nor a file or folder of that name."
        f"{did_you_mean(source, known)} {EXPECTED} The presets are "
        f"{list(known)}."
    )


EXPECTED = (
    "Expected the folder of a run, a .keras file, the folder of a preset, a "
    "preset's name, or 'hf://user/repo'."
)


def _find_in(folder):
    if (folder / RUN_MODEL).is_file():
        return "file", folder / RUN_MODEL
    try:
        content = json.loads((folder / presets.CONFIG_FILE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}
    keys = set(content)
    if "class_name" in keys:
        # Only Keras's own way to write a folder knows other backbones.
        whole = _other_backbone(content)
        return ("file", folder) if whole else ("preset", str(folder))
    if {"config", "sessions"} <= keys:
        raise FileNotFoundError(
            f"The run {folder} has no {RUN_MODEL} yet: that is written by its "
            "first validation. Go on with it: keras-danet train RECIPE "
            f"--output {folder} --resume."
        )
    held = sorted(os.listdir(folder))[:3]
    raise FileNotFoundError(
        f"{folder} is not a run folder, nor one of a preset: it has no "
        f"{RUN_MODEL}, and no {presets.CONFIG_FILE} of a model. {EXPECTED} "
        f"Received: a folder with {', '.join(held) or 'nothing in it'}."
    )


def _other_backbone(content):
    config = content.get("config")
    backbone = config.get("backbone") if isinstance(config, dict) else None
    return (
        "module" in content
        and isinstance(backbone, dict)
        and backbone.get("class_name") != "DilatedResNet"
    )


def _checked_file(path):
    ending = path.suffix.lower()
    if ending == ".keras":
        return path
    if ending in weight_files.ENDINGS:
        raise ValueError(
            f"{path} is a checkpoint of tensors, not a model. Make one of it: "
            f"keras-danet convert {path} -o model.keras (or from_checkpoint)."
        )
    if path.name.lower().endswith(".weights.h5"):
        raise ValueError(
            f"{path} holds weights and no network. Make the model, call "
            "model.load_weights(path), and model.save('model.keras')."
        )
    raise ValueError(f"{path} is no .keras file. {EXPECTED}")
