"""Layers: the two attentions, resize, convolution and batch norm."""

from keras_danet.layers.attention import ChannelAttention
from keras_danet.layers.attention import PositionAttention
from keras_danet.layers.convolution import Conv2D
from keras_danet.layers.normalization import BatchNormalization
from keras_danet.layers.normalization import Normalization
from keras_danet.layers.resizing import BilinearResize
from keras_danet.layers.tiled_attention import unrolled_blocks
from keras_danet.layers.winograd import WinogradConv2D

__all__ = [
    "BatchNormalization",
    "BilinearResize",
    "ChannelAttention",
    "Conv2D",
    "Normalization",
    "PositionAttention",
    "WinogradConv2D",
    "unrolled_blocks",
]
