"""A view of an image tells what NumPy computes from the whole network."""

import keras
import numpy as np
import pytest
import tiny

from keras_danet import Predictor
from keras_danet import explain
from keras_danet.cli import explore
from keras_danet.explain.kept_channels import save_channels
from keras_danet.explain.view import Explorer
from keras_danet.explain.view import shrunk

SIZE = (45, 70)
CLASSES = ("road", "tree", "sky")
POINTS = [(0, 0), (20, 33), (44, 69)]


def picture(seed=0, size=SIZE):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype="uint8")
    rows, columns = (
        np.arange(n) * k // n for n, k in zip(size, (5, 7), strict=True)
    )
    return coarse[rows // size[0]][:, columns // size[1]]


def make_model(attention=("position", "channel")):
    model = tiny.danet(attention=attention, class_names=CLASSES)
    # So that classes differ from place to place, without ties.
    kernel = model.get_layer("fusion_classifier").kernel
    kernel.assign(kernel * 20)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def explorer(model):
    return Explorer(model)


@pytest.fixture(scope="module")
def view(explorer):
    return explorer.view(picture())


def test_a_point_has_the_network_s_class_and_probability(model, view):
    logits = model.predict_on_batch(picture()[None].astype("float32"))[0]
    powers = np.exp(logits.astype("float64") - logits.max(-1, keepdims=True))
    expected = powers / powers.sum(-1, keepdims=True)
    assert len(np.unique(logits.argmax(-1))) > 1
    np.testing.assert_array_equal(
        view.prediction().label, logits.argmax(-1).astype("uint8")
    )
    for point in POINTS:
        found = view.at(*point)
        order = np.argsort(-expected[point]).tolist()
        assert [index for index, _ in found.classes] == order
        # Kept in float16.
        np.testing.assert_allclose(
            [share for _, share in found.classes],
            expected[point][order],
            atol=5e-4,
        )


def test_a_point_looks_where_position_attention_looks(model, view):
    maps = explain.position_attention(model, picture(), POINTS)
    assert maps.std(axis=(1, 2)).min() > 0
    labels = view.prediction().label
    for point, expected in zip(POINTS, maps, strict=True):
        found = view.at(*point)
        np.testing.assert_allclose(found.attention, expected, rtol=1e-4)
        assert found.reach.near[0] == pytest.approx(
            explain.reach(expected[None], [point], SIZE).near[0]
        )
        # By hand: the share of each position's pixels with each class.
        height, width = expected.shape
        on_classes = np.zeros(3)
        rows = ((np.arange(SIZE[0]) + 0.5) * height / SIZE[0]).astype(int)
        columns = ((np.arange(SIZE[1]) + 0.5) * width / SIZE[1]).astype(int)
        for i in range(height):
            for j in range(width):
                cell = labels[rows == i][:, columns == j]
                for kind in range(3):
                    on_classes[kind] += expected[i, j] * (cell == kind).mean()
        np.testing.assert_allclose(found.on_classes, on_classes, rtol=1e-4)


def test_a_point_of_one_image_in_another(model, explorer, view):
    size = (30, 41)
    other = explorer.view(picture(3, size))
    layer = model.get_layer("position_attention")
    inside = keras.Model(
        model.input, [layer.query(layer.input), layer.key(layer.input)]
    )
    query, _ = inside.predict_on_batch(picture()[None].astype("float32"))
    _, key = inside.predict_on_batch(picture(3, size)[None].astype("float32"))
    (height, width), depth = query.shape[1:3], query.shape[-1]
    found = view.across(other, POINTS)
    assert found.shape == (3, *key.shape[1:3])
    for (row, column), values in zip(POINTS, found, strict=True):
        at = query[0, row * height // SIZE[0], column * width // SIZE[1]]
        energy = (key[0].reshape(-1, depth) @ at).astype("float64")
        expected = np.exp(energy) / np.exp(energy).sum()
        np.testing.assert_allclose(values.ravel(), expected, rtol=1e-3)
    assert np.abs(found[0] - other.across(other, [(0, 0)])[0]).max() > 1e-5


@pytest.mark.parametrize("off", [("position",), ("channel", "position")])
def test_switched_off(model, view, off):
    layers = [model.get_layer(f"{kind}_attention") for kind in off]
    gammas = [keras.ops.convert_to_numpy(layer.gamma) for layer in layers]
    try:
        for layer in layers:
            layer.gamma.assign(0)
        label, probabilities = Predictor(model).label_and_probabilities(
            picture()
        )
    finally:
        for layer, gamma in zip(layers, gammas, strict=True):
            layer.gamma.assign(gamma)
    found = view.prediction(off=off)
    assert (found.label != view.prediction().label).any()
    np.testing.assert_array_equal(found.label, label)
    np.testing.assert_allclose(
        found.probabilities[..., 0], probabilities.max(-1), atol=5e-4
    )
    point = view.at(20, 33, found)
    assert point.classes[0][0] == label[20, 33]


def test_scales_and_mirror(model, view):
    settings = {"scales": (0.5, 1.0), "mirror": True}
    label, probabilities = Predictor(model, **settings).label_and_probabilities(
        picture()
    )
    found = view.prediction(**settings)
    np.testing.assert_array_equal(found.label, label)
    np.testing.assert_allclose(
        found.probabilities[..., 0], probabilities.max(-1), atol=5e-4
    )
    assert (label != view.prediction().label).any()
    assert view.prediction(**settings) is found
    for scale in (0.5, 0.75, 1.25, 2.0):
        view.prediction(scales=(scale,))
    # Not all of them are kept.
    assert view.prediction(**settings) is not found


def test_channels_and_their_classes(model, view):
    expected = explain.channel_attention(model, picture()).after
    np.testing.assert_allclose(view.channels, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        view.channel_classes().responses,
        explain.channel_classes(
            model, [(picture(), view.prediction().label)]
        ).responses,
        rtol=1e-2,
        atol=1e-3,
    )


def test_large_images_are_made_smaller(model, explorer, monkeypatch):
    monkeypatch.setattr(
        "keras_danet.explain.view.shrunk", lambda image: shrunk(image, 1000)
    )
    # Each pixel of the smaller one is the mean of 4 x 4.
    coarse = np.random.default_rng(0).integers(0, 256, (20, 32, 3), "uint8")
    view = explorer.view(coarse.repeat(4, 0).repeat(4, 1))
    assert view.size == (25, 40)
    assert view.prediction().label.shape == (25, 40)
    assert abs(view.image.mean() - coarse.mean()) < 2


@pytest.mark.parametrize("attention", [(), ("channel",), ("position",)])
def test_models_without_an_attention(attention):
    view = Explorer(make_model(attention)).view(picture())
    point = view.at(3, 4)
    assert (point.attention is None) == ("position" not in attention)
    assert (view.channels is None) == ("channel" not in attention)
    assert point.classes[0][0] == view.prediction().label[3, 4]
    if "position" not in attention:
        with pytest.raises(ValueError, match="no position attention"):
            view.across(view, [(3, 4)])


def test_mistakes_are_told(view):
    with pytest.raises(ValueError, match=r"45x70 pixels.*Received: \(45, 0\)"):
        view.at(45, 0)


def test_channels_are_named_by_what_explain_kept(tmp_path):
    model = make_model()
    explorer = Explorer(model)
    assert explore.kept_classes(tmp_path, explorer) is None
    label = np.random.default_rng(0).integers(0, 3, SIZE)
    pairs = [(picture(), label)]
    classes = explain.channel_classes(model, pairs)
    save_channels(classes, explorer.observer.predictor, tmp_path)
    found = explore.kept_classes(tmp_path, explorer)
    np.testing.assert_array_equal(found.responses, classes.responses)
    # Other weights have other channels.
    changed = make_model()
    changed.get_layer("channel_attention").gamma.assign(0.3)
    assert explore.kept_classes(tmp_path, Explorer(changed)) is None
