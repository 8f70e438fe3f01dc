"""DANet: two attention branches on a dilated backbone, and their sum."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_danet import arguments
from keras_danet.data.datasets import IMAGENET_MEAN
from keras_danet.data.datasets import IMAGENET_STD
from keras_danet.data.resampling import standardize_sides
from keras_danet.layers import BilinearResize
from keras_danet.layers import ChannelAttention
from keras_danet.layers import Conv2D
from keras_danet.layers import Normalization
from keras_danet.layers import PositionAttention
from keras_danet.layers.numerics import dtype_policy_scope
from keras_danet.layers.numerics import wide_dtype
from keras_danet.models.backbones import make_backbone
from keras_danet.models.backbones import with_pretrained
from keras_danet.models.blocks import convolution_bn
from keras_danet.models.deep_supervision import DeepSupervision
from keras_danet.models.dilation import last_stage
from keras_danet.models.freezing import head_pattern
from keras_danet.models.functional import FunctionalModel
from keras_danet.models.network_arguments import FACTS
from keras_danet.models.network_arguments import MAX_PIXEL
from keras_danet.models.network_arguments import checked_names
from keras_danet.models.network_arguments import checked_num_classes
from keras_danet.models.network_arguments import checked_palette
from keras_danet.models.network_arguments import per_channel
from keras_danet.models.network_arguments import standardize_attention
from keras_danet.models.network_arguments import standardize_rates
from keras_danet.models.network_arguments import standardize_stem
from keras_danet.models.pretrained_danet import PretrainedDANet
from keras_danet.weights import presets

ATTENTION = {"position": PositionAttention, "channel": ChannelAttention}


def attention_branch(x, filters, kind):
    """3x3 convolution, one of the attentions, 3x3 convolution."""
    x = convolution_bn(x, filters, 3, f"{kind}_in")
    x = ATTENTION[kind](data_format="channels_last", name=f"{kind}_attention")(
        x
    )
    return convolution_bn(x, filters, 3, f"{kind}_out")


def head_features(x, attention):
    """What each output classifies, by the output's name."""
    filters = x.shape[-1] // 4
    if not attention:
        return {"fusion": convolution_bn(x, filters, 3, "fcn")}
    branches = {kind: attention_branch(x, filters, kind) for kind in attention}
    if len(branches) == 1:
        return {"fusion": branches[attention[0]]}
    fusion = layers.Add(name="fusion_sum")(list(branches.values()))
    return {"fusion": fusion, **branches}


def classifier(x, num_classes, dropout, name):
    """Logits at the resolution of the features."""
    if dropout:
        x = layers.SpatialDropout2D(
            dropout, data_format="channels_last", name=f"{name}_dropout"
        )(x)
    return Conv2D(
        num_classes,
        1,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        data_format="channels_last",
        name=f"{name}_classifier",
    )(x)


def _fact(name, check, doc):
    """A property that is stored with the model's arguments."""

    def get(self):
        return self._constructor_arguments[name]

    def put(self, value):
        self._constructor_arguments[name] = check(value, self.num_classes)

    return property(get, put, doc=doc)


@keras.saving.register_keras_serializable(package="keras_danet")
class DANet(PretrainedDANet, DeepSupervision):
    """Dual Attention Network: semantic segmentation of any image.

    A dilated backbone's last features go through two branches: in one every
    position gathers features from all positions, in the other every channel
    from all channels. Their sum gives the segmentation; in training each
    branch is classified as well and has its own loss.

        model = keras_danet.DANet(num_classes=19)
        model.compile(total_steps=80_000)
        model.fit(train_dataset, validation_data=val_dataset)
        logits = model.predict(images)

    The graph has the outputs `fusion`, `position` and `channel` (`fusion`
    alone with fewer than two attentions) and, if asked for, `auxiliary`.
    Called with `training=True` the model returns that dict of logits,
    otherwise the fused logits alone. `inference_model` is a functional model
    over the same layers with that one output: export it, or nest it in a
    model of your own. `features` is a dict of the symbolic tensors inside:
    `stage1` to `stage4` and `{output}_logits` before they are upsampled; read
    them with `keras.Model(model.input, model.features["stage4"])`.

    Built and compiled under a `tf.distribute` strategy, or after
    `keras.distribution.set_distribution`, it ends up with the weights that
    one device would give: losses, batch norms, clipping and metrics are those
    of the global batch.

    Reference:
        - [Dual Attention Network for Scene Segmentation](
          https://arxiv.org/abs/1809.02983) (Fu et al., CVPR 2019)

    Args:
        num_classes: integer from 2 to 255. Two classes have two logits, not
            one sigmoid.
        backbone: `"resnet18"`, `"resnet34"`, `"resnet50"`, `"resnet101"`,
            `"resnet152"`, untrained; a key of `DilatedResNet.presets`, such
            as `"resnet50_imagenet"`, with its weights; or a functional model
            that takes normalised images and whose output is a dict with
            `stage4`, or with `stage3` as the last one (`auxiliary` needs
            `stage3`), such as `DilatedResNet`. Defaults to `"resnet50"`.
        attention: tuple of the attentions to use, from `"position"` and
            `"channel"`. `()` is the dilated FCN that the paper compares
            with. Defaults to both.
        auxiliary: boolean, whether to train a small FCN on `stage3` alongside
            the head, as MMSegmentation does. Defaults to `False`.
        dropout: float in [0, 1), the share of channels dropped before each
            classifier. Defaults to `0.1`.
        align_corners: boolean, how logits are upsampled; see
            `BilinearResize`. Defaults to `True`, the authors' choice.
        output_stride: 8, 16 or 32, for a backbone given by name. Defaults to
            `None`, which means 8.
        multi_grid: dilation rates of the last stage of a backbone given by
            name. Defaults to `None`.
        stem_filters: widths of the deep stem of a backbone given by name.
            Defaults to `None`, the plain stem.
        pixel_mean: number, or three (red, green, blue), subtracted from the
            images, in 0-255 units. Defaults to ImageNet's.
        pixel_std: number, or three, that the images are then divided by. A
            mean of 0 and a deviation of 1 switch the normalisation off.
            Defaults to ImageNet's.
        class_names: tuple of strings, one per class, stored with the model
            for printing or drawing its predictions. Defaults to `None`.
        palette: tuple of (red, green, blue), one per class, likewise.
            Defaults to `None`.
        test_size: what a `Predictor` resizes images to, as its `size`; a
            training run stores its own here. Defaults to `None`, the image's
            own size.
        name: string. Defaults to `"danet"`.
        dtype: dtype policy. Logits are float32 under half precision. Under
            float64 everything is float64 except what Keras itself keeps in
            `keras.config.floatx()` (arrays of images given to `fit` and
            `predict`, a learning rate assigned after construction) and, on
            torch, the means of Keras's own losses. Defaults to the global
            policy.

    Input shape:
        `(batch, height, width, 3)`, RGB in 0-255, uint8 or float, of any
        height and width.

    Output shape:
        `(batch, height, width, num_classes)` logits; in training a dict of
        them.

    Raises:
        ValueError: for arguments that are out of range or incompatible.

    Example:

    >>> model = keras_danet.DANet(
    ...     num_classes=5, backbone=keras_danet.DilatedResNet(18, filters=8))
    >>> images = np.zeros((1, 33, 65, 3), "uint8")
    >>> model.predict(images, verbose=0).shape
    (1, 33, 65, 5)
    >>> sorted(model(images, training=True))
    ['channel', 'fusion', 'position']
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | keras.Model = "resnet50",
        attention: str | Sequence[str] = ("position", "channel"),
        auxiliary: bool = False,
        dropout: float = 0.1,
        align_corners: bool = True,
        output_stride: int | None = None,
        multi_grid: Sequence[int] | None = None,
        stem_filters: Sequence[int] | None = None,
        pixel_mean: float | Sequence[float] = IMAGENET_MEAN,
        pixel_std: float | Sequence[float] = IMAGENET_STD,
        class_names: Sequence[str] | None = None,
        palette: Sequence[tuple[int, int, int]] | None = None,
        test_size: int | tuple[int | None, int | None] | None = None,
        name: str = "danet",
        dtype: Any = None,
    ) -> None:
        given = {
            "num_classes": checked_num_classes(num_classes),
            "backbone": backbone,
            "attention": standardize_attention(attention),
            "auxiliary": arguments.boolean("auxiliary", auxiliary),
            "dropout": arguments.number(
                "dropout",
                dropout,
                "must be the share of channels to drop, in [0, 1)",
                least=0,
                below=1,
            ),
            "align_corners": arguments.boolean("align_corners", align_corners),
            "output_stride": output_stride,
            "multi_grid": standardize_rates(multi_grid),
            "stem_filters": standardize_stem(stem_filters),
            "pixel_mean": per_channel("pixel_mean", pixel_mean),
            "pixel_std": per_channel("pixel_std", pixel_std),
        }
        given["class_names"] = checked_names(class_names, given["num_classes"])
        given["palette"] = checked_palette(palette, given["num_classes"])
        given["test_size"] = standardize_sides(test_size)
        if min(given["pixel_std"]) < 1 / MAX_PIXEL:
            raise ValueError(
                "`pixel_std` must be positive (1 switches the division off). "
                f"Received: pixel_std={pixel_std!r}"
            )
        with dtype_policy_scope(dtype) as policy:
            built, given = with_pretrained(given)
            images, features, outputs = _graph(
                **{k: v for k, v in built.items() if k not in FACTS}
            )
            super().__init__(images, outputs, name=name)
        self.num_classes = given["num_classes"]
        self.attention = given["attention"]
        self._constructor_arguments = {**given, "dtype": policy}
        # Hidden from Keras's tracking: these are views of the layers above.
        self.__dict__["features"] = features
        self.__dict__["inference_model"] = FunctionalModel(
            images, outputs["fusion"], name=f"{name}_inference"
        )

    class_names = _fact(
        "class_names", checked_names, "Tuple of a name per class, or None."
    )
    palette = _fact(
        "palette",
        checked_palette,
        "Tuple of a (red, green, blue) per class, or None.",
    )
    test_size = _fact(
        "test_size",
        lambda size, _: standardize_sides(size),
        "(long, short) side that a `Predictor` resizes to; either may be None.",
    )

    def head_multipliers(self, factor: float = 10.0) -> dict[str, float]:
        """`multipliers` of `SGD` for everything but the backbone.

        The authors train the head, and an auxiliary one, with ten times the
        backbone's learning rate; MMSegmentation uses one rate for all.

            model.compile(SGD(0.003, multipliers=model.head_multipliers()))

        Args:
            factor: float. Defaults to `10.0`.

        Returns:
            Dict of one regular expression to `factor`.

        Raises:
            ValueError: if backbone layers have the names of head layers.
        """
        must = "must be a number, 0 or more"
        return {
            head_pattern(self): arguments.number(
                "factor", factor, must, least=0
            )
        }

    # Name -> where its weights come from, and the scores they reached.
    presets = presets.DANET


def _graph(
    num_classes,
    backbone,
    attention,
    auxiliary,
    dropout,
    align_corners,
    output_stride,
    multi_grid,
    stem_filters,
    pixel_mean,
    pixel_std,
):
    """Images, the features inside, and the dict of outputs."""
    backbone = make_backbone(
        backbone,
        output_stride=output_stride,
        multi_grid=multi_grid,
        stem_filters=stem_filters,
    )
    # Pixels need more than half precision; the layers after this do not.
    wide = wide_dtype(keras.config.dtype_policy().compute_dtype)
    images = keras.Input((None, None, 3), name="images", dtype=wide)
    x = Normalization(pixel_mean, pixel_std, name="normalization", dtype=wide)(
        images
    )
    stages = backbone(x)
    features = dict(stages)
    classified = head_features(stages[last_stage(stages)], attention)
    if auxiliary:
        classified["auxiliary"] = convolution_bn(
            stages["stage3"], stages["stage3"].shape[-1] // 4, 3, "auxiliary_in"
        )
    outputs = {}
    for name, x in classified.items():
        logits = classifier(x, num_classes, dropout, name)
        features[f"{name}_logits"] = logits
        outputs[name] = BilinearResize(
            align_corners, data_format="channels_last", name=name, dtype=wide
        )(logits, images)
    return images, features, outputs
