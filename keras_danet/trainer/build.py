"""From a recipe to a model that can learn: network, loss, optimizer."""

import os

import keras

from keras_danet.layers.numerics import check_dtype
from keras_danet.losses import DiceLoss
from keras_danet.losses import FocalLoss
from keras_danet.losses import LovaszSoftmax
from keras_danet.losses import OhemCrossentropy
from keras_danet.losses import PixelCrossentropy
from keras_danet.losses import SumOfLosses
from keras_danet.models import DANet
from keras_danet.models import DilatedResNet
from keras_danet.models import freeze
from keras_danet.models.freezing import backbone_of
from keras_danet.optimizers import SGD
from keras_danet.optimizers import PolySchedule
from keras_danet.weights import files


def build_model(config, num_classes, like=None):
    """The model that `config` describes, before its first step.

    Args:
        config: `TrainConfig`.
        num_classes: integer.
        like: path of a `.keras` file of the same network, for a training
            that is resumed: a checkpoint brings the weights, and those
            to start from need not be there any more. Defaults to `None`.

    Raises:
        ValueError: if weights to start from are those of another network, or
            the backend does not compute in its dtype.
    """
    check_dtype(config.dtype)
    if like and os.path.exists(like):
        # A recipe does not tell all of a network that it starts from.
        config = config.replace(
            {
                name: str(like) if name == "start_from" else None
                for name in gone_sources(config)
            }
        )
    options = {
        "auxiliary": config.auxiliary,
        "dropout": config.dropout,
        "align_corners": config.align_corners,
        "dtype": config.dtype,
    }
    if config.start_from:
        model = DANet.from_model(
            config.start_from, num_classes=num_classes, **options
        )
    else:
        model = DANet(
            num_classes=num_classes,
            backbone=build_backbone(config),
            attention=config.attention,
            **options,
        )
    if config.start_from:
        _check_network(config, "start_from", _network_of(model, config))
    return model if config.freeze == "nothing" else freeze(model, config.freeze)


def gone_sources(config):
    """The fields of `config` that name weights, and none that are there."""
    return [
        name
        for name, presets in (
            ("start_from", DANet.presets),
            ("backbone_weights", DilatedResNet.presets),
        )
        if (source := getattr(config, name))
        and source not in presets
        and not source.startswith("hf://")
        and not os.path.exists(source)
    ]


def build_backbone(config):
    """The backbone that `config` describes, with its weights if it has any."""
    shape = {
        "output_stride": config.output_stride,
        "multi_grid": config.multi_grid,
        "dtype": config.dtype,
    }
    source = config.backbone_weights
    drawn = {
        "depth": config.depth,
        "filters": config.filters,
        "stem_filters": config.stem_filters,
    }
    if not source:
        return DilatedResNet(**drawn, **shape)
    if source.lower().endswith(files.ENDINGS):
        backbone = DilatedResNet.from_checkpoint(source, **shape)
    else:
        backbone = DilatedResNet.from_preset(source, **shape)
    found = backbone.get_config()
    _check_network(
        config, "backbone_weights", {name: found[name] for name in drawn}
    )
    return backbone


def _network_of(model, config):
    """The fields of a recipe that a model's weights have decided."""
    asked = config.attention
    asked = {asked} if isinstance(asked, str) else set(asked)
    # Their order decides nothing.
    same = asked == set(model.attention)
    backbone = backbone_of(model)
    known = (
        backbone.get_config()
        if isinstance(backbone, DilatedResNet)
        # No recipe describes another backbone: its fields stay unset.
        else vars(type(config))
    )
    names = ("depth", "filters", "output_stride", "multi_grid", "stem_filters")
    return {
        "attention": config.attention if same else model.attention,
        **{name: known[name] for name in names},
    }


def _check_network(config, argument, found):
    """What weights decide is said by the recipe, which is recorded, too."""
    other = [
        f"{name}={value!r} (received {getattr(config, name)!r})"
        for name, value in found.items()
        if getattr(config, name) != value
    ]
    if other:
        raise ValueError(
            f"The weights of {argument}={getattr(config, argument)!r} are of a "
            f"network with {', '.join(other)}. Expected the recipe to say the "
            "same: set it so, or take other weights."
        )


def build_loss(config):
    """The loss of `config`, for every output."""
    given = {"class_weights": config.class_weights}
    if config.loss == "ohem":
        loss = OhemCrossentropy(
            config.ohem_threshold, config.ohem_min_kept, **given
        )
    elif config.loss == "focal":
        loss = FocalLoss(**given)
    else:
        loss = PixelCrossentropy(
            label_smoothing=config.label_smoothing, **given
        )
    beside = [
        (config.dice_weight, DiceLoss()),
        # Of a batch as one image every device would sort all of it.
        (config.lovasz_weight, LovaszSoftmax(per_image=True)),
    ]
    beside = [pair for pair in beside if pair[0]]
    return SumOfLosses([(1.0, loss), *beside]) if beside else loss


def build_optimizer(model, config, total_steps):
    """The optimizer of `config`, for so many batches.

    Raises:
        ValueError: if they are too few for an update, or for the warm-up.
    """
    updates = total_steps // config.accumulation_steps
    if updates < max(config.warmup_steps, 1):
        raise ValueError(
            f"This training is {updates} updates long: epochs * steps of an "
            f"epoch, {total_steps}, / accumulation_steps, "
            f"{config.accumulation_steps}. Expected at least one, and "
            f"`warmup_steps` to be no more. Received: warmup_steps="
            f"{config.warmup_steps}. Lower what is too large, or train for "
            "more epochs."
        )
    schedule = PolySchedule(
        config.learning_rate,
        updates,
        power=config.power,
        end_learning_rate=config.end_learning_rate,
        warmup_steps=config.warmup_steps,
    )
    averages = config.ema_momentum is not None
    optimizer = SGD(
        schedule,
        config.momentum,
        config.weight_decay,
        multipliers=model.head_multipliers(config.head_multiplier)
        if config.head_multiplier != 1
        else None,
        global_clipnorm=config.clip_norm,
        gradient_accumulation_steps=config.accumulation_steps
        if config.accumulation_steps > 1
        else None,
        use_ema=averages,
        ema_momentum=config.ema_momentum if averages else 0.99,
    )
    if "float16" in config.dtype and "bfloat16" not in config.dtype:
        # Small gradients would be 0.
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def compile_model(model, config, total_steps):
    """Compiles `model` with the optimizer and loss of `config`."""
    model.compile(
        build_optimizer(model, config, total_steps),
        loss=build_loss(config),
        jit_compile=config.jit_compile,
    )
