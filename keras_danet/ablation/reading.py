"""The runs of a grid, read and checked: what cannot be compared is refused."""

import dataclasses
import math
import pathlib

from keras_danet.ablation.grid import Grid
from keras_danet.ablation.grid import meaning
from keras_danet.arguments import integer
from keras_danet.arguments import is_number
from keras_danet.arguments import shown
from keras_danet.files import read_json
from keras_danet.inference.report import Report
from keras_danet.recipe import TrainConfig
from keras_danet.runs import is_finished
from keras_danet.runs import read_history
from keras_danet.runs import read_run_config
from keras_danet.runs import read_run_file

KINDS = ("position", "channel")
MULTI_SCALE = "report_multi_scale.json"
# Of two reports that can be compared, where both have it.
SAME = ("dataset", "split", "num_images", "class_names", "images")
# Keys that need not change the weights that a training ends with.
NOT_IN_WEIGHTS = (
    *("test_size", "val_every", "patience"),
    *("loader", "on_bad_file", "jit_compile"),
)
MOST_STEPS = 10**9
# By which a report's figures may differ from those of its counts.
ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Run:
    """What the folder of a finished run says.

    Args:
        config: `TrainConfig` that it was trained with.
        report: `Report`, its `report.json`.
        gammas: dict of an attention to its gamma after the last epoch.
        curve: list of (step, validation mean IoU).
        multi_scale: `Report` at several scales, if there is one.
    """

    config: TrainConfig
    report: Report
    gammas: dict[str, float]
    curve: list[tuple[int, float]]
    multi_scale: Report | None = None


def title_of(variant, seed) -> str:
    """What a training of a grid is called."""
    return f"{variant.label}, seed {seed}"


def read_runs(grid: Grid) -> tuple[dict[pathlib.Path, Run], dict[str, str]]:
    """The runs of a grid that were trained to their end and measured.

    Returns:
        (dict of a run's folder to its `Run`, dict of the title of any other
        training to why it has none).

    Raises:
        ValueError: for a file that does not hold what it should, a run of
            another training than the grid's, a copy, and reports that cannot
            be compared. Names the file or both runs.
    """
    runs, missing = {}, {}
    for variant, seed in grid.cells:
        folder, title = grid.run(variant, seed), title_of(variant, seed)
        missing[title] = "not measured yet"
        if not (folder / "report.json").is_file():
            continue
        config, history = read_training(grid, variant, seed)
        if is_finished(history, config):
            runs[folder] = _read_run(folder, config, history)
            del missing[title]
        else:
            done = f"epoch {len(history)} of {config.epochs}"
            missing[title] = f"not finished, {done}"
    _check_copies(runs)
    _check_alike({f: (run.report, run.config) for f, run in runs.items()})
    _check_alike(
        {
            folder: (run.multi_scale, run.config)
            for folder, run in runs.items()
            if run.multi_scale
        }
    )
    return runs, missing


def read_training(grid: Grid, variant, seed) -> tuple[TrainConfig, list[dict]]:
    """The settings and the history of a run, if it is what the grid asks for.

    Raises:
        FileNotFoundError: if it is no run folder.
        ValueError: if its files cannot be read, or are of another training.
    """
    folder = grid.run(variant, seed)
    config = read_run_config(folder)
    asked = grid.config_of(variant, seed)
    # Where data and weights lie may change.
    found, expected = (
        {"seed": each.seed, **meaning(each, folders=False)}
        for each in (config, asked)
    )
    changes = [
        f"{key} is {shown(found[key])}, not {shown(value)}"
        for key, value in expected.items()
        if found[key] != value
    ]
    if changes:
        raise ValueError(
            f"{folder / 'config.json'} is of another training than the grid's "
            f"{title_of(variant, seed)}: {'; '.join(changes)}. Move the run "
            "away, and `keras-danet ablate` trains it."
        )
    return config, read_history(folder / "history.csv")


def _read_run(folder, config, history):
    path = folder / "config.json"
    steps = read_run_file(folder).get("steps_per_epoch", 1)
    try:
        must = f"must be an integer of 1 to {MOST_STEPS}"
        integer("steps_per_epoch", steps, must, least=1, most=MOST_STEPS)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    curve = [
        (int(row["epoch"]) * steps, row["val_mean_iou"])
        for row in history
        if row.get("val_mean_iou") is not None
    ]
    if not curve:
        raise ValueError(
            f"{folder / 'history.csv'} has no val_mean_iou. Expected the file "
            "that `keras-danet train` wrote."
        )
    gammas = {
        kind: history[-1][f"gamma_{kind}"]
        for kind in KINDS
        if history[-1].get(f"gamma_{kind}") is not None
    }
    report, several = _read_report(folder / "report.json"), None
    if (folder / MULTI_SCALE).is_file():
        several = _read_report(folder / MULTI_SCALE)
        both = {folder / "report.json": report, folder / MULTI_SCALE: several}
        refuse_differences(both, (*SAME, "weights"))
    return Run(config, report, gammas, curve, several)


def _read_report(path):
    """A report whose figures are those of its counts."""
    report, written = Report.load(path), read_json(path)
    classes = written.get("class_iou")
    if not isinstance(classes, dict):
        classes = {}
    figures = [("mean_iou", report.mean_iou, written.get("mean_iou"))]
    for name in dict.fromkeys([*report.class_names, *classes]):
        found = report.class_iou.get(name)
        figures.append((f"the IoU of {name}", found, classes.get(name)))
    for name, found, told in figures:
        if not _is_same(found, told):
            raise ValueError(
                f"{path} contradicts itself: {name} is {shown(told)} in it, "
                f"and {shown(found)} by its confusion matrix. Call "
                "`keras-danet evaluate` again."
            )
    if math.isnan(report.mean_iou):
        raise ValueError(f"{path} has measured nothing: no pixel has a label.")
    for name in ("weights", "images"):
        if not isinstance(getattr(report, name), (str, type(None))):
            raise ValueError(f"{path} is not a report: {name} is no string.")
    return report


def _is_same(found, told):
    """Whether a figure is told as it was found; NaN is told as null."""
    if found is None or math.isnan(found):
        return found is not None and told is None
    return is_number(told) and found - ROUNDING <= told <= found + ROUNDING


def _check_copies(runs):
    """Refuses the weights of one training as those of another."""
    seen = {}
    for folder, run in runs.items():
        digest = run.report.weights
        if digest is None:
            continue
        training = {"seed": run.config.seed, **meaning(run.config)}
        for key in NOT_IN_WEIGHTS:
            del training[key]
        other, same = seen.setdefault(digest, (folder, training))
        if same != training:
            raise ValueError(
                f"{other} and {folder} have the same weights in their "
                "reports: one is a copy of the other. Move the wrong one "
                "away, and `keras-danet ablate` trains it."
            )


def _check_alike(measured):
    """Refuses reports of other images or classes, or by another protocol.

    Args:
        measured: dict of a run's folder to its report and config.
    """
    reports = {folder: report for folder, (report, _) in measured.items()}
    refuse_differences(reports, SAME)
    # Where the size of images is varied, it may be another one.
    for sides in {config.test_sides for _, config in measured.values()}:
        group = {
            folder: report
            for folder, (report, config) in measured.items()
            if config.test_sides == sides
        }
        refuse_differences(group, ("protocol", "settings"))
    unsized = {
        folder: dataclasses.replace(
            report, settings={**report.settings, "size": None}
        )
        for folder, report in reports.items()
        if report.settings
    }
    refuse_differences(unsized, ("settings",))


def refuse_differences(reports, names):
    """Refuses reports that do not have the same of some fields."""
    for name in names:
        known = [
            (place, value)
            for place, report in reports.items()
            if (value := getattr(report, name)) is not None
        ]
        for place, value in known[1:]:
            if value != known[0][1]:
                raise ValueError(
                    f"{place} and {known[0][0]} were measured differently: "
                    f"{name} is {shown(value)} and {shown(known[0][1])}. "
                    "Expected the same: call `keras-danet evaluate` alike for "
                    "both."
                )
