import subprocess
import sys

import keras
import pytest

from keras_danet import distribution

BACKEND = keras.backend.backend()
ENGINE = {"tensorflow": "mirrored", "jax": "data_parallel"}.get(BACKEND)

# Each process may split its CPU once, so the comparison has its own.
SCRIPT = """
import numpy as np
import keras
from keras_danet import SGD, DANet, DilatedResNet, distribution

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (12, 32, 48, 3)).astype("float32")
labels = rng.integers(0, 4, (12, 32, 48)).astype("uint8")

def train(name, devices):
    with distribution.scope(name, devices) as count:
        assert count == devices
        keras.utils.set_random_seed(0)
        model = DANet(4, DilatedResNet(18, filters=8), dropout=0)
        model.get_layer("position_attention").gamma.assign(0.7)
        model.get_layer("channel_attention").gamma.assign(-0.6)
        model.compile(SGD(0.01, weight_decay=1e-3), jit_compile=JIT)
        history = model.fit(
            images, labels, batch_size=4, epochs=1, shuffle=False, verbose=0
        ).history
        weights = {v.path: np.array(keras.ops.convert_to_numpy(v))
                   for v in model.variables if "seed" not in v.path}
        return weights, history, model

several, history, model = train("ENGINE", 2)
model.save("PATH")
one, expected, _ = train("none", 1)
for path, weight in one.items():
    scale = np.abs(weight).max() + 1e-6
    error = np.abs(several[path] - weight).max() / scale
    assert error < 1e-4, (path, error)
for key in ("loss", "mean_iou", "pixel_accuracy"):
    np.testing.assert_allclose(history[key], expected[key], rtol=1e-4)
print("equal")
"""


@pytest.mark.skipif(ENGINE is None, reason="torch has no engine in Keras 3.15")
def test_two_devices_end_with_the_weights_of_one(tmp_path):
    path = tmp_path / "model.keras"
    script = (
        SCRIPT.replace("ENGINE", ENGINE)
        # MirroredStrategy cannot be compiled; JAX is nothing without.
        .replace("JIT", str(BACKEND == "jax"))
        .replace("PATH", str(path))
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout == "equal\n", done.stderr[-3000:]
    # A model trained under a strategy is a model like any other.
    loaded = keras.saving.load_model(path)
    config = loaded.get_layer("position_in_bn").get_config()
    assert "synchronized" not in config


def test_other_engines_are_refused():
    with pytest.raises(ValueError, match="must be one of"):
        with distribution.scope("horovod"):
            pass
    for name in {"mirrored", "data_parallel"} - {ENGINE}:
        with pytest.raises(ValueError, match="Set KERAS_BACKEND="):
            with distribution.scope(name, 2):
                pass


@pytest.mark.skipif(ENGINE is None, reason="torch has no engine in Keras 3.15")
def test_too_many_devices_are_refused():
    keras.ops.zeros(1)  # the devices are in use: too late to split
    with pytest.raises(ValueError, match="64 devices were asked for"):
        with distribution.scope(ENGINE, 64):
            pass


def test_none_is_one_device():
    with distribution.scope() as count:
        assert count == 1
