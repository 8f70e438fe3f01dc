"""ResNet whose late strides are turned into dilation: block, stage, model."""

import contextlib
import contextvars

import keras
from keras import layers

from keras_danet import arguments
from keras_danet.layers import BatchNormalization
from keras_danet.layers import Conv2D
from keras_danet.layers.numerics import check_dtype
from keras_danet.layers.numerics import wide_dtype
from keras_danet.models.freezing import backbone_of
from keras_danet.models.freezing import frozen_config
from keras_danet.models.freezing import restore_frozen
from keras_danet.models.functional import FunctionalModel
from keras_danet.models.functional import refuse_h5
from keras_danet.weights import files
from keras_danet.weights import presets
from keras_danet.weights import sources
from keras_danet.weights import torch_names
from keras_danet.weights.presets import split_frozen
from keras_danet.weights.shapes import BOTTLENECK_EXPANSION
from keras_danet.weights.shapes import STAGE_BLOCKS
from keras_danet.weights.shapes import backbone_shapes

# Stride and dilation rate of the four stages by output stride.
STAGE_STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}
# What several integers must be, and how many.
MUST_BE = {
    "multi_grid": "must be None or positive dilation rates such as (4, 8, 16)",
    "stem_filters": "must be None (one 7x7 convolution) or the widths of "
    "three 3x3 convolutions such as (32, 32, 64)",
}
LENGTHS = {"stem_filters": 3}
STAGE_RATES = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}


def as_tuple(argument, value):
    """`value`, integers or None, as it is kept; refuses anything else."""
    if value is None:
        return None
    return arguments.integers(
        argument, value, MUST_BE[argument], LENGTHS.get(argument), least=1
    )


@contextlib.contextmanager
def dtype_policy_scope(dtype):
    """Makes `dtype` the policy of the layers made inside; yields the policy."""
    policy = keras.dtype_policies.get(dtype)
    check_dtype(policy)
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield policy
    finally:
        keras.config.set_dtype_policy(previous)


_blank = contextvars.ContextVar("blank", default=False)


@contextlib.contextmanager
def blank_kernels():
    """Lets kernels made inside start at zero: what is read replaces them.

    JAX compiles a random initializer for every shape of them.
    """
    token = _blank.set(True)
    try:
        yield
    finally:
        _blank.reset(token)


def convolution(x, filters, kernel_size, name, strides=1, dilation_rate=1):
    """Convolution without bias, padded on both sides alike.

    `padding="same"` pads even sides at the end only when it strides, so
    strided kernels are padded explicitly, as PyTorch does.
    """
    padding = "same"
    if strides > 1:
        padding = "valid"
        if kernel_size > 1:
            x = layers.ZeroPadding2D(
                kernel_size // 2,
                data_format="channels_last",
                name=f"{name}_pad",
            )(x)
    # N(0, sqrt(2 / (k * k * filters))): the authors' initialisation.
    initializer = keras.initializers.VarianceScaling(
        2.0, "fan_out", "untruncated_normal"
    )
    layer = Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        dilation_rate=dilation_rate,
        use_bias=False,
        kernel_initializer=initializer,
        data_format="channels_last",
        name=name,
    )
    if _blank.get():
        layer.kernel_initializer = keras.initializers.Zeros()
    x = layer(x)
    # A copy that is made of its configuration starts as any other.
    layer.kernel_initializer = initializer
    return x


def convolution_bn(x, filters, kernel_size, name, relu=True, **kwargs):
    """Convolution `name`, batch norm `name`_bn and, unless told, a ReLU."""
    x = convolution(x, filters, kernel_size, name, **kwargs)
    x = BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def stem(x, stem_filters, name="stem"):
    """Stride 4: 7x7 or three 3x3 convolutions, then a 3x3 max-pool."""
    if len(stem_filters) == 1:
        x = convolution_bn(x, stem_filters[0], 7, f"{name}_conv1", strides=2)
    else:
        for index, filters in enumerate(stem_filters):
            x = convolution_bn(
                x,
                filters,
                3,
                f"{name}_conv{index + 1}",
                strides=2 if index == 0 else 1,
            )
    # Zeros are as good as -inf beside the outputs of a ReLU.
    x = layers.ZeroPadding2D(
        1, data_format="channels_last", name=f"{name}_pool_pad"
    )(x)
    return layers.MaxPooling2D(
        3, strides=2, data_format="channels_last", name=f"{name}_pool"
    )(x)


def shortcut(x, filters, strides, name):
    """The input, projected by a 1x1 convolution where its shape changes."""
    if strides == 1 and x.shape[-1] == filters:
        return x
    return convolution_bn(
        x, filters, 1, f"{name}_shortcut", relu=False, strides=strides
    )


def basic_block(x, filters, strides, rates, name):
    """Two 3x3 convolutions; the first carries the stride (ResNet-18, 34)."""
    residual = shortcut(x, filters, strides, name)
    x = convolution_bn(
        x,
        filters,
        3,
        f"{name}_conv1",
        strides=strides,
        dilation_rate=rates[0],
    )
    x = convolution_bn(
        x, filters, 3, f"{name}_conv2", relu=False, dilation_rate=rates[1]
    )
    x = layers.Add(name=f"{name}_add")([x, residual])
    return layers.ReLU(name=f"{name}_relu")(x)


def bottleneck_block(x, filters, strides, rates, name):
    """1x1, 3x3, 1x1; the 3x3 carries stride and dilation (v1.5)."""
    residual = shortcut(x, filters * BOTTLENECK_EXPANSION, strides, name)
    x = convolution_bn(x, filters, 1, f"{name}_conv1")
    x = convolution_bn(
        x,
        filters,
        3,
        f"{name}_conv2",
        strides=strides,
        dilation_rate=rates[0],
    )
    x = convolution_bn(
        x, filters * BOTTLENECK_EXPANSION, 1, f"{name}_conv3", relu=False
    )
    x = layers.Add(name=f"{name}_add")([x, residual])
    return layers.ReLU(name=f"{name}_relu")(x)


def block_rates(num_blocks, rate, previous_rate, multi_grid=None):
    """Per block, the rates of (the strided 3x3, the 3x3 after it).

    In the first block of a dilated stage the convolution that carried the
    stride keeps the previous rate: its input is sampled as before, and only
    what follows it sees a grid twice as dense. Multi-grid gives absolute
    rates to whole blocks instead.
    """
    if multi_grid is not None:
        grid = [multi_grid[i % len(multi_grid)] for i in range(num_blocks)]
        return [(rate, rate) for rate in grid]
    return [(previous_rate, rate)] + [(rate, rate)] * (num_blocks - 1)


def stage(x, block, filters, strides, rates, name):
    """Blocks of one width; the first one carries the stride."""
    for index, rates_of_block in enumerate(rates):
        x = block(
            x,
            filters,
            strides if index == 0 else 1,
            rates_of_block,
            f"{name}_block{index}",
        )
    return x


@keras.saving.register_keras_serializable(package="keras_danet")
class DilatedResNet(FunctionalModel):
    """ResNet v1.5 that keeps resolution: late strides become dilation.

    A classifier shrinks its image 32 times; a segmentation network cannot
    afford to. With `output_stride=8` the last two stages keep the resolution
    of the second, and their 3x3 kernels are spread so that every pretrained
    weight still sees the neighbours that it was trained on. The first block
    of a dilated stage has the rate of the stage before, the rest twice that.

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
            blocks of the last stage, repeated if they are fewer; the authors'
            released model has `(4, 8, 16)`. Needs a dilated last stage.
            Defaults to `None`, the rule above.
        stem_filters: `None` for the plain stem, one 7x7 convolution with
            `filters` channels; three integers for a deep stem of three 3x3
            convolutions (`(32, 32, 64)` in MMSegmentation's `v1c`, `(64, 64,
            128)` in the authors' later code). Defaults to `None`.
        filters: integer, width of the first stage; each later one doubles
            it. Defaults to `64`; less makes small nets.
        name: string. Defaults to `"resnet{depth}"`.
        dtype: dtype policy of the layers. Defaults to the global policy.

    Input shape:
        `(batch, height, width, 3)` normalised RGB floats, of any height and
        width.

    Output shape:
        Dict of `stage1` to `stage4`, `(batch, ceil(height / s), ceil(width /
        s), channels)` with s = 4, 8, `min(16, output_stride)` and
        `output_stride`; `filters`, 2, 4 and 8 times `filters` channels, 4
        times as many with bottlenecks. (Sizes halve by rounding up each
        time.)

    Raises:
        ValueError: for another depth, output stride, stem or multi-grid.

    Example:

    >>> backbone = keras_danet.DilatedResNet(18, filters=8)
    >>> features = backbone(np.zeros((1, 65, 33, 3), "float32"))
    >>> tuple(features["stage4"].shape)
    (1, 9, 5, 64)
    """

    def __init__(
        self,
        depth,
        output_stride=8,
        multi_grid=None,
        stem_filters=None,
        filters=64,
        name=None,
        dtype=None,
    ):
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

    # Name -> where its weights come from, and what they reached.
    presets = presets.BACKBONES

    def get_config(self):
        refuse_h5(self)
        policy = self._constructor_arguments["dtype"]
        return {
            **self._constructor_arguments,
            "dtype": keras.dtype_policies.serialize(policy),
            "name": self.name,
            **frozen_config(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config, frozen = split_frozen(config)
        return restore_frozen(cls(**config), frozen)

    @classmethod
    def from_checkpoint(cls, source, ignore=(), **overrides):
        """The backbone of a PyTorch checkpoint, with its weights.

        Depth, width and stem are read off the tensors; a classifier and a
        segmentation head are passed over.

        Args:
            source: path of a `.pth`, `.safetensors` or `.npz` file, or a
                dict of name to array, in the naming of torchvision, timm
                (`resnet50.tv_in1k` and its like), MMSegmentation
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
                network's tensors, or tensors left over on either side.
        """
        _refuse_shape(overrides, "checkpoint")
        tensors, _ = files.read_source(source)
        tensors = torch_names.normalize(tensors)
        found = torch_names.describe(tensors)
        shape = {"filters": found.filters, "stem_filters": found.stem_filters}
        skip = [torch_names.HEAD_NAMES, *torch_names.as_patterns(ignore)]
        # Some bytes can claim a network of gigabytes.
        torch_names.check_tensors(
            backbone_shapes(found.depth, **shape), tensors, found, skip
        )
        with blank_kernels():
            model = cls(found.depth, **shape, **overrides)
        torch_names.load_tensors(model.weights, tensors, found, skip)
        return model

    @classmethod
    def from_preset(cls, preset, load_weights=True, **overrides):
        """The backbone of a preset, with its weights.

        A preset by name is fetched once, into the Keras cache
        (`$KERAS_HOME` or `~/.keras`, `keras_danet/`), and verified.

        Args:
            preset: a name, key of `DilatedResNet.presets`, such as
                `"resnet50_imagenet"`; a folder that `save_to_preset` wrote;
                `"hf://user/repo"`, such a folder on the Hugging Face Hub; a
                `.keras` file; or a run's folder, of which it is the backbone.
            load_weights: boolean. `False` starts the weights anew, without
                fetching a preset by name. Defaults to `True`.
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
        _refuse_shape(overrides, "preset")
        kind, place = sources.find(preset, cls.presets)
        if kind == "file":
            return _from_file(cls, place, load_weights, overrides)
        if overrides.get("multi_grid") in ((), []):
            overrides["multi_grid"] = None
        config, folder, held = presets.find(preset, cls, load_weights)
        presets.check_size(
            cls,
            lambda: backbone_shapes(*checked_widths(config)),
            folder,
            held,
        )
        if not load_weights:
            return presets.make(cls, {**config, **overrides}, folder)
        with blank_kernels():
            model = presets.make(cls, {**config, **overrides}, folder)
        presets.load_weights(model, folder)
        return model

    def save_to_preset(self, folder):
        """Writes the backbone as a preset folder; see `DANet`."""
        presets.save(self, folder)


def checked_widths(config):
    """Depth, filters and stem of a configuration, refused as by the model."""
    checked = _checked_arguments(
        config.get("depth"),
        8,
        None,
        config.get("stem_filters"),
        config.get("filters", 64),
    )
    return checked["depth"], checked["filters"], checked["stem_filters"]


def _from_file(cls, path, load_weights, overrides):
    """The backbone of a `.keras` file, which may hold a DANet."""
    source = files.load_keras_model(path)
    if not isinstance(source, DilatedResNet):
        source = backbone_of(source)
    if not isinstance(source, DilatedResNet):
        raise ValueError(
            f"The backbone in {path} is a {type(source).__name__}. Expected a "
            "DilatedResNet."
        )
    config, _ = split_frozen(source.get_config())
    model = cls(**{**config, **overrides})
    if load_weights:
        presets.transfer(source, model)
    return model


def _refuse_shape(overrides, source):
    """What the weights decide is not for the caller to decide."""
    taken = {"depth", "filters", "stem_filters"} & set(overrides)
    if taken:
        raise ValueError(
            f"{sorted(taken)} are what the {source}'s weights were made for, "
            "and cannot be overridden."
        )


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
    checked = {}
    for name, value, known in (
        ("depth", depth, STAGE_BLOCKS),
        ("output_stride", output_stride, STAGE_STRIDES),
    ):
        must = f"must be one of {sorted(known)}"
        checked[name] = arguments.integer(name, value, must)
        if checked[name] not in known:
            raise arguments.refusal(name, must, value)
    checked["multi_grid"] = as_tuple("multi_grid", multi_grid)
    checked["stem_filters"] = as_tuple("stem_filters", stem_filters)
    checked["filters"] = arguments.integer(
        "filters", filters, "must be a positive integer", least=1
    )
    if multi_grid is not None and checked["output_stride"] == 32:
        raise ValueError(
            "`multi_grid` sets the dilation of the last stage, which has none "
            "with output_stride=32: use output_stride 8 or 16, or "
            f"multi_grid=None. Received: multi_grid={multi_grid!r}"
        )
    return checked
