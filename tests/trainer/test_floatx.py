"""Counts, losses and steps are right whatever `keras.config.floatx()` is."""

import keras
import numpy as np
import pytest
import references
from conftest import x64
from PIL import Image

from keras_danet import SGD
from keras_danet import PixelCrossentropy
from keras_danet import TrainConfig
from keras_danet import runs
from keras_danet.cli import main
from keras_danet.data.scenes import write_scenes
from keras_danet.losses import LovaszSoftmax
from keras_danet.losses import OhemCrossentropy
from keras_danet.metrics import SegmentationMetrics
from keras_danet.trainer import loop


def train(root, run):
    config = TrainConfig(
        dataset="scenes",
        data_root=str(root / "scenes"),
        epochs=1,
        batch_size=4,
        model={"depth": 18, "filters": 8, "dropout": 0.0},
        augmentation={"crop_size": (32, 48)},
        jit_compile=keras.backend.backend() == "jax",
    )
    return loop.train(config, run, verbose=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of scenes, and what is learned of them in float32."""
    root = tmp_path_factory.mktemp("data")
    write_scenes(root / "scenes", {"train": 8, "val": 2}, size=(48, 64))
    history = train(root, root / "run")
    weights = runs.open_model(root / "run")[0].get_weights()
    return root, history, weights


@pytest.fixture(params=["float16", "bfloat16", "float64"], autouse=True)
def floatx(request):
    before = keras.config.floatx()
    with x64():
        keras.config.set_floatx(request.param)
        yield
        keras.config.set_floatx(before)


def drawn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (1, 200, 300)).astype("uint8")
    labels[:, :20] = 255
    logits = rng.standard_normal((1, 200, 300, 3)).astype("float32")
    return labels, logits


def test_metrics_count():
    labels, logits = drawn()
    metric = SegmentationMetrics(3)
    metric.update_state(labels, logits)
    expected = references.confusion_matrix(labels, logits.argmax(-1), 3)
    np.testing.assert_array_equal(metric.confusion_matrix(), expected)
    accuracy = np.trace(expected) / expected.sum()
    assert abs(float(metric.result()["pixel_accuracy"]) - accuracy) < 1e-6


def test_losses_keep_their_digits():
    labels, logits = drawn()
    expected = references.pixel_crossentropy(labels, logits)
    for loss in (PixelCrossentropy(), OhemCrossentropy(1.0)):
        assert abs(float(loss(labels, logits)) - expected) < 1e-5


def test_lovasz_counts_classes():
    labels, logits = drawn()
    logits = np.where(labels[..., None] == np.arange(3), 30.0, -30.0)
    assert abs(float(LovaszSoftmax()(labels, logits))) < 1e-5


@pytest.mark.parametrize("clipping", [{}, {"global_clipnorm": 1e3}])
def test_sgd_takes_the_rate_and_decay_that_were_given(clipping):
    weight = keras.Variable(np.array([1.0]), dtype="float32")
    optimizer = SGD(0.01, weight_decay=0.3, **clipping)
    gradient = keras.ops.convert_to_tensor(np.array([1.0]), "float32")
    value, velocity = 1.0, 0.0
    for _ in range(2):
        optimizer.apply([gradient], [weight])
        velocity = 0.9 * velocity + 1.0 + 0.3 * value
        value -= 0.01 * velocity
    received = keras.ops.convert_to_numpy(weight)[0]
    # A half precision of 0.01 or 0.3 gives 1e-6 and more.
    assert abs(received - value) < 2e-7


def slow(floatx):
    """Marks what only torch, which compiles nothing, trains quickly."""
    is_torch = keras.backend.backend() == "torch"
    marks = () if is_torch else pytest.mark.slow
    return pytest.param(floatx, marks=marks)


@pytest.mark.parametrize(
    "floatx", ["bfloat16", slow("float16"), slow("float64")], indirect=True
)
def test_runs_are_those_of_their_own_dtype(trained, tmp_path, capsys):
    root, history, weights = trained
    received = train(root, tmp_path / "run")
    assert received.keys() == history.keys()
    # float64 sums the loss otherwise.
    for key in ("loss", "val_mean_iou"):
        assert received[key] == pytest.approx(history[key], abs=1e-5), key
    for ours, theirs in zip(
        runs.open_model(tmp_path / "run")[0].get_weights(),
        weights,
        strict=True,
    ):
        assert ours.dtype == "float32"
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((37, 53, 3), 200, "uint8")).save(photo)
    run, output = str(tmp_path / "run"), str(tmp_path / "pictures")
    assert main(["evaluate", run]) == 0
    assert f"{received['val_mean_iou'][0]:.2%}" in capsys.readouterr().out
    assert main(["predict", run, str(photo), "--output", output]) == 0
