"""The package builds, fits and predicts where TensorFlow is not installed.

Run as a script under KERAS_BACKEND=jax or torch: the import is blocked for
the whole process, which pytest's own process could not bear.
"""

import importlib.machinery
import os
import sys
import tempfile


class WithoutTensorFlow(importlib.machinery.PathFinder):
    """Finds what is installed, but no TensorFlow."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            return None
        return super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = (
    WithoutTensorFlow
)

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_danet  # noqa: E402
from keras_danet import cli  # noqa: E402
from keras_danet.data.scenes import write_scenes  # noqa: E402


def train_scenes():
    """Draws scenes and trains on a crop of them, through the command line."""
    settings = {
        "epochs": 1,
        "batch_size": 8,
        "crop_size": (16, 16),
        "filters": 4,
        "jit_compile": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.join(folder, "scenes")
        write_scenes(root, {"train": 8, "val": 2}, size=(32, 48))
        command = ["train", "training/scenes_danet_resnet18.py"]
        command += ["--data", root, "--output", os.path.join(folder, "run")]
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]
        return cli.main(command)


def main():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 33, 48, 3)).astype("uint8")
    # A class is a brightness, which a few steps can learn.
    images[:, :, :24] //= 4
    labels = np.zeros((4, 33, 48), "uint8")
    labels[:, :, 24:] = 1
    labels[:, :2] = 255
    model = keras_danet.DANet(2, keras_danet.DilatedResNet(18, filters=8))
    model.compile()
    losses = model.fit(images, labels, 4, epochs=6, verbose=0).history["loss"]
    result = model.evaluate(images, labels, verbose=0, return_dict=True)
    label = keras_danet.Predictor(model)(images[0, :20])
    failures = [
        message
        for failed, message in (
            (not losses[-1] < losses[0], f"the loss did not fall: {losses}"),
            (not 0 <= result["mean_iou"] <= 1, f"no mean IoU: {result}"),
            (label.shape != (20, 48), f"prediction is {label.shape}"),
            ("tensorflow" in sys.modules, "TensorFlow was imported"),
            (train_scenes() != 0, "training without tf.data failed"),
        )
        if failed
    ]
    backend = keras.backend.backend()
    for message in failures:
        print(f"without TensorFlow, {backend}: {message}")
    passed = 5 - len(failures)
    print(f"{backend}: {passed} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
