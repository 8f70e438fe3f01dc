import keras
import numpy as np
import pytest
import references
from conftest import x64
from layer_contract import to_numpy
from layer_contract import value_and_gradients

from keras_danet.losses import FocalLoss
from keras_danet.losses import OhemCrossentropy
from keras_danet.losses import PixelCrossentropy

WEIGHTS = (0.5, 2.0, 0.0, 1.3)


def example(seed=0, ignored=0.3):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((2, 5, 7, 4)).astype("float32")
    labels = rng.integers(0, 4, (2, 5, 7)).astype("uint8")
    labels[rng.random(labels.shape) < ignored] = 255
    return labels, logits


def loss_and_gradient(loss, labels, logits, compiled=False):
    value, (gradient,) = value_and_gradients(
        lambda x: loss(labels, x), [logits], np.float32(1), compiled
    )
    return float(to_numpy(value)), to_numpy(gradient)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weights_and_smoothing_are_those_of_torch(weights, smoothing, compiled):
    torch = pytest.importorskip("torch")
    labels, logits = example()
    there = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        torch.movedim(there, -1, 1),
        torch.tensor(labels.astype("int64")),
        weight=weights and torch.tensor(weights, dtype=torch.float64),
        ignore_index=255,
        label_smoothing=smoothing,
    )
    expected.backward()
    loss = PixelCrossentropy(class_weights=weights, label_smoothing=smoothing)
    value, gradient = loss_and_gradient(loss, labels, logits, compiled)
    np.testing.assert_allclose(value, float(expected.detach()), rtol=1e-5)
    np.testing.assert_allclose(gradient, there.grad, rtol=1e-4, atol=1e-7)


def test_weights_and_smoothing_keep_the_digits_of_float64():
    labels, logits = example()
    logits = logits.astype("float64")
    weights = np.array(WEIGHTS)
    logs = np.log(references.softmax(logits))
    targets = 0.9 * np.eye(4)[labels % 4] + 0.1 / 4
    kept = labels != 255
    expected = -(targets * weights * logs).sum(-1)[kept].sum()
    expected /= weights[labels % 4][kept].sum()
    with x64():
        loss = PixelCrossentropy(class_weights=WEIGHTS, label_smoothing=0.1)
        value = loss(labels, logits)
        assert keras.backend.standardize_dtype(value.dtype) == "float64"
        np.testing.assert_allclose(float(value), expected, rtol=1e-12)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("threshold, min_kept", [(0.7, 0), (0.05, 9), (0.4, 9)])
def test_ohem_keeps_the_hard_pixels(threshold, min_kept, weights, compiled):
    labels, logits = example(1)
    expected = references.ohem_crossentropy(
        labels, logits, threshold, min_kept, weights
    )
    everything = references.ohem_crossentropy(labels, logits, 1.1, 0, weights)
    assert abs(expected - everything) > 0.1
    loss = OhemCrossentropy(threshold, min_kept, weights)
    value, gradient = loss_and_gradient(loss, labels, logits, compiled)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    # Easy pixels have no gradient, and there are some of both.
    moved = np.abs(gradient).max(axis=-1) > 0
    assert 0 < moved.sum() < (labels != 255).sum()


def test_ohem_keeps_min_kept_of_each_image():
    # One easy image, one hard: each keeps its three hardest pixels.
    logits = np.zeros((2, 2, 4, 2), "float32")
    logits[..., 0] = np.linspace(2, 5, 16).reshape(2, 2, 4)
    labels = np.zeros((2, 2, 4), "uint8")
    labels[1, 1] = 255
    _, gradient = loss_and_gradient(OhemCrossentropy(0.5, 3), labels, logits)
    moved = np.abs(gradient).max(axis=-1).reshape(2, 8) > 0
    first = [True] * 3 + [False] * 5
    np.testing.assert_array_equal(moved, [first, first])
    # Fewer labelled pixels than asked for are all kept.
    _, gradient = loss_and_gradient(OhemCrossentropy(0.5, 6), labels, logits)
    assert (np.abs(gradient).max(axis=-1) > 0).sum() == 6 + 4
    # An image smaller than asked for is kept whole.
    value, _ = loss_and_gradient(OhemCrossentropy(0.5, 99), labels, logits)
    expected = references.pixel_crossentropy(labels, logits)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_equals_its_formula(gamma, compiled):
    labels, logits = example(2)
    weights = (0.5, 2.0, 0.1, 1.3)
    loss = FocalLoss(gamma, weights)
    value, gradient = loss_and_gradient(loss, labels, logits, compiled)
    expected = references.focal_loss(labels, logits, gamma, weights)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    step = np.random.default_rng(0).standard_normal(logits.shape)
    up, down = (
        references.focal_loss(labels, logits + h * step, gamma, weights)
        for h in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(
        (gradient * step).sum(), (up - down) / 2e-5, rtol=1e-4
    )


def test_focal_loss_of_gamma_0_is_crossentropy():
    labels, logits = example()
    np.testing.assert_allclose(
        float(FocalLoss(0, WEIGHTS)(labels, logits)),
        float(PixelCrossentropy(class_weights=WEIGHTS)(labels, logits)),
        rtol=1e-6,
    )


def test_focal_loss_of_certain_pixels_has_a_finite_gradient():
    logits = np.array([[[[60.0, -60.0], [-60.0, 60.0]]]], "float32")
    labels = np.array([[[0, 0]]], "uint8")
    value, gradient = loss_and_gradient(FocalLoss(0.5), labels, logits)
    np.testing.assert_allclose(value, 60, rtol=1e-5)  # the mean of 0 and 120
    np.testing.assert_allclose(gradient[0, 0, 0], 0, atol=1e-6)
    np.testing.assert_allclose(gradient[0, 0, 1], [-0.5, 0.5], rtol=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        PixelCrossentropy(class_weights=WEIGHTS, label_smoothing=0.1),
        OhemCrossentropy(0.7, 3, WEIGHTS),
        FocalLoss(2.0, WEIGHTS),
    ],
    ids=lambda loss: loss.name,
)
class TestEveryMean:
    def test_nothing_labelled_gives_zero(self, loss):
        _, logits = example()
        labels = np.full((2, 5, 7), 255, "uint8")
        value, gradient = loss_and_gradient(loss, labels, logits)
        assert value == 0 and not gradient.any()

    def test_no_weight_gives_zero(self, loss):
        _, logits = example()
        assert float(loss(np.full((2, 5, 7), 2), logits)) == 0

    @pytest.mark.parametrize("value", [4, 200, -1])
    def test_what_is_no_class_gives_nan(self, loss, value):
        labels, logits = example()
        labels = labels.astype("int32")
        labels[1, 2, 3] = value
        assert np.isnan(float(loss(labels, logits)))

    def test_half_precision_is_computed_in_float32(self, loss):
        labels, logits = example()
        half = keras.ops.cast(keras.ops.convert_to_tensor(logits), "float16")
        value = loss(labels, half)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        rounded = keras.ops.convert_to_numpy(half).astype("float32")
        assert float(value) == float(loss(labels, rounded))

    def test_sample_weights_weigh_the_sum(self, loss):
        labels, logits = example()
        whole = float(loss(labels, logits))
        twice = float(loss(labels, logits, np.array([2.0, 2.0])))
        np.testing.assert_allclose(twice, 2 * whole, rtol=1e-6)
        first, second = (
            float(loss(labels, logits, np.array(weights)))
            for weights in ([1.0, 0.0], [0.0, 1.0])
        )
        np.testing.assert_allclose(first + second, whole, rtol=1e-5)
        assert abs(first - second) > 1e-3

    def test_none_gives_a_map_whose_mean_is_the_loss(self, loss):
        labels, logits = example()
        config = {**loss.get_config(), "reduction": "none"}
        pixels = to_numpy(type(loss).from_config(config)(labels, logits))
        assert pixels.shape == labels.shape
        np.testing.assert_allclose(
            pixels.mean(), float(loss(labels, logits)), rtol=1e-5
        )

    def test_replicas_share_the_divisor(self, loss):
        labels, logits = example()
        labels[0, :4] = 255
        halves = [(labels[:1], logits[:1]), (labels[1:], logits[1:])]
        totals = [[], []]
        for half, its_totals in zip(halves, totals, strict=True):

            def remember(total, its_totals=its_totals):
                its_totals.append(total)
                return total

            type(loss)(**loss.get_config(), reducer=remember)(*half)
        sums = [a + b for a, b in zip(*totals, strict=True)]
        values = []
        for half in halves:
            answers = iter(sums)
            shared = type(loss)(
                **loss.get_config(),
                reducer=lambda _, answers=answers: next(answers),
            )
            values.append(float(shared(*half)))
        whole = float(loss(labels, logits))
        np.testing.assert_allclose(np.mean(values), whole, rtol=1e-5)
        assert abs(values[0] - values[1]) > 1e-3

    def test_config_goes_round(self, loss):
        copy = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(loss)
        )
        assert copy.get_config() == loss.get_config()
        assert copy.class_weights == WEIGHTS

    def test_config_holds_a_given_dtype_only(self, loss):
        assert "dtype" not in loss.get_config()
        config = {**loss.get_config(), "dtype": "float32"}
        assert type(loss)(**config).get_config() == config

    def test_weights_must_fit_the_classes(self, loss):
        labels, logits = example()
        with pytest.raises(ValueError, match="4 weights and the logits 3"):
            loss(labels, logits[..., :3])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PixelCrossentropy(class_weights=3), "one number per class"),
        (lambda: PixelCrossentropy(class_weights=(1, -1)), "0 or more"),
        (lambda: FocalLoss(class_weights=(1, np.nan)), "0 or more"),
        (lambda: PixelCrossentropy(class_weights=(0, 0)), "not all 0"),
        (lambda: PixelCrossentropy(label_smoothing=1), r"\[0, 1\)"),
        (lambda: OhemCrossentropy(threshold=0), r"\(0, 1\]"),
        (lambda: OhemCrossentropy(min_kept=0.5), "a number of pixels"),
        (lambda: FocalLoss(gamma=-1), "0 or more"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
