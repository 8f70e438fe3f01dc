"""Models: the dilated ResNet and DANet on top of it."""

from keras_danet.models.danet import DANet as DANet
from keras_danet.models.dilation import dilate as dilate
from keras_danet.models.folding import (
    optimize_for_inference as optimize_for_inference,
)
from keras_danet.models.freezing import freeze as freeze
from keras_danet.models.freezing import unfreeze as unfreeze
from keras_danet.models.resnet import DilatedResNet as DilatedResNet
