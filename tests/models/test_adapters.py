"""LoRA on a network's convolutions: what copies, files and names make of it."""

import keras
import numpy as np
import pytest

import keras_danet

IMAGES = np.random.default_rng(0).uniform(0, 255, (1, 24, 32, 3))
IMAGES = IMAGES.astype("float32")


@pytest.fixture(scope="module")
def model():
    """A DANet with adapters that change what it computes."""
    made = keras_danet.DANet(
        5, backbone=keras_danet.DilatedResNet(18, filters=8)
    )
    for kind in ("position", "channel"):
        made.get_layer(f"{kind}_attention").gamma.assign(0.7)
    attention = made.get_layer("position_attention")
    # Not by `predict`: what TensorFlow has traced knows no later adapter.
    plain = eager_logits(made)
    rng = np.random.default_rng(1)
    for layer in (
        attention.query,
        attention.value,
        made.get_layer("fusion_classifier"),
        made.get_layer("resnet18").get_layer("stage2_block0_conv1"),
    ):
        layer.enable_lora(2)
        shape = layer.lora_kernel_b.shape
        layer.lora_kernel_b.assign(rng.normal(size=shape))
    assert np.abs(eager_logits(made) - plain).max() > 0.1 * plain.std()
    return made


def eager_logits(model):
    return keras.ops.convert_to_numpy(model(IMAGES, training=False))


def logits(model):
    return model.predict(IMAGES, verbose=0)


def assert_same(one, other, tolerance=1e-4):
    expected = logits(one)
    error = np.abs(logits(other) - expected).max()
    # Sums of other orders round otherwise; a lost adapter is 0.1 and more.
    assert error <= tolerance * expected.std()


def num_weights(model):
    return len(model.weights), len(model.trainable_weights)


def test_the_sum_is_what_is_optimized(model):
    fast = keras_danet.optimize_for_inference(model)
    assert_same(model, fast)
    assert not any("lora" in v.path for v in fast.weights)
    assert fast.trainable_weights == []
    with pytest.raises(ValueError, match="for prediction"):
        fast.fit(IMAGES)


def test_the_sum_is_what_tensors_hold(model):
    tensors = model.to_state_dict()
    layer = model.get_layer("position_attention").query
    kernel, a, b = (
        keras.ops.convert_to_numpy(v)
        for v in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b)
    )
    np.testing.assert_allclose(
        tensors["head.sa.query_conv.weight"][:, :, 0, 0],
        (kernel + a @ b)[0, 0].T,
        rtol=1e-5,
        atol=1e-6,
    )
    again = keras_danet.DANet.from_checkpoint(
        tensors, multi_grid=(), align_corners=True
    )
    assert_same(model, again)


def test_from_model_carries_them(model):
    again = keras_danet.DANet.from_model(model, dropout=0.0)
    assert_same(model, again)
    assert num_weights(again) == num_weights(model)


def test_a_preset_holds_the_sum(model, tmp_path):
    model.save_to_preset(tmp_path / "preset")
    again = keras_danet.DANet.from_preset(tmp_path / "preset")
    assert_same(model, again)
    assert not any("lora" in v.path for v in again.weights)


def test_a_file_keeps_them_and_they_can_learn(model, tmp_path):
    model.save(tmp_path / "danet.keras")
    again = keras.saving.load_model(tmp_path / "danet.keras")
    assert_same(model, again)
    assert num_weights(again) == num_weights(model)
    # Of two zeros neither would have a gradient.
    factor = again.get_layer("fusion_classifier").lora_kernel_a
    assert np.abs(keras.ops.convert_to_numpy(factor)).max() > 0


def test_unfreeze_trains_the_adapters_and_no_kernel_below(model):
    before = num_weights(model)
    keras_danet.freeze(model, "backbone")
    keras_danet.unfreeze(model)
    assert num_weights(model) == before


def test_weights_that_no_configuration_tells_are_named():
    @keras.saving.register_keras_serializable(package="test")
    class Scaled(keras.layers.Layer):
        def build(self, input_shape):
            for index in range(getattr(self, "count", 1)):
                self.add_weight(name=f"scale{index}", initializer="ones")

        def call(self, inputs):
            return inputs

    layer = Scaled(name="mine")
    layer.count = 2
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, layer(inputs))
    with pytest.raises(ValueError, match="'mine' .* get_config"):
        keras_danet.optimize_for_inference(network)
