import weakref

import keras
import numpy as np

from keras_danet.models.functional import FunctionalModel


class Witness(keras.layers.Layer):
    """Counts the outputs of its kind that are alive when it is called."""

    alive = ()
    most = 0

    def call(self, inputs):
        output = inputs + 1.0
        Witness.alive = [r for r in Witness.alive if r() is not None]
        Witness.alive.append(weakref.ref(output))
        Witness.most = max(Witness.most, len(Witness.alive))
        return output


def chain(model_class, length=9):
    """x + 1, + 1, ..., with the third layer's output read at the end too."""
    inputs = x = keras.Input((2,))
    for index in range(length):
        x = Witness(name=f"step{index}")(x)
        if index == 2:
            third = x
    return model_class(inputs, {"sum": keras.layers.Add()([x, third])})


def most_alive(model):
    Witness.alive, Witness.most = [], 0
    output = model(keras.ops.ones((1, 2)), training=False)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(output["sum"]), [[14.0, 14.0]]
    )
    return Witness.most


def test_tensors_go_after_their_last_reader():
    # The one being made, the one that it is made of, and the third.
    assert most_alive(chain(FunctionalModel)) == 3
    # What is mended: were it mended in Keras, the class could go.
    assert most_alive(chain(keras.Model)) == 9


def test_nested_shared_and_inner_outputs():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    first = shared(inputs)
    inner = FunctionalModel(
        inputs, {"first": first, "second": shared(first)}, name="inner"
    )
    images = keras.Input((4,))
    inside = inner(images)
    outputs = [inside["second"], inside["first"] + images, images]
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    expected = keras.Model(images, outputs)(x)
    for ours, theirs in zip(
        FunctionalModel(images, outputs)(x), expected, strict=True
    ):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours),
            keras.ops.convert_to_numpy(theirs),
        )


def test_is_saved_and_loaded(tmp_path):
    inputs = keras.Input((4,))
    model = FunctionalModel(inputs, keras.layers.Dense(2)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is FunctionalModel
    x = np.ones((1, 4), "float32")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
