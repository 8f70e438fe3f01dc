"""DANet-ResNet50 on Cityscapes: position attention alone.

Paper: Fu et al., CVPR 2019, arXiv:1809.02983, first ablation table: position
    attention (PAM) alone.
Source: github.com/junfu1115/DANet at e4d8234: danet/option.py,
    danet/train.py; issues 27 (epochs, crop, batch, no scale augmentation) and
    30 (learning rate).
Data: Cityscapes, leftImg8bit and gtFine as they are unpacked (2,975 train,
    500 val, 1024x2048, 19 classes).
Command: keras-danet train training/cityscapes_danet_resnet50_pam.py
    --data CITYSCAPES
Hardware: 4 GPUs of 2 images each; hours not published, not measured here.
Expected mean IoU: 75.74 % (paper, Cityscapes val, single scale)
    Measured there in windows of 768 and with their mirror images.
Measured: not run here (no GPU)
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="cityscapes",
    # The authors in issue 27, of the baseline with ResNet-101.
    epochs=180,
    batch_size=8,
    model={
        "depth": 50,
        "attention": ("position",),
        # ImageNet: torchvision's weights in place of PyTorch-Encoding's.
        "backbone_weights": "resnet50_imagenet",
    },
    augmentation={
        "crop_size": (768, 768),
        # No scale augmentation.
        "scale_range": (1.0, 1.0),
    },
    optimization={
        # One loss: 0.01 (the authors, issue 30).
        "learning_rate": 0.01,
        # danet/option.py and train.py; momentum, power of the schedule and
        # chance of mirroring are the defaults of TrainConfig.
        "weight_decay": 1e-4,
        "head_multiplier": 10.0,
    },
    # Ours.
    val_every=20,
)
