"""DANet-ResNet18 on the drawn street scenes; needs no files.

Command: keras-danet train training/scenes_danet_resnet18.py
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="scenes",
    epochs=22,
    batch_size=8,
    crop_size=(96, 128),
    scale_range=(0.9, 1.2),
    val_batch_size=16,
    val_every=11,
    depth=18,
    filters=16,
    learning_rate=0.05,
    weight_decay=1e-4,
)
