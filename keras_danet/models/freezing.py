"""The parts of a network (backbone, head, batch norms), and freezing them."""

import re
from typing import TypeVar

import keras
from keras import layers

from keras_danet.arguments import choice

Model = TypeVar("Model", bound=keras.Model)
PARTS = ("backbone", "batch_norm", "backbone_batch_norm")


def freeze(model: Model, part: str) -> Model:
    """Keeps a part of a model unchanged during training.

    Frozen layers have no gradient, decay or momentum, and frozen batch norms
    normalise with their moving statistics, which stay fixed (as in Keras, so
    do their gamma and beta; MMSegmentation's `norm_eval` trains those).
    Call it before `compile`. It is saved with the model; `unfreeze` undoes
    it.

        keras_danet.freeze(model, "backbone")
        model.compile(total_steps=10_000)

    Args:
        model: a `DANet`; a backbone, for `"batch_norm"`.
        part: `"backbone"`; `"batch_norm"`, all batch norms of the model;
            or `"backbone_batch_norm"`, for a newly initialized head.

    Returns:
        The model.

    Raises:
        ValueError: for an unknown part, or a model without it.

    Example:

    >>> model = keras_danet.DANet(
    ...     num_classes=5, backbone=keras_danet.DilatedResNet(18, filters=8))
    >>> model = keras_danet.freeze(model, "backbone")
    >>> model.trainable_variables[0].path
    'channel_in/kernel'
    """
    choice("part", part, PARTS)
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


def unfreeze(model: Model) -> Model:
    """Makes all of a model trainable, and returns it; `compile` it again."""
    # On TensorFlow setting an unchanged value does not reach the layers.
    model.trainable = False
    model.trainable = True
    for _, layer in _adapted_layers(model):
        # LoRA's factors are trained instead.
        layer._kernel.trainable = False
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
    """Regular expression of the paths of all variables but the backbone's."""
    backbone = backbone_of(model)
    names = [layer.name for layer in model.layers if layer is not backbone]
    pattern = f"^({'|'.join(map(re.escape, names))})/"
    shared = [v.path for v in backbone.weights if re.match(pattern, v.path)]
    if shared:
        raise ValueError(
            f"The backbone has layers with the head's names: {shared[:4]}. "
            "Rename them before you make a DANet of it."
        )
    return pattern


def frozen_config(model):
    """What a model's config holds in addition to its arguments.

    That is the state of its layers: which are not trained, and the rank and
    alpha of those with adapters (LoRA), if there are any.
    """
    paths = [
        path for path, layer in _inner_layers(model) if not layer.trainable
    ]
    adapters = {
        path: [layer.lora_rank, layer.lora_alpha]
        for path, layer in _adapted_layers(model)
    }
    config = {"trainable": model.trainable, "frozen_layers": paths}
    return {**config, "adapters": adapters} if adapters else config


def restore_frozen(model, frozen):
    """Restores the state of the layers that `frozen_config` returned."""
    trainable, paths, adapters = frozen
    for path, layer in _parts_of_layers(model):
        # A backbone has restored its own from its configuration.
        if path in adapters and not layer.lora_enabled:
            rank, alpha = adapters[path]
            layer.enable_lora(rank, alpha)
    for path, layer in _inner_layers(model):
        if path in paths:
            layer.trainable = False
    if not trainable:
        model.trainable = False
    return model


def merged_weights(model):
    """A model's weights by path, with adapters added to their kernels."""
    values = {variable.path: variable for variable in model.weights}
    for _, layer in _adapted_layers(model):
        for factor in (layer.lora_kernel_a, layer.lora_kernel_b):
            del values[factor.path]
        values[layer._kernel.path] = layer.kernel
    return values


def copy_weights(layer, copy):
    """Copies a layer's weights to a layer made from its configuration.

    Copies what a file would hold: for a layer with adapters that is the sum,
    so the copy need not have any.
    """
    try:
        for one, other in zip(
            layer._flatten_layers(), copy._flatten_layers(), strict=True
        ):
            stored = {}
            one.save_own_variables(stored)
            other.load_own_variables(
                # On JAX both would share an array, which either may donate.
                {k: keras.ops.copy(v) for k, v in stored.items()}
            )
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"The layer {layer.name!r} ({type(layer).__name__}) cannot be "
            "copied: its weights do not fit a layer made of its get_config(). "
            "It must hold everything that shapes the weights; remove, or "
            f"merge, what was added afterwards ({error})."
        ) from error


def _adapted_layers(model):
    """Yields (path, layer) of the layers with LoRA."""
    for path, layer in _parts_of_layers(model):
        if getattr(layer, "lora_enabled", False):
            yield path, layer


def _parts_of_layers(model):
    """`_inner_layers`, with the layers that are inside layers."""
    for path, layer in _inner_layers(model):
        yield path, layer
        if not isinstance(layer, keras.Model):
            for part in layer._flatten_layers(include_self=False):
                yield f"{path}/{part.name}", part


def _inner_layers(model, prefix=""):
    """Yields (path, layer), a nested model before its layers."""
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        yield prefix + layer.name, layer
        if isinstance(layer, keras.Model):
            yield from _inner_layers(layer, f"{prefix}{layer.name}/")
