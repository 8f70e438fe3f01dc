"""A model, its data and what watches over both, from a step to the end."""

import contextlib
import hashlib
import importlib.util
import json
import math
import os

import keras

from keras_danet import runs
from keras_danet.data.bad_files import BadFiles
from keras_danet.data.decoding import read_pair
from keras_danet.data.decoding import read_pair_size
from keras_danet.data.files import find_pairs
from keras_danet.data.numpy_batches import TrainingBatches
from keras_danet.data.plan import draw_plan
from keras_danet.data.plan import places
from keras_danet.data.plan import steps_per_epoch
from keras_danet.inference.predictor import Predictor
from keras_danet.models.memory import check_memory
from keras_danet.trainer import resuming
from keras_danet.trainer.build import build_model
from keras_danet.trainer.build import compile_model
from keras_danet.trainer.callbacks.checkpoints import OWN
from keras_danet.trainer.callbacks.divergence import StopAtDivergence
from keras_danet.trainer.callbacks.figures import CountSkipped
from keras_danet.trainer.callbacks.figures import Gammas
from keras_danet.trainer.callbacks.figures import HistoryFile
from keras_danet.trainer.callbacks.figures import Throughput
from keras_danet.trainer.callbacks.progress import Progress
from keras_danet.trainer.callbacks.tracking import tracking
from keras_danet.trainer.callbacks.validation import Validation
from keras_danet.trainer.checkpoints import remove_leftovers


def validation_epochs(config):
    """The epochs (from 1) that end with a validation; the last one does."""
    every = range(config.val_every, config.epochs, config.val_every)
    return [*every, config.epochs]


class Training:
    """A model, its data and what watches over both."""

    def __init__(self, config, run, placement, stop, like=None):
        placement.check_batch_size(config.batch_size)
        self.config = config
        self.run = run
        self.placement = placement
        self.stop = stop
        # In the chief's folder, whoever this process is.
        self.resumed_model = like
        self.dataset, self.root = runs.find_data(config, run)
        self.train_files, self.val_files = (
            BadFiles(
                find_pairs(self.dataset, self.root, split),
                self.dataset,
                policy,
            )
            for split, policy in (
                (config.train_split, config.on_bad_file),
                # Without some images, figures could not be compared.
                (config.val_split, "error"),
            )
        )
        self.steps = steps_per_epoch(
            len(self.train_files.pairs), config.batch_size
        )
        self.model = build_model(config, self.dataset.num_classes, like)
        self.model.class_names = self.dataset.class_names
        self.model.palette = self.dataset.palette
        self.model.test_size = config.test_sides
        compile_model(self.model, config, config.epochs * self.steps)
        self.model.build_optimizer()
        self.predictor = Predictor(self.model, size=config.test_sides)
        self.val_sizes = self._validation_sizes()
        self._check_memory()

    def _check_memory(self):
        check_memory(
            self.model,
            self.config.batch_size,
            *self.config.augmentation.crop_size,
            training=True,
            num_devices=self.placement.num_replicas,
        )
        self.predictor.check_size(*max(self.val_sizes, key=self._num_pixels))

    def _validation_sizes(self):
        """(height, width) of every validation image, from its header.

        Images that cannot be used are found here and not after an epoch.
        """
        pairs = self.val_files.pairs
        read_pair(pairs[0], self.dataset)
        return [read_pair_size(pair) for pair in pairs]

    def _num_pixels(self, size):
        """Pixels that the network sees of a validation image of a size."""
        return math.prod(self.predictor.network_size(*size))

    def build_metrics(self):
        """Makes the metrics' variables, which a checkpoint is loaded into.

        Keras's trainer of TensorFlow would make them in the first step only.
        """
        size = self.config.batch_size, *self.config.augmentation.crop_size
        self.model._symbolic_build(
            data_batch=(
                keras.KerasTensor((*size, 3), "float32"),
                keras.KerasTensor(size, "uint8"),
            )
        )

    @property
    def data_digest(self):
        """Identifies the data: names of files, their order, and the classes.

        Files' contents are left out, because all would have to be read.
        """
        names = [
            [
                os.path.relpath(path, self.root)
                for pair in split
                for path in pair
            ]
            for split in (self.train_files.pairs, self.val_files.pairs)
        ]
        dataset = self.dataset
        colors = sorted((dataset.label_colors or {}).items())
        meaning = [dataset.class_names, dataset.label_map, colors]
        text = json.dumps([names, meaning])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def digest(self):
        """Identifies the training: the settings of its recipe, and its data.

        Settings with their default are left out, so that one which a later
        version adds changes nothing.
        """
        settings = self.config.changes()
        # Data may be moved.
        settings.pop("data_root", None)
        text = json.dumps([settings, self.data_digest])
        return hashlib.sha256(text.encode()).hexdigest()

    def files(self, epoch, step):
        """The images of a batch."""
        config = self.config
        pairs = self.train_files.pairs
        plan = draw_plan(config.seed, epoch, len(pairs), config.augmentation)
        used = plan.order[places(len(pairs), config.batch_size)[step]]
        return [pairs[index].image for index in used]

    @contextlib.contextmanager
    def tracking(self, names, callbacks=()):
        """Callbacks that send figures elsewhere, then those of the user."""
        with tracking(
            names,
            self.run,
            self.config,
            self.predictor,
            self.val_files.pairs,
            self.dataset,
            self.steps,
        ) as trackers:
            yield [*trackers, *callbacks]

    def run_from(self, checkpoint, checkpoints, guests, verbose):
        """Trains to the end, from a checkpoint or from the beginning.

        Args:
            checkpoint: (path, header) to resume from, or `None`.
            checkpoints: `Checkpoints`.
            guests: callbacks of trackers and the user's own.
            verbose: integer, 0, 1 or 2.

        Returns:
            The history, a dict of lists.
        """
        watchers = self.watchers(checkpoints, guests, verbose)
        if checkpoint:
            self.build_metrics()
            checkpoints.restore(*checkpoint)
            resuming.check_best_model(
                self.resumed_model,
                self.config,
                checkpoints,
                checkpoints.parts["validation"],
            )
        return self.fit(checkpoints, watchers)

    def fit(self, checkpoints, watchers):
        """Trains from the step that `checkpoints` is at; gives the history."""
        remove_leftovers(self.run)
        remove_leftovers(checkpoints.folder)
        try:
            while checkpoints.epoch < self.config.epochs:
                if checkpoints.parts["validation"].is_over:
                    break
                if checkpoints.step == self.steps:
                    self._end_epoch(watchers, checkpoints)
                else:
                    self._fit_on(watchers, checkpoints)
                # Callbacks of the user's may ask for it.
                if self.model.stop_training:
                    break
        except SystemExit:
            checkpoints.save()
            raise
        finally:
            checkpoints.finish()
        return checkpoints.parts["history"].history

    def _end_epoch(self, watchers, checkpoints):
        """Does what remains of an epoch whose steps are all done."""
        epoch, logs = checkpoints.epoch, dict(checkpoints.logs)
        for watcher in watchers:
            watcher.set_model(self.model)
            watcher.set_params({"epochs": epoch + 1})
            watcher.on_train_begin()
        for watcher in watchers:
            watcher.on_epoch_end(epoch, logs)
        for watcher in watchers:
            watcher.on_train_end()

    def _fit_on(self, watchers, checkpoints):
        epoch, step = checkpoints.epoch, checkpoints.step
        with self._crops(epoch, step) as crops:
            self.model.fit(
                crops,
                steps_per_epoch=self.steps - step,
                initial_epoch=epoch,
                # One call for the rest of an epoch, one for all that follow.
                epochs=epoch + 1 if step else self.config.epochs,
                callbacks=watchers,
                # The plan has shuffled; Keras would warn that it cannot.
                shuffle=False,
                verbose=0,
            )
        checkpoints.put_weights_back()

    @contextlib.contextmanager
    def _crops(self, epoch, step):
        """Training crops from a place in the plan, by tf.data or without."""
        config, files = self.config, self.train_files
        data = files.pairs, files.dataset, config.augmentation
        options = {
            "batch_size": config.batch_size,
            "seed": config.seed,
            "start_epoch": epoch,
            "start_step": step,
            "shard": self.placement.shard,
            "bad_files": files,
        }
        if not self._uses_tensorflow():
            batches = TrainingBatches(*data, **options, workers=_num_cores())
            yield self.placement.distribute(batches)
            return
        # TensorFlow is imported for the pipeline, whatever the backend.
        from keras_danet.data import tensorflow_batches

        with tensorflow_batches.readable_errors(files):
            batches = tensorflow_batches.training_dataset(*data, **options)
            yield self.placement.distribute(batches)

    def _uses_tensorflow(self):
        if self.config.loader != "auto":
            return self.config.loader == "tf.data"
        return importlib.util.find_spec("tensorflow") is not None

    def watchers(self, checkpoints, guests, verbose):
        """The callbacks of the training, of which `checkpoints` is the last.

        Args:
            checkpoints: `Checkpoints`.
            guests: callbacks of trackers and the user's own.
            verbose: integer, 0, 1 or 2.
        """
        config = self.config
        checkpoints.set_model(self.model)
        throughput = Throughput(config.batch_size)
        divergence = StopAtDivergence(checkpoints)
        validation = Validation(
            self.predictor,
            self.val_files.pairs,
            self.dataset,
            config.val_split,
            validation_epochs(config),
            self.run / "model.keras",
            config.patience,
            self.stop,
            self.placement,
            sum(map(self._num_pixels, self.val_sizes))
            / math.prod(config.augmentation.crop_size),
        )
        history = HistoryFile(self.run / "history.csv")
        checkpoints.parts = {
            "divergence": divergence,
            "validation": validation,
            "history": history,
            "bad_files": CountSkipped(self.train_files),
            **{
                f"{OWN}{number}/{type(callback).__name__}": callback
                for number, callback in enumerate(
                    guest
                    for guest in guests
                    if hasattr(guest, "get_state")
                    and hasattr(guest, "set_state")
                )
            },
        }
        progress = Progress(
            throughput,
            checkpoints,
            config.epochs,
            redraw=verbose == 1,
            validation=validation if verbose else None,
        )
        return [
            throughput,
            divergence,
            checkpoints.parts["bad_files"],
            Gammas(),
            validation,
            history,
            *guests,
            *([progress] if verbose else []),
            checkpoints,
        ]


def _num_cores():
    return os.cpu_count() or 1
