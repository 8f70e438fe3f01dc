"""Recipes as files: where they are, and what they define."""

import importlib.util
import os
import pathlib

from keras_danet.arguments import did_you_mean
from keras_danet.recipe.config import TrainConfig

# Of several recipes for a data set the one that needs no GPU.
ALIASES = {"camvid": "camvid_danet_resnet18"}


def recipes_folder() -> pathlib.Path:
    """The folder of the recipes that come with the package.

    Installed it is in the package; in a checkout beside it, as `training/`.
    """
    package = pathlib.Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "training"


def find_recipe(name: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a recipe, given by its path or by a name.

    Args:
        name: string or path: a file; or the name of a recipe that comes with
            the package, whole (`"scenes_danet_resnet18"`) or its beginning
            (`"scenes"`) if only one begins so.

    Returns:
        `pathlib.Path`.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if several recipes begin so.
    """
    path = pathlib.Path(name)
    if path.exists() or path.name != str(name):
        return path
    stem = str(name).removesuffix(".py")
    stem = ALIASES.get(stem, stem)
    folder = recipes_folder()
    stems = sorted(path.stem for path in folder.glob("*.py"))
    begin_so = [known for known in stems if known.startswith(f"{stem}_")]
    if stem in stems:
        return folder / f"{stem}.py"
    if len(begin_so) == 1:
        return folder / f"{begin_so[0]}.py"
    if begin_so:
        raise ValueError(
            f"Several recipes begin with {str(name)!r}. Expected one of: "
            f"{', '.join(begin_so)}."
        )
    raise FileNotFoundError(
        f"There is no recipe {name}, neither a file nor one of the package's."
        f"{did_you_mean(stem, [*stems, *ALIASES, 'scenes'])} `keras-danet "
        "recipes` lists them; `keras-danet init FOLDER` writes one for data "
        "of your own."
    )


def load_recipe(path: str | os.PathLike[str]) -> TrainConfig:
    """The `config` of a recipe, a Python file (which is executed)."""
    path = pathlib.Path(path)
    if not path.is_file():
        why = " (that is a folder)" if path.is_dir() else ""
        if path.is_symlink() and not path.exists():
            why = f" (that is a link to {os.readlink(path)}, which is missing)"
        raise FileNotFoundError(
            f"There is no recipe {path}{why}. A recipe is a Python file with a "
            "`config = TrainConfig(...)`; `keras-danet recipes` lists those "
            "that come with the package, and `keras-danet init FOLDER` writes "
            "one for data of your own."
        )
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file; a recipe ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    # It is anybody's code: whatever it raises is about this file.
    except (Exception, SystemExit) as error:
        # But SIGTERM's is not.
        if isinstance(error, SystemExit) and error.code == 143:
            raise
        raise ValueError(
            f"{path} cannot be run: {type(error).__name__}: {error}"
        ) from error
    config = getattr(module, "config", None)
    if not isinstance(config, TrainConfig):
        raise ValueError(
            f"{path} must define `config = keras_danet.TrainConfig(...)`. "
            f"Received: config={config!r}"
        )
    return config
