"""Loads tensors of the PyTorch implementations, by name, into our variables.

Two namings are known: the authors' (`"official"`, junfu1115/DANet) and
MMSegmentation's (`"mmseg"`). One table, from ours to theirs, serves both
directions. Nothing here knows a model class.
"""

import re
import warnings

import numpy as np

from keras_danet.arguments import choice

NAMINGS = ("official", "mmseg")
BACKBONE = {"official": "pretrained.", "mmseg": "backbone."}

# Our layer: (the authors' module, MMSegmentation's).
HEAD = {
    "position_in": ("head.conv5a.0", "decode_head.pam_in_conv.conv"),
    "position_in_bn": ("head.conv5a.1", "decode_head.pam_in_conv.bn"),
    "channel_in": ("head.conv5c.0", "decode_head.cam_in_conv.conv"),
    "channel_in_bn": ("head.conv5c.1", "decode_head.cam_in_conv.bn"),
    "position_attention/query": (
        "head.sa.query_conv",
        "decode_head.pam.query_project",
    ),
    "position_attention/key": (
        "head.sa.key_conv",
        "decode_head.pam.key_project",
    ),
    "position_attention/value": (
        "head.sa.value_conv",
        "decode_head.pam.value_project",
    ),
    "position_out": ("head.conv51.0", "decode_head.pam_out_conv.conv"),
    "position_out_bn": ("head.conv51.1", "decode_head.pam_out_conv.bn"),
    "channel_out": ("head.conv52.0", "decode_head.cam_out_conv.conv"),
    "channel_out_bn": ("head.conv52.1", "decode_head.cam_out_conv.bn"),
    "position_classifier": ("head.conv6.1", "decode_head.pam_conv_seg"),
    "channel_classifier": ("head.conv7.1", "decode_head.cam_conv_seg"),
    "fusion_classifier": ("head.conv8.1", "decode_head.conv_seg"),
    "auxiliary_in": (None, "auxiliary_head.convs.0.conv"),
    "auxiliary_in_bn": (None, "auxiliary_head.convs.0.bn"),
    "auxiliary_classifier": (None, "auxiliary_head.conv_seg"),
}
# Variables that are not weights of a layer in their modules.
SCALARS = {
    "position_attention/gamma": (
        "head.sa.gamma",
        "decode_head.pam.gamma.scale",
    ),
    "channel_attention/gamma": ("head.sc.gamma", "decode_head.cam.gamma.scale"),
}
BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
OTHER = {"kernel": "weight", "bias": "bias"}
CLASSIFIERS = tuple(name for name in HEAD if name.endswith("_classifier"))
HEAD_NAMES = r"(head|decode_head|auxiliary_head|backbone\.fc)\..*"
CLASSIFIER_NAMES = (
    r"head\.conv[678]\.1\..*|"
    r"decode_head\.((pam|cam)_)?conv_seg\..*|auxiliary_head\.conv_seg\..*"
)
# Unused tensors: batch counters, and the classifier of the authors' ImageNet
# backbone, which their network never calls.
DEAD = r".*\.num_batches_tracked|pretrained\.fc\.(weight|bias)"


def their_name(path, naming, deep_stem=False):
    """The name of their tensor for our variable, `None` if there is none.

    Args:
        path: string, path of our variable, such as
            `"stage1_block0_conv1/kernel"`.
        naming: `"official"` or `"mmseg"`.
        deep_stem: boolean, whether the stem is three 3x3 convolutions.

    >>> their_name("stem_conv1_bn/gamma", "official")
    'pretrained.bn1.weight'
    """
    column = NAMINGS.index(naming)
    if path in SCALARS:
        return SCALARS[path][column]
    layer, _, variable = path.rpartition("/")
    leaf = (BATCH_NORM if layer.endswith("_bn") else OTHER).get(variable)
    if layer in HEAD:
        module = HEAD[layer][column]
    else:
        module = _backbone_module(layer, naming, deep_stem)
    return f"{module}.{leaf}" if module and leaf else None


def _backbone_module(layer, naming, deep_stem):
    kind = "bn" if layer.endswith("_bn") else "conv"
    layer = layer.removesuffix("_bn")
    if match := re.fullmatch(r"stage(\d)_block(\d+)_(\w+)", layer):
        stage, block, part = match.groups()
        part = (
            f"downsample.{int(kind == 'bn')}"
            if part == "shortcut"
            else kind + part.removeprefix("conv")
        )
        return f"{BACKBONE[naming]}layer{stage}.{block}.{part}"
    if match := re.fullmatch(r"stem_conv(\d)", layer):
        if not deep_stem:
            return f"{BACKBONE[naming]}{kind}1"
        # Convolution, batch norm and ReLU, repeated.
        place = 3 * (int(match[1]) - 1) + int(kind == "bn")
        if naming == "mmseg":
            return f"backbone.stem.{place}"
        return "pretrained.bn1" if place == 7 else f"pretrained.conv1.{place}"
    return None


def check_tensors(shapes, tensors, description, skip=()):
    """Accounts for every tensor and every variable, before any is read.

    Args:
        shapes: dict of the paths of our variables to their shapes.
        tensors: dict of name to array, as `normalize` gives it.
        description: `Description` of the tensors.
        skip: list of regular expressions of names that may be left over.

    Returns:
        Dict of the paths of our variables to the names of their tensors.

    Raises:
        ValueError: if a tensor has no variable, a variable no tensor, or
            shapes differ.
    """
    deep_stem = bool(description.stem_filters)
    theirs = {
        path: their_name(path, description.naming, deep_stem) or path
        for path in shapes
    }
    try:
        patterns = [re.compile(pattern) for pattern in (DEAD, *skip)]
    except re.error as error:
        raise ValueError(
            f"`ignore` must hold regular expressions: {error}. Received: "
            f"{list(skip)}"
        ) from None
    missing = [path for path, name in theirs.items() if name not in tensors]
    unknown = sorted(
        name
        for name in set(tensors) - set(theirs.values())
        if not any(pattern.fullmatch(name) for pattern in patterns)
    )
    wrong = []
    for path, name in theirs.items():
        if name not in tensors:
            continue
        shape, dtype = np.shape(tensors[name]), tensors[name].dtype
        if _our_shape(shape, shapes[path]) != shapes[path]:
            wrong.append(f"{name} {shape} for {shapes[path]}")
        elif dtype.kind != "f" and dtype.name != "bfloat16":
            wrong.append(f"{name} of {dtype}, not a floating-point type")
    if unknown or missing or wrong:
        raise ValueError(
            "The checkpoint does not fit the model. Tensors without a "
            f"variable: {listed(unknown)}. Variables without a tensor: "
            f"{listed(missing)}. Wrong shapes or types: {listed(wrong)}. "
            "(`ignore` names tensors that may be left over.)"
        )
    return theirs


def as_patterns(ignore):
    """The patterns of `ignore`, which may be a single one, as a list."""
    return [ignore] if isinstance(ignore, str) else list(ignore)


def load_tensors(variables, tensors, description, skip=()):
    """Assigns their tensors to our variables, accounting for every one.

    Args:
        variables: iterable of Keras variables.
        tensors, description, skip: see `check_tensors`.

    Raises:
        ValueError: like `check_tensors`; nothing is assigned then.
    """
    shapes = {variable.path: tuple(variable.shape) for variable in variables}
    theirs = check_tensors(shapes, tensors, description, skip)
    odd = []
    for variable in variables:
        name = theirs[variable.path]
        # One at a time: half-precision files double in size in float32.
        array = our_layout(tensors[name], shapes[variable.path])
        # JAX would compile a type conversion for every shape, and would not
        # copy a contiguous array, which may be mapped from a file.
        if array.dtype != variable.dtype or array.flags.c_contiguous:
            array = array.astype(variable.dtype)
        if not np.isfinite(array).all():
            odd.append(name)
        variable.assign(array)
    if odd:
        warnings.warn(
            "The checkpoint has NaN or infinity in "
            f"{listed(odd)}: the model's outputs are useless. Get another "
            "file.",
            stacklevel=4,
        )


def to_tensors(variables, naming, deep_stem):
    """Our variables as their tensors, with their names and layout.

    Args:
        variables: dict of our path to array.
        naming: `"official"` or `"mmseg"`.
        deep_stem: boolean.

    Returns:
        Dict of name to array.

    Raises:
        ValueError: if a variable has no place in that naming.
    """
    choice("naming", naming, NAMINGS)
    names = {path: their_name(path, naming, deep_stem) for path in variables}
    homeless = [path for path, name in names.items() if name is None]
    if homeless:
        raise ValueError(
            f"The naming {naming!r} has no names for {listed(homeless)}. "
            + (
                "The authors' network has no auxiliary head."
                if any(path.startswith("auxiliary") for path in homeless)
                else "It knows the weights of a DANet with both attentions, "
                "and no others."
            )
        )
    return {
        names[path]: their_layout(array, naming)
        for path, array in variables.items()
    }


def our_layout(array, shape):
    """OIHW kernels as HWIO; a scalar stored as (1,) as ()."""
    array = np.asarray(array)
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.reshape(_our_shape(array.shape, shape))


def _our_shape(theirs, ours):
    """The shape that `our_layout` gives a tensor."""
    if len(theirs) == 4:
        return (*theirs[2:], theirs[1], theirs[0])
    return () if theirs == (1,) and not ours else theirs


def their_layout(array, naming):
    """HWIO kernels as OIHW; the authors' scalars as (1,)."""
    array = np.asarray(array)
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    return (
        array.reshape(1) if array.ndim == 0 and naming == "official" else array
    )


def listed(names, shown=8):
    if not names:
        return "none"
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
