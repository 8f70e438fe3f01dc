"""Where a training's figures and pictures go: TensorBoard, W&B, MLflow."""

import contextlib
import dataclasses
import hashlib
import io
import time

import keras
from PIL import Image

from keras_danet import visualization
from keras_danet.data.decoding import read_pair

TRACKERS = ("tensorboard", "wandb", "mlflow")
# Validation images whose predictions are shown.
NUM_PICTURES = 3


@contextlib.contextmanager
def tracking(names, run, config, predictor, pairs, dataset, steps):
    """Makes the callbacks that send a training's figures elsewhere.

    Args:
        names: strings, some of `TRACKERS`.
        run: `pathlib.Path` of the run folder.
        config: `TrainConfig`.
        predictor: `Predictor` of the model that is trained.
        pairs: list of `Pair`, the validation split.
        dataset: their `Dataset`.
        steps: integer, steps of an epoch.

    Yields:
        List of callbacks.

    Raises:
        ValueError: for another name.
        ImportError: if what one needs is not installed.
    """
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise ValueError(
            f"`track` knows {', '.join(TRACKERS)}. Received: {unknown[0]!r}."
        )
    settings = dataclasses.asdict(config)
    with contextlib.ExitStack() as stack:
        callbacks = []
        if "tensorboard" in names:
            pictures = Pictures(predictor, pairs[:NUM_PICTURES], dataset)
            callbacks.append(TensorBoard(run / "tensorboard", steps, pictures))
        if "wandb" in names:
            import wandb
            from wandb.integration.keras import WandbMetricsLogger

            # The same run where it goes on.
            identity = hashlib.sha256(str(run).encode()).hexdigest()[:16]
            stack.enter_context(
                wandb.init(
                    id=identity,
                    resume="allow",
                    name=run.name,
                    dir=str(run),
                    config=settings,
                )
            )
            callbacks.append(WandbMetricsLogger())
        if "mlflow" in names:
            import mlflow
            import mlflow.keras

            stack.enter_context(mlflow.start_run(run_name=run.name))
            mlflow.log_params(settings)
            callbacks.append(mlflow.keras.MlflowCallback())
        yield callbacks


class Pictures:
    """Draws some validation images beside truth and prediction.

    Args:
        predictor: a `Predictor`.
        pairs: list of `Pair`.
        dataset: their `Dataset`.
    """

    def __init__(self, predictor, pairs, dataset):
        self.predictor = predictor
        self.pairs = pairs
        self.dataset = dataset

    def draw(self):
        """Yields uint8 arrays (height, width, 3)."""
        for pair in self.pairs:
            image, label = read_pair(pair, self.dataset)
            yield visualization.compare(
                image,
                label,
                self.predictor(image),
                self.dataset.palette,
                self.dataset.class_names,
            )


class TensorBoard(keras.callbacks.Callback):
    """Writes scalars after every epoch, and pictures after a validation.

    By the package `tensorboard` alone; Keras's own callback needs TensorFlow,
    on every backend, and knows no pictures.

    Args:
        folder: `pathlib.Path`.
        steps: integer, steps of an epoch.
        pictures: a `Pictures`.
    """

    def __init__(self, folder, steps, pictures):
        super().__init__()
        from tensorboard.summary.writer import event_file_writer

        self.writer = event_file_writer.EventFileWriter(str(folder))
        self.steps = steps
        self.pictures = pictures

    def on_epoch_end(self, epoch, logs=None):
        from tensorboard.compat.proto.summary_pb2 import Summary

        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        scalars = {**(logs or {}), "learning_rate": float(rate)}
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
        ]
        if "val_mean_iou" in scalars:
            values += [
                Summary.Value(
                    tag=f"validation/{number}",
                    image=Summary.Image(
                        height=picture.shape[0],
                        width=picture.shape[1],
                        colorspace=3,
                        encoded_image_string=_as_png(picture),
                    ),
                )
                for number, picture in enumerate(self.pictures.draw())
            ]
        self._write(Summary(value=values), (epoch + 1) * self.steps)

    def _write(self, summary, step):
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.add_event(
            Event(summary=summary, step=step, wall_time=time.time())
        )
        self.writer.flush()

    def close(self):
        self.writer.close()


def _as_png(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
