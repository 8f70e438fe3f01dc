"""The presets by name: where weights come from, and what they reached."""

OPENMMLAB = "https://download.openmmlab.com"
HUB = "https://huggingface.co"
# The three 3x3 convolutions of MMSegmentation's `v1c`.
V1C_STEM = (32, 32, 64)

NUM_CLASSES = {"cityscapes": 19, "ade20k": 150, "voc2012": 21}
CROPS = {"cityscapes": "512x1024", "ade20k": "512x512", "voc2012": "512x512"}
TITLES = {
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
    "voc2012": "PASCAL VOC 2012",
}
# MMSegmentation's model zoo, configs/danet: depth, data set, what our name adds
# (the best has the short name), its mean IoU in per cent (single scale, whole
# images), thousands of steps, and the end of the file's name, the last digits
# of which begin its SHA-256.
MMSEGMENTATION = (
    (50, "cityscapes", "", 79.34, 80, "20200607_133029-2bfa2293"),
    (50, "cityscapes", "_40k", 78.74, 40, "20200605_191324-c0dbfa5f"),
    (50, "cityscapes", "_769", 79.27, 80, "20200607_132954-495689b4"),
    (50, "cityscapes", "_769_40k", 78.88, 40, "20200530_025703-76681c60"),
    (101, "cityscapes", "", 80.52, 40, "20200605_200831-c57a7157"),
    (101, "cityscapes", "_80k", 80.41, 80, "20200607_132918-955e6350"),
    (101, "cityscapes", "_769", 80.47, 80, "20200607_132918-f3a929e7"),
    (101, "cityscapes", "_769_40k", 79.88, 40, "20200530_025717-dcb7fd4e"),
    (50, "ade20k", "", 42.45, 160, "20200616_082340-9cb35dcd"),
    (50, "ade20k", "_80k", 41.66, 80, "20200615_015125-edb18e08"),
    (101, "ade20k", "", 44.17, 160, "20200616_082348-23bf12f9"),
    (101, "ade20k", "_80k", 43.64, 80, "20200615_015126-d0357c73"),
    (50, "voc2012", "", 76.37, 40, "20200613_235526-426e3a64"),
    (50, "voc2012", "_20k", 74.45, 20, "20200618_070026-9e9e3ab3"),
    (101, "voc2012", "", 76.51, 40, "20200613_223031-788e232a"),
    (101, "voc2012", "_20k", 76.02, 20, "20200618_070026-d48d23b2"),
)


def _mmsegmentation(depth, dataset, suffix, mean_iou, steps, stamp):
    """The name and the preset of a row of `MMSEGMENTATION`."""
    crop = "769x769" if "_769" in suffix else CROPS[dataset]
    theirs = {"voc2012": "voc12aug"}.get(dataset, dataset)
    file = f"danet_r{depth}-d8_{crop}_{steps}k_{theirs}"
    return f"danet_resnet{depth}_{dataset}{suffix}", {
        "description": f"{TITLES[dataset]}, DANet-ResNet{depth}, "
        f"{steps},000 steps of {crop} crops, MMSegmentation",
        "dataset": dataset,
        "mean_iou": mean_iou,
        "license": "Apache-2.0",
        # The tensors in float32; the site states no sizes.
        "size_mb": {50: 200, 101: 276}[depth],
        "source": f"{OPENMMLAB}/mmsegmentation/v0.5/danet/{file}/"
        f"{file}_{stamp}.pth",
        "sha256": stamp.rpartition("-")[2],
        "arguments": {
            "num_classes": NUM_CLASSES[dataset],
            "backbone": f"resnet{depth}",
            "auxiliary": True,
            "align_corners": crop == "769x769",
            "multi_grid": None,
            "stem_filters": V1C_STEM,
        },
    }


def _torchvision(depth, top1, size_mb, revision="main", sha256=None):
    """torchvision's ImageNet weights (V1), in timm's copy on the Hub."""
    return {
        "description": f"ImageNet, ResNet-{depth}, torchvision's weights V1 in "
        "timm's copy",
        "dataset": "imagenet",
        "top1": top1,
        "license": "BSD-3-Clause",
        "size_mb": size_mb,
        "source": f"{HUB}/timm/resnet{depth}.tv_in1k/resolve/{revision}/"
        "model.safetensors",
        "sha256": sha256,
        "arguments": {"depth": depth, "stem_filters": None},
    }


def _v1c(depth, size_mb, digits):
    """ImageNet weights of the deep stem that MMSegmentation starts from."""
    return {
        "description": f"ImageNet, ResNet-{depth}-v1c (deep stem), which "
        "MMSegmentation's DANet starts from",
        "dataset": "imagenet",
        "top1": None,
        "license": "not stated",
        "size_mb": size_mb,
        "source": f"{OPENMMLAB}/pretrain/third_party/"
        f"resnet{depth}_v1c-{digits}.pth",
        "sha256": digits,
        "arguments": {"depth": depth, "stem_filters": V1C_STEM},
    }


# Our own. Their files are to be those of a release, and lie in the checkout's
# saved_models/ until there is one: then `source` becomes its address.
OURS = {
    "danet_resnet50_camvid": {
        "description": "CamVid, position attention over three stages of "
        "Keras's ResNet-50, 1,365 + 2,184 steps of 224x224 crops",
        "dataset": "camvid",
        "mean_iou": 67.71,
        "license": "that of CamVid: CC BY-NC 4.0",
        "size_mb": 24,
        "source": "danet_resnet50_camvid.weights.h5",
        "sha256": "dd3dfe4d8a08bb102875b1c37adec3dd"
        "bb4d23516bc921be050b0469c9ae592e",
        "arguments": {
            "num_classes": 11,
            "backbone": {
                "class_name": "keras.applications.ResNet50",
                "config": {"output_stride": 8, "num_stages": 3},
            },
            "attention": ["position"],
            "pixel_mean": [123.68, 116.779, 103.939],
            "pixel_std": 1.0,
        },
    }
}
DANET = {**dict(_mmsegmentation(*row) for row in MMSEGMENTATION), **OURS}
BACKBONES = {
    "resnet18_imagenet": _torchvision(
        18,
        69.76,
        47,
        "bbd144b3e5565108aad885f145491d11bc6ce807",
        "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
    ),
    "resnet34_imagenet": _torchvision(
        34,
        73.31,
        87,
        "1b7b21cca82ff974d341713f777bf740c2db38c4",
        "0bb82595a564991a9d424708b33f5d843f5aaed7f6c0886ff10849ff97022235",
    ),
    "resnet50_imagenet": _torchvision(
        50,
        76.13,
        102,
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
    ),
    "resnet101_imagenet": _torchvision(101, 77.37, 178),
    "resnet152_imagenet": _torchvision(152, 78.31, 241),
    "resnet50_v1c_imagenet": _v1c(50, 103, "2cccc1ad"),
    "resnet101_v1c_imagenet": _v1c(101, 178, "e67eebb6"),
}
