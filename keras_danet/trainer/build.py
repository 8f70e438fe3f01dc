"""From a recipe to a model that can learn: network, loss, optimizer."""

import dataclasses
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
from keras_danet.models.keras_backbones import application_of
from keras_danet.models.keras_backbones import dilation_of
from keras_danet.models.keras_backbones import keras_backbone
from keras_danet.models.keras_backbones import pixel_statistics
from keras_danet.optimizers import SGD
from keras_danet.optimizers import PolySchedule
from keras_danet.weights import files
from keras_danet.weights.keras_applications import IMAGENET


def build_model(config, num_classes, like=None):
    """The model that `config` describes, before its first step.

    Args:
        config: `TrainConfig`.
        num_classes: integer.
        like: path of a `.keras` file of the same network, for a training
            that is resumed: a checkpoint brings the weights, and those
            that it started from are no longer needed. Defaults to `None`.

    Raises:
        ValueError: if weights to start from are those of another network, or
            the backend does not compute in its dtype.
    """
    check_dtype(config.dtype)
    network = config.model.own()
    if like and os.path.exists(like):
        # A recipe does not describe all of a network that it starts from.
        gone = gone_sources(network)
        network = dataclasses.replace(
            network,
            **{
                name: str(like) if name == "start_from" else None
                for name in gone
            },
        )
    options = {
        "auxiliary": network.auxiliary,
        "dropout": network.dropout,
        "align_corners": network.align_corners,
        "dtype": config.dtype,
    }
    if network.start_from:
        model = DANet.from_model(
            network.start_from, num_classes=num_classes, **options
        )
        found = _network_of(model, network)
        if found["output_stride"] != network.output_stride:
            # It decides no weights.
            model = DANet.from_model(model, output_stride=network.output_stride)
            found = _network_of(model, network)
        _check_network(network, "start_from", found)
    else:
        model = DANet(
            num_classes=num_classes,
            backbone=build_backbone(network, config.dtype),
            attention=network.attention,
            **({} if network.is_own else pixel_statistics(network.backbone)),
            **options,
        )
    part = network.freeze
    return model if part == "nothing" else freeze(model, part)


def gone_sources(network):
    """The fields of a `ModelConfig` that name weights that are missing."""
    return [
        name
        for name, presets in (
            ("start_from", DANet.presets),
            ("backbone_weights", {IMAGENET, *DilatedResNet.presets}),
        )
        if (source := getattr(network, name))
        and source not in presets
        and not source.startswith("hf://")
        and not os.path.exists(source)
    ]


def build_backbone(network, dtype):
    """The backbone of a `ModelConfig`, with its weights if it names any."""
    network = network.own()
    if not network.is_own:
        return keras_backbone(
            network.backbone,
            network.backbone_weights,
            network.output_stride,
            network.num_stages,
            dtype,
        )
    shape = {
        "output_stride": network.output_stride,
        "multi_grid": network.multi_grid,
        "dtype": dtype,
    }
    source = network.backbone_weights
    drawn = {
        "depth": network.depth,
        "filters": network.filters,
        "stem_filters": network.stem_filters,
    }
    if not source:
        return DilatedResNet(**drawn, **shape)
    if source.lower().endswith(files.ENDINGS):
        backbone = DilatedResNet.from_checkpoint(source, **shape)
    else:
        backbone = DilatedResNet.from_preset(source, **shape)
    found = backbone.get_config()
    _check_network(
        network, "backbone_weights", {name: found[name] for name in drawn}
    )
    return backbone


def _network_of(model, network):
    """The fields of a `ModelConfig` that a model's weights have decided."""
    asked = network.attention
    asked = {asked} if isinstance(asked, str) else set(asked)
    # Their order decides nothing.
    same = asked == set(model.attention)
    backbone = backbone_of(model)
    # No recipe describes any other backbone: its fields stay unset.
    known = dict(vars(type(network)))
    if isinstance(backbone, DilatedResNet):
        known |= backbone.get_config()
    elif name := application_of(backbone):
        known["backbone"] = name
        known |= dilation_of(backbone)
    names = (
        "backbone",
        "num_stages",
        "depth",
        "filters",
        "output_stride",
        "multi_grid",
        "stem_filters",
    )
    return {
        "attention": network.attention if same else model.attention,
        **{name: known[name] for name in names},
    }


def _check_network(network, argument, found):
    """Refuses a recipe that does not state what its weights decide."""
    other = [
        f"{name}={value!r} (received {getattr(network, name)!r})"
        for name, value in found.items()
        if getattr(network, name) != value
    ]
    if other:
        raise ValueError(
            f"The weights of {argument}={getattr(network, argument)!r} are of "
            f"a network with {', '.join(other)}. Expected the same in the "
            "recipe: change it, or use other weights."
        )


def build_loss(objective):
    """The loss of an `ObjectiveConfig`, for every output."""
    given = {"class_weights": objective.class_weights}
    if objective.loss == "ohem":
        loss = OhemCrossentropy(
            objective.ohem_threshold, objective.ohem_min_kept, **given
        )
    elif objective.loss == "focal":
        loss = FocalLoss(**given)
    else:
        loss = PixelCrossentropy(
            label_smoothing=objective.label_smoothing, **given
        )
    beside = [
        (objective.dice_weight, DiceLoss()),
        # With the batch as one image every device would sort all of it.
        (objective.lovasz_weight, LovaszSoftmax(per_image=True)),
    ]
    beside = [pair for pair in beside if pair[0]]
    return SumOfLosses([(1.0, loss), *beside]) if beside else loss


def build_optimizer(model, config, total_steps):
    """The optimizer of `config`, for so many batches.

    Raises:
        ValueError: if they are too few for an update, or for the warm-up.
    """
    given = config.optimization
    updates = total_steps // given.accumulation_steps
    if updates < max(given.warmup_steps, 1):
        raise ValueError(
            f"This training is {updates} updates long: epochs * steps of an "
            f"epoch, {total_steps}, / accumulation_steps, "
            f"{given.accumulation_steps}. Expected at least one, and "
            f"`warmup_steps` to be no more. Received: warmup_steps="
            f"{given.warmup_steps}. Lower what is too large, or train for "
            "more epochs."
        )
    schedule = PolySchedule(
        given.learning_rate,
        updates,
        power=given.power,
        end_learning_rate=given.end_learning_rate,
        warmup_steps=given.warmup_steps,
    )
    averages = given.ema_momentum is not None
    optimizer = SGD(
        schedule,
        given.momentum,
        given.weight_decay,
        multipliers=model.head_multipliers(given.head_multiplier)
        if given.head_multiplier != 1
        else None,
        global_clipnorm=given.clip_norm,
        gradient_accumulation_steps=given.accumulation_steps
        if given.accumulation_steps > 1
        else None,
        use_ema=averages,
        ema_momentum=given.ema_momentum if averages else 0.99,
    )
    if "float16" in config.dtype and "bfloat16" not in config.dtype:
        # Small gradients would be 0.
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def compile_model(model, config, total_steps):
    """Compiles `model` with the optimizer and loss of `config`."""
    model.compile(
        build_optimizer(model, config, total_steps),
        loss=build_loss(config.objective),
        jit_compile=config.jit_compile,
    )
