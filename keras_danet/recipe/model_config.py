"""`ModelConfig`: which network is trained, and from what weights."""

import dataclasses
from typing import Literal

from keras_danet.arguments import choice
from keras_danet.recipe.typed_fields import check_fields
from keras_danet.weights.keras_applications import IMAGENET
from keras_danet.weights.keras_applications import check_application

# Wider stems than anybody has.
MOST_STEM_FILTERS = 1024
# At least the first, below the second.
RANGES = {"filters": (4, 1025), "dropout": (0, 1)}
# What some fields are one of.
KNOWN = {
    "depth": (18, 34, 50, 101, 152),
    "output_stride": (8, 16, 32),
    "num_stages": (3, 4),
}
# Our own networks by name.
OWN_BACKBONES = {f"resnet{depth}": depth for depth in KNOWN["depth"]}
# Words for what `attention` is varied over.
ATTENTIONS = {"none": (), "both": ("position", "channel")}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network and where its weights come from.

    Args:
        backbone: "resnet18" to "resnet152", our own ResNet of that `depth`, as
            with None; or a network of Keras, dilated, by its whole name, such
            as "keras.applications.ResNet50", which has its own pixel
            statistics and none of `depth`, `filters`, `multi_grid` and
            `stem_filters`.
        num_stages: integer, stages of a network of Keras: 4, or 3 without its
            last one, which holds most of its weights.
        depth: integer, layers of our ResNet: 18, 34, 50, 101 or 152.
        filters: integer, width of our ResNet's first stage.
        output_stride: integer, pixels of the image per feature: 8, 16 or 32.
        multi_grid: integers, dilation rates of the last stage's blocks; with
            None all have one rate.
        stem_filters: three integers, widths of a deep stem of 3x3
            convolutions; with None the stem is one convolution of 7x7.
        attention: the modules, of "position" and "channel"; () for none. The
            words "none" and "both" may be used, too.
        auxiliary: boolean, whether a head learns from the third stage.
        dropout: float, dropout rate before the classifiers.
        align_corners: boolean, whether upsampling aligns corner pixels.
        backbone_weights: "imagenet" (for our own ResNet the preset
            `resnet{depth}_imagenet`, for a network of Keras what Keras
            downloads); or a path: of our own, a backbone's preset or a file
            that `DilatedResNet.from_checkpoint` reads; of Keras's, a
            `.weights.h5`, `.h5` or `.keras` file. None draws them at random.
        start_from: a DANet to fine-tune, with the classes of this data set:
            a preset, a run folder or a `.keras` file. `attention` and the
            backbone's keys must be those of that DANet, but for
            `output_stride`, which decides no weights.
        freeze: what is not trained, a `part` of `keras_danet.freeze`.
    """

    backbone: str | None = None
    num_stages: int = 4
    depth: int = 50
    filters: int = 64
    output_stride: int = 8
    multi_grid: tuple[int, ...] | None = None
    stem_filters: tuple[int, int, int] | None = None
    attention: tuple[str, ...] | str = ("position", "channel")
    auxiliary: bool = False
    dropout: float = 0.1
    align_corners: bool = True
    backbone_weights: str | None = None
    start_from: str | None = None
    freeze: Literal[
        "nothing", "backbone", "batch_norm", "backbone_batch_norm"
    ] = "nothing"

    def __post_init__(self):
        check_fields(self, RANGES)
        for name, known in KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(str, known))}. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        stem = self.stem_filters or (1,)
        if not all(1 <= filters <= MOST_STEM_FILTERS for filters in stem):
            raise ValueError(
                "`stem_filters` must be three integers of 1 to "
                f"{MOST_STEM_FILTERS}. Received: stem_filters={stem!r}"
            )
        if self.backbone_weights and self.start_from:
            raise ValueError(
                "`start_from` includes a backbone. Received: both it "
                f"({self.start_from!r}) and `backbone_weights` "
                f"({self.backbone_weights!r})."
            )
        self._check_attention()
        self._check_backbone()

    def _check_attention(self):
        names, known = self.attention, ATTENTIONS["both"]
        if isinstance(names, str):
            choice("attention", names, (*known, *ATTENTIONS))
            names = ATTENTIONS.get(names, names)
            object.__setattr__(self, "attention", names)
        else:
            for name in names:
                choice("attention", name, known)

    def _check_backbone(self):
        if self.is_own and self.num_stages != 4:
            raise ValueError(
                "Our own ResNet always has four stages. Received: num_stages="
                f"{self.num_stages!r}, backbone={self.backbone!r}. Name a "
                "network of Keras, or leave `num_stages` out."
            )
        if self.backbone is None:
            return
        allowed = {}
        if self.backbone in OWN_BACKBONES:
            allowed["depth"] = (self.depth, OWN_BACKBONES[self.backbone])
        else:
            check_application(
                self.backbone,
                self.output_stride,
                self.num_stages,
                self.backbone_weights,
            )
            names = ("depth", "filters", "multi_grid", "stem_filters")
            allowed = {name: (getattr(self, name),) for name in names}
        for name, values in allowed.items():
            default = getattr(ModelConfig, name)
            if values[0] not in (default, *values[1:]):
                raise ValueError(
                    f"`{name}` does not go with backbone={self.backbone!r}. "
                    f"Received: {name}={values[0]!r}. Leave one of them out."
                )

    @property
    def attention_names(self) -> tuple[str, ...]:
        """The modules, however `attention` is written."""
        given = self.attention
        names = (given,) if isinstance(given, str) else given
        return tuple(name for name in ATTENTIONS["both"] if name in names)

    @property
    def is_own(self) -> bool:
        """Whether the backbone is our ResNet, and not one of Keras's."""
        return self.backbone is None or self.backbone in OWN_BACKBONES

    def own(self) -> "ModelConfig":
        """The same, with our ResNet's name as its `depth`, and its preset."""
        if not self.is_own:
            return self
        depth = OWN_BACKBONES.get(self.backbone or "", self.depth)
        weights = self.backbone_weights
        if weights == IMAGENET:
            weights = f"resnet{depth}_imagenet"
        return dataclasses.replace(
            self, backbone=None, depth=depth, backbone_weights=weights
        )
