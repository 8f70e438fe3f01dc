"""A grid of trainings: one recipe, a few keys varied, a few seeds."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import re

from keras_danet.files import make_folder
from keras_danet.files import read_json
from keras_danet.files import save_text
from keras_danet.recipe import TrainConfig
from keras_danet.recipe import find_recipe
from keras_danet.recipe import load_recipe
from keras_danet.recipe.config import GROUP_OF
from keras_danet.recipe.settings import parse_value
from keras_danet.recipe.settings import split_values

GRID_FILE = "grid.json"
# Keys that are not varied, and why.
NOT_VARIED = {
    "seed": "give --seeds",
    "dataset": "its scores could not be compared",
    "data_root": "its scores could not be compared",
    "val_split": "its scores could not be compared",
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """What one row of the table was trained with.

    Args:
        settings: dict of key to value, both as they were typed.
    """

    settings: dict[str, str]

    @property
    def label(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.settings.items())

    @property
    def folder(self) -> str:
        """The name of the folder of its runs."""
        name = re.sub(r"[^\w.=-]+", "-", self.label, flags=re.ASCII)[:80]
        if name == self.label:
            return name
        digest = hashlib.sha256(self.label.encode()).hexdigest()
        return f"{name.strip('-')}-{digest[:6]}"


@dataclasses.dataclass(frozen=True)
class Grid:
    """Every training of an ablation, and where it lies.

    Args:
        folder: `pathlib.Path`, with a folder per variant, and in it one per
            seed, which is a run folder.
        recipe: string, path or name of the recipe.
        config: `TrainConfig` of the recipe, with what is set for all.
        settings: tuple of what is set for all, "KEY=VALUE" as typed.
        vary: dict of key to list of values, as typed. Their product is
            trained.
        seeds: tuple of integers.
    """

    folder: pathlib.Path
    recipe: str
    config: TrainConfig
    settings: tuple[str, ...]
    vary: dict[str, list[str]]
    seeds: tuple[int, ...]

    @property
    def variants(self) -> list[Variant]:
        return [
            Variant(dict(zip(self.vary, values, strict=True)))
            for values in itertools.product(*self.vary.values())
        ]

    @property
    def cells(self) -> list[tuple[Variant, int]]:
        """Variants and seeds in the order in which they are trained.

        Seed by seed, so that every variant has as many when it ends early.
        """
        return [(v, seed) for seed in self.seeds for v in self.variants]

    def run(self, variant: Variant, seed: int) -> pathlib.Path:
        """The run folder of a training."""
        return self.folder / variant.folder / f"seed-{seed}"

    def config_of(self, variant: Variant, seed: int) -> TrainConfig:
        settings = {k: parse_value(v) for k, v in variant.settings.items()}
        return self.config.replace({**settings, "seed": seed})

    def check(self):
        """Refuses values that no training can have, before the first one.

        Raises:
            ValueError: names the variant.
        """
        configs: dict[str, Variant] = {}
        for variant in self.variants:
            try:
                config = self.config_of(variant, self.seeds[0])
            except ValueError as error:
                raise ValueError(
                    f"The variant {variant.label} cannot be trained: {error}"
                ) from error
            text = _as_text(config)
            if text in configs:
                raise ValueError(
                    f"The variants {configs[text].label} and {variant.label} "
                    "are the same training. Leave one of them out."
                )
            configs[text] = variant

    def save(self):
        """Writes `grid.json`, from which the grid is known again."""
        make_folder(self.folder)
        content = {
            "recipe": self.recipe,
            "settings": self.settings,
            "config": json.loads(_as_text(self.config)),
            "vary": self.vary,
            "seeds": self.seeds,
        }
        save_text(json.dumps(content, indent=1) + "\n", self.folder / GRID_FILE)


def make_grid(folder, recipe, settings, vary, seeds) -> Grid:
    """The grid that was asked for, checked.

    Args:
        folder: path of the ablation's folder.
        recipe: string, path or name of a recipe.
        settings: dict of keys that are set for all, with their values.
        vary: strings, "KEY=VALUE,VALUE".
        seeds: string, integers with commas between them.

    Raises:
        ValueError: for keys, values or seeds that cannot be used.
        FileNotFoundError: if there is no such recipe.
    """
    path = find_recipe(recipe)
    config = load_recipe(path).replace(settings)
    taken = {_whole_key(key): key for key in settings}
    if "seed" in taken:
        raise ValueError("`seed` is not set here: give --seeds.")
    varied: dict[str, list[str]] = {}
    for text in vary:
        key, values = _parse_vary(text)
        name = _whole_key(key)
        if name in NOT_VARIED:
            raise ValueError(f"`{key}` is not varied here: {NOT_VARIED[name]}.")
        if name in taken:
            raise ValueError(
                f"`{key}` is given twice: before as {taken[name]!r}, and in "
                f"--vary {text!r}. Expected once."
            )
        taken[name] = key
        varied[key] = values
    if not varied:
        raise ValueError(
            "Nothing is varied. Expected --vary KEY=VALUE,VALUE, such as "
            "--vary attention=none,position,channel,both."
        )
    grid = Grid(
        pathlib.Path(folder),
        str(path),
        config,
        tuple(f"{key}={value!r}" for key, value in settings.items()),
        varied,
        parse_seeds(seeds),
    )
    grid.check()
    return grid


def _parse_vary(text):
    key, equals, values = text.partition("=")
    key, found = key.strip(), split_values(values)
    if not equals or not key or "" in found:
        raise ValueError(
            "--vary expects KEY=VALUE,VALUE, such as attention=none,both. "
            f"Received: {text!r}"
        )
    if len(found) < 2:
        raise ValueError(
            f"--vary expects at least two values. Received one: {text!r}. "
            f"For all trainings alike, --set {text}."
        )
    return key, found


def _whole_key(key):
    """A key with its group, if it is one: `model.depth` for `depth`."""
    name = key.rpartition(".")[2]
    group = GROUP_OF.get(name)
    return f"{group}.{name}" if group else key


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds of "0,1,2"."""
    try:
        seeds = tuple(int(seed) for seed in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(
            "--seeds expects different integers, 0 or more, with commas "
            f"between them, such as 0,1,2. Received: {text!r}"
        )
    return seeds


def merge(grid: Grid) -> Grid:
    """The grid with the variants and seeds that its folder has already.

    Raises:
        ValueError: if the folder is of another grid, or of something else.
    """
    path = grid.folder / GRID_FILE
    if not path.is_file():
        if grid.folder.is_dir() and any(grid.folder.iterdir()):
            raise ValueError(
                f"{grid.folder} is not empty, and no ablation's folder: it "
                f"has no {GRID_FILE}. Choose another --output."
            )
        return grid
    old = open_grid(grid.folder)
    before, now = (json.loads(_as_text(g.config)) for g in (old, grid))
    changes = [
        f"{key} was {before[key]!r} and is {value!r}"
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
    merged = dataclasses.replace(
        grid,
        vary={
            key: list(dict.fromkeys([*old.vary[key], *values]))
            for key, values in grid.vary.items()
        },
        seeds=tuple(dict.fromkeys([*old.seeds, *grid.seeds])),
    )
    merged.check()
    return merged


def open_grid(folder) -> Grid:
    """The grid of an ablation's folder.

    Raises:
        FileNotFoundError: if it is no such folder.
        ValueError: if its `grid.json` cannot be read.
    """
    path = pathlib.Path(folder) / GRID_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is not an ablation's folder: it has no {GRID_FILE}. "
            "Expected the --output of `keras-danet ablate`."
        )
    try:
        content = read_json(path)
        return Grid(
            pathlib.Path(folder),
            str(content["recipe"]),
            TrainConfig.from_keys(content["config"]),
            tuple(content["settings"]),
            {key: list(map(str, v)) for key, v in content["vary"].items()},
            tuple(map(int, content["seeds"])),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a grid ({error}). Expected the file "
            "that `keras-danet ablate` wrote."
        ) from error


def _as_text(config):
    """What decides a training but for its seed and where its data lie."""
    values = config.values()
    for key in ("seed", "data_root"):
        del values[key]
    return json.dumps(values)
