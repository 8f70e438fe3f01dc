"""Training: the one loop of compile and fit, from a recipe to a run folder."""

import contextlib
import importlib.util
import math
import os
import pathlib
import tempfile

import keras

from keras_danet import distribution
from keras_danet import runs
from keras_danet.checkpointing import BestModel
from keras_danet.checkpointing import HistoryFile
from keras_danet.data.bad_files import BadFiles
from keras_danet.data.decoding import read_size
from keras_danet.data.files import find_pairs
from keras_danet.data.loader import EvaluationBatches
from keras_danet.data.loader import TrainingBatches
from keras_danet.data.plan import steps_per_epoch
from keras_danet.losses import PixelCrossentropy
from keras_danet.memory import check_memory
from keras_danet.models import DANet
from keras_danet.models import DilatedResNet
from keras_danet.optimizers import SGD


def build_model(config, num_classes):
    """The untrained model that `config` describes."""
    return DANet(
        num_classes=num_classes,
        backbone=DilatedResNet(
            config.depth,
            output_stride=config.output_stride,
            multi_grid=config.multi_grid,
            stem_filters=config.stem_filters,
            filters=config.filters,
            dtype=config.dtype,
        ),
        attention=config.attention,
        auxiliary=config.auxiliary,
        dropout=config.dropout,
        align_corners=config.align_corners,
        dtype=config.dtype,
    )


def validation_epochs(config):
    """The epochs (from 1) that end with a validation; the last one does."""
    every = range(config.val_every, config.epochs, config.val_every)
    return [*every, config.epochs]


def compile_model(model, config, total_steps, devices=1):
    """Compiles `model` with the optimizer of `config`."""
    schedule = keras.optimizers.schedules.PolynomialDecay(
        config.learning_rate,
        total_steps,
        end_learning_rate=0.0,
        power=config.power,
    )
    model.compile(
        SGD(schedule, config.momentum, config.weight_decay),
        loss=PixelCrossentropy(reducer=distribution.sum_over_replicas),
        # XLA cannot compile what MirroredStrategy's replicas exchange.
        jit_compile=False
        if devices > 1 and keras.backend.backend() == "tensorflow"
        else config.jit_compile,
    )


def train(
    config,
    run,
    distribute="none",
    num_devices=None,
    recipe=None,
    overwrite=False,
    verbose="auto",
    model_devices=2,
):
    """Trains a model and leaves it in a run folder that explains itself.

    Args:
        config: `TrainConfig`.
        run: path of the run folder to make. It will hold `config.json`,
            `history.csv` and `model.keras`, the model of the epoch with the
            best mean IoU on whole validation images.
        distribute, num_devices, model_devices: those of
            `distribution.scope`.
        recipe: string, where `config` came from, for `config.json`.
        overwrite: boolean, whether to replace an existing run folder.
            Defaults to `False`.
        verbose: as in `keras.Model.fit`.

    Returns:
        The history of `fit`: dict of lists, one value per epoch.

    Raises:
        ValueError: for settings or data that cannot be used or do not fit
            into memory, or if the loss becomes NaN. A run folder without a
            model is removed, and the run that it replaced comes back.
        FileExistsError: if `run` exists and `overwrite` is not set.
    """
    with (
        distribution.scope(distribute, num_devices, model_devices) as placement,
        _run_folder(run, overwrite, placement) as run,
    ):
        return _train(config, run, placement, recipe, verbose)


@contextlib.contextmanager
def _run_folder(run, overwrite, placement):
    """The run folder; for processes but the chief one that is thrown away.

    They save what the chief saves: reading what is spread over processes
    takes all of them.
    """
    if placement.is_chief:
        with runs.new_run_folder(run, overwrite) as run:
            yield run
    else:
        with tempfile.TemporaryDirectory(prefix="keras-danet-") as folder:
            yield pathlib.Path(folder)


def _train(config, run, placement, recipe, verbose):
    placement.check_batch_size(config.batch_size)
    devices = placement.num_replicas
    dataset, root = runs.find_data(config, run)
    train_files, val_files = (
        BadFiles(find_pairs(dataset, root, split), dataset, policy)
        for split, policy in (
            (config.train_split, config.on_bad_file),
            # A figure that leaves images out compares with no other.
            (config.val_split, "error"),
        )
    )
    steps = steps_per_epoch(len(train_files.pairs), config.batch_size)

    keras.utils.set_random_seed(config.seed)
    model = build_model(config, dataset.num_classes)
    compile_model(model, config, config.epochs * steps, devices)
    placement.check_optimizer(model.optimizer)
    runs.write_run_config(
        run, config, root, placement.engine, placement.num_devices, recipe
    )
    with _batches(config, train_files, val_files, placement) as (
        crops,
        wholes,
    ):
        # After the batches, which know what no size of crops is.
        check_memory(
            model,
            config.batch_size,
            *config.crop_size,
            training=True,
            num_devices=devices,
        )
        check_memory(
            model,
            _val_batch_size(config, devices),
            *max(
                map(read_size, (pair.image for pair in val_files.pairs)),
                key=math.prod,
            ),
            num_devices=devices,
        )
        return model.fit(
            crops,
            steps_per_epoch=steps,
            epochs=config.epochs,
            validation_data=wholes,
            validation_freq=validation_epochs(config),
            callbacks=[
                StopAtNaN(),
                BestModel(run / "model.keras"),
                CountSkipped(train_files),
                HistoryFile(run / "history.csv"),
            ],
            # The plan has its own order; Keras would warn that it cannot.
            shuffle=False,
            verbose=verbose if placement.is_chief else 0,
        ).history


@contextlib.contextmanager
def _batches(config, train_files, val_files, placement):
    """This process's training crops and whole validation images."""
    devices = placement.num_replicas
    loader = config.loader
    if loader == "auto":
        installed = importlib.util.find_spec("tensorflow") is not None
        loader = "tf.data" if installed else "numpy"
    training = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "shard": placement.shard,
        "bad_files": train_files,
    }
    validation = {
        "batch_size": _val_batch_size(config, devices),
        # Every device gets as many images, the last time as well.
        "pad_last_batch": devices > 1,
    }
    train = train_files.pairs, train_files.dataset, config.augmentation()
    val = val_files.pairs, val_files.dataset
    if loader == "numpy":
        workers = {"workers": os.cpu_count() or 1}
        crops = TrainingBatches(*train, **training, **workers)
        wholes = EvaluationBatches(*val, **validation, **workers)
        yield placement.distribute(crops), placement.distribute_shared(wholes)
        return
    # TensorFlow is imported for the pipeline, whatever the backend.
    from keras_danet.data import pipeline

    with pipeline.readable_errors(train_files, val_files):
        crops = pipeline.training_dataset(*train, **training)
        wholes = pipeline.evaluation_dataset(
            *val, bad_files=val_files, **validation
        )
        yield placement.distribute(crops), placement.distribute_shared(wholes)


def _val_batch_size(config, devices):
    return math.ceil(config.val_batch_size / devices) * devices


class CountSkipped(keras.callbacks.Callback):
    """Adds to the logs how many files were skipped, once there are any."""

    def __init__(self, bad_files):
        super().__init__()
        self.bad_files = bad_files

    def on_epoch_end(self, epoch, logs=None):
        if self.bad_files.count and logs is not None:
            logs["skipped"] = self.bad_files.count


class StopAtNaN(keras.callbacks.Callback):
    """Ends a training whose loss is no number any more, with an error."""

    def on_train_begin(self, logs=None):
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._check("loss", logs, f"step {batch + 1}")

    def on_epoch_end(self, epoch, logs=None):
        # The loss of a batch is that before its update.
        self._check("val_loss", logs, "validation")

    def _check(self, name, logs, where):
        loss = float((logs or {}).get(name, 0.0))
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss became {loss} in epoch {self.epoch + 1}, {where}. "
                "The learning rate is the usual cause: lower "
                "`learning_rate` (--set learning_rate=...), or use "
                "dtype='float32' if it is a half precision. A label outside "
                "the classes makes it NaN as well."
            )
