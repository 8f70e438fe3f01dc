"""Training: the one loop of compile and fit, from a recipe to a run folder."""

import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Literal

import keras

from keras_danet import runs
from keras_danet.arguments import as_sequence
from keras_danet.arguments import integer
from keras_danet.arguments import refusal
from keras_danet.distribution import engines as distribution
from keras_danet.recipe import TrainConfig
from keras_danet.trainer import resuming
from keras_danet.trainer.callbacks.checkpoints import Checkpoints
from keras_danet.trainer.run_folder import open_run_folder
from keras_danet.trainer.stopping import StopSignal
from keras_danet.trainer.training import Training
from keras_danet.waiting import is_terminal

POSITIVE = "must be a positive integer"


def train(
    config: TrainConfig,
    run: str | os.PathLike[str],
    distribute: str = "none",
    num_devices: int | None = None,
    recipe: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    checkpoint_every: int = 1000,
    keep_checkpoints: int = 2,
    background: bool = False,
    track: Sequence[str] = (),
    verbose: int | Literal["auto"] = "auto",
    model_devices: int = 2,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, list[float]]:
    """Trains a model and leaves it in a run folder that explains itself.

    Killed at any moment, it is resumed by the same call with `resume`:
    with the weights, velocities, seeds and place in the data of its newest
    whole checkpoint, so that it ends with the weights of an unbroken run.
    SIGTERM writes a checkpoint and ends in `SystemExit(143)`, the first
    Ctrl-C in `SystemExit(130)`.

    Args:
        config: `TrainConfig`.
        run: path of the run folder to make. It will hold `config.json`,
            `history.csv`, `checkpoints/` and `model.keras`, the model of the
            epoch with the best mean IoU on whole validation images.
        distribute, num_devices, model_devices: those of
            `distribution.scope`.
        recipe: string, where `config` came from, for `config.json`.
        overwrite: boolean, whether to rename an existing run folder to
            `{run}.old-1` and begin a new one. Defaults to `False`.
        resume: boolean, whether to resume `run` where it exists.
            Defaults to `False`.
        checkpoint_every: integer, steps from one checkpoint to the next;
            there is one after every validation as well. Defaults to `1000`.
        keep_checkpoints: integer, how many there may be. Defaults to `2`.
        background: boolean, whether to write checkpoints while training goes
            on, which takes the memory of one more. Defaults to `False`.
        track: strings, where else figures go: some of
            `tracking.TRACKERS`. Defaults to `()`.
        verbose: `0` for silence, `1` for a line that redraws itself, `2` for
            lines, or `"auto"` for what fits the output. Defaults to
            `"auto"`.
        callbacks: `keras.callbacks.Callback`s of your own. They see the
            figures of an epoch in its logs, `val_mean_iou` among them, and
            may set `model.stop_training`, which ends the training with the
            epoch. One that has `get_state`, which gives what `json.dumps`
            takes, and `set_state` is kept in checkpoints. A resumed epoch and
            what follows it each begin with `on_train_begin`. Defaults to `()`.

    Returns:
        The history: dict of lists, one value per epoch that has one.

    Raises:
        ValueError: for settings or data that cannot be used or do not fit
            into memory, settings other than those of the run to resume,
            or if the loss becomes NaN or diverges; if the run to resume
            no longer has a whole checkpoint, or has ended and its
            `model.keras` is missing. A run folder without a
            model or checkpoint is removed, and the run that it replaced
            comes back.
        FileExistsError: if `run` holds something and neither `overwrite` nor
            `resume` is set.
        OSError: if a file cannot be written, or another training uses the
            folder. What was finished stays.
        SystemExit: after SIGTERM, with 143; after Ctrl-C, with 130; with 141
            if the output pipe closed.
    """
    callbacks = _checked(checkpoint_every, keep_checkpoints, callbacks)
    if overwrite:
        _check_sources(config, run)
    with (
        distribution.scope(distribute, num_devices, model_devices) as placement,
        StopSignal().listening() as stop,
        _run_folder(run, overwrite, resume, placement) as folder,
    ):
        keras.utils.set_random_seed(config.seed)
        run = pathlib.Path(run)
        like = run / "model.keras" if resume else None
        if resume:
            resuming.check_recipe(run, config)
        training = Training(config, folder, placement, stop, like)
        checkpoint = None
        if resume:
            resuming.check_data(run, training.data_digest)
            checkpoint = resuming.find_checkpoint(run, config, training.digest)
        # Drawing the scenes takes a while.
        stop.check()
        runs.write_run_config(
            folder,
            config,
            root=training.root,
            placement=placement,
            recipe=recipe,
            data_digest=training.data_digest,
            steps_per_epoch=training.steps,
        )
        checkpoints = Checkpoints(
            folder / "checkpoints",
            training.steps,
            every=checkpoint_every,
            keep=keep_checkpoints,
            stop=stop,
            background=background,
            run=training.digest,
            files=training.files,
            writes=placement.is_chief,
        )
        track, verbose = _figures_of(placement, track, verbose)
        with training.tracking(track, callbacks) as guests:
            return training.run_from(checkpoint, checkpoints, guests, verbose)


def _checked(checkpoint_every, keep_checkpoints, callbacks):
    """The callbacks as a tuple; refuses what cannot be used."""
    integer("checkpoint_every", checkpoint_every, POSITIVE, least=1)
    integer("keep_checkpoints", keep_checkpoints, POSITIVE, least=1)
    found = as_sequence(callbacks)
    if found is None or not all(
        isinstance(each, keras.callbacks.Callback) for each in found
    ):
        must = "must be a list of instances of keras.callbacks.Callback"
        raise refusal("callbacks", must, callbacks)
    return found


def _check_sources(config, run):
    """What the new run needs may not be in the one that it replaces."""
    run = pathlib.Path(run).resolve()
    for name, value in (
        ("data_root", config.data_root),
        ("start_from", config.model.start_from),
        ("backbone_weights", config.model.backbone_weights),
    ):
        if value and pathlib.Path(value).resolve().is_relative_to(run):
            raise ValueError(
                f"`{name}` is in the run folder {run}, which --overwrite would "
                f"rename. Received: {name}={value!r}. Choose another --output."
            )


def _figures_of(placement, track, verbose):
    """Where figures of this process go: those of the chief stand for all."""
    if not placement.is_chief:
        return (), 0
    if verbose == "auto":
        verbose = 1 if is_terminal(sys.stdout) else 2
    return track, verbose


@contextlib.contextmanager
def _run_folder(run, overwrite, resume, placement):
    """The run folder; a temporary one in processes other than the chief.

    They measure and end as the chief does, and nobody reads their files.
    """
    if placement.is_chief:
        with open_run_folder(run, overwrite, resume) as run:
            yield run
    else:
        with tempfile.TemporaryDirectory(prefix="keras-danet-") as folder:
            yield pathlib.Path(folder)
