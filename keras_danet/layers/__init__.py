"""Layers: the two attentions, resize, convolution and batch norm."""

from keras_danet.layers.attention import ChannelAttention as ChannelAttention
from keras_danet.layers.attention import PositionAttention as PositionAttention
from keras_danet.layers.convolution import Conv2D as Conv2D
from keras_danet.layers.normalization import (
    BatchNormalization as BatchNormalization,
)
from keras_danet.layers.normalization import Normalization as Normalization
from keras_danet.layers.resizing import BilinearResize as BilinearResize
from keras_danet.layers.tiled_attention import (
    unrolled_blocks as unrolled_blocks,
)
from keras_danet.layers.winograd import WinogradConv2D as WinogradConv2D
