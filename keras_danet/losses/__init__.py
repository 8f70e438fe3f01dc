"""The losses that Keras lacks: over the labelled pixels of label maps."""

from keras_danet.losses.crossentropy import PixelCrossentropy
from keras_danet.losses.hard_pixels import FocalLoss
from keras_danet.losses.hard_pixels import OhemCrossentropy
from keras_danet.losses.pixels import SumOfLosses
from keras_danet.losses.regions import DiceLoss
from keras_danet.losses.regions import LovaszSoftmax

__all__ = [
    "DiceLoss",
    "FocalLoss",
    "LovaszSoftmax",
    "OhemCrossentropy",
    "PixelCrossentropy",
    "SumOfLosses",
]
