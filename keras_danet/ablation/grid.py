"""A grid of trainings: one recipe, a few keys varied, a few seeds."""

import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
import re
from typing import Any

from keras_danet.arguments import shown
from keras_danet.recipe import TrainConfig
from keras_danet.recipe import find_recipe
from keras_danet.recipe import load_recipe
from keras_danet.recipe.config import GROUP_OF
from keras_danet.recipe.settings import parse_setting
from keras_danet.recipe.settings import parse_value
from keras_danet.recipe.settings import split_values

# More trainings than anybody waits for.
MOST_TRAININGS = 1000
# Keys whose values are paths, perhaps.
PATHS = ("backbone_weights", "start_from")
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
        """Refuses what no training can have, before the first one.

        Raises:
            ValueError: names the key, seed or variant.
        """
        settings = [parse_setting(text) for text in self.settings]
        _check_keys([key for key, _ in settings], self.vary)
        count = math.prod(map(len, self.vary.values())) * len(self.seeds)
        if count > MOST_TRAININGS:
            raise ValueError(
                f"The grid has {count:,} trainings. Expected {MOST_TRAININGS} "
                "at most: vary fewer keys together, or fewer values."
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                "Expected different seeds, at least one. Received: "
                f"{shown(self.seeds)}"
            )
        for seed in self.seeds:
            self.config.replace({"seed": seed})
        configs: dict[str, Variant] = {}
        for variant in self.variants:
            try:
                config = self.config_of(variant, self.seeds[0])
            except ValueError as error:
                raise ValueError(
                    f"The variant {variant.label} cannot be trained: {error}"
                ) from error
            text = json.dumps(meaning(config))
            if text in configs:
                raise ValueError(
                    f"The variants {configs[text].label} and {variant.label} "
                    "are the same training. Leave one of them out."
                )
            configs[text] = variant


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
    varied = list(map(_parse_vary, vary))
    # A dict would hide that a key is given twice.
    _check_keys(settings, [key for key, _ in varied])
    grid = Grid(
        pathlib.Path(folder),
        str(path),
        load_recipe(path).replace(settings),
        tuple(f"{key}={value!r}" for key, value in settings.items()),
        dict(varied),
        parse_seeds(seeds),
    )
    grid.check()
    return grid


def meaning(config: TrainConfig, folders: bool = True) -> dict:
    """What decides a training but for its seed and where its data lie.

    Args:
        config: `TrainConfig`.
        folders: boolean, whether it counts in which folder the weights lie
            that it starts from. Defaults to `True`.

    Returns:
        Dict of a key to its value, the same for other words for it.
    """
    own = dataclasses.replace(config, model=config.model.own())
    values = own.values()
    for key in ("seed", "data_root"):
        del values[key]
    values["model.attention"] = own.model.attention_names
    if not folders:
        values = {key: plain_path(key, value) for key, value in values.items()}
    return values


def plain_path(key: str, value: Any) -> Any:
    """The value of a recipe's key; of a path to weights its file's name."""
    if key.rpartition(".")[2] in PATHS and isinstance(value, str):
        return pathlib.PurePath(value).name
    return value


def _check_keys(settings, varied):
    """Refuses keys that are given twice, and those that are not varied."""
    taken = {_whole_key(key): key for key in settings}
    if "seed" in taken:
        raise ValueError("`seed` is not set here: give --seeds.")
    for key in varied:
        name = _whole_key(key)
        if name in NOT_VARIED:
            raise ValueError(f"`{key}` is not varied here: {NOT_VARIED[name]}.")
        if name in taken:
            raise ValueError(
                f"`{key}` is given twice: before as {taken[name]!r}. Expected "
                "it once, in --set or in one --vary."
            )
        taken[name] = key
    if not varied:
        raise ValueError(
            "Nothing is varied. Expected --vary KEY=VALUE,VALUE, such as "
            "--vary attention=none,position,channel,both."
        )


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
