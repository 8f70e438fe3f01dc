"""Backbones by name, and the checks for any other backbone."""

from keras_danet.arguments import did_you_mean
from keras_danet.models.dilation import LAST_STAGES
from keras_danet.models.resnet import DilatedResNet
from keras_danet.weights.torch_networks import STAGE_BLOCKS

# Untrained; `DilatedResNet.presets` are backbones with weights.
NAMED_BACKBONES = {f"resnet{depth}": depth for depth in STAGE_BLOCKS}


def with_pretrained(arguments):
    """Arguments to build with, and to keep, for a backbone with weights.

    From then on the weights are the model's: when it is made again from its
    configuration, nothing must be fetched.
    """
    name = arguments["backbone"]
    if not isinstance(name, str) or name not in DilatedResNet.presets:
        return arguments, arguments
    if arguments["stem_filters"] is not None:
        raise ValueError(
            f"`stem_filters` are set by the preset's weights. Received: "
            f"stem_filters={arguments['stem_filters']!r}, backbone={name!r}"
        )
    row = DilatedResNet.presets[name]["arguments"]
    options = {
        key: arguments[key]
        for key in ("output_stride", "multi_grid")
        if arguments[key] is not None
    }
    backbone = DilatedResNet.from_preset(name, **options)
    without = dict.fromkeys(("output_stride", "multi_grid", "stem_filters"))
    return {**arguments, **without, "backbone": backbone}, {
        **arguments,
        "backbone": f"resnet{row['depth']}",
        "stem_filters": row["stem_filters"],
    }


def make_backbone(backbone, **options):
    options = {k: v for k, v in options.items() if v is not None}
    if isinstance(backbone, str):
        if backbone not in NAMED_BACKBONES:
            known = [*NAMED_BACKBONES, *DilatedResNet.presets]
            raise ValueError(
                f"`backbone` must be one of {list(NAMED_BACKBONES)}, "
                f"{list(DilatedResNet.presets)}, or a model."
                f"{did_you_mean(backbone, known)} "
                f"Received: backbone={backbone!r}"
            )
        return DilatedResNet(NAMED_BACKBONES[backbone], **options)
    if options:
        raise ValueError(
            f"{', '.join(f'`{name}`' for name in options)} only apply to a "
            "backbone given by name; set them when you make the backbone. "
            f"Received: backbone={backbone!r}"
        )
    output = getattr(backbone, "output", None)
    if not isinstance(output, dict) or not output.keys() & LAST_STAGES:
        raise ValueError(
            "`backbone` must be a name or a functional model whose output is "
            "a dict with 'stage4' or 'stage3', such as "
            "keras_danet.DilatedResNet, or any other Keras backbone after "
            "keras_danet.dilate(backbone). "
            f"Received: backbone={backbone!r}"
        )
    return backbone
