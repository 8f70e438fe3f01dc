"""Presets: trained weights by name, and the folders that models are kept in.

A preset folder holds `config.json`, the constructor's arguments, and
`model.weights.h5`. It may come from a stranger: its configuration is read
as data and can only name our classes, and its weights are inspected before
Keras reads them. A named preset is converted to such a folder once, in the
cache.
"""

import contextlib
import hashlib
import inspect
import json
import os
import pathlib
import shutil
import tempfile
import warnings

import keras

from keras_danet.arguments import choice
from keras_danet.data.datasets import DATASETS
from keras_danet.files import save_text
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
# (long, short) sides that images are evaluated at, as for the presets' scores;
# Cityscapes images keep their size. As in MMSegmentation's configurations.
TEST_SIZES = {"ade20k": (2048, 512), "voc2012": (2048, 512)}
# Increased whenever checkpoints are converted to folders in another way.
CONVERSION = 1
# Beside the package, in a checkout.
SAVED_MODELS = pathlib.Path(__file__).parents[2] / "saved_models"


def _own_class(cls):
    """Our class, for itself or for a user's subclass of it."""
    return next(
        c for c in cls.__mro__ if c.__module__.startswith("keras_danet")
    )


def find(preset, cls, load_weights=True):
    """A preset's arguments, and the folder that holds its weights.

    Args:
        preset: a name in `cls.presets`, a `"hf://user/repo"` or a path.
        cls: class of the model to make.
        load_weights: boolean; if `False`, no named preset is fetched.

    Returns:
        `(config, folder, held)`, see `read_config`; the folder is complete
        and verified, and `held` is how many numbers its weights have. Both
        are `None` for a named preset without weights.
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
    # A name of the other class; `sources` refuses what is not a name.
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
    """What a named DANet knows about its data set."""
    dataset = DATASETS.get(row.get("dataset"))
    # A backbone's is ImageNet, which has no segmentations.
    if dataset is None:
        return {}
    return {
        "class_names": dataset.class_names,
        "palette": dataset.palette,
        "test_size": TEST_SIZES.get(dataset.name),
    }


def _looked_through(folder, cls):
    """What `find` returns for a folder."""
    config = read_config(folder, cls)
    # Before a network is made for them.
    held = keras_files.check_h5(_plain_file(folder, WEIGHTS_FILE))
    return config, folder, held


def _converted(name, cls, row):
    """The folder of a named preset, converted from its checkpoint once."""
    is_ours = row["source"].endswith(".weights.h5")
    if is_ours and (SAVED_MODELS / name).is_dir():
        return SAVED_MODELS / name
    if is_ours and not row["source"].startswith("http"):
        raise FileNotFoundError(
            f"{name!r} is a model of this project that no release offers for "
            f"download yet: it lies in saved_models/{name} of a checkout. "
            "Run there, or give the folder's path to from_preset."
        )
    home = downloads.cache_folder() / name
    # Another file, or another way to convert it, gets another folder.
    made_of = f"{row['source']} {row['sha256']} {CONVERSION}"
    key = hashlib.sha256(made_of.encode()).hexdigest()[:8]
    folder = home / f"preset-{key}"
    home.mkdir(parents=True, exist_ok=True)
    with downloads.locked(folder):
        if folder.is_dir():
            return folder
        path = home / row["source"].rpartition("/")[2]
        downloads.fetch(row["source"], path, row["sha256"])
        if is_ours:
            _unpack(path, row, cls, folder)
            return folder
        told = {
            # To from_checkpoint, None means: as the file says.
            key: () if row["arguments"][key] is None else row["arguments"][key]
            for key in ("multi_grid", "align_corners")
            if key in row["arguments"]
        }
        # Variables are stored in float32, whatever the current policy.
        try:
            model = cls.from_checkpoint(path, dtype="float32", **told)
            _check_row(name, row, model)
        except ValueError:
            if row["sha256"] is None:
                downloads.forget(path)
            raise
        save(model, folder, keep_dtype=False)
    return folder


def _unpack(path, row, cls, folder):
    """Makes a preset folder of a weight file and the table's arguments."""
    content = {"class_name": cls.__name__, "config": row["arguments"]}
    with tempfile.TemporaryDirectory(dir=folder.parent) as workplace:
        new = pathlib.Path(workplace, "new")
        new.mkdir()
        shutil.copyfile(path, new / WEIGHTS_FILE)
        save_text(json.dumps(content, indent=2) + "\n", new / CONFIG_FILE)
        os.rename(new, folder)


def _check_row(name, row, model):
    """Compares what was read off the tensors with the table."""
    found = model.get_config()
    for key, expected in row["arguments"].items():
        if found[key] != expected:
            raise ValueError(
                f"The file of preset {name!r} has {key}={found[key]!r} but "
                f"the table has {expected!r}."
            )


def save(model, folder, keep_dtype=True, kernel_dtype=None):
    """Writes `config.json` and `model.weights.h5`, both or neither.

    Args:
        model: `DANet` or `DilatedResNet`.
        folder: path of the folder to make. An older preset there is replaced,
            anything else is left alone.
        keep_dtype: boolean. `False` leaves the policy to the loader. Defaults
            to `True`.
        kernel_dtype: `"float16"`, or `None`: as the model has them.

    Raises:
        FileExistsError: if `folder` holds something other than a preset.
        ValueError: if the model's backbone is of another class, or a kernel
            is too large for float16.
    """
    if kernel_dtype is not None:
        choice("kernel_dtype", kernel_dtype, ("float16",))
    folder = pathlib.Path(os.path.abspath(folder))
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"{folder} exists and is not a folder.")
    others = set(os.listdir(folder)) if folder.exists() else set()
    if others - {CONFIG_FILE, WEIGHTS_FILE}:
        raise FileExistsError(
            f"{folder} holds {sorted(others)[0]!r}: it is not a preset and "
            "is not replaced. Choose a new folder."
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
        if kernel_dtype:
            keras_files.halve_kernels(new / WEIGHTS_FILE)
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


def _describe(model, keep_dtype):
    """A model's configuration in the form that `read_config` reads."""
    config = _plain(model.get_config(), keep_dtype)
    backbone = config.get("backbone")
    if isinstance(backbone, dict):
        is_own = backbone["registered_name"] == "keras_danet>DilatedResNet"
        named = None if is_own else model.named_backbone()
        if not named and not is_own:
            raise ValueError(
                "A preset's backbone must be a DilatedResNet, or one that a "
                "recipe names, such as 'keras.applications.ResNet50'; this "
                f"one is a {backbone['class_name']}. Save the whole model "
                "instead: model.save('danet.keras')."
            )
        config["backbone"] = named or {
            **{k: backbone[k] for k in ("module", "class_name")},
            "config": _plain(backbone["config"], keep_dtype),
            "registered_name": backbone["registered_name"],
        }
    own = _own_class(type(model))
    # The module and the registered name let Keras load the folder, too.
    return {
        "module": own.__module__,
        "class_name": own.__name__,
        "config": config,
        "registered_name": keras.saving.get_registered_name(own),
    }


def _plain(config, keep_dtype):
    """A configuration without training state, its policy by name."""
    config = _untrained(config)
    if not keep_dtype:
        config["dtype"] = None
    if config["dtype"] not in DTYPES:
        raise ValueError(
            f"A preset's policy must be one of {DTYPES}. Received: "
            f"dtype={config['dtype']!r}. Save the whole model instead: "
            "model.save('danet.keras')."
        )
    return config


def _untrained(config):
    """The arguments that a preset keeps, from a model's configuration."""
    config, _ = split_frozen(config)
    dtype = config.get("dtype")
    if isinstance(dtype, dict) and isinstance(dtype.get("config"), dict):
        config["dtype"] = dtype["config"].get("name")
    return config


def read_config(folder, cls):
    """The constructor's arguments from `config.json`, if they are safe.

    Args:
        folder: path of a preset folder.
        cls: the expected class.

    Returns:
        Dict; a `backbone` that is not a name is left as it is in the file.

    Raises:
        ValueError: for a configuration that `save_to_preset` did not write.
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
            f"{path} is not JSON: {error}. Expected what save_to_preset writes."
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
    # A folder that Keras wrote has training state as well.
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
    """Refuses widths that would fill memory before any weight is read."""
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
    """Names the preset in whatever error its arguments cause."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        if str(folder) in str(error):
            raise
        raise ValueError(
            f"No {cls.__name__} can be made from the preset {folder} and the "
            f"arguments given: {error}"
        ) from error


def load_weights(model, folder):
    """Reads a preset's weights into the model they were saved from."""
    path = pathlib.Path(folder, WEIGHTS_FILE)
    try:
        with warnings.catch_warnings():
            # Keras only warns about layers that it leaves unchanged.
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except (ValueError, KeyError, OSError, UserWarning) as error:
        raise ValueError(
            f"{path} does not fit the {CONFIG_FILE} beside it: {error}"
        ) from error


def transfer(source, target, anew=()):
    """Copies weights by name; the layers `anew` keep their new ones."""
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
        # A copy: on JAX each model donates its arrays when it predicts.
        variable.assign(keras.ops.copy(values[variable.path]))


def _plain_file(folder, name):
    path = pathlib.Path(folder, name)
    if path.is_symlink():
        raise ValueError(
            f"{path} is a symbolic link, which may point anywhere. Put the "
            "file itself there."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. Expected a folder that save_to_preset wrote, "
            f"with {CONFIG_FILE} and {WEIGHTS_FILE}."
        )
    return path
