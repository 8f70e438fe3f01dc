import re

import keras
import numpy as np
import pytest
from conftest import one_backend

from keras_danet import SGD
from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import dilate
from keras_danet import freeze
from keras_danet import unfreeze
from keras_danet.layers.convolution import blank_kernels
from keras_danet.models.freezing import backbone_of

BACKEND = keras.backend.backend()
JIT = {"jit_compile": False} if BACKEND == "tensorflow" else {}


def small(**arguments):
    keras.utils.set_random_seed(0)
    model = DANet(
        3, DilatedResNet(18, filters=8), dropout=0, dtype="float32", **arguments
    )
    rng = np.random.default_rng(0)
    # Batches of their own have other statistics.
    for weight in model.weights:
        if "moving_mean" in weight.path:
            weight.assign(rng.uniform(-0.2, 0.2, weight.shape))
        elif "moving_variance" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
    return model


def example():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 40, 3)).astype("uint8")
    return images, rng.integers(0, 3, (2, 32, 40)).astype("uint8")


def values(variables):
    return {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in variables}


def in_group(model, variables):
    (pattern,) = model.head_multipliers()
    return [v for v in variables if re.search(pattern, v.path)]


@one_backend
@pytest.mark.parametrize("auxiliary", [False, True])
def test_the_head_s_group_is_the_published_head(auxiliary):
    with blank_kernels():
        model = DANet(19, "resnet50", auxiliary=auxiliary)
    group = in_group(model, model.trainable_variables)
    # MMSegmentation's decode_head and auxiliary_head, and the authors' head.
    expected = 23_954_619 + auxiliary * 2_364_691
    assert sum(int(np.prod(v.shape)) for v in group) == expected
    backbone = sum(
        int(np.prod(v.shape))
        for v in model.trainable_variables
        if not any(v is each for each in group)
    )
    assert backbone == 47_462_651 - 23_954_619


@one_backend
@pytest.mark.parametrize("attention", [(), "position", ("channel", "position")])
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_the_group_over_any_backbone(name, attention):
    backbone = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    model = DANet(3, dilate(backbone), attention=attention)
    inner = {id(v) for v in backbone_of(model).trainable_variables}
    expected = [v.path for v in model.trainable_variables if id(v) not in inner]
    group = in_group(model, model.trainable_variables)
    assert [v.path for v in group] == expected
    assert 0 < len(group) < len(model.trainable_variables)


@one_backend
def test_a_backbone_with_the_head_s_names_is_refused():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, 8, "same", name="fcn")(inputs)
    model = DANet(3, keras.Model(inputs, {"stage4": x}), attention=())
    with pytest.raises(ValueError, match="names: .'fcn/kernel'"):
        model.head_multipliers()


def test_the_head_moves_ten_times_as_far(tmp_path):
    model = small()
    model.compile(SGD(0.01, 0.0, multipliers=model.head_multipliers()), **JIT)
    model.build_optimizer()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        before = values(each.trainable_variables)
        each.optimizer.apply(
            [keras.ops.ones(v.shape) for v in each.trainable_variables],
            each.trainable_variables,
        )
        head = {v.path for v in in_group(each, each.trainable_variables)}
        assert len(head) == 26
        for path, value in values(each.trainable_variables).items():
            step = 0.1 if path in head else 0.01
            np.testing.assert_allclose(
                before[path] - value, step, rtol=1e-3, err_msg=path
            )


def test_frozen_batch_norms_normalise_by_their_moving_statistics():
    model = small()
    images, _ = example()
    name = "fusion"

    def difference():
        trained = model(images, training=True)[name]
        used = model(images, training=False)
        both = [keras.ops.convert_to_numpy(x) for x in (trained, used)]
        return np.abs(both[0] - both[1]).max()

    assert difference() > 1e-3
    count = len(model.trainable_variables)
    freeze(model, "backbone_batch_norm")
    inner = backbone_of(model)
    # 20 batch norms in ResNet-18; each has a gamma and a beta.
    assert len(model.trainable_variables) == count - 40
    stages = [
        inner(images.astype("float32"), training=training)["stage4"]
        for training in (True, False)
    ]
    stages = [keras.ops.convert_to_numpy(stage) for stage in stages]
    np.testing.assert_allclose(*stages, rtol=1e-4, atol=1e-4)
    assert difference() > 1e-3
    freeze(model, "batch_norm")
    assert difference() < 1e-4
    assert unfreeze(model) is model
    assert len(model.trainable_variables) == count


@pytest.mark.parametrize("part", ["backbone", "batch_norm"])
def test_what_is_frozen_stays_through_fit_and_save(part, tmp_path):
    model = freeze(small(), part)
    if part == "backbone":
        kept = {v.path for v in backbone_of(model).weights}
    else:
        kept = {v.path for v in model.weights if "_bn/" in v.path}
    assert len(kept) > 60
    images, labels = example()
    # A decay that would be seen, and momentum.
    model.compile(SGD(0.01, 0.9, weight_decay=0.1), **JIT)
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    trained = [v.path for v in model.trainable_variables]
    assert [v.path for v in loaded.trainable_variables] == trained
    assert not kept & set(trained)
    # Iteration, learning rate, and a velocity of each that is trained.
    assert len(loaded.optimizer.variables) == 2 + len(trained)
    start = values(small().weights)
    after = values(model.weights)
    loaded.fit(images, labels, verbose=0)
    again = values(loaded.weights)
    for path in kept:
        np.testing.assert_array_equal(after[path], start[path], err_msg=path)
        np.testing.assert_array_equal(again[path], start[path], err_msg=path)
    moved = [p for p in trained if not np.array_equal(after[p], start[p])]
    # With gamma 0 biases of queries, keys and values have no gradient.
    assert len(moved) >= len(trained) - 3
    assert any(not np.array_equal(again[p], after[p]) for p in trained)


@one_backend
def test_parts_that_are_not_there_are_refused():
    model = small()
    with pytest.raises(ValueError, match="must be one of"):
        freeze(model, "head")
    with pytest.raises(ValueError, match="has no backbone"):
        freeze(DilatedResNet(18, filters=8), "backbone")
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, 8, "same")(inputs)
    bare = keras.Model(inputs, {"stage4": x}, name="bare")
    bare = DANet(3, bare, attention=())
    with pytest.raises(ValueError, match="'bare' has no batch norms"):
        freeze(bare, "backbone_batch_norm")
