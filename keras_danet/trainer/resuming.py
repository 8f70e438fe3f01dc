"""Whether a run can be resumed, and from where: every refusal is here."""

import logging
import math

import keras

from keras_danet import runs
from keras_danet.trainer.build import gone_sources
from keras_danet.trainer.checkpoints import checkpoints
from keras_danet.trainer.checkpoints import newest_checkpoint

_LOGGER = logging.getLogger("keras_danet")


def check_recipe(run, config):
    """Refuses a recipe other than the one the run was started with."""
    if not (run / "config.json").is_file():
        return
    before, now = runs.read_run_config(run).values(), config.values()
    # Data may move; its digest says whether it is the same.
    changes = [
        f"{name} was {before[name]!r} and is {value!r}"
        for name, value in now.items()
        if before[name] != value and name != "data_root"
    ]
    if changes:
        raise ValueError(
            f"{run} was started with another recipe: {'; '.join(changes)}. "
            "Expected the same one, to resume the same training. Change it "
            "back, or choose another --output."
        )


def check_data(run, data_digest):
    """Refuses another backend or other data than the run started with."""
    if not (run / "config.json").is_file():
        return
    old = runs.read_run_file(run)
    for what, before, now in (
        ("backend", old.get("backend"), keras.backend.backend()),
        ("list of files or classes", old.get("data_digest"), data_digest),
    ):
        if before != now:
            raise ValueError(
                f"{run} was started with another {what}: {before}. Received: "
                f"{now}. Resume with the same, or choose another --output."
            )


def find_checkpoint(run, config, digest=None):
    """(path, header) of the newest whole checkpoint, None for a new run.

    Args:
        run: `pathlib.Path` of the run folder.
        config: `TrainConfig`.
        digest: string, identifies the training. Defaults to `None`, any.

    Raises:
        ValueError: if the run went further than its checkpoints, or the
            checkpoint is another training's.
        FileNotFoundError: if a new run has no weights to start from.
    """
    folder = run / "checkpoints"
    path, header = newest_checkpoint(folder, _LOGGER.warning)
    if path:
        if header.get("run", digest) != digest:
            raise ValueError(
                f"{path} is of a training with another recipe or other data. "
                "Remove it, and --resume uses the one before."
            )
        return path, header
    rows = runs.read_history(run / "history.csv")
    measured = [
        row["epoch"] for row in rows if row.get("val_mean_iou") is not None
    ]
    # A process that is killed after its first validation may have a model and
    # no checkpoint yet.
    is_young = len(rows) < config.epochs and measured in (
        [],
        [row["epoch"] for row in rows[-1:]],
    )
    has_model = (run / "model.keras").exists()
    if checkpoints(folder) or (has_model and not is_young):
        raise ValueError(
            f"{run} cannot be resumed: it reached epoch {len(rows)} of "
            f"{config.epochs}, and {folder} has no intact checkpoint. Keep "
            "it and choose another --output, or start over with --overwrite."
        )
    for name in gone_sources(config.model):
        raise FileNotFoundError(
            f"There is no {getattr(config.model, name)} to start from. "
            f"Expected what `{name}` names, as {run} has no checkpoint yet."
        )
    return None


def check_best_model(path, config, place, validation):
    """If the best model is missing, keeps the next one, or refuses.

    Args:
        path: `pathlib.Path` of the run's best model.
        config: `TrainConfig`.
        place: the run's `Checkpoints`, restored.
        validation: the run's `Validation`, restored.

    Raises:
        ValueError: if the training has ended and nothing will write it again.
    """
    if validation.best == -math.inf or path.exists():
        return
    if place.epoch >= config.epochs or validation.is_over:
        raise ValueError(
            f"{path} is missing, and the training has ended: nothing will "
            "write it again. Put it back, or train again with --overwrite."
        )
    _LOGGER.warning(
        "%s, the model of the best epoch, is missing: the best of the "
        "remaining epochs will be kept.",
        path,
    )
    validation.best = -math.inf
