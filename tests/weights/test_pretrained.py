import warnings

import keras
import numpy as np
import pytest
from conftest import one_backend

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import dilate
from keras_danet import freeze

CLASSIFIERS = ["fusion_classifier", "position_classifier", "channel_classifier"]


def trained(**arguments):
    keras.utils.set_random_seed(3)
    model = DANet(5, DilatedResNet(18, filters=8), **arguments)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(rng.uniform(0.1, 1, weight.shape))
    return model


def values(model):
    return {
        v.path: keras.ops.convert_to_numpy(v)
        for v in model.weights
        if "seed" not in v.path
    }


def check(new, source, anew=()):
    theirs = values(source)
    for path, value in values(new).items():
        same = path in theirs and np.array_equal(value, theirs[path])
        assert same != (path.partition("/")[0] in anew), path


@pytest.mark.parametrize("kind", ["model", "file", "folder"])
def test_the_classifiers_start_anew(kind, tmp_path):
    source = freeze(trained(), "backbone")
    source.compile()
    source.save(tmp_path / "model.keras")
    given = {
        "model": source,
        "file": str(tmp_path / "model.keras"),
        "folder": tmp_path,
    }[kind]
    with pytest.warns(UserWarning, match="newly initialized") as caught:
        new = DANet.from_model(given, 7, dropout=0.3)
    (message,) = [
        str(w.message) for w in caught if "newly initialized" in str(w.message)
    ]
    assert all(message.count(name) == 2 for name in CLASSIFIERS)
    assert "stage" not in message and "attention" not in message
    check(new, source, CLASSIFIERS)
    assert new.num_classes == 7
    assert new.get_config()["dropout"] == 0.3
    # Random, not blank; nothing is frozen.
    kernel = values(new)["fusion_classifier/kernel"]
    np.testing.assert_allclose(kernel.std(), 0.01, rtol=0.4)
    assert new.trainable and len(new.trainable_variables) == 86
    logits = new.predict(np.zeros((1, 32, 32, 3), "uint8"), verbose=0)
    assert logits.shape == (1, 32, 32, 7)


@one_backend
def test_the_same_classes_keep_everything():
    source = trained()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = DANet.from_model(source)
    assert new is not source
    check(new, source)


@one_backend
def test_an_auxiliary_head_may_come_and_go():
    source = trained(auxiliary=True)
    with pytest.warns(
        UserWarning, match="initialized: none. .* out: auxiliary_in, "
    ):
        new = DANet.from_model(source, auxiliary=False)
    check(new, source)
    with pytest.warns(UserWarning, match="initialized: auxiliary_in, "):
        back = DANet.from_model(new, auxiliary=True)
    names = ["auxiliary_in", "auxiliary_in_bn", "auxiliary_classifier"]
    theirs = values(new)
    assert {p.partition("/")[0] for p in values(back) if p not in theirs} == {
        *names
    }
    assert values(back)["auxiliary_in/kernel"].std() > 0


@one_backend
def test_another_dtype_is_that_of_the_backbone_too():
    source = trained()
    new = DANet.from_model(source, dtype="mixed_bfloat16")
    check(new, source)
    for layer in (
        new.get_layer("position_in"),
        new.get_layer("resnet18").get_layer("stage4_block0_conv1"),
    ):
        assert layer.compute_dtype == "bfloat16"


def test_another_output_stride():
    keras.utils.set_random_seed(3)
    source = DANet(5, DilatedResNet(18, filters=8))
    for kind in ("position", "channel"):
        source.get_layer(f"{kind}_attention").gamma.assign(0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = DANet.from_model(source, output_stride=16, multi_grid=(1, 2))
    check(new, source)
    direct = DANet(
        5, DilatedResNet(18, filters=8, output_stride=16, multi_grid=(1, 2))
    )
    direct.set_weights(source.get_weights())
    image = np.random.default_rng(1).uniform(0, 255, (1, 48, 64, 3))
    received, expected, other = (
        model.predict_on_batch(image.astype("float32"))
        for model in (new, direct, source)
    )
    np.testing.assert_allclose(received, expected, rtol=1e-5)
    assert np.abs(received - other).max() > 0.01 * np.abs(other).max()


@one_backend
def test_any_backbone(tmp_path):
    backbone = keras.applications.MobileNetV2(
        include_top=False, weights=None, alpha=0.35, input_shape=(64, 64, 3)
    )
    source = DANet(4, dilate(backbone))
    source.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="newly initialized"):
        new = DANet.from_model(tmp_path, 3)
    theirs = values(source)
    for path, value in values(new).items():
        if path.partition("/")[0] not in CLASSIFIERS:
            np.testing.assert_array_equal(value, theirs[path], err_msg=path)
    with pytest.raises(ValueError, match="keeps the `output_stride`.* 16"):
        DANet.from_model(source, output_stride=16)


@one_backend
def test_what_is_no_danet_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no model.keras"):
        DANet.from_model(tmp_path)
    (tmp_path / "model.keras").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="model.keras cannot be loaded"):
        DANet.from_model(tmp_path)
    with pytest.raises(ValueError, match="Received a DilatedResNet"):
        DANet.from_model(DilatedResNet(18, filters=8))
    with pytest.raises(ValueError, match="cannot be overridden"):
        DANet.from_model(trained(), attention=())
