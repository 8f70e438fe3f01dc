import subprocess
import sys

import keras
import numpy as np
import pytest
import references
from conftest import x64
from layer_contract import to_numpy
from layer_contract import value_and_gradients

from keras_danet.losses import DiceLoss
from keras_danet.losses import LovaszSoftmax
from keras_danet.losses import PixelCrossentropy
from keras_danet.losses import SumOfLosses


def example(seed=0):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((2, 5, 7, 5)).astype("float32")
    # Class 4 is absent everywhere, class 3 from the second image.
    labels = rng.integers(0, 4, (2, 5, 7)).astype("uint8")
    labels[1][labels[1] == 3] = 0
    labels[rng.random(labels.shape) < 0.3] = 255
    return labels, logits


def per_image(reference):
    def mean(labels, logits, **keywords):
        labelled = [i for i in range(len(labels)) if (labels[i] != 255).any()]
        return np.mean(
            [
                reference(labels[i : i + 1], logits[i : i + 1], **keywords)
                for i in labelled
            ]
        )

    return mean


def dice(labels, logits, only_present=True):
    return references.dice_loss(labels, logits, 2.0, only_present)


CASES = {
    "dice": (lambda **k: DiceLoss(2.0, **k), dice),
    "lovasz": (LovaszSoftmax, references.lovasz_softmax),
    "lovasz per image": (
        lambda **k: LovaszSoftmax(per_image=True, **k),
        per_image(references.lovasz_softmax),
    ),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_the_reference(case, classes, compiled):
    make, reference = CASES[case]
    labels, logits = example()
    loss = make(classes=classes)
    value, (gradient,) = value_and_gradients(
        lambda x: loss(labels, x), [logits], np.float32(1), compiled
    )
    options = {"only_present": classes == "present"}
    expected = reference(labels, logits, **options)
    np.testing.assert_allclose(float(value), expected, rtol=1e-5)
    for seed in range(3):
        step = np.random.default_rng(seed).standard_normal(logits.shape)
        # In float64, and too short to change an order of errors.
        up, down = (
            reference(labels, logits + h * step, **options)
            for h in (1e-6, -1e-6)
        )
        slope = (to_numpy(gradient) * step).sum()
        np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=2e-4)
    ignored = np.abs(to_numpy(gradient)).max(axis=-1)[labels == 255]
    assert ignored.size and not ignored.any()


@pytest.mark.parametrize("case", CASES)
def test_float64_keeps_its_digits(case):
    make, reference = CASES[case]
    labels, logits = example()
    with x64():
        logits = logits.astype("float64")
        value = make(classes="present")(labels, logits)
        assert keras.backend.standardize_dtype(value.dtype) == "float64"
        expected = reference(labels, logits, only_present=True)
        np.testing.assert_allclose(float(value), expected, rtol=1e-12)


def test_lovasz_of_sure_predictions_is_one_minus_iou():
    labels = np.array([[[0, 0, 0, 1, 1, 255]]], "uint8")
    predicted = np.array([[[0, 0, 1, 1, 1, 0]]])
    logits = 200 * np.eye(2, dtype="float32")[predicted]
    # IoUs 2 / 3 and 2 / 3.
    value = float(LovaszSoftmax()(labels, logits))
    np.testing.assert_allclose(value, 1 / 3, rtol=1e-6)


def test_lovasz_is_exact_on_a_million_pixels():
    # Every second pixel is wrong by the same amount: the growths add up to
    # the Jaccard loss whatever their order.
    labels = np.zeros((1, 1000, 1000), "uint8")
    labels[:, ::2] = 1
    logits = np.zeros((1, 1000, 1000, 2), "float32")
    value = float(LovaszSoftmax()(labels, logits))
    np.testing.assert_allclose(value, 0.5, rtol=1e-5)


def test_lovasz_per_image_passes_over_unlabelled_images():
    labels, logits = example()
    labels[1] = 255
    loss = LovaszSoftmax(per_image=True)
    np.testing.assert_allclose(
        float(loss(labels, logits)),
        float(loss(labels[:1], logits[:1])),
        rtol=1e-6,
    )


LOSSES = [DiceLoss(), DiceLoss(0.0, "all"), LovaszSoftmax()]
LOSSES += [LovaszSoftmax("all"), LovaszSoftmax(per_image=True)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
class TestEveryRegionLoss:
    def test_nothing_labelled_gives_zero(self, loss):
        _, logits = example()
        labels = np.full((2, 5, 7), 255, "uint8")
        value, (gradient,) = value_and_gradients(
            lambda x: loss(labels, x), [logits], np.float32(1)
        )
        assert float(value) == 0 and not to_numpy(gradient).any()

    @pytest.mark.parametrize("value", [5, 200, -1])
    def test_what_is_no_class_gives_nan(self, loss, value):
        labels, logits = example()
        labels = labels.astype("int32")
        labels[1, 2, 3] = value
        assert np.isnan(float(loss(labels, logits)))
        labels[:] = 255
        labels[1, 2, 3] = value
        assert np.isnan(float(loss(labels, logits)))

    def test_half_precision_is_computed_in_float32(self, loss):
        labels, logits = example()
        half = keras.ops.cast(keras.ops.convert_to_tensor(logits), "float16")
        value = loss(labels, half)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        rounded = keras.ops.convert_to_numpy(half).astype("float32")
        assert float(value) == float(loss(labels, rounded))

    def test_none_gives_parts_whose_mean_is_the_loss(self, loss):
        labels, logits = example()
        config = {**loss.get_config(), "reduction": "none"}
        parts = to_numpy(type(loss).from_config(config)(labels, logits))
        assert parts.shape in ((5,), (2,))
        np.testing.assert_allclose(
            parts.mean(), float(loss(labels, logits)), rtol=1e-5
        )

    def test_sample_weights_are_refused(self, loss):
        labels, logits = example()
        with pytest.raises(ValueError, match="takes no sample weights"):
            loss(labels, logits, np.ones(2))

    def test_config_goes_round(self, loss):
        copy = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(loss)
        )
        assert copy.get_config() == loss.get_config()
        assert copy.classes == loss.classes


def test_replicas_share_what_dice_adds_up():
    labels, logits = example()
    sums = []

    def remember(total):
        sums.append(total)
        return total

    halves = [(labels[:1], logits[:1]), (labels[1:], logits[1:])]
    for half in halves:
        DiceLoss(reducer=remember)(*half)
    whole = float(DiceLoss()(labels, logits))
    for half in halves:
        given = DiceLoss(reducer=lambda total: sums[0] + sums[1])(*half)
        np.testing.assert_allclose(float(given), whole, rtol=1e-6)


def test_lovasz_over_a_batch_on_several_replicas_is_refused():
    with pytest.raises(ValueError, match="per_image=True"):
        LovaszSoftmax(reducer=lambda total: total)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DiceLoss(smooth=-1), "0 or more"),
        (lambda: DiceLoss(classes="some"), "must be one of"),
        (lambda: LovaszSoftmax(per_image=1), "a boolean"),
        (lambda: SumOfLosses([]), "pairs of a number and a loss"),
        (lambda: SumOfLosses([("1", DiceLoss())]), "pairs of a number"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_sum_of_losses_is_one():
    labels, logits = example()
    loss = SumOfLosses([(1.0, PixelCrossentropy()), (0.5, LovaszSoftmax())])
    expected = references.pixel_crossentropy(labels, logits)
    expected += 0.5 * references.lovasz_softmax(labels, logits)
    np.testing.assert_allclose(float(loss(labels, logits)), expected, rtol=1e-5)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(loss)
    )
    assert copy.get_config() == loss.get_config()
    np.testing.assert_allclose(float(copy(labels, logits)), expected, rtol=1e-5)


REPLICAS = """
import sys
import numpy as np
import tensorflow as tf
import keras
from keras_danet import SGD, losses

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
images = rng.standard_normal((4, 5, 6, 3)).astype("float32")
labels = rng.integers(0, 3, (4, 5, 6)).astype("uint8")
labels[:2, 1:] = 255  # the first device's, nearly all

def total(x):
    context = tf.distribute.get_replica_context()
    if context is None:  # Keras looks at the shapes before it starts.
        return x
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)

def train(make, reducer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 6, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs))
    model.compile(SGD(0.5), make(reducer), jit_compile=False)
    logs = model.fit(images, labels, 4, epochs=3, shuffle=False, verbose=0)
    return model.get_weights(), logs.history["loss"]

weights = (1.0, 2.0, 0.5)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for make in (
    lambda r: losses.PixelCrossentropy(
        reducer=r, class_weights=weights, label_smoothing=0.1),
    lambda r: losses.OhemCrossentropy(min_kept=4, reducer=r),
    lambda r: losses.FocalLoss(reducer=r, class_weights=weights),
    lambda r: losses.DiceLoss(reducer=r),
    lambda r: losses.LovaszSoftmax(per_image=True, reducer=r),
):
    one, one_loss = train(make, None)
    with strategy.scope():
        two, two_loss = train(make, total)
    for a, b in zip(one, two):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one_loss, two_loss, rtol=1e-5)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="replicas are TensorFlow's; JAX shows a loss the global batch",
)
def test_two_replicas_end_with_the_weights_of_one():
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS], capture_output=True, text=True
    )
    assert done.stdout == "equal\n", done.stderr[-3000:]
