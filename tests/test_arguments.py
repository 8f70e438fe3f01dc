"""What Python iterates over is not always a sequence of numbers."""

import numpy as np
import pytest

from keras_danet.arguments import as_numbers
from keras_danet.arguments import as_sequence
from keras_danet.losses import FocalLoss
from keras_danet.losses import OhemCrossentropy
from keras_danet.losses import PixelCrossentropy

WRONG = [
    {0: 1.0, 1: 5.0, 2: 2.0},
    {1.0, 5.0, 2.0},
    "152",
    b"152",
    ["1", "5", "2"],
    [True, False, True],
    [1.0, None, 2.0],
    [1.0, np.nan, 2.0],
    [1.0, np.inf, 2.0],
    [[1.0, 5.0, 2.0]],
    np.ones((1, 3)),
    np.array(["1", "5", "2"]),
    {0: 1.0, 1: 5.0, 2: 2.0}.keys(),
    1 + 2j,
    object(),
    np.float32(3),
]
RIGHT = [
    (1, 5, 2),
    [1.0, 5.0, 2.0],
    np.array([1, 5, 2], "uint8"),
    np.array([1, 5, 2], "float16"),
    [np.float32(1), np.int64(5), 2.0],
    {0: 1.0, 1: 5.0, 2: 2.0}.values(),
    range(1, 4),
]


@pytest.mark.parametrize("values", WRONG, ids=repr)
@pytest.mark.parametrize(
    "make", [PixelCrossentropy, OhemCrossentropy, FocalLoss]
)
def test_class_weights_are_not_coerced(make, values):
    with pytest.raises(ValueError, match="in the order of the classes"):
        make(class_weights=values)


@pytest.mark.parametrize("values", RIGHT, ids=repr)
def test_numbers_in_an_order_are_taken(values):
    expected = (1.0, 2.0, 3.0) if isinstance(values, range) else (1.0, 5.0, 2.0)
    found = PixelCrossentropy(class_weights=values).class_weights
    assert found == expected
    assert all(type(number) is float for number in found)


def test_tensors_are_taken():
    import keras

    tensor = keras.ops.array([1.0, 5.0, 2.0])
    assert PixelCrossentropy(class_weights=tensor).class_weights == (1, 5, 2)


def test_sequences():
    assert as_sequence(iter([1, "a"])) == (1, "a")
    assert as_sequence(np.array(3)) is None
    assert as_numbers([]) == ()
