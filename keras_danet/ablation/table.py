"""The table of an ablation, from its run folders alone."""

import dataclasses
import functools
import json
import math
import pathlib

import numpy as np

from keras_danet.ablation.grid import Grid
from keras_danet.ablation.grid import Variant
from keras_danet.ablation.pictures import RULE
from keras_danet.ablation.pictures import picture_paths
from keras_danet.ablation.statistics import METHOD
from keras_danet.ablation.statistics import Gain
from keras_danet.ablation.statistics import gain
from keras_danet.ablation.statistics import spread
from keras_danet.files import read_json
from keras_danet.files import save_text
from keras_danet.inference import visualization
from keras_danet.inference.curves import draw_curves
from keras_danet.models.memory import count_multiplications
from keras_danet.runs import open_model
from keras_danet.runs import read_run_config
from keras_danet.runs import read_run_file
from keras_danet.text_tables import markdown_table
from keras_danet.text_tables import markdown_text
from keras_danet.text_tables import table_lines
from keras_danet.trainer.build import build_model
from keras_danet.trainer.callbacks.figures import read_history

KINDS = ("position", "channel")
# Of two reports that can be compared.
SAME = ("dataset", "split", "num_images")


@dataclasses.dataclass(frozen=True)
class Run:
    """What the folder of a finished run says.

    Args:
        report: dict, its `report.json`.
        gammas: dict of an attention to its gamma after the last epoch.
        curve: list of (step, validation mean IoU).
    """

    report: dict
    gammas: dict[str, float]
    curve: list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant and its runs by seed; without runs there are no sizes.

    Args:
        parameters: integer, of the network that predicts.
        multiply_adds: integer, of it for one training crop.
    """

    variant: Variant
    runs: dict[int, Run]
    parameters: int | None = None
    multiply_adds: int | None = None

    @property
    def mean_iou(self) -> dict[int, float]:
        return {s: _number(r.report["mean_iou"]) for s, r in self.runs.items()}

    def class_iou(self, name: str) -> dict[int, float]:
        return {
            seed: _number(run.report["class_iou"][name])
            for seed, run in self.runs.items()
        }

    def gamma(self, kind: str) -> dict[int, float]:
        return {
            seed: run.gammas[kind]
            for seed, run in self.runs.items()
            if kind in run.gammas
        }


@dataclasses.dataclass(frozen=True)
class Ablation:
    """The rows of an ablation's table; the gains are over the first.

    Args:
        grid: `Grid`.
        rows: list of `Row`, in the grid's order, those with runs.
        crop_size: (height, width) that multiplications are counted at.
    """

    grid: Grid
    rows: list[Row]
    crop_size: tuple[int, int]

    @functools.cached_property
    def facts(self) -> dict:
        """What all reports have in common."""
        report = next(iter(self.rows[0].runs.values())).report
        return {name: report[name] for name in SAME}

    @property
    def class_names(self) -> list[str]:
        return list(next(iter(self.rows[0].runs.values())).report["class_iou"])

    @property
    def missing(self) -> list[str]:
        """The trainings of the grid that were not measured yet."""
        found = {row.variant.label: row.runs for row in self.rows}
        return [
            f"{variant.label}, seed {seed}"
            for variant, seed in self.grid.cells
            if seed not in found.get(variant.label, ())
        ]

    @property
    def heading(self) -> str:
        facts = self.facts
        return (
            f"{facts['dataset']} {facts['split']}, {facts['num_images']} "
            f"images; {' | '.join(self.protocols)}"
        )

    @property
    def protocols(self) -> list[str]:
        """How images went through the networks; one where it was not varied."""
        found = [
            str(run.report["protocol"])
            for row in self.rows
            for run in row.runs.values()
        ]
        return list(dict.fromkeys(found))

    def gain(self, row: Row) -> Gain:
        return gain(row.mean_iou, self.rows[0].mean_iou)

    def class_gain(self, row: Row, name: str) -> Gain:
        return gain(row.class_iou(name), self.rows[0].class_iou(name))

    def table(self) -> list[tuple[str, ...]]:
        """A heading and a row per variant, as the paper's tables have."""
        height, width = self.crop_size
        lines = [
            (
                *self.grid.vary,
                "seeds",
                "mean IoU",
                "gain",
                "95 %",
                "parameters",
                f"multiply-adds at {height}x{width}",
                *(f"gamma of {kind}" for kind in KINDS),
            )
        ]
        for row in self.rows:
            scores, more = spread(row.mean_iou), self.gain(row)
            lines.append(
                (
                    *row.variant.settings.values(),
                    str(scores.seeds),
                    _plus_minus(scores, 100, " %"),
                    *_gain_cells(more, row is self.rows[0]),
                    f"{(row.parameters or 0) / 1e6:.2f} M",
                    f"{(row.multiply_adds or 0) / 1e9:.2f} G",
                    *(_plus_minus(spread(row.gamma(k))) for k in KINDS),
                )
            )
        return lines

    def class_table(self) -> list[tuple[str, ...]]:
        """A row per class: its IoU in the first row, and the others' gains."""
        base, *others = self.rows
        lines = [
            ("class", _short(base), *(f"gain of {_short(r)}" for r in others))
        ]
        for name in self.class_names:
            cells = [name, _plus_minus(spread(base.class_iou(name)), 100, " %")]
            for row in others:
                cells.append(" ".join(_gain_cells(self.class_gain(row, name))))
            lines.append(tuple(cells))
        return lines

    def text(self) -> str:
        """Both tables, for a terminal."""
        texts = len(self.grid.vary)
        return "\n".join(
            [
                self.heading,
                *table_lines(self.table(), texts),
                "",
                *table_lines(self.class_table()),
                "",
                METHOD,
            ]
        )

    def markdown(self) -> str:
        """Both tables and the curves, as a page."""
        missing = "; ".join(self.missing)
        return (
            "\n\n".join(
                [
                    f"# Ablation over {', '.join(self.grid.vary)}",
                    f"{markdown_text(self.heading)}.",
                    markdown_table(self.table(), len(self.grid.vary)),
                    "![Validation mean IoU over steps: mean over seeds, and "
                    "from the lowest to the highest](ablation.png)",
                    markdown_table(self.class_table(), 1),
                    METHOD,
                    *self._shown(),
                    *(
                        [markdown_text(f"Not measured: {missing}.")]
                        if missing
                        else []
                    ),
                ]
            ).replace("\n\n\n", "\n\n")
            + "\n"
        )

    def _shown(self):
        """The pictures that were drawn, and how they were chosen."""
        shown = [
            f"![{markdown_text(row.variant.label)}]"
            f"({path.relative_to(self.grid.folder).as_posix()})"
            for row in self.rows
            for path in picture_paths(self.grid.folder, row.variant)
            if path.is_file()
        ]
        return [RULE, *shown] if shown else []

    def as_dict(self) -> dict:
        """Every figure, ready for JSON."""
        rows = []
        for row in self.rows:
            rows.append(
                {
                    "settings": row.variant.settings,
                    "mean_iou": _plain(spread(row.mean_iou)),
                    "gain": _plain(self.gain(row)),
                    "class_iou": {
                        name: _plain(spread(row.class_iou(name)))
                        for name in self.class_names
                    },
                    "class_gain": {
                        name: _plain(self.class_gain(row, name))
                        for name in self.class_names
                    },
                    "parameters": row.parameters,
                    "multiply_adds": row.multiply_adds,
                    "runs": [
                        {
                            "seed": seed,
                            "folder": _beside(self.grid, row.variant, seed),
                            "mean_iou": run.report["mean_iou"],
                            "gammas": run.gammas,
                            "curve": run.curve,
                        }
                        for seed, run in row.runs.items()
                    ],
                }
            )
        return {
            "recipe": self.grid.recipe,
            **self.facts,
            "protocols": self.protocols,
            "crop_size": self.crop_size,
            "method": METHOD,
            "rows": rows,
            "missing": self.missing,
        }

    def save(self):
        """Writes `ablation.json`, `ablation.md` and `ablation.png`."""
        folder = self.grid.folder
        save_text(
            json.dumps(self.as_dict(), indent=1) + "\n",
            folder / "ablation.json",
        )
        save_text(self.markdown(), folder / "ablation.md")
        curves = {
            _short(row): [run.curve for run in row.runs.values()]
            for row in self.rows
        }
        picture = draw_curves(curves, "steps", "validation mean IoU")
        visualization.save_png(folder / "ablation.png", picture)


def read_ablation(grid: Grid) -> Ablation:
    """The ablation that the run folders of a grid hold.

    Raises:
        ValueError: if there is no finished run, or reports cannot be
            compared.
    """
    rows, crop_size = [], grid.config.augmentation.crop_size
    for variant in grid.variants:
        runs = {}
        for seed in grid.seeds:
            folder = grid.run(variant, seed)
            if (folder / "report.json").is_file():
                runs[seed] = _read_run(folder)
        if runs:
            sizes = _sizes(
                grid.run(variant, min(runs)),
                len(runs[min(runs)].report["class_iou"]),
                crop_size,
            )
            rows.append(Row(variant, runs, *sizes))
    if not rows:
        raise ValueError(
            f"No run in {grid.folder} has a report.json yet, so there is "
            "nothing to tabulate. Expected at least one that was trained and "
            "evaluated: call `keras-danet ablate` as before, and look at what "
            "the first training says."
        )
    _check_same(grid, rows)
    return Ablation(grid, rows, tuple(crop_size))


def _read_run(folder):
    path = folder / "report.json"
    try:
        report = read_json(path)
        for name in (*SAME, "protocol", "mean_iou", "class_iou"):
            report[name]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a report ({error}). Expected the file that "
            "`keras-danet evaluate` wrote: call it again."
        ) from error
    history = read_history(folder / "history.csv")
    steps = read_run_file(folder).get("steps_per_epoch", 1)
    last = history[-1] if history else {}
    gammas = {
        kind: float(last[f"gamma_{kind}"])
        for kind in KINDS
        if last.get(f"gamma_{kind}")
    }
    curve = [
        (int(row["epoch"]) * steps, float(row["val_mean_iou"]))
        for row in history
        if row.get("val_mean_iou")
    ]
    return Run(report, gammas, curve)


def _sizes(folder, num_classes, crop_size):
    """Parameters and multiply-adds of the network of a run."""
    if (folder / "model.keras").is_file():
        model, _ = open_model(folder)
    else:
        # What was kept of the run is its figures: the network is drawn anew.
        drawn = dict.fromkeys(("backbone_weights", "start_from"))
        config = read_run_config(folder).replace(drawn)
        model = build_model(config, num_classes)
    graph = getattr(model, "inference_model", model)
    return graph.count_params(), count_multiplications(model, *crop_size)


def _check_same(grid, rows):
    """Refuses reports of other images."""
    first = None
    for row in rows:
        for seed, run in row.runs.items():
            facts = {name: run.report[name] for name in SAME}
            place = pathlib.Path(_beside(grid, row.variant, seed))
            first = first or (place, facts)
            if facts != first[1]:
                raise ValueError(
                    f"{place} and {first[0]} in {grid.folder} were measured "
                    f"differently: {facts} and {first[1]}. Expected the same: "
                    "call `keras-danet evaluate` alike for both."
                )


def _beside(grid, variant, seed):
    return grid.run(variant, seed).relative_to(grid.folder).as_posix()


def _short(row):
    return ", ".join(row.variant.settings.values())


def _number(value):
    return math.nan if value is None else float(value)


def _plain(record):
    """A record as a dict; JSON has no NaN."""
    return {
        name: None if isinstance(v, float) and math.isnan(v) else v
        for name, v in record._asdict().items()
    }


def _plus_minus(scores, factor=1, unit=""):
    if not scores.seeds:
        return "-"
    digits = 2 if factor == 100 else 3
    text = f"{factor * scores.mean:.{digits}f}"
    if scores.seeds > 1:
        text += f" ± {factor * scores.deviation:.{digits}f}"
    return f"{text}{unit}"


def _gain_cells(more, is_base=False):
    """A gain in points, and its interval."""
    if is_base or not more.seeds:
        return "-", ""
    ends = [100 * more.low, 100 * more.high]
    interval = (
        "" if np.isnan(ends).any() else "[{:+.2f}, {:+.2f}]".format(*ends)
    )
    return f"{100 * more.mean:+.2f}", interval
