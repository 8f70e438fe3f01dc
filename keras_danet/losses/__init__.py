"""The losses that Keras lacks: over the labelled pixels of label maps."""

from keras_danet.losses.crossentropy import (
    PixelCrossentropy as PixelCrossentropy,
)
from keras_danet.losses.hard_pixels import FocalLoss as FocalLoss
from keras_danet.losses.hard_pixels import OhemCrossentropy as OhemCrossentropy
from keras_danet.losses.pixels import SumOfLosses as SumOfLosses
from keras_danet.losses.regions import DiceLoss as DiceLoss
from keras_danet.losses.regions import LovaszSoftmax as LovaszSoftmax
