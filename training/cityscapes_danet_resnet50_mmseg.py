"""DANet-ResNet50 on Cityscapes, MMSegmentation's recipe.

Paper: Fu et al., CVPR 2019, arXiv:1809.02983.
Source: MMSegmentation 1.2.2:
    configs/danet/danet_r50-d8_4xb2-80k_cityscapes-512x1024.py. Iterations are
    turned into epochs: ceil(iterations * batch / images).
Data: Cityscapes, leftImg8bit and gtFine as they are unpacked (2,975 train,
    500 val, 1024x2048, 19 classes).
Command: keras-danet train training/cityscapes_danet_resnet50_mmseg.py
    --data CITYSCAPES
Hardware: 4 V100, 7.4 GB of each; hours not published, not measured here.
Expected mean IoU: 79.34 % (MMSegmentation, Cityscapes val, single scale)
    40,000 iterations, --set epochs=108: 78.74 %.
Measured: not run here (no GPU)
"""

import math

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="cityscapes",
    # 80,000 iterations.
    epochs=math.ceil(80_000 * 8 / 2975),
    batch_size=8,
    model={
        # configs/_base_/models/danet_r50-d8.py.
        "depth": 50,
        "stem_filters": (32, 32, 64),
        "backbone_weights": "resnet50_v1c_imagenet",
        "auxiliary": True,
        "align_corners": False,
    },
    augmentation={
        "crop_size": (512, 1024),
        "scale_range": (0.5, 2.0),
        # Its photometric distortion; 18 of OpenCV's hues are 36 degrees.
        "max_class_share": 0.75,
        "brightness": 32.0,
        "contrast": 0.5,
        "saturation": 0.5,
        "hue": 36.0,
    },
    optimization={
        # configs/_base_/schedules: SGD, poly of power 0.9 to 1e-4, no warm-up.
        "learning_rate": 0.01,
        "end_learning_rate": 1e-4,
        "weight_decay": 5e-4,
    },
    # Ours.
    val_every=22,
)
