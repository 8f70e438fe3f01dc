"""Class activation maps: which features a class's score rests on."""

import functools
import sys
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_danet import arguments
from keras_danet.explain.observing import Observer
from keras_danet.explain.observing import checked_label
from keras_danet.inference.protocols import Size
from keras_danet.models.dilation import last_stage
from keras_danet.models.functional import FunctionalModel

METHODS = ("grad_cam", "hires_cam")


def class_activation(
    model: Any,
    image: Any,
    class_index: int,
    stage: str = "stage4",
    method: str = "grad_cam",
    mask: np.ndarray | None = None,
    size: Size = "auto",
) -> np.ndarray:
    """Which positions of a stage speak for a class.

    The score is the sum of the class's logits over the pixels of `mask`, as
    pytorch-grad-cam's target for segmentation has it.

    Args:
        model: `DANet`, or the name of one: a run's folder, a `.keras` file, a
            preset.
        image: as for `Predictor`.
        class_index: integer, the class.
        stage: string, a key of `model.features`, such as `"stage4"`, or the
            name of a layer. Defaults to `"stage4"`.
        method: `"grad_cam"`, channels weighted by their mean gradient; or
            `"hires_cam"`, the product of features and gradients at each
            position. Defaults to `"grad_cam"`.
        mask: boolean array `(height, width)`, pixels of the image. Defaults
            to `None`, those that the network takes for the class.
        size: the size that the network sees, as for `Predictor`. Defaults to
            `"auto"`.

    Returns:
        float32 array (height, width) of the stage's resolution, from 0 on, in
        units of the score; 0 everywhere if nothing speaks for the class.

    Raises:
        ValueError: for a class or stage that there is not, a mask that does
            not fit, or an image without the class.

    Reference:
        - [Grad-CAM](https://arxiv.org/abs/1610.02391)
        - [HiResCAM](https://arxiv.org/abs/2011.08891)
        - [Grad-CAM for segmentation](https://arxiv.org/abs/2002.11434)
    """
    arguments.choice("method", method, METHODS)
    observer = Observer(model, size)
    network = observer.model
    class_index = arguments.integer(
        "class_index",
        class_index,
        f"must be from 0 to {network.num_classes - 1}",
        least=0,
        most=network.num_classes - 1,
    )
    front, rest = _split(network, stage)
    image = observer.read(image)
    small = observer.predictor.resize(image)[np.newaxis]
    batch = ops.convert_to_tensor(small, dtype="float32")
    features = observer.run(front, batch)
    if mask is None:
        logits = observer.run(rest, batch, features)
        where = ops.convert_to_numpy(ops.argmax(logits, -1))[0] == class_index
    else:
        # Masks of files have 255 for True, which is no class.
        mask = (np.asarray(mask) != 0).astype("uint8")
        mask = checked_label(mask, image.shape[:2], 2)
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int)
            for new, old in zip(small.shape[1:3], mask.shape, strict=True)
        )
        where = mask[rows][:, columns] == 1
    if not where.any():
        name = observer.predictor.class_names[class_index]
        raise ValueError(
            "The mask has no pixel."
            if mask is not None
            else f"The network finds no pixel of {name} in this image. Give a "
            "`mask` of the pixels that the score is of."
        )
    weights = ops.convert_to_tensor(where[np.newaxis].astype("float32"))

    def score(x):
        found = ops.cast(rest(batch, x)[..., class_index], "float32")
        return ops.sum(found * weights)

    gradient = observer.run(_gradient, score, features)
    found, gradient = (
        ops.convert_to_numpy(ops.cast(x, "float32"))[0]
        for x in (features, gradient)
    )
    if method == "grad_cam":
        gradient = gradient.mean((0, 1))
    return np.maximum((found * gradient).sum(-1), 0)


def _split(model, stage):
    """The network as two functions, cut at a stage.

    Returns:
        A function of images to the stage's features, and one of images and
        these features to the logits.
    """
    images, logits = model.input, model.inference_model.output
    backbone, normalized = _backbone(model)
    stages = backbone.output
    last = last_stage(stages)
    inner = None
    if stage in stages and stage != last:
        inner = stages[stage]
    elif stage in _names(backbone):
        inner = backbone.get_layer(stage).output
    if inner is None:
        if stage in model.features:
            outer = model.features[stage]
        elif stage in _names(model):
            outer = model.get_layer(stage).output
        else:
            raise ValueError(
                f"There is no stage {stage!r}. Expected one of "
                f"{', '.join(model.features)}, or the name of a layer."
            )
        front = FunctionalModel(images, outer)
        rest = FunctionalModel([images, outer], logits)
        return _predict(front), lambda batch, x: _predict(rest)([batch, x])
    # The backbone is one layer of the network: it is cut for itself.
    before = FunctionalModel(images, normalized)
    front = FunctionalModel(backbone.input, inner)
    within = FunctionalModel([backbone.input, inner], stages[last])
    after = FunctionalModel([images, model.features[last]], logits)
    return (
        lambda batch: _predict(front)(_predict(before)(batch)),
        lambda batch, x: _predict(after)(
            [batch, _predict(within)([_predict(before)(batch), x])]
        ),
    )


def _backbone(model):
    """The layer that is the backbone, and the tensor that goes into it."""
    [backbone] = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.Model) and isinstance(layer.output, dict)
    ]
    return backbone, model.get_layer("normalization").output


def _names(model):
    return {layer.name for layer in model.layers}


def _predict(network):
    return functools.partial(network, training=False)


def _gradient(score, x):
    """The gradient of a scalar function of a tensor, on every backend."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        with sys.modules["tensorflow"].GradientTape() as tape:
            tape.watch(x)
            result = score(x)
        return tape.gradient(result, x)
    if backend == "jax":
        return sys.modules["jax"].grad(score)(x)
    torch = sys.modules["torch"]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        [gradient] = torch.autograd.grad(score(x), x)
    return gradient
