"""What one backend saved, the others compute alike."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import one_backend

from keras_danet import DANet
from keras_danet import DilatedResNet

pytestmark = one_backend

BACKEND = keras.backend.backend()
OTHERS = [b for b in ("tensorflow", "jax", "torch") if b != BACKEND]

SCRIPT = """
import sys
import numpy as np
import keras
import keras_danet
folder = sys.argv[1]
model = keras.saving.load_model(f"{folder}/model.keras")
images = np.load(f"{folder}/images.npy")
np.save(f"{folder}/logits.npy", model.predict(images, verbose=0))
print(keras.backend.backend())
"""


@pytest.mark.parametrize("other", OTHERS)
def test_same_weights_give_the_same_logits(other, tmp_path):
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    keras.utils.set_random_seed(1)
    model = DANet(5, DilatedResNet(50, filters=8), align_corners=False)
    for kind, gamma in (("position", 0.7), ("channel", -0.6)):
        model.get_layer(f"{kind}_attention").gamma.assign(gamma)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (2, 65, 47, 3)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    model.save(tmp_path / "model.keras")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": other},
    )
    assert done.stdout.strip() == other, done.stderr[-3000:]
    expected = model.predict(images, verbose=0)
    logits = np.load(tmp_path / "logits.npy")
    # float32 rounding, whose order differs by backend.
    np.testing.assert_allclose(logits, expected, atol=1e-4 * expected.std())
    agreement = logits.argmax(-1) == expected.argmax(-1)
    assert agreement.mean() > 0.999
