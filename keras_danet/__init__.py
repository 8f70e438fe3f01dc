"""DANet, the Dual Attention Network for scene segmentation, for Keras 3.

Names are imported when they are first used, so that the command line and
whatever needs no network work without Keras.
"""

import typing

from keras_danet import backends
from keras_danet.lazy_names import lazily

if typing.TYPE_CHECKING:
    from keras_danet import layers as layers
    from keras_danet import losses as losses
    from keras_danet.export import export_model as export_model
    from keras_danet.inference.predictor import Predictor as Predictor
    from keras_danet.layers import BilinearResize as BilinearResize
    from keras_danet.layers import ChannelAttention as ChannelAttention
    from keras_danet.layers import PositionAttention as PositionAttention
    from keras_danet.losses import PixelCrossentropy as PixelCrossentropy
    from keras_danet.metrics import MeanIoU as MeanIoU
    from keras_danet.metrics import PixelAccuracy as PixelAccuracy
    from keras_danet.metrics import SegmentationMetrics as SegmentationMetrics
    from keras_danet.models import DANet as DANet
    from keras_danet.models import DilatedResNet as DilatedResNet
    from keras_danet.models import dilate as dilate
    from keras_danet.models import freeze as freeze
    from keras_danet.models import (
        optimize_for_inference as optimize_for_inference,
    )
    from keras_danet.models import unfreeze as unfreeze
    from keras_danet.optimizers import SGD as SGD
    from keras_danet.optimizers import PolySchedule as PolySchedule
    from keras_danet.recipe import TrainConfig as TrainConfig

__version__ = "0.1.0"

# For those who run it, what the lines above are for those who only read.
_HOMES = {
    "export_model": "export",
    "Predictor": "inference",
    "BilinearResize": "layers",
    "ChannelAttention": "layers",
    "PositionAttention": "layers",
    "PixelCrossentropy": "losses",
    "MeanIoU": "metrics",
    "PixelAccuracy": "metrics",
    "SegmentationMetrics": "metrics",
    "DANet": "models",
    "DilatedResNet": "models",
    "dilate": "models",
    "freeze": "models",
    "optimize_for_inference": "models",
    "unfreeze": "models",
    "SGD": "optimizers",
    "PolySchedule": "optimizers",
    "TrainConfig": "recipe",
}
__all__ = ["layers", "losses", *_HOMES]


__getattr__, __dir__ = lazily(__name__, _HOMES)

backends.watch_imports()
