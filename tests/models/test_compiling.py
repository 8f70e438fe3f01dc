"""What `compile` is given, in `DANet.fit`: losses, optimizers, precision."""

import keras
import numpy as np
import pytest
import references
import tiny

from keras_danet import SGD
from keras_danet import DANet
from keras_danet import PolySchedule
from keras_danet import freeze
from keras_danet import losses

BACKEND = keras.backend.backend()
JIT = {"jit_compile": False} if BACKEND == "tensorflow" else {}


def small(dtype="float32"):
    keras.utils.set_random_seed(0)
    backbone = tiny.backbone(64, dtype)
    model = DANet(3, backbone, dropout=0, dtype=dtype)
    model.get_layer("position_attention").gamma.assign(0.7)
    model.get_layer("channel_attention").gamma.assign(-0.6)
    return model


def example(count=2):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 40, 3)).astype("uint8")
    labels = rng.integers(0, 3, (count, 32, 40)).astype("uint8")
    labels[:, :9] = 255
    return images, labels


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def every_loss():
    weights = (1.0, 2.0, 0.5)
    return losses.SumOfLosses(
        [
            (1.0, losses.PixelCrossentropy(class_weights=weights)),
            (0.5, losses.OhemCrossentropy(0.7, 50)),
            (0.5, losses.FocalLoss()),
            (0.3, losses.DiceLoss()),
            (0.2, losses.LovaszSoftmax()),
            (0.1, losses.LovaszSoftmax(per_image=True)),
        ]
    )


def test_every_loss_trains_and_is_saved(tmp_path):
    model = small()
    images, labels = example()
    model.compile(SGD(0.01), every_loss(), **JIT)
    history = model.fit(images, labels, epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.evaluate(images, labels, verbose=0)
    got = loaded.evaluate(images, labels, verbose=0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="XLA on TensorFlow")
def test_every_loss_compiles_with_xla_and_unknown_shapes():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 9, 7, 3)).astype("float32")
    labels = rng.integers(0, 3, (2, 9, 7)).astype("uint8")
    labels[:, :2] = 255
    loss = every_loss()
    expected = float(loss(labels, logits))
    spec = [
        tf.TensorSpec((None, None, None), "uint8"),
        tf.TensorSpec((None, None, None, 3), "float32"),
    ]
    for options in (
        {"jit_compile": True},
        {"input_signature": spec},
        {"input_signature": spec, "jit_compile": True},
    ):
        compiled = tf.function(lambda y, x: loss(y, x), **options)
        got = float(compiled(tf.constant(labels), tf.constant(logits)))
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_accumulated_batches_train_as_one_large_batch():
    images, labels = example(4)
    trained = []
    for batch_size, steps in ((2, 2), (4, None)):
        # Batch norms have statistics of a batch.
        model = freeze(small(), "batch_norm")
        optimizer = SGD(
            PolySchedule(0.01, 3),
            weight_decay=1e-3,
            multipliers=model.head_multipliers(),
            global_clipnorm=1.0,
            gradient_accumulation_steps=steps,
        )
        model.compile(optimizer, metrics=[], **JIT)
        model.fit(
            images, labels, batch_size, epochs=3, shuffle=False, verbose=0
        )
        assert int(optimizer.iterations) == 3
        trained.append(values(model.trainable_variables))
    start = values(freeze(small(), "batch_norm").trainable_variables)
    assert any(
        np.abs(a - b).max() > 1e-3
        for a, b in zip(trained[0], start, strict=True)
    )
    for a, b in zip(*trained, strict=True):
        # Sums of another order, through three steps.
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


class Weights(keras.callbacks.Callback):
    """Keeps the trained weights as each validation begins and ends."""

    def __init__(self):
        super().__init__()
        self.at_begin, self.at_end = [], []

    def on_test_begin(self, logs=None):
        self.at_begin.append(values(self.model.trainable_variables))

    def on_test_end(self, logs=None):
        self.at_end.append(values(self.model.trainable_variables))


def test_validation_has_the_moving_average():
    model = small()
    images, labels = example()
    model.compile(SGD(0.05, use_ema=True, ema_momentum=0.8), **JIT)
    before, after = Weights(), Weights()
    model.fit(
        images,
        labels,
        epochs=3,
        validation_data=(images, labels),
        callbacks=[before, keras.callbacks.SwapEMAWeights(), after],
        verbose=0,
    )
    average = before.at_begin[0]
    for trained, validated, back in zip(
        before.at_begin, after.at_begin, after.at_end, strict=True
    ):
        average = [
            0.8 * a + 0.2 * w for a, w in zip(average, trained, strict=True)
        ]
        for a, v in zip(average, validated, strict=True):
            np.testing.assert_allclose(v, a, rtol=1e-4, atol=1e-6)
        for w, b in zip(trained, back, strict=True):
            np.testing.assert_allclose(b, w, rtol=1e-5, atol=1e-6)
    # They do differ, and end as the average.
    assert np.abs(before.at_begin[-1][0] - average[0]).max() > 1e-4
    for v, a in zip(values(model.trainable_variables), average, strict=True):
        np.testing.assert_allclose(v, a, rtol=1e-4, atol=1e-6)


def test_float16_scales_its_loss_and_passes_over_infinite_gradients(tmp_path):
    model = small("mixed_float16")
    images, labels = example()
    optimizer = keras.optimizers.LossScaleOptimizer(
        SGD(PolySchedule(0.01, 9), weight_decay=1e-3), initial_scale=2.0**40
    )
    model.compile(optimizer, **JIT)
    before = values(model.trainable_variables)
    model.fit(images, labels, verbose=0)
    assert int(optimizer.iterations) == 0
    assert float(optimizer.dynamic_scale) == 2.0**39
    for a, b in zip(before, values(model.trainable_variables), strict=True):
        np.testing.assert_array_equal(a, b)
    optimizer.dynamic_scale.assign(2.0**6)
    model.fit(images, labels, verbose=0)
    assert int(optimizer.iterations) == 1
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(before, values(model.trainable_variables), strict=True)
    ]
    assert sum(moved) > 0.8 * len(moved)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").optimizer
    assert int(loaded.iterations) == 1
    assert type(loaded.inner_optimizer) is SGD


def test_float16_gets_loss_scaling_by_itself():
    model = small("mixed_float16")
    model.compile()
    assert type(model.optimizer) is keras.optimizers.LossScaleOptimizer
    model = small("mixed_bfloat16")
    model.compile()
    assert type(model.optimizer) is SGD


def test_bfloat16_trains_as_float32_does():
    images, labels = example()
    histories = []
    for dtype in ("mixed_bfloat16", "float32"):
        model = small(dtype)
        multipliers = model.head_multipliers(20.0)
        model.compile(SGD(0.02, multipliers=multipliers), **JIT)
        fitted = model.fit(images, labels, epochs=3, verbose=0)
        histories.append(fitted.history["loss"])
    narrow, wide = histories
    fallen = wide[0] - wide[-1]
    assert fallen > 0.005
    np.testing.assert_allclose(narrow, wide, atol=fallen / 4)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
    ],
)
def test_keras_crossentropy_by_name_takes_logits(loss):
    model = tiny.danet(3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 32, 48, 3)).astype("uint8")
    labels = rng.integers(0, 3, (1, 32, 48)).astype("uint8")
    output = model(images, training=True)["fusion"]
    logits = keras.ops.convert_to_numpy(output)
    expected = references.pixel_crossentropy(labels, logits)
    before = keras.ops.convert_to_numpy(model.trainable_weights[0])
    model.compile(loss=loss)
    # One image: torch's gradient of probabilities fails.
    received = model.fit(images, labels, batch_size=1, verbose=0).history
    assert received["loss"][0] == pytest.approx(expected, rel=1e-5)
    after = keras.ops.convert_to_numpy(model.trainable_weights[0])
    assert np.abs(after - before).max() > 0


@pytest.mark.parametrize(
    "loss",
    [
        "SparseCategoricalCrossentropy",
        keras.losses.SparseCategoricalCrossentropy(ignore_class=255),
    ],
)
def test_losses_of_probabilities_are_refused(loss):
    model = tiny.danet(3)
    with pytest.raises(ValueError, match="from_logits=True"):
        model.compile(loss=loss)
