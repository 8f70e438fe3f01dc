"""Where a training's figures and pictures go: TensorBoard, W&B, MLflow."""

import contextlib
import importlib
import json

import keras

from keras_danet.arguments import choice
from keras_danet.data.decoding import read_pair
from keras_danet.files import save_text
from keras_danet.inference import visualization
from keras_danet.trainer.callbacks.validation import averaged_weights

# By name, with the package that each needs.
TRACKERS = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
# In the run folder: what W&B and MLflow call the run.
IDENTITIES = "tracking.json"
# Validation images whose predictions are shown.
NUM_PICTURES = 3


@contextlib.contextmanager
def tracking(names, run, config, predictor, pairs, dataset, steps):
    """Makes the callbacks that send a training's figures elsewhere.

    W&B and MLflow resume their run where the run folder is resumed;
    a new folder, also one that replaces another, is a new run.

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
        ValueError: for another name, or if one of them cannot start.
        ImportError: if what one needs is not installed.
    """
    for name in names:
        _check_tracker(name)
    settings = config.values()
    with contextlib.ExitStack() as stack:
        callbacks = []
        if "tensorboard" in names:
            pictures = Pictures(predictor, pairs[:NUM_PICTURES], dataset)
            board = TensorBoard(run / "tensorboard", steps, pictures)
            stack.callback(board.close)
            callbacks.append(board)
        for name, start in (("wandb", _start_wandb), ("mlflow", _start_mlflow)):
            if name in names:
                with _named_errors(name):
                    callbacks.append(start(run, settings, stack))
        yield callbacks


def _check_tracker(name):
    choice("track", name, TRACKERS)
    try:
        importlib.import_module(TRACKERS[name])
    except ImportError as error:
        raise ImportError(
            f"--track {name} needs a package that cannot be imported "
            f"({error}): pip install {TRACKERS[name]}"
        ) from error


@contextlib.contextmanager
def _named_errors(name):
    """Without a login, a network or a server each has errors of its own."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"--track {name} cannot begin: {error}") from error


def _identities(run):
    path = run / IDENTITIES
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _keep_identity(run, name, identity):
    kept = {**_identities(run), name: identity}
    save_text(json.dumps(kept) + "\n", run / IDENTITIES)


def _start_wandb(run, settings, stack):
    import wandb
    from wandb.integration.keras import WandbMetricsLogger

    begun = stack.enter_context(
        wandb.init(
            # None makes a new one.
            id=_identities(run).get("wandb"),
            resume="allow",
            name=run.name,
            dir=str(run),
            config=settings,
        )
    )
    _keep_identity(run, "wandb", begun.id)
    return WandbMetricsLogger()


def _start_mlflow(run, settings, stack):
    import mlflow
    import mlflow.keras

    before = _identities(run).get("mlflow")
    begun = mlflow.start_run(run_id=before, run_name=run.name)
    stack.enter_context(begun)
    if before is None:
        # It takes no other values later, and data may move.
        mlflow.log_params(settings)
        _keep_identity(run, "mlflow", begun.info.run_id)
    return mlflow.keras.MlflowCallback()


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
                visualization.display_palette(self.dataset.palette),
                self.dataset.class_names,
            )


class TensorBoard(keras.callbacks.Callback):
    """Writes scalars after every epoch, and pictures after a validation.

    Where the optimizer averages weights, the pictures are of the averages, as
    the validation is. Keras's own callback needs TensorFlow, on every
    backend, and knows no pictures.

    Args:
        folder: `pathlib.Path`.
        steps: integer, steps of an epoch.
        pictures: a `Pictures`.
    """

    def __init__(self, folder, steps, pictures):
        super().__init__()
        self.folder = folder
        self.steps = steps
        self.pictures = pictures
        self.writer = None

    def on_epoch_begin(self, epoch, logs=None):
        self._begin(epoch)

    def _begin(self, epoch):
        import tensorboardX

        if self.writer is None:
            # Viewers drop what a killed process wrote of this epoch on.
            self.writer = tensorboardX.SummaryWriter(
                str(self.folder), purge_step=epoch * self.steps + 1
            )

    def on_epoch_end(self, epoch, logs=None):
        # Where only the validation of an epoch was left.
        self._begin(epoch)
        step = (epoch + 1) * self.steps
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        scalars = {**(logs or {}), "learning_rate": float(rate)}
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        if "val_mean_iou" in scalars:
            with averaged_weights(self.model):
                for number, picture in enumerate(self.pictures.draw()):
                    self.writer.add_image(
                        f"validation/{number}", picture, step, dataformats="HWC"
                    )
        self.writer.flush()

    def close(self):
        if self.writer is not None:
            self.writer.close()
