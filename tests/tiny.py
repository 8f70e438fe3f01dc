"""As little of a DANet as compiles fast, where the backbone is not the point.

TensorFlow and JAX take much longer to trace a ResNet of 18 layers.
"""

import keras
import pytest

from keras_danet import DANet
from keras_danet.trainer import build


def backbone(filters, dtype=None):
    """Two convolutions: features at an eighth of the image."""
    images = keras.Input((None, None, 3), name="images")
    stage3 = keras.layers.Conv2D(
        filters, 4, 4, "same", name="stage3", dtype=dtype
    )(images)
    stage4 = keras.layers.Conv2D(
        *(filters, 2, 2, "same"),
        activation="relu",
        name="stage4",
        dtype=dtype,
    )(stage3)
    return keras.Model(
        images, {"stage3": stage3, "stage4": stage4}, name="backbone"
    )


def danet(num_classes=3, attention=(), filters=32, **arguments):
    """A DANet whose attentions, if it has any, matter."""
    keras.utils.set_random_seed(0)
    model = DANet(
        num_classes,
        backbone(filters),
        attention=attention,
        **{"dropout": 0, **arguments},
    )
    for kind, gamma in zip(model.attention, (0.7, -0.6), strict=False):
        model.get_layer(f"{kind}_attention").gamma.assign(gamma)
    return model


def quick_builds():
    """Recipes of our own ResNet give this backbone meanwhile; a fixture."""
    real = build.build_backbone

    def build_backbone(network, dtype):
        if not network.is_own or network.backbone_weights:
            return real(network, dtype)
        return backbone(4 * network.filters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_backbone", build_backbone)
        yield
