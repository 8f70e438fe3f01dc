"""Backbones of `keras.applications`, with weights, made by their names."""

import os
import warnings

import keras

from keras_danet.layers.numerics import dtype_policy_scope
from keras_danet.models.dilation import dilate
from keras_danet.models.dilation import last_stage
from keras_danet.models.functional import FunctionalModel
from keras_danet.weights import keras_files
from keras_danet.weights.keras_applications import APPLICATIONS
from keras_danet.weights.keras_applications import IMAGENET
from keras_danet.weights.keras_applications import PREFIX
from keras_danet.weights.keras_applications import check_application

# Of what Keras says of a file that it cannot load.
MOST_LETTERS = 300


def pixel_statistics(name: str) -> dict:
    """`pixel_mean` and `pixel_std` of a `DANet` over `keras_backbone(name)`."""
    application = APPLICATIONS[name]
    return {
        "pixel_mean": application.pixel_mean,
        "pixel_std": application.pixel_std,
    }


def keras_backbone(
    name: str,
    weights: str | None = None,
    output_stride: int = 8,
    num_stages: int = 4,
    dtype: str | None = None,
) -> FunctionalModel:
    """A dilated network of `keras.applications`, for RGB images.

    The first kernel of a network that was trained on blue, green, red is
    turned round, once, so that its images are RGB like everybody's.

    Args:
        name: string, key of `APPLICATIONS`.
        weights: `"imagenet"`, which Keras downloads; the path of a
            `.weights.h5`, `.h5` or `.keras` file; or `None`, newly drawn.
        output_stride: 8, 16 or 32. Defaults to `8`.
        num_stages: 4, or 3 to leave out the last one. Defaults to `4`.
        dtype: dtype policy. Defaults to `None`, the global one.

    Returns:
        What `dilate` returns, called by the network's name, `"ResNet50"`; our
        own is `"resnet50"`.

    Raises:
        ConnectionError: if Keras cannot download the weights.
        FileNotFoundError: if there is no such file.
        ValueError: for a network, stride or file that cannot be used.
    """
    check_application(name, output_stride, num_stages, weights)
    with dtype_policy_scope(dtype):
        original = _original(name, weights)
        backbone = dilate(original, output_stride, num_stages)
    backbone.name = name.removeprefix(PREFIX)
    if weights and APPLICATIONS[name].bgr:
        kernel = next(w for w in backbone.weights if len(w.shape) == 4)
        kernel.assign(keras.ops.flip(kernel, axis=2))
    return backbone


def application_of(backbone: keras.Model) -> str | None:
    """The key of `APPLICATIONS` that `keras_backbone` made a backbone from."""
    name = f"{PREFIX}{backbone.name}"
    return name if name in APPLICATIONS else None


def dilation_of(backbone: keras.Model) -> dict[str, int]:
    """The `output_stride` and `num_stages` that `dilate` made it with."""
    side = 64
    shapes = backbone.compute_output_shape((None, side, side, 3))
    last = last_stage(shapes)
    return {
        "output_stride": side // shapes[last][1],
        "num_stages": int(last.removeprefix("stage")),
    }


def describe(backbone: keras.Model) -> dict | None:
    """What makes a backbone of `keras_backbone` again; None for any other."""
    name = application_of(backbone)
    if name is None:
        return None
    return {"class_name": name, "config": dilation_of(backbone)}


def is_description(value) -> bool:
    """Whether it has the form of what `describe` returns."""
    return isinstance(value, dict) and value.get("class_name") in APPLICATIONS


def from_description(description: dict, dtype=None, **overrides) -> keras.Model:
    """The backbone, without weights, that `describe` described.

    Raises:
        ValueError: if it is not what `describe` returns.
    """
    name, options = description["class_name"], description.get("config")
    options = {**options, **overrides} if isinstance(options, dict) else {}
    if set(options) != {"output_stride", "num_stages"}:
        raise ValueError(
            f"A backbone {name} is made with `output_stride` and `num_stages`. "
            f"Received: {sorted(options) or description.get('config')!r}"
        )
    return keras_backbone(name, dtype=dtype, **options)


def _original(name, weights):
    """The network with its weights, before it is dilated."""
    make = getattr(keras.applications, name.removeprefix(PREFIX), None)
    if make is None:
        raise ValueError(
            f"Keras {keras.__version__} has no {name}. Received: "
            f"backbone={name!r}. Install another version, or choose another."
        )
    if weights == IMAGENET:
        return _downloaded(make, name)
    original = make(include_top=False, weights=None)
    if weights:
        _load(original, name, weights)
    return original


def _downloaded(make, name):
    try:
        return make(include_top=False, weights=IMAGENET)
    # Keras raises a plain Exception where a download fails.
    except Exception as error:
        raise ConnectionError(
            f"Keras could not download the ImageNet weights of {name} "
            f"({error}). Expected a network, or the file in Keras's cache. "
            "Download it elsewhere, and give its path as `backbone_weights`."
        ) from error


def _load(original, name, path):
    """Puts the weights of a file into a network."""
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"There is no {path}, the `backbone_weights`. Expected a file of "
            f"the weights of {name}, or 'imagenet'."
        )
    try:
        if path.lower().endswith(".keras"):
            _copy(keras_files.load_keras_model(path), original)
        else:
            _check_count(keras_files.check_h5(path), original)
            # Keras warns of every layer, and then lists them all.
            with warnings.catch_warnings(action="ignore"):
                original.load_weights(path)
    except Exception as error:
        reason = str(error).partition("\n")[0][:MOST_LETTERS]
        raise ValueError(
            f"The weights of backbone_weights={path!r} are not those of "
            f"{name} with include_top=False: {reason}"
        ) from error


def _check_count(held, model):
    if held < model.count_params():
        raise ValueError(
            f"the file has {held:,} numbers, and the network "
            f"{model.count_params():,}."
        )


def _copy(source, model):
    theirs = [tuple(weight.shape) for weight in source.weights]
    ours = [tuple(weight.shape) for weight in model.weights]
    if theirs != ours:
        raise ValueError(
            f"the file has a model {source.name!r} with {len(theirs)} weights "
            f"of {source.count_params():,} numbers, and the network has "
            f"{len(ours)} of {model.count_params():,}."
        )
    for mine, other in zip(model.weights, source.weights, strict=True):
        mine.assign(other)
