"""DANet-ResNet50 on Cityscapes by the authors' released recipe.

Paper: Fu et al., CVPR 2019, arXiv:1809.02983: scale augmentation and
    multi-grid, which it adds to ResNet-101 only.
Source: github.com/junfu1115/DANet at e4d8234: README.md (command),
    danet/option.py, danet/train.py, encoding/datasets/base.py.
Data: Cityscapes, leftImg8bit and gtFine as they are unpacked (2,975 train,
    500 val, 1024x2048, 19 classes).
Command: keras-danet train training/cityscapes_danet_resnet50.py
    --data CITYSCAPES
Hardware: 4 GPUs of 2 images each; hours not published, not measured here.
Expected mean IoU: not published
    Without scale augmentation and multi-grid the paper has 76.34 %:
    cityscapes_danet_resnet50_pam_cam.py.
Measured: not run here (no GPU)
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="cityscapes",
    # The authors' command, which is for ResNet-101.
    epochs=240,
    batch_size=8,
    model={
        "depth": 50,
        "multi_grid": (4, 8, 16),
        # ImageNet: torchvision's weights in place of PyTorch-Encoding's.
        "backbone_weights": "resnet50_imagenet",
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
