"""Training: the one loop of compile and fit, from a recipe to a run folder."""

import math

import keras

from keras_danet import distribution
from keras_danet import runs
from keras_danet.checkpointing import BestModel
from keras_danet.checkpointing import HistoryFile
from keras_danet.data.datasets import get_dataset
from keras_danet.data.decoding import read_size
from keras_danet.data.files import find_pairs
from keras_danet.data.plan import steps_per_epoch
from keras_danet.memory import check_memory
from keras_danet.models import DANet
from keras_danet.models import DilatedResNet
from keras_danet.optimizers import SGD


def build_model(config):
    """The untrained model that `config` describes."""
    return DANet(
        num_classes=get_dataset(config.dataset).num_classes,
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
):
    """Trains a model and leaves it in a run folder that explains itself.

    Args:
        config: `TrainConfig`.
        run: path of the run folder to make. It will hold `config.json`,
            `history.csv` and `model.keras`, the model of the epoch with the
            best mean IoU on whole validation images.
        distribute, num_devices: those of `distribution.scope`.
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
        runs.new_run_folder(run, overwrite) as run,
        distribution.scope(distribute, num_devices) as devices,
    ):
        return _train(config, run, distribute, devices, recipe, verbose)


def _train(config, run, distribute, devices, recipe, verbose):
    # TensorFlow is needed for the pipeline, whatever the backend.
    from keras_danet.data import pipeline

    if config.batch_size % devices:
        raise ValueError(
            f"`batch_size` must divide among the {devices} devices. "
            f"Received: batch_size={config.batch_size}"
        )
    dataset, root = runs.find_data(config, run)
    train_pairs = find_pairs(dataset, root, config.train_split)
    val_pairs = find_pairs(dataset, root, config.val_split)
    steps = steps_per_epoch(len(train_pairs), config.batch_size)

    keras.utils.set_random_seed(config.seed)
    model = build_model(config)
    compile_model(model, config, config.epochs * steps, devices)
    runs.write_run_config(run, config, root, distribute, devices, recipe)
    with pipeline.readable_errors([*train_pairs, *val_pairs], dataset):
        crops = pipeline.training_dataset(
            train_pairs,
            dataset,
            batch_size=config.batch_size,
            crop_size=config.crop_size,
            scale_range=config.scale_range,
            seed=config.seed,
        )
        # After the pipeline, which knows what no size of crops is.
        check_memory(
            model,
            config.batch_size,
            *config.crop_size,
            training=True,
            num_devices=devices,
        )
        val_batch_size = math.ceil(config.val_batch_size / devices) * devices
        check_memory(
            model,
            val_batch_size,
            *max(
                map(read_size, (pair.image for pair in val_pairs)),
                key=math.prod,
            ),
            num_devices=devices,
        )
        return model.fit(
            crops,
            steps_per_epoch=steps,
            epochs=config.epochs,
            validation_data=pipeline.evaluation_dataset(
                val_pairs,
                dataset,
                # Every device gets as many images, the last time as well.
                batch_size=val_batch_size,
                pad_last_batch=devices > 1,
            ),
            validation_freq=validation_epochs(config),
            callbacks=[
                StopAtNaN(),
                BestModel(run / "model.keras"),
                HistoryFile(run / "history.csv"),
            ],
            # The plan has its own order; Keras would warn that it cannot.
            shuffle=False,
            verbose=verbose,
        ).history


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
