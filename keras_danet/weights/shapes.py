"""The shapes of a network's variables, before it is made.

What a stranger's file says of its network is held to what the file holds
before any memory is taken for it.
"""

# Blocks per stage and the kind of block (He et al. 2015, table 1).
STAGE_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BOTTLENECK_EXPANSION = 4
# Query and key have an eighth of the depth of the value.
ATTENTION_REDUCTION = 8


def expansion(depth):
    """How many times a block's output is wider than the block."""
    return BOTTLENECK_EXPANSION if depth >= 50 else 1


def backbone_shapes(depth, filters, stem_filters):
    """Shapes of a `DilatedResNet`'s variables.

    Args:
        depth: key of `STAGE_BLOCKS`.
        filters: integer.
        stem_filters: three integers, or `None`.

    Returns:
        Dict of path to shape.
    """
    shapes, width = {}, 3
    stem = stem_filters or (filters,)
    for index, stem_width in enumerate(stem, 1):
        size = 7 if len(stem) == 1 else 3
        shapes |= _convolution_bn(f"stem_conv{index}", size, width, stem_width)
        width = stem_width
    for stage, num_blocks in enumerate(STAGE_BLOCKS[depth]):
        for block in range(num_blocks):
            name = f"stage{stage + 1}_block{block}"
            shapes |= _block(name, depth, width, filters * 2**stage)
            width = filters * 2**stage * expansion(depth)
    return shapes


def danet_shapes(
    depth,
    filters,
    stem_filters,
    num_classes,
    auxiliary,
    attention=("position", "channel"),
):
    """Shapes of a `DANet`'s variables, those of its backbone included.

    Args:
        depth: key of `STAGE_BLOCKS`.
        filters: integer.
        stem_filters: three integers, or `None`.
        num_classes: integer.
        auxiliary: boolean.
        attention: tuple of `"position"` and `"channel"`.

    Returns:
        Dict of path to shape.
    """
    shapes = backbone_shapes(depth, filters, stem_filters)
    channels = filters * 8 * expansion(depth)
    width = channels // 4
    for kind in attention:
        shapes |= _convolution_bn(f"{kind}_in", 3, channels, width)
        shapes |= _convolution_bn(f"{kind}_out", 3, width, width)
        shapes[f"{kind}_attention/gamma"] = ()
    if "position" in attention:
        for part, divisor in (
            ("query", ATTENTION_REDUCTION),
            ("key", ATTENTION_REDUCTION),
            ("value", 1),
        ):
            shapes |= _projection(
                f"position_attention/{part}", width, width // divisor
            )
    if not attention:
        shapes |= _convolution_bn("fcn", 3, channels, width)
    classified = {"fusion": width}
    if len(attention) > 1:
        classified |= dict.fromkeys(attention, width)
    if auxiliary:
        classified["auxiliary"] = width // 2
        shapes |= _convolution_bn("auxiliary_in", 3, channels // 2, width // 2)
    for name, width in classified.items():
        shapes |= _projection(f"{name}_classifier", width, num_classes)
    return shapes


def _block(name, depth, before, filters):
    after = filters * expansion(depth)
    if depth < 50:
        shapes = _convolution_bn(f"{name}_conv1", 3, before, filters)
        shapes |= _convolution_bn(f"{name}_conv2", 3, filters, filters)
    else:
        shapes = _convolution_bn(f"{name}_conv1", 1, before, filters)
        shapes |= _convolution_bn(f"{name}_conv2", 3, filters, filters)
        shapes |= _convolution_bn(f"{name}_conv3", 1, filters, after)
    if before != after:
        shapes |= _convolution_bn(f"{name}_shortcut", 1, before, after)
    return shapes


def _convolution_bn(name, size, before, after):
    return {
        f"{name}/kernel": (size, size, before, after),
        **{
            f"{name}_bn/{variable}": (after,)
            for variable in ("gamma", "beta", "moving_mean", "moving_variance")
        },
    }


def _projection(name, before, after):
    """A 1x1 convolution with a bias."""
    return {f"{name}/kernel": (1, 1, before, after), f"{name}/bias": (after,)}
