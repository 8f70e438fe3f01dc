"""Labels and weights whose shape a TensorFlow function does not know."""

import keras
import numpy as np
import pytest
import tiny

from keras_danet.losses import DiceLoss
from keras_danet.losses import FocalLoss
from keras_danet.losses import LovaszSoftmax
from keras_danet.losses import OhemCrossentropy
from keras_danet.losses import PixelCrossentropy
from keras_danet.losses import SumOfLosses

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="other backends know every shape",
)

MEANS = [
    PixelCrossentropy(),
    OhemCrossentropy(min_kept=3),
    FocalLoss(),
    SumOfLosses([(1.0, PixelCrossentropy()), (0.5, FocalLoss())]),
]


def example():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 5, 7, 3)).astype("float32")
    labels = rng.integers(0, 3, (2, 5, 7)).astype("uint8")
    labels[0, 1:3] = 255
    return labels, logits, rng.uniform(0.5, 2, (2, 5, 7)).astype("float32")


def unknown(loss):
    """The loss as a function that knows no rank, and no size of the logits."""
    import tensorflow as tf

    @tf.function(
        input_signature=[
            tf.TensorSpec(None, tf.uint8),
            tf.TensorSpec((None, None, None, 3), tf.float32),
            tf.TensorSpec(None, tf.float32),
        ]
    )
    def call(labels, logits, weights):
        return loss(labels, logits, weights)

    return call


@pytest.mark.parametrize("loss", MEANS, ids=lambda loss: loss.name)
def test_weights_by_image_then_by_pixel(loss):
    labels, logits, weights = example()
    call = unknown(loss)
    for given in (weights[:, 0, 0], weights, weights[..., None]):
        for its_labels in (labels, labels[..., None]):
            value = float(call(its_labels, logits, given))
            expected = float(loss(labels, logits, given))
            assert value == pytest.approx(expected, rel=1e-6)
    # As many images as rows: they are the images' nevertheless.
    square = (slice(None), slice(2), slice(2))
    given = labels[square], logits[square], weights[:, 0, 0]
    assert float(call(*given)) == pytest.approx(float(loss(*given)), rel=1e-6)


def test_weights_that_do_not_fit_are_refused():
    import tensorflow as tf

    labels, logits, weights = example()
    call = unknown(PixelCrossentropy())
    for wrong in (weights[:, 0], weights[:, :, :3], weights[:1]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            call(labels, logits, wrong)
    with pytest.raises(tf.errors.InvalidArgumentError):
        call(labels[:, :3], logits, weights)


@pytest.mark.parametrize(
    "loss", [DiceLoss(), LovaszSoftmax(), LovaszSoftmax(per_image=True)]
)
def test_labels_of_regions(loss):
    import tensorflow as tf

    labels, logits, _ = example()
    call = tf.function(
        lambda labels, logits: loss(labels, logits),
        input_signature=[
            tf.TensorSpec(None, tf.uint8),
            tf.TensorSpec((None, None, None, 3), tf.float32),
        ],
    )
    for given in (labels, labels[..., None]):
        value = float(call(given, logits))
        assert value == pytest.approx(float(loss(labels, logits)), rel=1e-6)


def test_a_pipeline_of_numpy_functions_trains():
    import tensorflow as tf

    from keras_danet import SGD

    images = np.random.default_rng(0).integers(0, 256, (4, 32, 40, 3))
    labels = np.random.default_rng(1).integers(0, 3, (4, 32, 40))

    def train(pipeline, by_pixel, **compiled):
        model = tiny.danet(3, ("position", "channel"))
        weights = np.array([0.5, 2.0, 0.0, 1.0], "float32")
        if by_pixel:
            weights = np.tile(weights[:, None, None], (1, 32, 40))
        data = tf.data.Dataset.from_tensor_slices(
            (images.astype("float32"), labels.astype("uint8"), weights)
        ).batch(2)
        if pipeline:
            types = tf.float32, tf.uint8, tf.float32
            data = data.map(
                lambda *batch: tf.numpy_function(lambda *x: x, batch, types)
            ).map(lambda x, *rest: (tf.ensure_shape(x, (2, 32, 40, 3)), *rest))
        compiled = compiled or {"metrics": None}
        model.compile(SGD(0.01), **compiled, jit_compile=False)
        logs = model.fit(data, shuffle=False, verbose=0).history
        return [logs[name][0] for name in sorted(logs)]

    expected = train(False, False)
    assert train(True, False) == pytest.approx(expected, rel=1e-5)
    assert train(True, True) == pytest.approx(expected, rel=1e-5)
    # Keras's own ask for a rank.
    of_keras = {
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        "weighted_metrics": ["sparse_categorical_crossentropy"],
    }
    expected = train(False, True, **of_keras)
    assert len(expected) == 3
    assert train(True, True, **of_keras) == pytest.approx(expected, rel=1e-5)
