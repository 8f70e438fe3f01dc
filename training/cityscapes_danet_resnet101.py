"""DANet-ResNet101 on Cityscapes, as the authors released it.

Paper: Fu et al., CVPR 2019, arXiv:1809.02983: scale augmentation and
    multi-grid, the ablation's last training.
Source: github.com/junfu1115/DANet at e4d8234: README.md (command),
    danet/option.py, danet/train.py, encoding/datasets/base.py.
Data: Cityscapes, leftImg8bit and gtFine as they are unpacked (2,975 train,
    500 val, 1024x2048, 19 classes).
Command: keras-danet train training/cityscapes_danet_resnet101.py
    --data CITYSCAPES
Hardware: 4 GPUs of 2 images each; hours not published, not measured here.
Expected mean IoU: 79.93 % (authors' repository, Cityscapes val, single scale)
    Measured there in windows of 768 and with their mirror images. The paper's
    row '+ multi-grid' is 79.94 %; its row '+ multi-scale test', 81.50 % (the
    repository: 81.49 %), is another measurement of the same weights, at eight
    scales, which this package does not have yet.
Measured: not run here (no GPU)
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="cityscapes",
    # The authors' command.
    epochs=240,
    batch_size=8,
    model={
        "depth": 101,
        "multi_grid": (4, 8, 16),
        # ImageNet: torchvision's weights in place of PyTorch-Encoding's.
        "backbone_weights": "resnet101_imagenet",
    },
    augmentation={
        "crop_size": (768, 768),
        # The short side gets 0.75 to 2 times the command's base size, 1024,
        # which it has already.
        "scale_range": (0.75, 2.0),
    },
    optimization={
        "learning_rate": 0.003,
        # danet/option.py and train.py; momentum, power of the schedule and
        # chance of mirroring are the defaults of TrainConfig.
        "weight_decay": 1e-4,
        "head_multiplier": 10.0,
    },
    # Ours.
    val_every=20,
)
