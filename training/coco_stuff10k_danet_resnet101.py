"""DANet-ResNet101 on COCO-Stuff 10k, 171 classes.

Paper: Fu et al., CVPR 2019, arXiv:1809.02983.
Source: github.com/junfu1115/DANet at e4d8234: danet/option.py,
    danet/train.py, encoding/datasets/base.py. Their code does not read this
    data; its settings are those of PASCAL Context (the authors, issue 20).
Data: COCO-Stuff 10k with labels by training/prepare/coco_stuff10k.py (9,000
    train, 1,000 test). It has no split for validation: the epoch that is kept
    is chosen by the figure that is reported. The last epoch's is in
    history.csv.
Command: keras-danet train training/coco_stuff10k_danet_resnet101.py
    --data cocostuff-10k
Hardware: not published, not measured here.
Expected mean IoU: 39.7 % (paper, COCO-Stuff 10k test)
    Whether at one scale or several was not checked.
Measured: not run here (no GPU)
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="coco_stuff10k",
    val_split="test",
    # The paper, with scale augmentation.
    epochs=180,
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
