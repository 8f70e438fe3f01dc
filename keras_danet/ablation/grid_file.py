"""`grid.json`, from which the grid of an ablation's folder is known again."""

import dataclasses
import json
import pathlib

from keras_danet.ablation.grid import Grid
from keras_danet.ablation.grid import meaning
from keras_danet.arguments import shown
from keras_danet.files import make_folder
from keras_danet.files import read_json
from keras_danet.files import save_text
from keras_danet.recipe import TrainConfig
from keras_danet.recipe.settings import parse_setting

GRID_FILE = "grid.json"


def save_grid(grid: Grid) -> None:
    """Writes the `grid.json` of a grid's folder, and makes the folder."""
    make_folder(grid.folder)
    config = grid.config.values()
    for key in ("seed", "data_root"):
        del config[key]
    content = {
        "recipe": grid.recipe,
        "settings": grid.settings,
        "config": config,
        "vary": grid.vary,
        "seeds": grid.seeds,
    }
    save_text(json.dumps(content, indent=1) + "\n", grid.folder / GRID_FILE)


def open_grid(folder) -> Grid:
    """The grid of an ablation's folder, checked as a new one is.

    Raises:
        FileNotFoundError: if it is no such folder.
        ValueError: if its `grid.json` does not describe a grid.
    """
    path = pathlib.Path(folder) / GRID_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is not an ablation's folder: it has no {GRID_FILE}. "
            "Expected the --output of `keras-danet ablate`."
        )
    try:
        grid = _from_dict(pathlib.Path(folder), read_json(path))
        grid.check()
    except (
        *(ValueError, LookupError, TypeError),
        *(AttributeError, OverflowError),
    ) as error:
        raise ValueError(
            f"{path} does not describe a grid ({error}). Expected the file "
            "that `keras-danet ablate` wrote."
        ) from error
    return grid


def _from_dict(folder, content):
    vary, seeds, settings = (
        content[key] for key in ("vary", "seeds", "settings")
    )
    if not all(type(seed) is int for seed in _listed("seeds", seeds)):
        raise ValueError("its seeds are not all integers")
    for key, texts in (*vary.items(), ("settings", settings)):
        if not all(isinstance(text, str) for text in _listed(key, texts)):
            raise ValueError(f"the values of {key!r} are not all strings")
        if key != "settings" and len(texts) < 2:
            raise ValueError(f"{key!r} has less than two values")
    config = TrainConfig.from_keys(content["config"])
    as_set = config.replace(dict(map(parse_setting, settings)))
    if meaning(config) != meaning(as_set):
        raise ValueError("its config is not what its settings say")
    recipe = str(content["recipe"])
    return Grid(folder, recipe, config, tuple(settings), vary, tuple(seeds))


def _listed(name, values):
    if not isinstance(values, list):
        raise ValueError(f"{name!r} is not a list")
    return values


def merge(grid: Grid) -> Grid:
    """The grid with the variants and seeds that its folder has runs of.

    Values and seeds of older calls that no run was begun with are forgotten:
    they may have been mistyped.

    Raises:
        ValueError: if the folder is of another grid, or of something else.
    """
    if not (grid.folder / GRID_FILE).is_file():
        if grid.folder.is_dir() and any(grid.folder.iterdir()):
            raise ValueError(
                f"{grid.folder} is not empty, and no ablation's folder: it "
                f"has no {GRID_FILE}. Choose another --output."
            )
        return grid
    old = open_grid(grid.folder)
    begun = [cell for cell in old.cells if old.run(*cell).is_dir()]
    if not begun:
        return grid
    before, now = (meaning(each.config, folders=False) for each in (old, grid))
    changes = [
        f"{key} was {shown(before[key])} and is {shown(value)}"
        for key, value in now.items()
        if before[key] != value
    ]
    if list(old.vary) != list(grid.vary):
        changes.append(
            f"{', '.join(old.vary)} was varied, and now {', '.join(grid.vary)}"
        )
    if changes:
        raise ValueError(
            f"{grid.folder} is of another grid: {'; '.join(changes)}. "
            "Expected the same recipe, settings and keys; values and seeds "
            "may be added. Change them back, or choose another --output."
        )
    seeds = {seed for _, seed in begun}
    values = {
        key: {variant.settings[key] for variant, _ in begun} for key in old.vary
    }
    merged = dataclasses.replace(
        grid,
        vary={
            key: _merged(old.vary[key], values[key], new)
            for key, new in grid.vary.items()
        },
        seeds=tuple(_merged(old.seeds, seeds, grid.seeds)),
    )
    merged.check()
    return merged


def _merged(old, kept, new):
    """Those of the old that are kept or asked for again, then the new."""
    left = [value for value in old if value in kept or value in new]
    return list(dict.fromkeys([*left, *new]))
