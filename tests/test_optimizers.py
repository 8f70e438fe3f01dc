import keras
import numpy as np

from keras_danet import SGD


def test_steps_equal_the_coupled_formula():
    rng = np.random.default_rng(0)
    start = rng.standard_normal((3, 4)).astype("float32")
    gradients = rng.standard_normal((6, 3, 4)).astype("float32")
    rates = keras.optimizers.schedules.PolynomialDecay(
        0.3, 6, end_learning_rate=0.0, power=0.9
    )
    weight = keras.Variable(start)
    optimizer = SGD(rates, momentum=0.9, weight_decay=0.05)
    expected, velocity = start.astype("float64"), 0.0
    for step, gradient in enumerate(gradients):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
        rate = 0.3 * (1 - step / 6) ** 0.9
        velocity = 0.9 * velocity + gradient + 0.05 * expected
        expected = expected - rate * velocity
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(weight), expected, rtol=1e-5, atol=1e-6
        )


def test_weight_decay_is_coupled():
    # Without gradients, 20 steps of PyTorch's SGD with lr 0.1, momentum 0.9
    # and decay 0.1 leave 0.118 of a weight; Keras's own leaves 0.818.
    weight = keras.Variable(np.ones(1, "float32"))
    optimizer = SGD(0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(20):
        optimizer.apply([keras.ops.zeros(1)], [weight])
    left, velocity = 1.0, 0.0
    for _ in range(20):
        velocity = 0.9 * velocity + 0.1 * left
        left -= 0.1 * velocity
    got = keras.ops.convert_to_numpy(weight)[0]
    np.testing.assert_allclose(got, left, rtol=1e-5)


def test_config_goes_round():
    optimizer = SGD(0.2, momentum=0.8, weight_decay=0.01, clipnorm=1.0)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(optimizer)
    )
    assert copy.get_config() == optimizer.get_config()
    assert copy.coupled_weight_decay == 0.01
