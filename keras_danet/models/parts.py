"""What a network's parts are: backbone, head, batch norms; freezing them."""

import re

import keras
from keras import layers

PARTS = ("backbone", "batch_norm", "backbone_batch_norm")


def freeze(model, part):
    """Keeps a part of a model as it is, in the training that follows.

    Frozen layers have no gradient, decay or momentum, and frozen batch norms
    normalise with their moving statistics, which stay (as Keras has it, their
    gamma and beta stay, too; MMSegmentation's `norm_eval` trains those).
    Call it before `compile`. It is saved with the model; `unfreeze` takes it
    back.

        keras_danet.freeze(model, "backbone")
        model.compile(total_steps=10_000)

    Args:
        model: a `DANet`; a backbone, for `"batch_norm"`.
        part: `"backbone"`; `"batch_norm"`, every one of the model;
            or `"backbone_batch_norm"`, for a head that starts anew.

    Returns:
        The model.

    Raises:
        ValueError: for another part, or a model without it.

    Example:

    >>> model = keras_danet.DANet(
    ...     num_classes=5, backbone=keras_danet.DilatedResNet(18, filters=8))
    >>> model = keras_danet.freeze(model, "backbone")
    >>> model.trainable_variables[0].path
    'channel_in/kernel'
    """
    if part not in PARTS:
        raise ValueError(f"`part` must be one of {PARTS}. Received: {part!r}")
    if part == "backbone":
        backbone_of(model).trainable = False
        return model
    of = model if part == "batch_norm" else backbone_of(model)
    found = [
        layer
        for _, layer in _inner_layers(of)
        if isinstance(layer, layers.BatchNormalization)
    ]
    if not found:
        raise ValueError(f"{of.name!r} has no batch norms to freeze.")
    for layer in found:
        layer.trainable = False
    return model


def unfreeze(model):
    """Makes all of a model trainable, and returns it; `compile` it anew."""
    # On TensorFlow setting what a model has already reaches no layer.
    model.trainable = False
    model.trainable = True
    return model


def backbone_of(model):
    """The model nested in a `DANet`."""
    nested = [x for x in model.layers if isinstance(x, keras.Model)]
    if len(nested) != 1:
        raise ValueError(
            f"{model.name!r} has no backbone: expected a DANet, which holds "
            f"one model. Received one that holds {len(nested)}."
        )
    return nested[0]


def head_pattern(model):
    """Regular expression of the paths of what is not the backbone's."""
    backbone = backbone_of(model)
    names = [layer.name for layer in model.layers if layer is not backbone]
    pattern = f"^({'|'.join(map(re.escape, names))})/"
    shared = [v.path for v in backbone.weights if re.match(pattern, v.path)]
    if shared:
        raise ValueError(
            f"The backbone has layers of the head's names: {shared[:4]}. "
            "Rename them before DANet is made of it."
        )
    return pattern


def frozen_config(model):
    """What a model's config says of layers that are not trained."""
    paths = [
        path for path, layer in _inner_layers(model) if not layer.trainable
    ]
    return {"trainable": model.trainable, "frozen_layers": paths}


def split_frozen(config):
    """The constructor's arguments, and what `frozen_config` added."""
    config = dict(config)
    trainable = config.pop("trainable", True)
    return config, (trainable, config.pop("frozen_layers", ()))


def restore_frozen(model, frozen):
    """Freezes what was frozen when `frozen_config` was asked."""
    trainable, paths = frozen
    for path, layer in _inner_layers(model):
        if path in paths:
            layer.trainable = False
    if not trainable:
        model.trainable = False
    return model


def _inner_layers(model, prefix=""):
    """Yields (path, layer), a nested model before its layers."""
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        yield prefix + layer.name, layer
        if isinstance(layer, keras.Model):
            yield from _inner_layers(layer, f"{prefix}{layer.name}/")
