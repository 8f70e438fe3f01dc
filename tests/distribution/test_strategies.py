"""Plain Keras under a strategy of one's own ends with one device's weights."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from workers import environments

TESTS = ROOT / "tests"
BACKEND = keras.backend.backend()
ENGINE = {"tensorflow": "mirrored", "jax": "data_parallel"}.get(BACKEND)
# Computed in float64: sums are taken in another order. Labelled pixels
# counted by replica move weights by 1e-2. (JAX was seen to differ by 2e-7.)
TOLERANCE = {"tensorflow": 1e-9}.get(BACKEND, 1e-6)
# Without an uneven batch, which JAX refuses.
FEW = ["auto", "ohem", "dice", "lovasz per image", "of keras"]
FEW += ["by pixel", "global clipnorm", "regularized"]
UNEVEN = ["uneven", "uneven, regions", "uneven, of keras", "one left"]

pytestmark = pytest.mark.skipif(
    ENGINE is None, reason="torch has no engine in Keras 3.15"
)
on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="an engine of TensorFlow"
)


def start(path, engine, replicas, names, environment=None):
    return subprocess.Popen(
        [
            sys.executable,
            TESTS / "plain_training.py",
            path,
            engine,
            str(replicas),
            *names,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_ENABLE_X64": "1", **(environment or {})},
    )


def results(path, *processes):
    for process in processes:
        said = process.communicate(timeout=900)[0]
        assert process.returncode == 0, said[-3000:]
    return dict(np.load(path))


def assert_equal(several, one, logs=True):
    assert several.keys() == one.keys()
    for name, value in one.items():
        if "/log/" in name:
            # Figures are kept in float32.
            if logs:
                np.testing.assert_allclose(several[name], value, 1e-5, 0, name)
        else:
            np.testing.assert_allclose(
                several[name], value, 0, TOLERANCE, err_msg=name
            )


@pytest.mark.parametrize(
    "names, replicas",
    [
        pytest.param(["auto", "batch norm of keras"], 2, id="the default"),
        pytest.param([], 2, id="every case", marks=pytest.mark.slow),
        pytest.param(FEW, 4, id="four", marks=pytest.mark.slow),
    ],
)
def test_several_devices_end_with_the_weights_of_one(tmp_path, names, replicas):
    if BACKEND == "jax" and not names:
        names = json.loads(
            subprocess.check_output(
                [sys.executable, TESTS / "plain_training.py", "--names"],
                text=True,
            )
        )
        names = [name for name in names if name not in UNEVEN]
    one = start(tmp_path / "one.npz", "none", 1, names)
    several = start(tmp_path / "several.npz", ENGINE, replicas, names)
    assert_equal(
        results(tmp_path / "several.npz", several),
        results(tmp_path / "one.npz", one),
    )


@pytest.mark.slow
@on_tensorflow
def test_two_workers_end_with_the_weights_of_one(tmp_path):
    several = [
        start(tmp_path / "several.npz", "multiworker", 2, FEW, environment)
        for environment in environments(2)
    ]
    one = start(tmp_path / "one.npz", "none", 1, FEW)
    assert_equal(
        results(tmp_path / "several.npz", *several),
        results(tmp_path / "one.npz", one),
    )


REFUSALS = """
import keras
import numpy as np
import plain_training
import tiny
from keras_danet import SGD, PixelCrossentropy, Predictor, SegmentationMetrics

scope = plain_training.make_scope("mirrored", 2)
images, labels = plain_training.examples((4,))

def network():
    return plain_training.network(None, ())

def refused(words, model, **options):
    try:
        model.compile(**{"optimizer": "sgd", **options})
        model.fit(images, labels, batch_size=4, verbose=0)
    except ValueError as error:
        assert words in str(error), (words, error)
    else:
        raise AssertionError(words)

outside = network()
optimizer = keras.optimizers.SGD()
metric = SegmentationMetrics(3)
with scope():
    refused("built outside the current strategy", outside)
    inside = network()
    refused("SGD, made outside", inside, optimizer=optimizer)
    scaled = keras.optimizers.LossScaleOptimizer(optimizer)
    refused("SGD, made outside", inside, optimizer=scaled)
    refused("segmentation_metrics, made outside", inside, metrics=[metric])
    refused(
        "gradient_accumulation_steps=2",
        inside,
        optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2),
    )
    averaged = SGD(use_ema=True, ema_overwrite_frequency=2)
    refused("ema_overwrite_frequency=2", inside, optimizer=averaged)
    refused("steps_per_execution=2", inside, steps_per_execution=2)
    refused("XLA cannot compile", inside, jit_compile=True)
    refused("must give one number", inside,
            loss=PixelCrossentropy(reduction="none"))
# What `compile` makes belongs to the replicas of the model.
inside.compile(jit_compile="auto")
history = inside.fit(images, labels, batch_size=4, verbose=0).history
assert np.isfinite(history["loss"][0])
found = inside.test_on_batch(images, labels, return_dict=True)
expected = inside.evaluate(images, labels, 4, verbose=0, return_dict=True)
logits = inside.predict(images, verbose=0)[0]
np.testing.assert_allclose(Predictor(inside).logits(images[0]), logits, 1e-5)
np.testing.assert_allclose(
    [found[name] for name in expected], list(expected.values()), 1e-5)
try:
    labels[3, 5, 5] = 11  # Of the second replica.
    inside.fit(images, labels, batch_size=4, verbose=0)
except ValueError as error:
    assert str(error).startswith("Training: Label 11 is neither"), error
else:
    raise AssertionError("label 11")
# Last: TensorFlow's replicas do not meet again after it.
def fit_three(model):
    labels = images[:3, ..., 0] * 0
    model.fit(images[:3], labels, 2, shuffle=False, verbose=0)
    return np.concatenate([weight.ravel() for weight in model.get_weights()])

alone = tiny.danet()
alone.compile("sgd")
expected = fit_three(alone)
with scope():
    of_keras = tiny.danet()
    of_keras.compile("sgd")
try:
    found = fit_three(of_keras)
except ValueError as error:
    assert "fewer images than the strategy has replicas (2)" in str(error)
else:
    # Some processors' kernels compute it, and then it has to be right.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
print("all refused")
"""


@on_tensorflow
def test_what_is_made_outside_of_the_strategy_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", REFUSALS],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path_of_both()},
    )
    assert done.stdout == "all refused\n", done.stderr[-3000:]


ON_JAX = """
import keras
import numpy as np
import plain_training

plain_training.make_scope("data_parallel", 2)
placed = keras.distribution.distribution()
keras.distribution.set_distribution(None)
early = plain_training.network(None, ())
early.compile("sgd")
keras.distribution.set_distribution(placed)
model = plain_training.network(None, ())
model.compile("sgd")
images, labels = plain_training.examples((6,))
whole = model.get_weights()

def refused(words, method, *arguments, **options):
    if not method.endswith("_on_batch"):
        options["verbose"] = 0
    try:
        getattr(model, method)(*arguments, **options)
    except ValueError as error:
        assert words in str(error), (words, error)
    else:
        raise AssertionError((words, method))

three = "2 replicas of keras.distribution.DataParallel. Received: a batch of 3"
for method in ("fit", "evaluate"):
    refused(three, method, images, labels, batch_size=3)
    refused("Received: a batch of 1.", method, images[:5], labels[:5],
            batch_size=4, **({"shuffle": False} if method == "fit" else {}))
    if method == "fit":
        model.set_weights(whole)
refused(three, "predict", images[:3])
refused(three, "train_on_batch", images[:3], labels[:3])
refused(three, "test_on_batch", images[:3], labels[:3])
for before, after in zip(whole, model.get_weights(), strict=True):
    np.testing.assert_array_equal(before, after)
assert model.predict(images, 4, verbose=0).shape == (*labels.shape, 3)
labels[5, 5, 5] = 11  # Of the second device.
refused("Training: Label 11 is neither", "fit", images, labels, batch_size=6)
model = early
refused("built before DataParallel was set", "fit", images, labels)
print("all refused")
"""


@pytest.mark.skipif(BACKEND != "jax", reason="an engine of JAX")
def test_batches_that_do_not_divide_are_refused_and_cost_no_weights():
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "JAX_ENABLE_X64": "1",
            "PYTHONPATH": path_of_both(),
        },
    )
    assert done.stdout == "all refused\n", done.stderr[-3000:]


def path_of_both():
    return os.pathsep.join(
        [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    )
