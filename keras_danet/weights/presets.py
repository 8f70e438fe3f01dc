"""Presets: trained weights by name, and the folders that models are kept in.

A preset folder holds `config.json`, the constructor's arguments, and
`model.weights.h5`. One may come from a stranger: its configuration is read
as data and can name no class but ours, and its weights are looked through
before Keras reads them. A preset by name becomes such a folder once, in the
cache.
"""

import contextlib
import hashlib
import inspect
import json
import os
import pathlib
import tempfile
import warnings

import keras

from keras_danet.data.datasets import DATASETS
from keras_danet.weights import downloads
from keras_danet.weights import files
from keras_danet.weights import hub
from keras_danet.weights import keras_files
from keras_danet.weights.preset_tables import BACKBONES
from keras_danet.weights.preset_tables import DANET
from keras_danet.weights.torch_networks import MAX_RATE
from keras_danet.weights.torch_networks import MAX_WIDTH

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"
MAX_CONFIG_BYTES = 2**20
DTYPES = (
    None,
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "mixed_float16",
    "mixed_bfloat16",
)
# (long, short) sides that images are measured with, as the presets' scores
# were; Cityscapes' have their own size. As in MMSegmentation's configurations.
TEST_SIZES = {"ade20k": (2048, 512), "voc2012": (2048, 512)}
# Counts the ways in which checkpoints were converted into folders.
CONVERSION = 1


def _own_class(cls):
    """Ours, of a class that a user derived from it."""
    return next(
        c for c in cls.__mro__ if c.__module__.startswith("keras_danet")
    )


def find(preset, cls, load_weights=True):
    """A preset's arguments, and the folder that holds its weights.

    Args:
        preset: a name in `cls.presets`, a `"hf://user/repo"` or a path.
        cls: class that it is to make.
        load_weights: boolean; without them no preset by name is fetched.

    Returns:
        `(config, folder, held)`, see `read_config`; the folder is complete
        and verified, and `held` is how many numbers its weights have. Both
        are `None` for a preset by name without weights.
    """
    preset = os.fspath(preset)
    if preset in cls.presets:
        row = cls.presets[preset]
        facts = _dataset_facts(row)
        if not load_weights:
            return {**row["arguments"], **facts}, None, None
        folder = _converted(preset, _own_class(cls), row)
        config, folder, held = _looked_through(folder, cls)
        return {**config, **facts}, folder, held
    if preset.startswith("hf://"):
        most = {
            CONFIG_FILE: MAX_CONFIG_BYTES,
            WEIGHTS_FILE: files.MAX_FILE_BYTES,
        }
        return _looked_through(hub.fetch_folder(preset, most), cls)
    # A name that is another class's; what is none is refused by `sources`.
    for names, other in (
        (DANET, "a whole DANet: DANet"),
        (BACKBONES, "a backbone, for DANet's `backbone` or DilatedResNet"),
    ):
        if preset in names:
            raise ValueError(
                f"{preset!r} is {other}.from_preset({preset!r}). Expected one "
                f"of {list(cls.presets)}."
            )
    return _looked_through(pathlib.Path(preset), cls)


def split_frozen(config):
    """The constructor's arguments, and what `models.freezing` added."""
    config = dict(config)
    trainable = config.pop("trainable", True)
    frozen = config.pop("frozen_layers", ())
    return config, (trainable, frozen, config.pop("adapters", {}))


def _dataset_facts(row):
    """What a DANet by name is told of its data set."""
    dataset = DATASETS.get(row.get("dataset"))
    # A backbone's, ImageNet, is none that is segmented.
    if dataset is None:
        return {}
    return {
        "class_names": dataset.class_names,
        "palette": dataset.palette,
        "test_size": TEST_SIZES.get(dataset.name),
    }


def _looked_through(folder, cls):
    """What `find` returns of a folder."""
    config = read_config(folder, cls)
    # Before a network is made for them.
    held = keras_files.check_h5(_plain_file(folder, WEIGHTS_FILE))
    return config, folder, held


def _converted(name, cls, row):
    """The folder of a preset by name, made from its checkpoint once."""
    home = downloads.cache_folder() / name
    # Another file, or another way to convert it, is another folder.
    made_of = f"{row['source']} {row['sha256']} {CONVERSION}"
    key = hashlib.sha256(made_of.encode()).hexdigest()[:8]
    folder = home / f"preset-{key}"
    home.mkdir(parents=True, exist_ok=True)
    with downloads.locked(folder):
        if folder.is_dir():
            return folder
        path = home / row["source"].rpartition("/")[2]
        downloads.fetch(row["source"], path, row["sha256"])
        told = {
            # For a checkpoint, None asks what it says itself.
            key: () if row["arguments"][key] is None else row["arguments"][key]
            for key in ("multi_grid", "align_corners")
            if key in row["arguments"]
        }
        # Variables are kept in full, whatever the policy of today.
        try:
            model = cls.from_checkpoint(path, dtype="float32", **told)
            _check_row(name, row, model)
        except ValueError:
            if row["sha256"] is None:
                downloads.forget(path)
            raise
        save(model, folder, keep_dtype=False)
    return folder


def _check_row(name, row, model):
    """Holds what was read off the tensors to what the table says."""
    found = model.get_config()
    for key, expected in row["arguments"].items():
        if found[key] != expected:
            raise ValueError(
                f"The file of preset {name!r} has {key}={found[key]!r} and "
                f"the table {expected!r}."
            )


def save(model, folder, keep_dtype=True):
    """Writes `config.json` and `model.weights.h5`, both or neither.

    Args:
        model: `DANet` or `DilatedResNet`.
        folder: path of the folder to make. An older preset there is replaced,
            anything else is left alone.
        keep_dtype: boolean. `False` leaves the policy to who makes it again.
            Defaults to `True`.

    Raises:
        FileExistsError: if `folder` holds something else than a preset.
        ValueError: if the model's backbone is of another class.
    """
    folder = pathlib.Path(os.path.abspath(folder))
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"{folder} is there, and is no folder.")
    others = set(os.listdir(folder)) if folder.exists() else set()
    if others - {CONFIG_FILE, WEIGHTS_FILE}:
        raise FileExistsError(
            f"{folder} holds {sorted(others)[0]!r}: it is no preset to be "
            "replaced. Choose a new folder."
        )
    if folder.exists() and folder.samefile(os.getcwd()):
        raise FileExistsError(
            f"{folder} is the working directory, which cannot be replaced. "
            "Choose another folder."
        )
    text = json.dumps(_describe(model, keep_dtype), indent=2) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", dir=folder.parent
    ) as workplace:
        new = pathlib.Path(workplace, "new")
        new.mkdir()
        model.save_weights(new / WEIGHTS_FILE)
        (new / CONFIG_FILE).write_text(text, encoding="utf-8")
        keras_files.check_h5(new / WEIGHTS_FILE)
        old = pathlib.Path(workplace, "old")
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(new, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise


def _describe(model, keep_dtype=True):
    """A model as `read_config` understands it."""
    config = _plain(model.get_config(), keep_dtype)
    backbone = config.get("backbone")
    if isinstance(backbone, dict):
        if backbone["registered_name"] != "keras_danet>DilatedResNet":
            raise ValueError(
                "A preset keeps a DilatedResNet as backbone; this one is a "
                f"{backbone['class_name']}. Save the whole model instead: "
                "model.save('danet.keras')."
            )
        config["backbone"] = {
            **{k: backbone[k] for k in ("module", "class_name")},
            "config": _plain(backbone["config"], keep_dtype),
            "registered_name": backbone["registered_name"],
        }
    own = _own_class(type(model))
    # With a module and a registered name Keras loads the folder, too.
    return {
        "module": own.__module__,
        "class_name": own.__name__,
        "config": config,
        "registered_name": keras.saving.get_registered_name(own),
    }


def _plain(config, keep_dtype):
    """A configuration without what belongs to a training, policies by name."""
    config = _untrained(config)
    if not keep_dtype:
        config["dtype"] = None
    if config["dtype"] not in DTYPES:
        raise ValueError(
            f"A preset keeps one of the policies {DTYPES}. Received: "
            f"dtype={config['dtype']!r}. Save the whole model instead: "
            "model.save('danet.keras')."
        )
    return config


def _untrained(config):
    """What Keras keeps of a model, as the arguments that a preset keeps."""
    config, _ = split_frozen(config)
    dtype = config.get("dtype")
    if isinstance(dtype, dict) and isinstance(dtype.get("config"), dict):
        config["dtype"] = dtype["config"].get("name")
    return config


def read_config(folder, cls):
    """The constructor's arguments from `config.json`, as far as is safe.

    Args:
        folder: path of a preset folder.
        cls: class that is wanted.

    Returns:
        Dict; a `backbone` that is no name is as it stands in the file.

    Raises:
        ValueError: for a configuration that no `save_to_preset` wrote.
    """
    path = _plain_file(folder, CONFIG_FILE)
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise ValueError(
            f"{path} has {size} bytes. Expected at most {MAX_CONFIG_BYTES}."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no JSON: {error}. Expected what save_to_preset writes."
        ) from None
    return checked_arguments(path, content, cls)


def checked_arguments(path, content, cls):
    """`content["config"]` if it holds arguments of `cls`, and nothing else."""
    cls = _own_class(cls)
    class_name = cls.__name__
    if (
        not isinstance(content, dict)
        or content.get("class_name") != class_name
        or not isinstance(content.get("config"), dict)
    ):
        found = content.get("class_name") if isinstance(content, dict) else None
        raise ValueError(
            f"{path} describes {found!r}. Expected a {class_name!r} and its "
            "'config', as save_to_preset writes them."
            + (
                " A DANet's backbone is a layer of it: DANet.from_preset("
                f"{str(pathlib.Path(path).parent)!r}).get_layer('resnet50')."
                if (class_name, found) == ("DilatedResNet", "DANet")
                else ""
            )
        )
    # A folder that Keras wrote has what belongs to a training as well.
    config = _untrained(content["config"])
    known = list(inspect.signature(cls.__init__).parameters)[1:]
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise ValueError(
            f"{path} sets {unknown}. Expected arguments of {class_name}: "
            f"{known}."
        )
    _check_widths(path, config)
    if config.get("dtype") not in DTYPES:
        raise ValueError(
            f"{path} sets dtype={config['dtype']!r}. Expected one of {DTYPES}."
        )
    return config


def _check_widths(path, config):
    """Refuses widths that would take memory before any weight is read."""
    for key, most in (
        ("filters", MAX_WIDTH),
        ("stem_filters", MAX_WIDTH),
        ("multi_grid", MAX_RATE),
    ):
        value = config.get(key)
        values = value if isinstance(value, list) else [value]
        for width in values:
            if isinstance(width, int | float) and width > most:
                raise ValueError(
                    f"{path} sets {key}={value}. Expected at most {most}."
                )


@contextlib.contextmanager
def explained(cls, folder):
    """Says which preset it was, whatever is wrong with its arguments."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        if str(folder) in str(error):
            raise
        raise ValueError(
            f"No {cls.__name__} can be made of what the preset {folder} and "
            f"the call say: {error}"
        ) from error


def load_weights(model, folder):
    """Reads a preset's weights into the model they were saved from."""
    path = pathlib.Path(folder, WEIGHTS_FILE)
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers that it leaves as they were.
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except (ValueError, KeyError, OSError, UserWarning) as error:
        raise ValueError(
            f"{path} does not fit the {CONFIG_FILE} beside it: {error}"
        ) from error


def transfer(source, target, anew=()):
    """Copies every weight by its name, except those of the layers `anew`."""
    values = {variable.path: variable for variable in source.weights}
    wanted = [
        variable
        for variable in target.weights
        if variable.path.partition("/")[0] not in anew
    ]
    missing = [v.path for v in wanted if v.path not in values]
    if missing:
        raise ValueError(
            f"The preset has no weights for {', '.join(missing[:4])}. Leave "
            "out the override that adds them."
        )
    for variable in wanted:
        # Its own array: on JAX either gives it away as it predicts.
        variable.assign(keras.ops.copy(values[variable.path]))


def _plain_file(folder, name):
    path = pathlib.Path(folder, name)
    if path.is_symlink():
        raise ValueError(
            f"{path} is a symbolic link, which may lead anywhere. Put the "
            "file itself there."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. Expected a folder that save_to_preset wrote, "
            f"with {CONFIG_FILE} and {WEIGHTS_FILE}."
        )
    return path
