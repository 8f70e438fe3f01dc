"""The plan: pure, independent field by field, in its ranges."""

import numpy as np
import pytest
from conftest import one_backend

from keras_danet.data.plan import Plan
from keras_danet.data.plan import draw_plan
from keras_danet.data.plan import steps_per_epoch

pytestmark = one_backend

MANY = 100_000


def test_same_arguments_same_plan():
    first = draw_plan(3, 5, 40)
    second = draw_plan(3, 5, 40)
    for name in Plan._fields:
        np.testing.assert_array_equal(
            getattr(first, name), getattr(second, name)
        )


@pytest.mark.parametrize("other", [(4, 5), (3, 6), (5, 3)])
def test_other_seed_or_epoch_other_plan(other):
    first = draw_plan(3, 5, 40)
    second = draw_plan(*other, 40)
    for name in Plan._fields:
        assert not np.array_equal(getattr(first, name), getattr(second, name))


def test_each_field_has_its_own_numbered_stream():
    # NumPy's rule for the i-th child of a seed, written out: a field added
    # behind these gets a new number and leaves theirs.
    def stream(number):
        child = np.random.SeedSequence([3, 5], spawn_key=(number,))
        return np.random.default_rng(child)

    def uniform(number):
        return stream(number).random(40, dtype=np.float32)

    plan = draw_plan(3, 5, 40, scale_range=(0.5, 1.5))
    np.testing.assert_array_equal(plan.order, stream(0).permutation(40))
    np.testing.assert_array_equal(plan.scale, 0.5 + uniform(1))
    np.testing.assert_array_equal(plan.crop_y, uniform(2))
    np.testing.assert_array_equal(plan.crop_x, uniform(3))
    np.testing.assert_array_equal(plan.flip, uniform(4) < 0.5)


def test_ranges_and_rates():
    plan = draw_plan(0, 0, MANY)
    np.testing.assert_array_equal(np.sort(plan.order), np.arange(MANY))
    assert [field.dtype for field in plan] == [
        np.int64,
        np.float32,
        np.float32,
        np.float32,
        bool,
    ]
    fractions = {
        "scale": (plan.scale - 0.5) / 1.5,
        "crop_y": plan.crop_y,
        "crop_x": plan.crop_x,
    }
    for name, values in fractions.items():
        assert 0 <= values.min() and values.max() < 1 + 1e-6, name
        # Uniform: each tenth holds a tenth, within 5 standard deviations.
        counts, _ = np.histogram(values, bins=10, range=(0, 1.000001))
        np.testing.assert_allclose(counts, MANY / 10, atol=5 * 95, err_msg=name)
    assert plan.crop_y.max() < 1
    assert plan.crop_x.max() < 1
    assert abs(plan.flip.mean() - 0.5) < 5 * 0.5 / MANY**0.5
    # No field says anything about another: 5 standard deviations of r.
    correlation = np.corrcoef(np.stack([*plan]).astype(np.float64))
    np.testing.assert_allclose(correlation, np.eye(5), atol=5 / MANY**0.5)


def test_fixed_scale_is_exact():
    assert set(draw_plan(1, 2, 50, scale_range=(1, 1)).scale) == {1.0}


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"seed": 1.0},
        {"epoch": -1},
        {"num_examples": 0},
        {"scale_range": (0, 1)},
        {"scale_range": (2.0, 0.5)},
        {"scale_range": (0.5, float("inf"))},
        {"scale_range": (0.5, float("nan"))},
        {"scale_range": 1.0},
        {"scale_range": ("a", "b")},
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments):
    (name,) = arguments
    good = {"seed": 0, "epoch": 0, "num_examples": 4}
    with pytest.raises(ValueError, match=f"Received: {name}="):
        draw_plan(**{**good, **arguments})


def test_steps_per_epoch():
    assert steps_per_epoch(367, 8) == 45
    assert steps_per_epoch(8, 8) == 1
    with pytest.raises(ValueError, match=r"needs 8 .* only 7.*batch_size=7"):
        steps_per_epoch(7, 8)
    with pytest.raises(ValueError, match="batch_size=0"):
        steps_per_epoch(7, 0)
