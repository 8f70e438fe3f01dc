"""A small DANet that is worth explaining, and a picture for it."""

import keras
import numpy as np

from keras_danet import DANet
from keras_danet import DilatedResNet

SIZE = (48, 72)
CLASSES = ("road", "tree", "sky")


def make_model(attention=("position", "channel"), seed=0, **arguments):
    keras.utils.set_random_seed(seed)
    model = DANet(
        3,
        DilatedResNet(18, filters=8),
        attention=attention,
        class_names=CLASSES,
        **arguments,
    )
    for kind, gamma in (("position", 0.8), ("channel", -0.7)):
        if kind in attention:
            model.get_layer(f"{kind}_attention").gamma.assign(gamma)
    if "position" in attention:
        # So that a point attends to many positions.
        kernel = model.get_layer("position_attention").query.kernel
        kernel.assign(0.05 * keras.ops.convert_to_numpy(kernel))
    # So that classes differ from place to place, and each is somewhere.
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.name.endswith("classifier"):
            layer.kernel.assign(rng.normal(size=layer.kernel.shape))
            logits = tensor_of(model, layer.output, picture())
            layer.bias.assign(-np.median(logits, (0, 1)))
    return model


def picture(seed=0, size=SIZE):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*size, 3), dtype="uint8")


def tensor_of(model, tensor, image):
    found = keras.Model(model.input, tensor)(image[None].astype("float32"))
    return keras.ops.convert_to_numpy(found)[0]
