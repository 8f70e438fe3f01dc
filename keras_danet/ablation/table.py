"""The table of an ablation, from its run folders alone."""

import dataclasses
import json
import math

import numpy as np

from keras_danet.ablation.grid import Grid
from keras_danet.ablation.grid import plain_path
from keras_danet.ablation.pictures import RULE
from keras_danet.ablation.pictures import picture_paths
from keras_danet.ablation.reading import KINDS
from keras_danet.ablation.rows import Row
from keras_danet.ablation.rows import read_rows
from keras_danet.ablation.statistics import METHOD
from keras_danet.ablation.statistics import Gain
from keras_danet.ablation.statistics import gain
from keras_danet.ablation.statistics import spread
from keras_danet.files import save_text
from keras_danet.inference import visualization
from keras_danet.inference.curves import draw_curves
from keras_danet.inference.report import Report
from keras_danet.recipe.settings import parse_setting
from keras_danet.text_tables import harmless
from keras_danet.text_tables import markdown_table
from keras_danet.text_tables import markdown_text
from keras_danet.text_tables import table_lines

# What all reports have in common.
FACTS = ("dataset", "split", "num_images")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """The rows of an ablation's table; the gains are over the first.

    Args:
        grid: `Grid`.
        rows: list of `Row`, in the grid's order, those with runs.
        crop_size: (height, width) that multiplications are counted at.
        missing: dict of the title of a training that is in no row to why.
    """

    grid: Grid
    rows: list[Row]
    crop_size: tuple[int, int]
    missing: dict[str, str]

    @property
    def reports(self) -> list[Report]:
        runs = (run for row in self.rows for run in row.runs.values())
        return [run.report for run in runs]

    @property
    def multi_scale_reports(self) -> list[Report]:
        runs = (run for row in self.rows for run in row.runs.values())
        return [run.multi_scale for run in runs if run.multi_scale]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.reports[0].class_names

    @property
    def heading(self) -> str:
        report = self.reports[0]
        return (
            f"{report.dataset} {report.split}, {report.num_images} images; "
            f"{' | '.join(_protocols(self.reports))}"
        )

    @property
    def settings(self) -> list[str]:
        """What was set for all; of weights' paths only the file's name."""
        settings = dict(map(parse_setting, self.grid.settings))
        return [f"{k}={plain_path(k, v)!r}" for k, v in settings.items()]

    @property
    def notes(self) -> list[str]:
        """Sentences without which the table would be misread."""
        notes = []
        if self.settings:
            notes.append(f"Set for all: {', '.join(self.settings)}.")
        if self.multi_scale_reports:
            protocols = " | ".join(_protocols(self.multi_scale_reports))
            notes.append(
                f"Multi-scale: {protocols}; its gain is over the single scale "
                "of the same runs."
            )
        if self.changed_base:
            notes.append(f"{self.changed_base}.")
        return notes

    @property
    def changed_base(self) -> str:
        """What is said where gains cannot be over the first variant."""
        first, base = self.grid.variants[0], self.rows[0].variant
        if first == base:
            return ""
        return (
            f"The first variant, {first.label}, has no run: gains are over "
            f"{base.label}"
        )

    def gain(self, row: Row) -> Gain:
        return gain(row.mean_iou, self.rows[0].mean_iou)

    def class_gain(self, row: Row, name: str) -> Gain:
        return gain(row.class_iou(name), self.rows[0].class_iou(name))

    def table(self) -> list[tuple[str, ...]]:
        """A heading and a row per variant, as the paper's tables have."""
        height, width = self.crop_size
        several = bool(self.multi_scale_reports)
        lines = [
            (
                *self.grid.vary,
                "seeds",
                "mean IoU",
                "gain",
                "95 %",
                *(("multi-scale", "its gain") if several else ()),
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
                    *(_multi_scale_cells(row) if several else ()),
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
                *map(harmless, (self.heading, *self.notes)),
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
                    *map(markdown_text, self.notes),
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
                            "mean_iou": run.report.mean_iou,
                            **_multi_scale_of(run),
                            "gammas": run.gammas,
                            "curve": run.curve,
                        }
                        for seed, run in row.runs.items()
                    ],
                }
            )
        several = _protocols(self.multi_scale_reports)
        return {
            "recipe": self.grid.recipe,
            "settings": self.settings,
            **{name: getattr(self.reports[0], name) for name in FACTS},
            "protocols": _protocols(self.reports),
            **({"multi_scale_protocols": several} if several else {}),
            "gains_over": self.rows[0].variant.settings,
            "crop_size": self.crop_size,
            "method": METHOD,
            "rows": rows,
            "missing": [*self.missing],
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
        ValueError: if there is no finished run, or runs cannot be compared.
    """
    rows, missing = read_rows(grid)
    crop_size = grid.config.augmentation.crop_size
    return Ablation(grid, rows, tuple(crop_size), missing)


def _protocols(reports):
    """How images went through the networks; one where it was not varied."""
    return list(dict.fromkeys(report.protocol for report in reports))


def _multi_scale_of(run):
    """For JSON: only where there is a report of it."""
    if run.multi_scale is None:
        return {}
    return {"multi_scale_mean_iou": run.multi_scale.mean_iou}


def _multi_scale_cells(row):
    """Mean IoU at several scales, and how much more that is, in points."""
    scores, more = spread(row.multi_scale), gain(row.multi_scale, row.mean_iou)
    return _plus_minus(scores, 100, " %"), _gain_cells(more)[0]


def _beside(grid, variant, seed):
    return grid.run(variant, seed).relative_to(grid.folder).as_posix()


def _short(row):
    return ", ".join(row.variant.settings.values())


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
