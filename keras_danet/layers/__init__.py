"""Layers: the two attention modules, the resize and the batch norm."""

from keras_danet.layers.attention import ChannelAttention as ChannelAttention
from keras_danet.layers.attention import PositionAttention as PositionAttention
from keras_danet.layers.normalization import (
    BatchNormalization as BatchNormalization,
)
from keras_danet.layers.resizing import BilinearResize as BilinearResize
