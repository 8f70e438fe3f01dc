"""The parts of residual networks: convolution, stem, block, stage."""

import keras
from keras import layers

from keras_danet.layers import BatchNormalization
from keras_danet.layers import Conv2D

BOTTLENECK_EXPANSION = 4


def convolution_bn(
    x, filters, kernel_size, name, relu=True, strides=1, dilation_rate=1
):
    """Convolution `name`, batch norm `name`_bn and, if `relu`, a ReLU.

    The convolution has no bias and is padded equally on both sides: with a
    stride, `padding="same"` pads even sizes at the end only, so strided
    kernels are padded explicitly, as in PyTorch.
    """
    if strides > 1 and kernel_size > 1:
        x = layers.ZeroPadding2D(
            kernel_size // 2, data_format="channels_last", name=f"{name}_pad"
        )(x)
    x = Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same" if strides == 1 else "valid",
        dilation_rate=dilation_rate,
        use_bias=False,
        # N(0, sqrt(2 / (k * k * filters))): the authors' initialisation.
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        ),
        data_format="channels_last",
        name=name,
    )(x)
    x = BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def stem(x, stem_filters):
    """Stride 4: 7x7 or three 3x3 convolutions, then a 3x3 max-pool."""
    kernel_size = 7 if len(stem_filters) == 1 else 3
    for index, filters in enumerate(stem_filters, 1):
        strides = 2 if index == 1 else 1
        name = f"stem_conv{index}"
        x = convolution_bn(x, filters, kernel_size, name, strides=strides)
    # After a ReLU, padding with zeros is as good as with -inf.
    x = layers.ZeroPadding2D(
        1, data_format="channels_last", name="stem_pool_pad"
    )(x)
    return layers.MaxPooling2D(
        3, strides=2, data_format="channels_last", name="stem_pool"
    )(x)


def shortcut(x, filters, strides, name):
    """The input, projected by a 1x1 convolution if the shape changes."""
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
