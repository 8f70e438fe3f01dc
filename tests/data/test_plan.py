"""The plan: pure, independent field by field, in its ranges."""

import numpy as np
import pytest
from conftest import one_backend

from keras_danet.data.plan import Augmentation
from keras_danet.data.plan import Plan
from keras_danet.data.plan import draw_plan
from keras_danet.data.plan import places
from keras_danet.data.plan import steps_per_epoch

pytestmark = one_backend

MANY = 100_000
# Everything that can happen does.
ALL = Augmentation(
    crop_size=(8, 8),
    scale_range=(0.5, 1.5),
    brightness=32,
    contrast=0.5,
    saturation=0.25,
    hue=36,
    blur=2,
)


def test_same_arguments_same_plan():
    first = draw_plan(3, 5, 40, ALL)
    second = draw_plan(3, 5, 40, ALL)
    for name in Plan._fields:
        np.testing.assert_array_equal(
            getattr(first, name), getattr(second, name)
        )


@pytest.mark.parametrize("other", [(4, 5), (3, 6), (5, 3)])
def test_other_seed_or_epoch_other_plan(other):
    first = draw_plan(3, 5, 40, ALL)
    second = draw_plan(*other, 40, ALL)
    for name in Plan._fields:
        assert not np.array_equal(getattr(first, name), getattr(second, name))


def test_each_field_has_its_own_numbered_stream():
    # NumPy's rule for the i-th child of a seed, written out: a field added
    # behind these gets a new number and leaves theirs.
    def stream(number):
        child = np.random.SeedSequence([3, 5], spawn_key=(number,))
        return np.random.default_rng(child)

    def uniform(number, *shape):
        return stream(number).random((40, *shape), dtype=np.float32)

    def difference(number, most):
        chance, value = uniform(number, 2).T
        return np.where(chance < 0.5, most * (2 * value - 1), 0)

    plan = draw_plan(3, 5, 40, ALL)
    expected = {
        "order": stream(0).permutation(40),
        "scale": 0.5 + uniform(1),
        "crop_y": uniform(2, 10),
        "crop_x": uniform(3, 10),
        "flip": uniform(4) < 0.5,
        "brightness": difference(5, 32),
        "contrast": 1 + difference(6, 0.5),
        "saturation": 1 + difference(7, 0.25),
        "hue": difference(8, 0.1),
        "contrast_last": uniform(9) < 0.5,
        "blur": abs(difference(10, 2)),
    }
    assert list(expected) == list(Plan._fields)
    for name, values in expected.items():
        np.testing.assert_allclose(
            getattr(plan, name), values, rtol=1e-6, err_msg=name
        )


def test_ranges_and_rates():
    plan = draw_plan(0, 0, MANY, ALL)
    np.testing.assert_array_equal(np.sort(plan.order), np.arange(MANY))
    kinds = {"order": np.int64, "flip": bool, "contrast_last": bool}
    for name, field in zip(Plan._fields, plan, strict=True):
        assert field.dtype == kinds.get(name, np.float32), name
    # Half of the examples keep each colour; of the others it is uniform.
    colours = {
        "brightness": plan.brightness / 32,
        "contrast": (plan.contrast - 1) / 0.5,
        "saturation": (plan.saturation - 1) / 0.25,
        "hue": plan.hue / 0.1,
        "blur": plan.blur - 1,
    }
    fractions = {"scale": plan.scale - 0.5}
    for number in (0, 9):
        fractions[f"crop_y {number}"] = plan.crop_y[:, number]
        fractions[f"crop_x {number}"] = plan.crop_x[:, number]
    five_deviations = 5 * 0.5 / MANY**0.5
    for name, values in colours.items():
        kept = -1 if name == "blur" else 0
        changed = values != kept
        assert abs(changed.mean() - 0.5) < five_deviations, name
        fractions[name] = (values[changed] + 1) / 2
    for name in ("flip", "contrast_last"):
        assert abs(getattr(plan, name).mean() - 0.5) < five_deviations, name
    for name, values in fractions.items():
        assert -1e-6 <= values.min() and values.max() < 1 + 1e-6, name
        # Uniform: each tenth holds a tenth, within 5 standard deviations.
        counts, _ = np.histogram(values, bins=10, range=(-1e-6, 1.000001))
        deviation = (0.1 * 0.9 * len(values)) ** 0.5
        np.testing.assert_allclose(
            counts, len(values) / 10, atol=5 * deviation, err_msg=name
        )
    assert max(plan.crop_y.max(), plan.crop_x.max()) < 1
    # No field says anything about another: 5 standard deviations of r.
    columns = np.column_stack([np.float64(field) for field in plan])
    assert columns.shape == (MANY, 11 + 2 * 9)
    np.testing.assert_allclose(
        np.corrcoef(columns.T), np.eye(29), atol=5 / MANY**0.5
    )


def test_what_is_switched_off_changes_nothing():
    plan = draw_plan(1, 2, 50, Augmentation((8, 8), (1, 1), flip=0))
    assert set(plan.scale) == {1.0}
    for name, value in (
        ("flip", False),
        ("brightness", 0),
        ("contrast", 1),
        ("saturation", 1),
        ("hue", 0),
        ("blur", 0),
    ):
        assert set(getattr(plan, name)) == {value}, name


def test_scales_in_steps():
    plan = draw_plan(0, 0, 7000, Augmentation((8, 8), scale_step=0.25))
    scales, counts = np.unique(plan.scale, return_counts=True)
    assert scales.tolist() == [0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    np.testing.assert_allclose(counts, 1000, atol=5 * 30)
    # 0.1 is no sum of powers of two, and 0.6 is still six of it.
    plan = draw_plan(0, 0, 700, Augmentation((8, 8), (0.4, 1), scale_step=0.1))
    np.testing.assert_allclose(
        np.unique(plan.scale), [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1], rtol=1e-6
    )


@pytest.mark.parametrize(
    "arguments",
    [{"seed": -1}, {"seed": 2**32}, {"seed": 1.0}, {"seed": True}]
    + [{"epoch": -1}, {"epoch": "1"}, {"num_examples": 0}],
    ids=str,
)
def test_bad_arguments_are_named(arguments):
    (name,) = arguments
    good = {"seed": 0, "epoch": 0, "num_examples": 4, "augmentation": ALL}
    with pytest.raises(ValueError, match=f"Received: {name}="):
        draw_plan(**{**good, **arguments})


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_size": 24},
        {"crop_size": (0, 24)},
        {"crop_size": (24.0, 24)},
        {"crop_size": (10**6, 10**6)},
        {"scale_range": (0, 1)},
        {"scale_range": (2.0, 0.5)},
        {"scale_range": (0.5, float("inf"))},
        {"scale_range": (0.5, float("nan"))},
        {"scale_range": 1.0},
        {"scale_range": ("a", "b")},
        {"scale_step": -0.1},
        {"scale_step": float("nan")},
        {"long_side": 0},
        {"short_side": 512.5},
        {"max_class_share": 0},
        {"max_class_share": 1.1},
        {"flip": 2},
        {"brightness": 256},
        {"contrast": -1},
        {"saturation": "much"},
        {"hue": 181},
        {"blur": 11},
        {"blur": float("inf")},
        {"mean_pixel": (1, 2)},
    ],
    ids=str,
)
def test_bad_augmentations_are_named(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"Received: {name}="):
        Augmentation(**{"crop_size": (8, 8), **settings})


def test_steps_per_epoch():
    assert steps_per_epoch(367, 8) == 45
    assert steps_per_epoch(8, 8) == 1
    with pytest.raises(ValueError, match=r"needs 8 .* only 7.*batch_size=7"):
        steps_per_epoch(7, 8)
    with pytest.raises(ValueError, match="batch_size=0"):
        steps_per_epoch(7, 0)


def test_workers_share_every_batch():
    whole = places(23, 6)
    assert whole.tolist() == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10, 11],
        [12, 13, 14, 15, 16, 17],
    ]
    shares = [places(23, 6, (worker, 3)) for worker in range(3)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


@pytest.mark.parametrize(
    "shard", [(0, 4), (3, 3), (-1, 3), (0.0, 3), (0,), 3, (0, 0)], ids=str
)
def test_bad_shards_are_refused(shard):
    with pytest.raises(ValueError, match="Received: shard="):
        places(23, 6, shard)
