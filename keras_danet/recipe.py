"""Recipes: `TrainConfig`, everything that decides a training, and its file."""

import dataclasses
import importlib.util
import math
import pathlib
import re
import types
import typing

from keras_danet import arguments
from keras_danet.arguments import did_you_mean
from keras_danet.data.datasets import get_dataset
from keras_danet.data.folder import FOLDER
from keras_danet.data.plan import Augmentation
from keras_danet.data.resampling import standardize_sides

# The largest power of ten that float32 holds; more epochs, and wider stems,
# than anybody has.
LARGEST = 1e38
MOST_EPOCHS = 10**6
MOST_STEM_FILTERS = 1024

# At least the first, below the second.
RANGES = {
    "epochs": (1, MOST_EPOCHS),
    "batch_size": (1, math.inf),
    "val_every": (1, math.inf),
    "filters": (4, 1025),
    "dropout": (0, 1),
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
# Of these 0 would stand for nothing.
ABOVE_ZERO = ("clip_norm", "ohem_threshold")
# Fields that only one `loss` has.
FIELDS_OF_LOSS = {
    "label_smoothing": "crossentropy",
    "ohem_threshold": "ohem",
    "ohem_min_kept": "ohem",
}
# Of several recipes for a data set the one that needs no GPU.
ALIASES = {"camvid": "camvid_danet_resnet18"}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training, and nothing about the machine.

    Args:
        dataset: name of a data set, a key of `data.datasets.DATASETS`; or
            "folder", images and masks of your own (see `data.folder`).
        epochs: integer, passes over the training split.
        batch_size: integer, over all devices together.
        crop_size: (height, width) of the training crops, in pixels.
        scale_range: (smallest, largest) factor on height and width.
        scale_step: float, distance of the factors that are drawn; 0 draws
            any.
        long_side, short_side: integers, pixels that a side has at scale 1;
            None leaves the image's own.
        max_class_share: float, the most of a crop that one class may be.
        flip: float, chance of mirroring left to right.
        brightness, contrast, saturation, hue: floats, the most that each is
            changed by, for half of the examples.
        blur: float, standard deviation of a Gaussian in pixels, at most; for
            half of the examples.
        test_size: the size of images where the model is measured and used,
            labels staying as they are: "training", what crops are taken of at
            scale 1 (`long_side` and `short_side`); "image", the image's own;
            or the `size` of a `Predictor`: the pixels of the longer side, or
            (long, short).
        on_bad_file: "error" ends the training at a file that cannot be used;
            "skip" names it, counts it in the history and goes on.
        loader: "tf.data"; "numpy", which needs no TensorFlow; or "auto", the
            first where TensorFlow is installed.
        data_root: folder of the data set. None takes the environment
            variable `KERAS_DANET_{DATASET}`, and for the drawn scenes a
            folder in the run, where they are drawn.
        train_split: name of the split to train on.
        val_split: name of the split to measure on.
        val_every: integer, epochs from one validation to the next.
        patience: integer, validations without a better mean IoU after which
            the training ends early; None never ends it so.
        depth: integer, layers of the ResNet: 18, 34, 50, 101 or 152.
        filters: integer, width of its first stage.
        output_stride: integer, pixels of the image per feature: 8, 16 or 32.
        multi_grid: integers, dilation rates of the last stage's blocks; None
            has one rate for all of them.
        stem_filters: three integers, widths of a deep stem of 3x3
            convolutions; None has one of 7x7.
        attention: the modules, of "position" and "channel"; () has none.
        auxiliary: boolean, whether a head learns from the third stage.
        dropout: float, rate before the classifiers.
        align_corners: boolean, whether upsampling aligns corner pixels.
        backbone_weights: a backbone's preset, or a path that
            `DilatedResNet.from_checkpoint` reads; None draws them.
        start_from: a DANet to fine-tune, with the classes of this data set:
            a preset, a run folder or a `.keras` file. `attention` and the
            backbone's fields must say what it is.
        freeze: what stays as it starts: "nothing" or a part of `freeze`.
        learning_rate: float at the first step.
        end_learning_rate: float, to which it falls at the last.
        power: float, exponent of the poly schedule.
        warmup_steps: integer, updates in which it rises to the schedule.
        head_multiplier: float, how many times larger it is outside of the
            backbone.
        momentum: float, of `SGD`.
        weight_decay: float, of `SGD`, coupled.
        clip_norm: float above 0, the most that the gradients' common norm may
            be; None clips nothing.
        accumulation_steps: integer, batches whose mean gradient makes one
            update; those that are left over at the very end make none.
        ema_momentum: float, of the moving average of weights that is measured
            and kept; None keeps the weights themselves.
        loss: "crossentropy", "ohem" or "focal", for every output.
        dice_weight: float, of a Dice loss beside it, over the whole batch.
        lovasz_weight: float, of a Lovász-Softmax loss beside it, image by
            image, so that it is the same on any number of devices.
        class_weights: one float per class for the loss, such as
            `keras-danet class-weights` prints.
        label_smoothing: float in [0, 1), of "crossentropy".
        ohem_threshold: float, of "ohem": pixels with a lower probability
            count (0.7, as in MMSegmentation).
        ohem_min_kept: integer, of "ohem": so many pixels of each crop count
            at least (100,000, as in MMSegmentation; fewer than a crop has).
        dtype: dtype policy, such as "float32" or "mixed_bfloat16".
        jit_compile: boolean, or "auto" for Keras's choice.
        seed: integer, of weights and augmentation.
    """

    dataset: str
    epochs: int
    batch_size: int
    crop_size: tuple[int, int]
    scale_range: tuple[float, float] = Augmentation.scale_range
    scale_step: float = Augmentation.scale_step
    long_side: int | None = Augmentation.long_side
    short_side: int | None = Augmentation.short_side
    max_class_share: float = Augmentation.max_class_share
    flip: float = Augmentation.flip
    brightness: float = Augmentation.brightness
    contrast: float = Augmentation.contrast
    saturation: float = Augmentation.saturation
    hue: float = Augmentation.hue
    blur: float = Augmentation.blur
    test_size: (
        int
        | tuple[int | None, int | None]
        | typing.Literal["training", "image"]
    ) = "training"
    on_bad_file: typing.Literal["error", "skip"] = "error"
    loader: typing.Literal["auto", "tf.data", "numpy"] = "auto"
    data_root: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    val_every: int = 1
    patience: int | None = None
    depth: int = 50
    filters: int = 64
    output_stride: int = 8
    multi_grid: tuple[int, ...] | None = None
    stem_filters: tuple[int, int, int] | None = None
    attention: tuple[str, ...] | str = ("position", "channel")
    auxiliary: bool = False
    dropout: float = 0.1
    align_corners: bool = True
    backbone_weights: str | None = None
    start_from: str | None = None
    freeze: typing.Literal[
        "nothing", "backbone", "batch_norm", "backbone_batch_norm"
    ] = "nothing"
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
    loss: typing.Literal["crossentropy", "ohem", "focal"] = "crossentropy"
    dice_weight: float = 0.0
    lovasz_weight: float = 0.0
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    ohem_threshold: float = 0.7
    ohem_min_kept: int = 100_000
    dtype: typing.Literal[
        "float32",
        "mixed_float16",
        "mixed_bfloat16",
        "bfloat16",
        "float16",
        "float64",
    ] = "float32"
    jit_compile: bool | typing.Literal["auto"] = "auto"
    seed: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = _as_written(getattr(self, field.name), field.type)
            object.__setattr__(self, field.name, value)
            if not _fits(value, field.type):
                words = _words(field.type) if isinstance(value, str) else ()
                raise ValueError(
                    f"`{field.name}` must be {_type_name(field.type)}."
                    f"{did_you_mean(value, words)} "
                    f"Received: {field.name}={value!r}"
                )
        if self.dataset != FOLDER:
            get_dataset(self.dataset)
        self._check_ranges()
        # Its own ranges, told here rather than when training begins.
        self.augmentation()
        self._check_test_size()
        self._check_loss()
        if self.backbone_weights and self.start_from:
            raise ValueError(
                "`start_from` brings a backbone with it. Received: both it "
                f"({self.start_from!r}) and `backbone_weights` "
                f"({self.backbone_weights!r})."
            )

    def _check_ranges(self):
        for name, (least, below) in RANGES.items():
            value = getattr(self, name)
            # Written so that NaN fails it too.
            if value is not None and not least <= value < below:
                raise ValueError(
                    f"`{name}` must be at least {least} and below {below}. "
                    f"Received: {name}={value!r}"
                )
        if self.end_learning_rate > self.learning_rate:
            raise ValueError(
                "`end_learning_rate` must be at most `learning_rate`, from "
                "which it falls. Received: end_learning_rate="
                f"{self.end_learning_rate}, learning_rate={self.learning_rate}"
            )
        stem = self.stem_filters or (1,)
        if not all(1 <= filters <= MOST_STEM_FILTERS for filters in stem):
            raise ValueError(
                "`stem_filters` must be three integers of 1 to "
                f"{MOST_STEM_FILTERS}. Received: stem_filters={stem!r}"
            )
        for name in ABOVE_ZERO:
            if getattr(self, name) == 0:
                raise ValueError(f"`{name}` must be above 0. Received: 0")

    def _check_loss(self):
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
            if self.loss != loss and value != getattr(TrainConfig, name):
                raise ValueError(
                    f"`{name}` is of loss={loss!r}. Received: {name}={value!r} "
                    f"with loss={self.loss!r}. Leave one of them out."
                )
        pixels = math.prod(self.crop_size)
        if self.loss == "ohem" and self.ohem_min_kept >= pixels:
            raise ValueError(
                "`ohem_min_kept` must be less than the pixels of a crop: "
                f"loss='ohem' would keep all {pixels}, as 'crossentropy' does. "
                f"Received: ohem_min_kept={self.ohem_min_kept} with crop_size="
                f"{self.crop_size}. Lower it, to a fifth for example: "
                f"{pixels // 5}."
            )

    def _check_test_size(self):
        try:
            self.test_sides  # noqa: B018
        except ValueError as error:
            raise ValueError(f"`test_size`: {error}") from error

    @property
    def test_sides(self):
        """(long, short) side, the `size` of the `Predictor` of a run."""
        if self.test_size == "training":
            return self.long_side, self.short_side
        return standardize_sides(
            None if self.test_size == "image" else self.test_size
        )

    def augmentation(self):
        """The `Augmentation` that this training uses."""
        ours, theirs = (
            {field.name for field in dataclasses.fields(kind)}
            for kind in (TrainConfig, Augmentation)
        )
        return Augmentation(
            **{name: getattr(self, name) for name in ours & theirs}
        )

    def replace(self, settings):
        """A copy with `settings`, a dict of field names to new values."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in settings:
            if name not in known:
                raise ValueError(
                    f"A recipe has no key {name!r}."
                    f"{did_you_mean(name, known)} Expected one of: "
                    f"{', '.join(known)}."
                )
        return dataclasses.replace(self, **settings)


def describe_fields():
    """The keys of a recipe, as (name, type, default, meaning).

    The type is in words, the default as it is written in Python, `None` where
    there is none. The meaning is one sentence of the class's docstring,
    empty where Python was told to leave docstrings out.
    """
    meanings = {}
    arguments = (TrainConfig.__doc__ or "").partition("Args:\n")[2]
    for entry in re.split(r"\n {8}(?! )", f"\n{arguments.rstrip()}"):
        names, _, text = entry.strip().partition(": ")
        for name in names.split(","):
            meanings[name.strip()] = " ".join(text.split())
    return [
        (
            field.name,
            _type_name(field.type),
            None
            if field.default is dataclasses.MISSING
            else repr(field.default),
            meanings.get(field.name, ""),
        )
        for field in dataclasses.fields(TrainConfig)
    ]


def _type_name(kind):
    """A type as an error says it: `int`, `'auto' or bool`, `(int, int)`."""
    if kind is types.NoneType:
        return "None"
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        several = "..." if Ellipsis in inner else ""
        names = [_type_name(each) for each in inner if each is not Ellipsis]
        return f"({', '.join([*names, *([several] if several else [])])})"
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    options = _options(kind)
    if len(options) > 1:
        return " or ".join(map(_type_name, options))
    return kind.__name__


def _words(kind):
    """The words that a field may be, if any."""
    return [
        word
        for option in _options(kind)
        if typing.get_origin(option) is typing.Literal
        for word in typing.get_args(option)
    ]


def recipes_folder():
    """Where the recipes lie that come with the package.

    Installed they lie in it; in a checkout beside it, as `training/`.
    """
    package = pathlib.Path(__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "training"


def find_recipe(name):
    """The path of a recipe, given by its path or by a name.

    Args:
        name: string or path: a file; or the name of a recipe that comes with
            the package, whole (`"scenes_danet_resnet18"`) or its beginning
            (`"scenes"`) where no other begins so.

    Returns:
        `pathlib.Path`.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if several recipes begin so.
    """
    path = pathlib.Path(name)
    if path.exists() or path.name != str(name):
        return path
    stem = str(name).removesuffix(".py")
    stem = ALIASES.get(stem, stem)
    folder = recipes_folder()
    stems = sorted(path.stem for path in folder.glob("*_danet_*.py"))
    begin_so = [known for known in stems if known.startswith(f"{stem}_")]
    if stem in stems:
        return folder / f"{stem}.py"
    if len(begin_so) == 1:
        return folder / f"{begin_so[0]}.py"
    if begin_so:
        raise ValueError(
            f"Several recipes begin with {str(name)!r}. Expected one of: "
            f"{', '.join(begin_so)}."
        )
    raise FileNotFoundError(
        f"There is no recipe {name}, neither a file nor one of the package's."
        f"{did_you_mean(stem, [*stems, *ALIASES, 'scenes'])} `keras-danet "
        "recipes` lists them; `keras-danet init FOLDER` writes one for data "
        "of your own."
    )


def load_recipe(path):
    """The `config` of a recipe, a Python file (which is executed)."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no recipe {path}. A recipe is a Python file with a "
            "`config = TrainConfig(...)`; `keras-danet recipes` lists those "
            "that come with the package, and `keras-danet init FOLDER` writes "
            "one for data of your own."
        )
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None:
        raise ValueError(f"{path} is no Python file; a recipe ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    # It is anybody's code: whatever it raises is about this file.
    except (Exception, SystemExit) as error:
        # But SIGTERM's is not.
        if isinstance(error, SystemExit) and error.code == 143:
            raise
        raise ValueError(
            f"{path} cannot be run: {type(error).__name__}: {error}"
        ) from error
    config = getattr(module, "config", None)
    if not isinstance(config, TrainConfig):
        raise ValueError(
            f"{path} must define `config = keras_danet.TrainConfig(...)`. "
            f"Received: config={config!r}"
        )
    return config


def _as_written(value, kind):
    """Lists as tuples, and whole numbers as floats where `kind` has floats.

    NumPy's are written as Python's: JSON holds no others.
    """
    options = _options(kind)
    value = arguments.plain(value)
    if getattr(value, "ndim", 0) == 1 and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        kinds = [item for option in options for item in typing.get_args(option)]
        item = float if float in kinds else None
        return tuple(_as_written(part, item) for part in value)
    if float not in options or type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _options(kind):
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return typing.get_args(kind)
    return (kind,)


def _fits(value, kind):
    """Whether `value` is of the annotated type `kind`."""
    options = _options(kind)
    if len(options) > 1:
        return any(_fits(value, option) for option in options)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return value in arguments
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        return len(value) == len(arguments) and all(
            map(_fits, value, arguments)
        )
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
