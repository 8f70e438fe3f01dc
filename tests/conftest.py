import contextlib
import importlib.util
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Importing torch after TensorFlow aborts the process on some machines, and
# tests of PyTorch's files need it on every backend.
with contextlib.suppress(ImportError):
    import torch  # noqa: F401

import keras  # noqa: E402

# What no backend computes, or every pair of backends has in common, is tested
# where tests are fastest; on another one where that is not installed.
one_backend = pytest.mark.skipif(
    keras.backend.backend() != "torch"
    and importlib.util.find_spec("torch") is not None,
    reason="the same on every backend; tested on torch",
)


@contextlib.contextmanager
def x64():
    """JAX computes in float64 where it is told to."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield


def slow_but_on_torch(test):
    """Held on every backend; TensorFlow and JAX compile for long."""
    if keras.backend.backend() == "torch":
        return test
    return pytest.mark.slow(test)


# tests/references.py is shared by tests in several folders.
sys.path.insert(0, str(ROOT / "tests"))


@pytest.fixture(scope="session")
def camvid_root():
    root = pathlib.Path(
        os.environ.get("KERAS_DANET_CAMVID", SHARED / "data" / "camvid")
    )
    if not root.is_dir():
        pytest.skip(f"CamVid is not at {root}; set KERAS_DANET_CAMVID")
    return root


@pytest.fixture
def download_site(monkeypatch, tmp_path):
    """A site on this machine, and an empty cache."""
    from download_site import serving

    from keras_danet.weights import downloads

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras_home"))
    monkeypatch.setattr(downloads, "RETRY_SECONDS", 0)
    with serving() as site:
        yield site


@pytest.fixture(scope="module")
def model():
    """A small DANet whose attentions matter and whose classes are no ties."""
    from keras_danet import DANet
    from keras_danet import DilatedResNet

    keras.utils.set_random_seed(0)
    model = DANet(5, DilatedResNet(18, filters=8))
    for kind, gamma in (("position", 0.7), ("channel", -0.6)):
        model.get_layer(f"{kind}_attention").gamma.assign(gamma)
    kernel = model.get_layer("fusion_classifier").kernel
    kernel.assign(kernel * 50)
    return model


@pytest.fixture(scope="module")
def predictor(model):
    from keras_danet import Predictor

    return Predictor(model)


@pytest.fixture
def photos(tmp_path):
    """A folder of three small pictures, one of them in a subfolder."""
    from pictures import photo
    from predicted import SIZE

    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for k, name in enumerate(("a.png", "b.png", "deep/a.png")):
        photo(SIZE[0] + k, SIZE[1]).save(folder / name)
    return folder
