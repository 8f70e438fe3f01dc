"""What the networks of `keras.applications` were trained on, and can become.

Nothing here needs Keras: a recipe is checked before it is imported.
"""

from typing import NamedTuple

from keras_danet.arguments import did_you_mean
from keras_danet.data.datasets import IMAGENET_MEAN
from keras_danet.data.datasets import IMAGENET_STD

PREFIX = "keras.applications."
# The weights that Keras itself downloads.
IMAGENET = "imagenet"
# Files of Keras's weights; `.h5` alone is what its own downloads are.
KERAS_ENDINGS = (".weights.h5", ".keras", ".h5")


class Application(NamedTuple):
    """A network of `keras.applications`, as a backbone.

    Args:
        pixel_mean, pixel_std: number, or three (red, green, blue): what its
            weights expect to be subtracted from pixels in 0-255, and then
            divided by. 0 and 1 where its first layers do that.
        bgr: boolean, whether its weights were trained on blue, green, red.
        strides: the output strides that `dilate` can give it; none if it
            cannot be dilated.
    """

    pixel_mean: float | tuple[float, float, float]
    pixel_std: float | tuple[float, float, float]
    bgr: bool = False
    strides: tuple[int, ...] = (8, 16, 32)


# The means of ImageNet that Caffe's networks subtract.
CAFFE_MEAN = (123.68, 116.779, 103.939)
# As each one's `preprocess_input` does it; by rows of docs/backbones.md.
ROWS = (
    (
        tuple(
            f"ConvNeXt{size}"
            for size in ("Tiny", "Small", "Base", "Large", "XLarge")
        ),
        Application(0, 1),
    ),
    (tuple(f"EfficientNetB{size}" for size in range(8)), Application(0, 1)),
    (
        tuple(
            f"EfficientNetV2{size}"
            for size in ("B0", "B1", "B2", "B3", "S", "M", "L")
        ),
        Application(0, 1),
    ),
    (("MobileNetV3Small", "MobileNetV3Large"), Application(0, 1)),
    (("MobileNet", "MobileNetV2"), Application(127.5, 127.5)),
    (
        ("ResNet50V2", "ResNet101V2", "ResNet152V2"),
        Application(127.5, 127.5),
    ),
    (
        ("ResNet50", "ResNet101", "ResNet152"),
        Application(CAFFE_MEAN, 1, bgr=True),
    ),
    (
        ("VGG16", "VGG19"),
        Application(CAFFE_MEAN, 1, bgr=True, strides=(32,)),
    ),
    (
        ("DenseNet121", "DenseNet169", "DenseNet201"),
        Application(IMAGENET_MEAN, IMAGENET_STD, strides=(32,)),
    ),
    (
        ("InceptionV3", "Xception"),
        Application(127.5, 127.5, strides=(32,)),
    ),
    (
        ("InceptionResNetV2", "NASNetMobile", "NASNetLarge"),
        Application(127.5, 127.5, strides=()),
    ),
)
APPLICATIONS = {
    f"{PREFIX}{name}": application
    for names, application in ROWS
    for name in names
}


def check_application(name, output_stride, num_stages, weights):
    """Refuses a network, or weights, that a recipe cannot train with.

    Args:
        name: string, such as `"keras.applications.ResNet50"`.
        output_stride: 8, 16 or 32.
        num_stages: 4, or 3 without its last one.
        weights: `None`, `"imagenet"` or the path of a file.

    Raises:
        ValueError: if there is no such network, it cannot have that output
            stride, or its weights are of another kind.
    """
    if name not in APPLICATIONS:
        whole = name if name.startswith(PREFIX) else f"{PREFIX}{name}"
        raise ValueError(
            "`backbone` must be one of our own, 'resnet18' to 'resnet152', or "
            "a network of Keras, such as 'keras.applications.ResNet50'."
            f"{did_you_mean(whole, APPLICATIONS)} Received: backbone={name!r}. "
            "For any other, make a DANet over `keras_danet.dilate(...)` in "
            "Python, save it, and name its file in `start_from`."
        )
    strides = APPLICATIONS[name].strides
    if not strides:
        raise ValueError(
            f"{name} cannot be dilated. Received: backbone={name!r}. Choose "
            "one that docs/backbones.md has a stride for."
        )
    if output_stride not in strides:
        raise ValueError(
            f"{name} pools late, so its `output_stride` must be one of "
            f"{list(strides)}. Received: output_stride={output_stride!r}"
        )
    if num_stages == 3 and output_stride == 32:
        raise ValueError(
            f"Three stages of {name} end at a stride of 16. Received: "
            "num_stages=3, output_stride=32. Use 4 stages, or a lower stride."
        )
    if weights in (None, IMAGENET) or weights.lower().endswith(KERAS_ENDINGS):
        return
    raise ValueError(
        f"`backbone_weights` of {name} must be 'imagenet', which Keras "
        "downloads, or a file of its weights, .weights.h5, .h5 or .keras."
        f"{did_you_mean(weights, [IMAGENET])} Received: backbone_weights="
        f"{weights!r}. Presets and PyTorch's files are for our own, such as "
        "backbone='resnet50'."
    )
