"""The rows of an ablation's table: a variant and its runs."""

import dataclasses

from keras_danet.ablation.grid import Grid
from keras_danet.ablation.grid import Variant
from keras_danet.ablation.reading import Run
from keras_danet.ablation.reading import read_runs
from keras_danet.models.memory import count_multiplications
from keras_danet.trainer.build import build_model


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
        return {seed: run.report.mean_iou for seed, run in self.runs.items()}

    @property
    def multi_scale(self) -> dict[int, float]:
        return {
            seed: run.multi_scale.mean_iou
            for seed, run in self.runs.items()
            if run.multi_scale
        }

    def class_iou(self, name: str) -> dict[int, float]:
        return {
            seed: run.report.class_iou[name] for seed, run in self.runs.items()
        }

    def gamma(self, kind: str) -> dict[int, float]:
        return {
            seed: run.gammas[kind]
            for seed, run in self.runs.items()
            if kind in run.gammas
        }


def read_rows(grid: Grid) -> tuple[list[Row], dict[str, str]]:
    """The rows that a grid's run folders give, and what is missing.

    Returns:
        (list of `Row`, dict of the title of a training without a finished run
        to why).

    Raises:
        ValueError: if there is no finished run, or runs cannot be compared.
    """
    found, missing = read_runs(grid)
    rows, crop_size = [], grid.config.augmentation.crop_size
    for variant in grid.variants:
        runs = {
            seed: found[folder]
            for seed in grid.seeds
            if (folder := grid.run(variant, seed)) in found
        }
        if runs:
            run = next(iter(runs.values()))
            rows.append(Row(variant, runs, *_sizes(run, crop_size)))
    if not rows:
        raise ValueError(
            f"No run in {grid.folder} was trained to its end and has a "
            "report.json yet, so there is nothing to tabulate. Expected at "
            "least one: call `keras-danet ablate` as before, and look at what "
            "the first training says."
        )
    return rows, missing


def _sizes(run, crop_size):
    """Parameters and multiply-adds of the network of a run."""
    # The network is drawn anew: models are not always kept.
    drawn = dict.fromkeys(("backbone_weights", "start_from"))
    model = build_model(run.config.replace(drawn), len(run.report.class_names))
    return (
        model.inference_model.count_params(),
        count_multiplications(model, *crop_size),
    )
