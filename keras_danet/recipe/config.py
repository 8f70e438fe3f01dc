"""`TrainConfig`: everything that decides a training."""

import dataclasses
import math
import operator
from collections.abc import Mapping
from typing import Any
from typing import Literal

from keras_danet.arguments import did_you_mean
from keras_danet.arguments import shown
from keras_danet.data.datasets import get_dataset
from keras_danet.data.folder import FOLDER
from keras_danet.data.plan import Augmentation
from keras_danet.data.resampling import standardize_sides
from keras_danet.recipe.model_config import ModelConfig
from keras_danet.recipe.typed_fields import check_fields
from keras_danet.recipe.typed_fields import describe_fields

# The largest power of ten that float32 holds; more epochs than anybody has.
LARGEST = 1e38
MOST_EPOCHS = 10**6

# At least the first, below the second.
RANGES = {
    "epochs": (1, MOST_EPOCHS),
    "batch_size": (1, math.inf),
    "val_every": (1, math.inf),
    "learning_rate": (0, LARGEST),
    "end_learning_rate": (0, LARGEST),
    "power": (0, LARGEST),
    "warmup_steps": (0, math.inf),
    "head_multiplier": (0, LARGEST),
    "momentum": (0, 1),
    "weight_decay": (0, LARGEST),
    "clip_norm": (0, LARGEST),
    "accumulation_steps": (1, math.inf),
    "ema_momentum": (0, 1),
    "ohem_threshold": (0, 1),
    "ohem_min_kept": (0, math.inf),
    "dice_weight": (0, LARGEST),
    "lovasz_weight": (0, LARGEST),
    "label_smoothing": (0, 1),
    "patience": (1, math.inf),
    "seed": (0, 2**32),
}
# Fields that only one `loss` has.
FIELDS_OF_LOSS = {
    "label_smoothing": "crossentropy",
    "ohem_threshold": "ohem",
    "ohem_min_kept": "ohem",
}


@dataclasses.dataclass(frozen=True)
class OptimizationConfig:
    """The optimizer, `SGD`, and its schedule.

    Args:
        learning_rate: float, the learning rate at the first step.
        end_learning_rate: float, the learning rate after the last step.
        power: float, exponent of the poly schedule.
        warmup_steps: integer, updates in which the learning rate rises to
            the schedule.
        head_multiplier: float, the learning rate outside of the backbone, as
            a multiple of the backbone's.
        momentum: float, momentum of `SGD`.
        weight_decay: float, weight decay of `SGD`, coupled.
        clip_norm: float, above 0: the most that the gradients' common norm
            may be; None clips nothing.
        accumulation_steps: integer, batches whose mean gradient makes one
            update; those that are left over at the very end make none.
        ema_momentum: float, momentum of a moving average of the weights,
            which is then measured and kept; None keeps the weights themselves.
    """

    learning_rate: float = 0.01
    end_learning_rate: float = 0.0
    power: float = 0.9
    warmup_steps: int = 0
    head_multiplier: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float | None = None
    accumulation_steps: int = 1
    ema_momentum: float | None = None

    def __post_init__(self):
        check_fields(self, RANGES)
        if self.end_learning_rate > self.learning_rate:
            raise ValueError(
                "`end_learning_rate` must be at most `learning_rate`, from "
                "which it falls. Received: end_learning_rate="
                f"{self.end_learning_rate}, learning_rate={self.learning_rate}"
            )
        _check_above_zero(self, "clip_norm")


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised, for every output.

    Args:
        loss: the loss of every pixel.
        dice_weight: float, weight of a Dice loss that is added, over the
            whole batch.
        lovasz_weight: float, weight of a Lovász-Softmax loss that is added,
            image by image, so that it is the same on any number of devices.
        class_weights: one number per class for the loss, such as
            `keras-danet class-weights` prints.
        label_smoothing: float, in [0, 1), for "crossentropy".
        ohem_threshold: float, for "ohem": pixels with a lower probability of
            their class count (0.7 as in MMSegmentation).
        ohem_min_kept: integer, for "ohem": at least so many pixels of each
            crop count (100,000 as in MMSegmentation); fewer than a crop has.
    """

    loss: Literal["crossentropy", "ohem", "focal"] = "crossentropy"
    dice_weight: float = 0.0
    lovasz_weight: float = 0.0
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    ohem_threshold: float = 0.7
    ohem_min_kept: int = 100_000

    def __post_init__(self):
        check_fields(self, RANGES)
        _check_above_zero(self, "ohem_threshold")
        weights = self.class_weights
        if weights is not None and not (
            all(0 <= weight < LARGEST for weight in weights) and any(weights)
        ):
            raise ValueError(
                "`class_weights` must be numbers, 0 or more, and not all 0. "
                f"Received: class_weights={weights!r}"
            )
        for name, loss in FIELDS_OF_LOSS.items():
            value = getattr(self, name)
            if self.loss != loss and value != getattr(ObjectiveConfig, name):
                raise ValueError(
                    f"`{name}` is for loss={loss!r}. Received: {name}="
                    f"{value!r} with loss={self.loss!r}. Leave one of them out."
                )


def _check_above_zero(record, name):
    if getattr(record, name) == 0:
        raise ValueError(f"`{name}` must be above 0. Received: 0")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training, and nothing about the machine.

    What belongs together is a group: `augmentation`, `model`, `optimization`
    and `objective`. Each is a dict of its keys, or the record itself.

    Args:
        dataset: name of a data set, a key of `data.datasets.DATASETS`; or
            "folder", images and masks of your own (see `data.folder`).
        epochs: integer, passes over the training split.
        batch_size: integer, images of a step, on all devices together.
        augmentation: `data.plan.Augmentation` or a dict of its keys, of which
            `crop_size` has no default.
        test_size: size of images when the model is measured and used; labels
            stay as they are. "training" is the size that crops are taken from
            at scale 1 (`long_side` and `short_side`), "image" the image's
            own; or the `size` of a `Predictor`: pixels of the longer side, or
            (long, short).
        on_bad_file: "error" ends the training at a file that cannot be used;
            "skip" names it, counts it in the history and goes on.
        loader: what reads training data. "numpy" needs no TensorFlow; "auto"
            is "tf.data" where TensorFlow is installed, else "numpy".
        data_root: string or path, folder of the data set. None takes the
            environment variable `KERAS_DANET_{DATASET}`, and for the drawn
            scenes a folder in the run, where they are drawn.
        train_split: name of the split to train on.
        val_split: name of the split to measure on.
        val_every: integer, epochs from one validation to the next.
        patience: integer, validations without a better mean IoU after which
            the training ends early; None, never.
        model: `ModelConfig` or a dict of its keys.
        optimization: `OptimizationConfig` or a dict of its keys.
        objective: `ObjectiveConfig` or a dict of its keys.
        dtype: dtype policy of Keras.
        jit_compile: boolean, whether to use XLA; "auto" is Keras's choice.
        seed: integer, seed of weights and augmentation.

    Raises:
        ValueError: if a key is not known, or its value cannot be used.

    Example:

    >>> config = TrainConfig(
    ...     dataset="scenes",
    ...     epochs=2,
    ...     batch_size=4,
    ...     augmentation={"crop_size": (96, 128)},
    ...     model={"depth": 18},
    ... )
    >>> config.replace({"optimization.learning_rate": 0.02}).model.depth
    18
    """

    dataset: str
    epochs: int
    batch_size: int
    augmentation: Augmentation
    test_size: (
        int | tuple[int | None, int | None] | Literal["training", "image"]
    ) = "training"
    on_bad_file: Literal["error", "skip"] = "error"
    loader: Literal["auto", "tf.data", "numpy"] = "auto"
    data_root: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    val_every: int = 1
    patience: int | None = None
    model: ModelConfig = ModelConfig()  # noqa: RUF009 - it is frozen
    optimization: OptimizationConfig = OptimizationConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    dtype: Literal[
        "float32",
        "mixed_float16",
        "mixed_bfloat16",
        "bfloat16",
        "float16",
        "float64",
    ] = "float32"
    jit_compile: bool | Literal["auto"] = "auto"
    seed: int = 0

    def __new__(cls, *_, **keys):
        # A dataclass would only say that it does not expect the key.
        for key in keys:
            group = GROUP_OF.get(key)
            if group:
                raise ValueError(
                    f"`{key}` belongs to a group. Expected {group}="
                    f"{{{key!r}: ...}}. Received: {key}={shown(keys[key])}"
                )
        return super().__new__(cls)

    def __post_init__(self):
        for name in GROUPS:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, _group(name, value))
        check_fields(self, RANGES)
        if self.dataset != FOLDER:
            get_dataset(self.dataset)
        try:
            self.test_sides  # noqa: B018
        except ValueError as error:
            raise ValueError(f"`test_size`: {error}") from error
        self._check_kept_pixels()

    def _check_kept_pixels(self):
        crop_size = self.augmentation.crop_size
        pixels = math.prod(crop_size)
        kept = self.objective.ohem_min_kept
        if self.objective.loss == "ohem" and kept >= pixels:
            raise ValueError(
                "`ohem_min_kept` must be less than the pixels of a crop: "
                f"loss='ohem' would keep all {pixels}, as 'crossentropy' does. "
                f"Received: ohem_min_kept={kept} with crop_size={crop_size}. "
                f"Lower it, to a fifth for example: {pixels // 5}."
            )

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any]) -> "TrainConfig":
        """A config from a dict of its keys.

        Args:
            keys: dict. A key of a group stands in a dict of its own, as in a
                run's `config.json`; or behind the group's name, as
                "model.depth"; or alone, as "depth", which is how they were
                written before there were groups. Given twice, the last one
                counts.

        Raises:
            ValueError: if a key is not known, or its value cannot be used.
        """
        found = _grouped(keys)
        missing = [
            field.name
            for field in dataclasses.fields(cls)
            if field.default is dataclasses.MISSING and field.name not in found
        ]
        if missing:
            raise ValueError(
                "A recipe must have every key that has no default. Missing: "
                f"{', '.join(missing)}."
            )
        return cls(**found)

    def replace(self, settings: Mapping[str, Any]) -> "TrainConfig":
        """A copy with `settings`, a dict of keys as `from_keys` takes them."""
        changes = _grouped(settings)
        for name in GROUPS:
            if name in changes:
                changes[name] = _group(
                    name, {**vars(getattr(self, name)), **changes[name]}
                )
        return dataclasses.replace(self, **changes)

    def values(self) -> dict[str, Any]:
        """Every key with its value: "epochs", "model.depth" and so on."""
        return {key: operator.attrgetter(key)(self) for key in KEYS}

    def changes(self) -> dict[str, Any]:
        """The keys whose values are not the defaults, without their groups."""
        return {
            field.name: value
            for field, value in zip(FIELDS, self.values().values(), strict=True)
            if value != field.default
        }

    @property
    def test_sides(self) -> tuple[int | None, int | None]:
        """(long, short) side, the `size` of the `Predictor` of a run."""
        if self.test_size == "training":
            return self.augmentation.long_side, self.augmentation.short_side
        return standardize_sides(
            None if self.test_size == "image" else self.test_size
        )


GROUPS = {
    "augmentation": Augmentation,
    "model": ModelConfig,
    "optimization": OptimizationConfig,
    "objective": ObjectiveConfig,
}
# Every field, and the name of its group, "" for none.
_PLACES = [
    (inner, group)
    for field in dataclasses.fields(TrainConfig)
    for group in [field.name if field.name in GROUPS else ""]
    for inner in (dataclasses.fields(GROUPS[group]) if group else [field])
]
FIELDS = [field for field, _ in _PLACES]
GROUP_OF = {field.name: group for field, group in _PLACES}
KEYS = [f"{group}.{name}".strip(".") for name, group in GROUP_OF.items()]


def _grouped(keys):
    """Keys of any spelling, as fields of a `TrainConfig`."""
    found = {}
    for key, value in keys.items():
        group, _, name = str(key).rpartition(".")
        if key in GROUPS:
            if isinstance(value, GROUPS[key]):
                value = vars(value)
            if not isinstance(value, Mapping):
                raise ValueError(
                    f"`{key}` must be a dict of its keys. Received: "
                    f"{key}={value!r}"
                )
            found.setdefault(key, {}).update(value)
        elif name in GROUP_OF and group in ("", GROUP_OF[name]):
            group = GROUP_OF[name]
            place = found.setdefault(group, {}) if group else found
            place[name] = value
        else:
            _refuse_key(key)
    return found


def _group(name, values):
    """The record of a group, from a dict of its keys."""
    for key in values:
        if GROUP_OF.get(key) != name:
            _refuse_key(f"{name}.{key}")
    if name == "augmentation" and "crop_size" not in values:
        raise ValueError(
            "`augmentation` must have a `crop_size`, (height, width) in "
            f"pixels. Received: augmentation={values!r}"
        )
    return GROUPS[name](**values)


def _refuse_key(key):
    key = str(key)
    name = key.rpartition(".")[2]
    near = did_you_mean(key, KEYS) or did_you_mean(name, GROUP_OF)
    if name in GROUP_OF:
        near = f" Did you mean {f'{GROUP_OF[name]}.{name}'.strip('.')!r}?"
    raise ValueError(
        f"A recipe has no key {key!r}.{near} Expected one of: "
        f"{', '.join(KEYS)}."
    )


def describe_keys():
    """The keys of a recipe, as (name, type, default, meaning)."""
    rows = []
    for row in describe_fields(TrainConfig):
        group = GROUPS.get(row[0])
        rows += describe_fields(group) if group else [row]
    return [(key, *row[1:]) for key, row in zip(KEYS, rows, strict=True)]
