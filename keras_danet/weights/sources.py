"""Finds the model that a source names: a preset, a file or a run's folder."""

import json
import os
from pathlib import Path

from keras_danet.arguments import did_you_mean
from keras_danet.weights import files
from keras_danet.weights import presets

RUN_MODEL = "model.keras"
KERAS_METADATA = "metadata.json"


def find(source, names=()):
    """Where the model that `source` names is kept.

    Args:
        source: a preset's name, `"hf://user/repo"`, the folder of a preset
            or of a model that Keras saved unzipped, a run's folder, or a
            `.keras` file.
        names: names of presets besides those of this package.

    Returns:
        `(kind, place)`: `"preset"` and what `presets.find` reads, or
        `"file"` and the path that `keras_files.load_keras_model` reads.

    Raises:
        ValueError, FileNotFoundError: if it is none of them; says what it is.
    """
    source = os.fspath(source)
    known = [*names, *presets.DANET, *presets.BACKBONES]
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
        f"No file, folder or preset named {source!r}."
        f"{did_you_mean(source, known)} {EXPECTED} `DANet.presets` and "
        "`DilatedResNet.presets` list the presets, such as "
        f"{next(iter(presets.DANET))!r}."
    )


EXPECTED = (
    "Expected the folder of a run, a .keras file, the folder of a preset, a "
    "preset's name, or 'hf://user/repo'."
)


def _find_in(folder):
    if (folder / RUN_MODEL).is_file():
        return "file", folder / RUN_MODEL
    content = _read_config(folder / presets.CONFIG_FILE)
    if content and "config" in content and "class_name" not in content:
        raise FileNotFoundError(
            f"The run {folder} has no {RUN_MODEL} yet: the first validation "
            "writes it. Resume the run: keras-danet train RECIPE "
            f"--output {folder} --resume."
        )
    if content is not None or (folder / presets.WEIGHTS_FILE).is_file():
        # Only a folder that Keras wrote can have another backbone.
        by_keras = (folder / KERAS_METADATA).is_file()
        if by_keras and content and _other_backbone(content):
            return "file", folder
        return "preset", str(folder)
    held = sorted(os.listdir(folder))[:3]
    raise FileNotFoundError(
        f"{folder} is not a run folder, nor a preset's: it has no "
        f"{RUN_MODEL}, and no {presets.CONFIG_FILE} of a model. {EXPECTED} "
        f"Received: a folder with {', '.join(held) or 'nothing in it'}."
    )


def _read_config(path):
    """What a `config.json` holds, `{}` if invalid; None if there is none."""
    try:
        if path.stat().st_size > presets.MAX_CONFIG_BYTES:
            return {}
        content = json.loads(path.read_text("utf-8"))
    except OSError:
        return None
    except (ValueError, RecursionError):
        # A preset's reader says what is wrong with it.
        return {}
    return content if isinstance(content, dict) else {}


def _other_backbone(content):
    config = content.get("config")
    backbone = config.get("backbone") if isinstance(config, dict) else None
    return (
        isinstance(backbone, dict)
        and backbone.get("class_name") != "DilatedResNet"
    )


def _checked_file(path):
    ending = path.suffix.lower()
    if ending == ".keras":
        return path
    if ending in files.ENDINGS:
        raise ValueError(
            f"{path} is a checkpoint of tensors, not a model. Convert it: "
            f"keras-danet convert {path} -o model.keras, or, in Python, use "
            "DANet.from_checkpoint or DilatedResNet.from_checkpoint."
        )
    if path.name.lower().endswith(".weights.h5"):
        raise ValueError(
            f"{path} holds weights but no network. Make the model, call "
            "model.load_weights(path), then model.save('model.keras'). In a "
            "recipe, weights of keras.applications go with a backbone such as "
            "'keras.applications.ResNet50'."
        )
    raise ValueError(f"{path} is not a .keras file. {EXPECTED}")
