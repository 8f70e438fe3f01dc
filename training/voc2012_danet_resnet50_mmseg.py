"""DANet-ResNet50 on PASCAL VOC 2012, MMSegmentation's recipe.

Paper: Fu et al., CVPR 2019, arXiv:1809.02983.
Source: MMSegmentation 1.2.2:
    configs/danet/danet_r50-d8_4xb4-40k_voc12aug-512x512.py. Iterations are
    turned into epochs: ceil(iterations * batch / images).
Data: PASCAL VOC 2012 and SBD, joined by training/prepare/voc_aug.py (10,582
    trainaug, 1,449 val, 21 classes).
Command: keras-danet train training/voc2012_danet_resnet50_mmseg.py
    --data VOCdevkit
Hardware: 4 V100, 6.5 GB of each; hours not published, not measured here.
Expected mean IoU: 76.37 % (MMSegmentation, VOC 2012 val, single scale)
    Measured there on images as large as fits into 2048x512, and scaled back.
    20,000 iterations, --set epochs=31: 74.45 %.
Measured: not run here (no GPU)
"""

import math

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="voc2012",
    train_split="trainaug",
    # 40,000 iterations.
    epochs=math.ceil(40_000 * 16 / 10_582),
    batch_size=16,
    model={
        # configs/_base_/models/danet_r50-d8.py.
        "depth": 50,
        "stem_filters": (32, 32, 64),
        "backbone_weights": "resnet50_v1c_imagenet",
        "auxiliary": True,
        "align_corners": False,
    },
    augmentation={
        "crop_size": (512, 512),
        # As large as fits into 2048x512, times 0.5 to 2.
        "long_side": 2048,
        "short_side": 512,
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
    val_every=6,
)
