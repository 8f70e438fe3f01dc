"""Weights of classes against their published formulas, by hand."""

import math
import types

import numpy as np
import pytest
from conftest import one_backend

from keras_danet.cli import class_weights as verb
from keras_danet.data import class_weights

pytestmark = one_backend

# Two images of 100 pixels. Class 0: 50 and 30; 1: 20 in the first; 2: 10 in
# the second; 3 never; the rest is ignored.
REPORT = types.SimpleNamespace(
    class_pixels=np.array([80, 20, 10, 0]),
    class_image_pixels=np.array([200, 100, 100, 0]),
)


def test_median_frequency():
    # Frequencies 0.4, 0.2, 0.1: the median is 0.2.
    found = class_weights.median_frequency_weights(REPORT)
    np.testing.assert_allclose(found, [0.5, 1, 2, 1])


def test_enet():
    found = class_weights.enet_weights(REPORT)
    expected = [1 / math.log(1.02 + n / 110) for n in (80, 20, 10, 0)]
    np.testing.assert_allclose(found, expected)
    assert found[3] == pytest.approx(50.4983, abs=1e-4)


def test_inverse():
    found = class_weights.inverse_weights(REPORT)
    np.testing.assert_allclose(found, [110 / 240, 110 / 60, 110 / 30, 1])
    # Weighted so, all classes that occur count the same.
    np.testing.assert_allclose((found * REPORT.class_pixels)[:3], 110 / 3)


def test_the_command_line_knows_all_methods():
    assert verb.METHODS == tuple(class_weights.METHODS)
