"""DANet-ResNet101 on PASCAL Context with background, 60 classes.

Paper: Fu et al., CVPR 2019, arXiv:1809.02983. The authors count the
    background (issue 11), unlike the 59 classes of others; --set
    dataset=pascal_context leaves it out, and no figure for that is published.
Source: github.com/junfu1115/DANet at e4d8234: danet/option.py,
    danet/train.py, encoding/datasets/base.py. No command for this data is
    published: what was taken from elsewhere says so below.
Data: VOC 2010 with labels by training/prepare/pascal_context.py (4,998 train,
    5,105 val).
Command: keras-danet train training/pascal_context60_danet_resnet101.py
    --data VOCdevkit
Hardware: not published, not measured here.
Expected mean IoU: 52.6 % (paper, PASCAL Context val, 60 classes)
    Whether at one scale or several was not checked.
Measured: not run here (no GPU)
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="pascal_context60",
    # The paper, with scale augmentation.
    epochs=240,
    # The paper.
    batch_size=16,
    model={
        "depth": 101,
        # Stated for Cityscapes; users of PASCAL Context take it over (issue
        # 72).
        "multi_grid": (4, 8, 16),
        # ImageNet: torchvision's weights in place of PyTorch-Encoding's.
        "backbone_weights": "resnet101_imagenet",
    },
    augmentation={
        # danet/option.py.
        "crop_size": (576, 576),
        "short_side": 608,
        # The short side gets 0.75 to 2 times its size.
        "scale_range": (0.75, 2.0),
    },
    optimization={
        # danet/option.py: 0.001 for a batch of 8, in proportion to the batch.
        "learning_rate": 0.002,
        # danet/option.py and train.py; momentum, power of the schedule and
        # chance of mirroring are the defaults of TrainConfig.
        "weight_decay": 1e-4,
        "head_multiplier": 10.0,
    },
    # Its evaluation gives the long side as many pixels.
    test_size=608,
    # Ours.
    val_every=20,
)
