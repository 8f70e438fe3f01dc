"""ResNet with its late strides turned into dilation."""

import os
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras

from keras_danet import arguments
from keras_danet.layers.numerics import dtype_policy_scope
from keras_danet.layers.numerics import wide_dtype
from keras_danet.models.blocks import basic_block
from keras_danet.models.blocks import block_rates
from keras_danet.models.blocks import bottleneck_block
from keras_danet.models.blocks import stage
from keras_danet.models.blocks import stem
from keras_danet.models.freezing import backbone_of
from keras_danet.models.functional import FunctionalModel
from keras_danet.models.network_arguments import one_of
from keras_danet.models.network_arguments import standardize_rates
from keras_danet.models.network_arguments import standardize_stem
from keras_danet.models.pretrained import Pretrained
from keras_danet.weights import keras_files
from keras_danet.weights import presets
from keras_danet.weights import torch_names
from keras_danet.weights.torch_networks import STAGE_BLOCKS

# Stride and dilation rate of the four stages by output stride.
STAGE_STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}
STAGE_RATES = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}


@keras.saving.register_keras_serializable(package="keras_danet")
class DilatedResNet(Pretrained, FunctionalModel):
    """ResNet v1.5 that keeps resolution: late strides become dilation.

    A classifier shrinks its image 32 times; a segmentation network cannot
    afford to. With `output_stride=8` the last two stages keep the resolution
    of the second, and their 3x3 kernels are spread so that every pretrained
    weight still sees the neighbours that it was trained on. The first block
    of a dilated stage has the rate of the previous stage, the rest have twice
    that rate.

    The layers have stable names (`stage2_block0_conv1`, `..._conv1_bn`); the
    last activation of stage 3 of ResNet-50 is `stage3_block5_relu`.

    Reference:
        - [Deep Residual Learning for Image Recognition](
          https://arxiv.org/abs/1512.03385)
        - [Dilated Residual Networks](https://arxiv.org/abs/1705.09914) and,
          for the rates, the authors' DANet and MMSegmentation

    Args:
        depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        output_stride: 8, 16 or 32, how many times smaller than the image the
            last stage is. Defaults to `8`.
        multi_grid: positive integers, the absolute dilation rates of the
            blocks of the last stage, repeated if there are fewer; the authors'
            released model has `(4, 8, 16)`. Needs a dilated last stage.
            Defaults to `None`, the rule above.
        stem_filters: `None` for the plain stem, one 7x7 convolution with
            `filters` channels; three integers for a deep stem of three 3x3
            convolutions (`(32, 32, 64)` in MMSegmentation's `v1c`, `(64, 64,
            128)` in the authors' later code). Defaults to `None`.
        filters: integer, width of the first stage; each later stage doubles
            it. Defaults to `64`; smaller values make small networks.
        name: string. Defaults to `"resnet{depth}"`.
        dtype: dtype policy of the layers. Defaults to the global policy.

    Input shape:
        `(batch, height, width, 3)` normalised RGB floats, of any height and
        width.

    Output shape:
        Dict of `stage1` to `stage4`, `(batch, ceil(height / s), ceil(width /
        s), channels)` with s = 4, 8, `min(16, output_stride)` and
        `output_stride`, and 1, 2, 4 and 8 times `filters` channels, 4 times
        as many with bottlenecks. (Each halving of the size rounds up.)

    Raises:
        ValueError: for an unsupported depth, output stride, stem or
            multi-grid.

    Example:

    >>> backbone = keras_danet.DilatedResNet(18, filters=8)
    >>> features = backbone(np.zeros((1, 65, 33, 3), "float32"))
    >>> tuple(features["stage4"].shape)
    (1, 9, 5, 64)
    """

    def __init__(
        self,
        depth: int,
        output_stride: int = 8,
        multi_grid: Sequence[int] | None = None,
        stem_filters: Sequence[int] | None = None,
        filters: int = 64,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        given = _checked_arguments(
            depth, output_stride, multi_grid, stem_filters, filters
        )
        with dtype_policy_scope(dtype) as policy:
            wide = wide_dtype(policy.compute_dtype)
            images = keras.Input((None, None, 3), name="images", dtype=wide)
            outputs = _stages(images, **given)
            name = name or f"resnet{given['depth']}"
            super().__init__(images, outputs, name=name)
        self._constructor_arguments = {**given, "dtype": policy}

    # Name -> where its weights come from, and the scores they reached.
    presets = presets.BACKBONES
    made_for = ("depth", "filters", "stem_filters")

    @classmethod
    def from_checkpoint(
        cls,
        source: str | os.PathLike | dict[str, Any],
        ignore: str | Sequence[str] = (),
        **overrides: Any,
    ) -> Self:
        """The backbone of a PyTorch checkpoint, with its weights.

        Depth, width and stem are read off the tensors; a classifier and a
        segmentation head are ignored.

        Args:
            source: path of a `.pth`, `.safetensors` or `.npz` file, or a
                dict of name to array, in the naming of torchvision, timm
                (such as `resnet50.tv_in1k`), MMSegmentation
                (`resnet50_v1c`) or of a whole DANet.
            ignore: regular expression, or list of them, of the names of
                further tensors that may be left over. Defaults to none.
            **overrides: `output_stride`, `multi_grid`, `name` or `dtype` of
                the constructor.

        Returns:
            A `DilatedResNet`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that cannot be read safely, another
                network's tensors, or tensors or variables left over.
        """

        def make(found, _):
            return (
                cls(
                    found.depth,
                    filters=found.filters,
                    stem_filters=found.stem_filters,
                    **overrides,
                ),
                (),
                [torch_names.HEAD_NAMES],
            )

        return cls._of_checkpoint(source, ignore, overrides, make)

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike,
        load_weights: bool = True,
        **overrides: Any,
    ) -> Self:
        """The backbone of a preset, with its weights.

        A named preset is fetched once, into the Keras cache
        (`$KERAS_HOME` or `~/.keras`, `keras_danet/`), and verified.

        Args:
            preset: a name, key of `DilatedResNet.presets`, such as
                `"resnet50_imagenet"`; a folder that `save_to_preset` wrote;
                `"hf://user/repo"`, such a folder on the Hugging Face Hub; a
                `.keras` file; or a run's folder, whose model's backbone it is.
            load_weights: boolean. `False` initializes the weights newly,
                without fetching a named preset. Defaults to `True`.
            **overrides: `output_stride`, `multi_grid`, `name` or `dtype` of
                the constructor.

        Returns:
            A `DilatedResNet`.

        Raises:
            ValueError: if there is no such preset, or a file is not the one
                expected or cannot be read safely.
            OSError: if a file cannot be fetched (`ConnectionError`), or is
                not there.
        """
        return cls._of_preset(preset, load_weights, overrides)

    @classmethod
    def _in_file(cls, path):
        source = keras_files.load_keras_model(path)
        if not isinstance(source, DilatedResNet):
            source = backbone_of(source)
        if not isinstance(source, DilatedResNet):
            raise ValueError(
                f"The backbone in {path} is a {type(source).__name__}. "
                "Expected a DilatedResNet."
            )
        return source


def _stages(x, depth, output_stride, multi_grid, stem_filters, filters):
    """The graph: a dict of the four stages' outputs."""
    block = basic_block if depth < 50 else bottleneck_block
    x = stem(x, stem_filters or (filters,))
    outputs, previous_rate = {}, 1
    for index, num_blocks in enumerate(STAGE_BLOCKS[depth]):
        rate = STAGE_RATES[output_stride][index]
        rates = block_rates(
            num_blocks, rate, previous_rate, multi_grid if index == 3 else None
        )
        x = stage(
            x,
            block,
            filters * 2**index,
            STAGE_STRIDES[output_stride][index],
            rates,
            f"stage{index + 1}",
        )
        outputs[f"stage{index + 1}"] = x
        previous_rate = rate
    return outputs


def _checked_arguments(depth, output_stride, multi_grid, stem_filters, filters):
    """The arguments by name, as they are kept."""
    must = "must be a positive integer"
    checked = {
        "depth": one_of("depth", depth, STAGE_BLOCKS),
        "output_stride": one_of("output_stride", output_stride, STAGE_STRIDES),
        "multi_grid": standardize_rates(multi_grid),
        "stem_filters": standardize_stem(stem_filters),
        "filters": arguments.integer("filters", filters, must, least=1),
    }
    if multi_grid is not None and checked["output_stride"] == 32:
        raise ValueError(
            "`multi_grid` sets the dilation of the last stage, which has none "
            "with output_stride=32: use output_stride 8 or 16, or "
            f"multi_grid=None. Received: multi_grid={multi_grid!r}"
        )
    return checked
