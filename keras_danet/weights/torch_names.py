"""Tensors of the PyTorch implementations, by name, into our variables.

Two namings are known: the authors' (`"official"`, junfu1115/DANet) and
MMSegmentation's (`"mmseg"`). One table, from ours to theirs, serves both
ways. Nothing here knows a model class.
"""

import dataclasses
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
# Variables that are no leaf of a module of theirs.
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
# What carries nothing: counters of batches, and the classifier of the
# authors' ImageNet backbone, which their network never calls.
DEAD = r".*\.num_batches_tracked|pretrained\.fc\.(weight|bias)"

# `key = value` in a configuration in Python, `"key": value` in JSON.
TOLD = (
    r"\b(align_corners|multi_grid)[\"']?\s*[=:]\s*"
    r"(\d[\d,\x20]*|\w+|\([\d,\s]*\)|\[[\d,\s]*\])"
)

PADDLE = (
    "a PaddleSeg network. Its ResNet_vd pools in the shortcuts, dilates every "
    "block of a stage alike and resizes by another rule, so that its weights "
    "give other numbers here"
)

# No layer whose width is read off a tensor is wider.
MAX_WIDTH = 255
# Nor any dilation rate that a file tells.
MAX_RATE = 1024

# Blocks per stage (He et al. 2015, table 1); from 50 on they are bottlenecks.
STAGE_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# Blocks of the four stages and whether they are bottlenecks -> depth.
DEPTHS = {
    (blocks, depth >= 50): depth for depth, blocks in STAGE_BLOCKS.items()
}


@dataclasses.dataclass(frozen=True)
class Description:
    """What the names and shapes of a checkpoint's tensors tell.

    Args:
        naming: `"official"` or `"mmseg"`.
        depth: integer, of the ResNet.
        filters: integer, width of its first stage.
        stem_filters: tuple of the deep stem's widths; `None` for the 7x7.
        num_classes: integer; `None` for a backbone alone.
        auxiliary: boolean, whether there is an auxiliary head.
    """

    naming: str
    depth: int
    filters: int
    stem_filters: tuple[int, ...] | None
    num_classes: int | None
    auxiliary: bool

    def __str__(self):
        by = {"official": "the authors'", "mmseg": "MMSegmentation's"}
        stem = (
            f"deep stem {'/'.join(map(str, self.stem_filters))}"
            if self.stem_filters
            else "7x7 stem"
        )
        head = (
            f"DANet of {self.num_classes} classes"
            + (" with an auxiliary head" if self.auxiliary else "")
            if self.num_classes
            else "no head"
        )
        width = "" if self.filters == 64 else f" of {self.filters} filters"
        return (
            f"{by[self.naming]} naming, ResNet-{self.depth}{width}, {stem}, "
            f"{head}"
        )


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
        # Convolution, batch norm, ReLU, and again.
        place = 3 * (int(match[1]) - 1) + int(kind == "bn")
        if naming == "mmseg":
            return f"backbone.stem.{place}"
        return "pretrained.bn1" if place == 7 else f"pretrained.conv1.{place}"
    return None


def normalize(tensors):
    """Their tensors without a wrapper's prefix, a bare backbone with its own.

    Args:
        tensors: dict of name to array.

    Returns:
        Dict of name to array whose names `their_name` gives.
    """
    while tensors and all(name.startswith("module.") for name in tensors):
        tensors = {
            name.removeprefix("module."): value
            for name, value in tensors.items()
        }
    if not any(name.startswith(tuple(BACKBONE.values())) for name in tensors):
        # torchvision's and timm's ImageNet files, and MMSegmentation's.
        prefix = "backbone." if "stem.0.weight" in tensors else "pretrained."
        if "layer1.0.conv1.weight" in tensors:
            return {prefix + name: value for name, value in tensors.items()}
    return tensors


def describe(tensors):
    """What network the tensors, as `normalize` gives them, belong to.

    Args:
        tensors: dict of name to array.

    Returns:
        A `Description`.

    Raises:
        ValueError: if it is another network; it says which one it looks
            like.
    """
    _refuse_others(tensors)
    naming = next(
        (
            n
            for n in NAMINGS
            if f"{BACKBONE[n]}layer1.0.conv1.weight" in tensors
        ),
        None,
    )
    if naming is None:
        raise _not_ours(tensors, "no network that is known here")
    prefix = BACKBONE[naming]
    blocks = tuple(_num_blocks(tensors, prefix, stage) for stage in range(1, 5))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in tensors
    if (blocks, bottleneck) not in DEPTHS:
        raise _not_ours(
            tensors, f"a ResNet of {blocks} blocks, which has no depth here"
        )
    deep = {"official": "conv1", "mmseg": "stem"}[naming]
    stem = tuple(
        _width(tensors, name)
        for place in (0, 3, 6)
        if (name := f"{prefix}{deep}.{place}.weight") in tensors
    )
    classifier = HEAD["fusion_classifier"][NAMINGS.index(naming)] + ".weight"
    return Description(
        naming=naming,
        depth=DEPTHS[blocks, bottleneck],
        filters=_width(tensors, f"{prefix}layer1.0.conv1.weight"),
        stem_filters=stem if len(stem) == 3 else None,
        num_classes=_width(tensors, classifier)
        if classifier in tensors
        else None,
        auxiliary=any(name.startswith("auxiliary_head.") for name in tensors),
    )


def _width(tensors, name):
    """How many filters a convolution has, before a model is made of it."""
    shape = np.shape(tensors[name])
    if len(shape) != 4 or not 0 < shape[0] <= MAX_WIDTH:
        raise ValueError(
            f"The checkpoint's {name} has shape {shape}. Expected a "
            f"convolution of at most {MAX_WIDTH} filters."
        )
    return shape[0]


def _num_blocks(tensors, prefix, stage):
    start = f"{prefix}layer{stage}."
    numbers = {
        name[len(start) :].split(".")[0]
        for name in tensors
        if name.startswith(start)
    }
    return len(numbers)


def _refuse_others(tensors):
    """Tells the networks that are often taken for DANet."""

    def any_name(pattern):
        return any(re.search(pattern, name) for name in tensors)

    if any_name(r"\._batch_norm\.|_batch_norm\._mean"):
        raise _not_ours(
            tensors,
            PADDLE,
        )
    if any_name(r"^backbone_net\."):
        raise _not_ours(tensors, "an SSSeg network")
    if any_name(r"downsample\.2\.|layer\d\.0\.downsample\.1\.weight$") and any(
        re.search(r"downsample\.1\.weight$", name) and np.ndim(value) == 4
        for name, value in tensors.items()
    ):
        raise _not_ours(
            tensors,
            "a ResNet-D, which pools in the shortcuts; use one with strided "
            "shortcuts (torchvision's, timm's *.tv_*, or v1c)",
        )
    if any_name(r"^(aux_)?classifier\."):
        raise _not_ours(
            tensors,
            "torchvision's DeepLab or FCN, or another network with a "
            "classifier of its own",
        )
    if any_name(r"layer\d\.0\.(se|se_module)\."):
        raise _not_ours(tensors, "an SE-ResNet, with squeeze-and-excite blocks")
    first, second, third = (
        next(
            (
                np.shape(value)
                for name, value in tensors.items()
                if name.endswith(f"layer1.0.conv{index}.weight")
                and np.ndim(value) == 4
            ),
            None,
        )
        for index in (1, 2, 3)
    )
    if first and second and third:
        if second[1] < first[0]:
            raise _not_ours(
                tensors, "a ResNeXt, whose convolutions are grouped"
            )
        if third[0] != 4 * first[0]:
            raise _not_ours(tensors, "a wide ResNet")
    # MMPretrain's classifiers are backbones with a `head.fc`.
    heads = [
        name
        for name in tensors
        if re.match(r"head\.(?!fc\.)|decode_head\.", name)
    ]
    if heads and not any(re.search(r"\.sa\.|\.pam\.", name) for name in heads):
        found = next(
            (
                title
                for pattern, title in (
                    (r"aspp", "DeepLab"),
                    (r"psp_modules", "PSPNet"),
                    (r"decode_head\.(convs|conv_cat)", "FCN"),
                )
                if any_name(pattern)
            ),
            "another segmentation network",
        )
        raise _not_ours(tensors, f"{found}: its head has no attention")


def _not_ours(tensors, found):
    return ValueError(
        f"This checkpoint looks like {found}. Expected DANet in the authors' "
        "or MMSegmentation's naming, or a ResNet in theirs, torchvision's or "
        f"timm's. Its tensors begin: {_list(sorted(tensors), 4)}."
    )


def told_by(meta):
    """What a file says of itself that its tensors cannot tell.

    Args:
        meta: dict, `"align_corners"` and `"multi_grid"` in it, or a
            configuration that has them under `"config"` (MMSegmentation 0.x)
            or `"cfg"` (1.x): Python's or JSON's text, or a dict.

    Returns:
        Dict with `align_corners` (boolean) and `multi_grid` (tuple), as far
        as they are told, without contradiction and within reason.
    """
    told = {"align_corners": set(), "multi_grid": set()}
    waiting = [(k, meta[k]) for k in (*told, "config", "cfg") if k in meta]
    seen = set()
    while waiting:
        key, value = waiting.pop()
        if key in told:
            told[key].add(READ[key](value))
        elif isinstance(value, str):
            for key, text in re.findall(TOLD, value):
                told[key].add(READ[key](text))
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            # Some bytes can stand for a list of lists without end.
            seen.add(id(value))
            keyed = isinstance(value, dict)
            waiting.extend(
                value.items() if keyed else ((None, item) for item in value)
            )
    return {
        key: next(iter(values))
        for key, values in told.items()
        if len(values) == 1 and None not in values
    }


def _read_boolean(value):
    """A boolean of itself or its text, `None` if it is no such."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _read_rates(value):
    """Dilation rates of a value or its text, `None` if it is no such."""
    if isinstance(value, str):
        if not re.fullmatch(r"\W*|None|null|[\[(]?[\d,\s]+[\])]?", value):
            return None
        # More digits than a rate can have are not worth a number.
        value = [int(digits[:9]) for digits in re.findall("[0-9]+", value)]
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(
        type(rate) is int and 0 < rate <= MAX_RATE for rate in value
    ):
        return None
    return tuple(value)


READ = {"align_corners": _read_boolean, "multi_grid": _read_rates}


def check_tensors(shapes, tensors, description, skip=()):
    """Accounts for every tensor and every variable, before there is one.

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
            wrong.append(f"{name} of {dtype}, which is no floating type")
    if unknown or missing or wrong:
        raise ValueError(
            "The checkpoint does not fit the model. Tensors without a "
            f"variable: {_list(unknown)}. Variables without a tensor: "
            f"{_list(missing)}. Other shapes or types: {_list(wrong)}. (What "
            "may be left over can be named by `ignore`.)"
        )
    return theirs


def as_patterns(ignore):
    """A list of patterns, of one as well, which is no list of letters."""
    return [ignore] if isinstance(ignore, str) else list(ignore)


def load_tensors(variables, tensors, description, skip=()):
    """Assigns their tensors to our variables, accounting for every one.

    Args:
        variables: iterable of Keras variables.
        tensors, description, skip: see `check_tensors`.

    Raises:
        ValueError: as `check_tensors`; nothing is assigned then.
    """
    shapes = {variable.path: tuple(variable.shape) for variable in variables}
    theirs = check_tensors(shapes, tensors, description, skip)
    odd = []
    for variable in variables:
        name = theirs[variable.path]
        # One at a time: a file of half precision is twice as large in full.
        array = our_layout(tensors[name], shapes[variable.path])
        # JAX would compile another type's conversion for every shape, and keep
        # without a copy what is contiguous and may be mapped from a file.
        if array.dtype != variable.dtype or array.flags.c_contiguous:
            array = array.astype(variable.dtype)
        if not np.isfinite(array).all():
            odd.append(name)
        variable.assign(array)
    if odd:
        warnings.warn(
            "The checkpoint has NaN or infinity in "
            f"{_list(odd)}: the model computes nothing of use. Ask for "
            "another file.",
            stacklevel=3,
        )


def to_tensors(variables, naming, deep_stem):
    """Our variables as their tensors, by their names and in their layout.

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
            f"The naming {naming!r} has no names for {_list(homeless)}. "
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


def _list(names, shown=8):
    if not names:
        return "none"
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
