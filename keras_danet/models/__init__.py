"""Models: the dilated ResNet and DANet on top of it."""

from keras_danet.models.danet import DANet
from keras_danet.models.dilation import dilate
from keras_danet.models.folding import optimize_for_inference
from keras_danet.models.freezing import freeze
from keras_danet.models.freezing import unfreeze
from keras_danet.models.resnet import DilatedResNet

__all__ = [
    "DANet",
    "DilatedResNet",
    "dilate",
    "freeze",
    "optimize_for_inference",
    "unfreeze",
]
