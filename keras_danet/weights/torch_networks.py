"""Which network the tensors of a checkpoint belong to."""

import dataclasses
import re

import numpy as np

from keras_danet.weights.torch_names import BACKBONE
from keras_danet.weights.torch_names import HEAD
from keras_danet.weights.torch_names import NAMINGS
from keras_danet.weights.torch_names import listed

# `key = value` in a configuration in Python, `"key": value` in JSON.
TOLD = (
    r"\b(align_corners|multi_grid)[\"']?\s*[=:]\s*"
    r"(\d[\d,\x20]*|\w+|\([\d,\s]*\)|\[[\d,\s]*\])"
)

PADDLE = (
    "a PaddleSeg network. Its ResNet_vd pools in the shortcuts, dilates every "
    "block of a stage alike and resizes by another rule, so its weights give "
    "different results here"
)

OTHERS = {
    PADDLE: r"\._batch_norm\.|_batch_norm\._mean",
    "an SSSeg network": r"^backbone_net\.",
    "torchvision's DeepLab or FCN, or another network with a classifier of its "
    "own": r"^(aux_)?classifier\.",
    "an SE-ResNet, with squeeze-and-excite blocks": (
        r"layer\d\.0\.se(_module)?\."
    ),
}
# Heads without attention.
HEADS = {
    "DeepLab": r"aspp",
    "PSPNet": r"psp_modules",
    "FCN": r"decode_head\.(convs|conv_cat)",
}

# The widest layer whose width is read off a tensor.
MAX_WIDTH = 255
# The largest dilation rate that is accepted from a file.
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
    """What the names and shapes of a checkpoint's tensors say.

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


def normalize(tensors):
    """Their tensors with the prefixes of the original networks.

    A wrapper's `module.` is removed, a bare backbone's prefix is added.

    Args:
        tensors: dict of name to array.

    Returns:
        Dict of name to array, with the names that `their_name` gives.
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
        raise _not_ours(tensors, "an unknown network")
    prefix = BACKBONE[naming]
    blocks = tuple(_num_blocks(tensors, prefix, stage) for stage in range(1, 5))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in tensors
    if (blocks, bottleneck) not in DEPTHS:
        raise _not_ours(
            tensors, f"a ResNet of {blocks} blocks, which is not supported"
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
    """How many filters a convolution has, if a model may have as many."""
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
    """Recognizes networks that are often mistaken for DANet."""

    def any_name(pattern):
        return any(re.search(pattern, name) for name in tensors)

    for title, pattern in OTHERS.items():
        if any_name(pattern):
            raise _not_ours(tensors, title)
    if any_name(r"downsample\.2\.|layer\d\.0\.downsample\.1\.weight$") and any(
        re.search(r"downsample\.1\.weight$", name) and np.ndim(value) == 4
        for name, value in tensors.items()
    ):
        raise _not_ours(
            tensors,
            "a ResNet-D, which pools in the shortcuts; use one with strided "
            "shortcuts (torchvision's, timm's *.tv_*, or v1c)",
        )
    kernels = {
        name[-8]: np.shape(value)
        for name, value in tensors.items()
        if re.search(r"layer1\.0\.conv[123]\.weight$", name)
        and np.ndim(value) == 4
    }
    if len(kernels) == 3:
        if kernels["2"][1] < kernels["1"][0]:
            raise _not_ours(
                tensors, "a ResNeXt, whose convolutions are grouped"
            )
        if kernels["3"][0] != 4 * kernels["1"][0]:
            raise _not_ours(tensors, "a wide ResNet")
    # MMPretrain's classifiers are backbones with a `head.fc`.
    if any_name(r"^(head\.(?!fc\.)|decode_head\.)") and not any_name(
        r"^(head|decode_head)\..*(sa|pam)\."
    ):
        found = [t for t, pattern in HEADS.items() if any_name(pattern)]
        found = (found or ["another segmentation network"])[0]
        raise _not_ours(tensors, f"{found}: its head has no attention")


def _not_ours(tensors, found):
    return ValueError(
        f"This checkpoint looks like {found}. Expected DANet in the authors' "
        "or MMSegmentation's naming, or a ResNet in theirs, torchvision's or "
        f"timm's. Its tensors begin: {listed(sorted(tensors), 4)}."
    )


def told_by(meta):
    """What a file's metadata say that its tensors cannot.

    Args:
        meta: dict, `"align_corners"` and `"multi_grid"` in it, or a
            configuration that has them under `"config"` (MMSegmentation 0.x)
            or `"cfg"` (1.x): Python's or JSON's text, or a dict.

    Returns:
        Dict with `align_corners` (boolean) and `multi_grid` (tuple), each only
        if it is stated, without contradiction, and plausible.
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
            # A few bytes can describe a list that contains itself.
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
    """A boolean from itself or its text, `None` if it is neither."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _read_rates(value):
    """Dilation rates from a value or its text, `None` if they are neither."""
    if isinstance(value, str):
        if not re.fullmatch(r"\W*|None|null|[\[(]?[\d,\s]+[\])]?", value):
            return None
        # Nine digits are more than a rate can have.
        value = [int(digits[:9]) for digits in re.findall("[0-9]+", value)]
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(
        type(rate) is int and 0 < rate <= MAX_RATE for rate in value
    ):
        return None
    return tuple(value)


READ = {"align_corners": _read_boolean, "multi_grid": _read_rates}
