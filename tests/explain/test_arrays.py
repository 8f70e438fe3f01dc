"""What is explained equals what NumPy computes from the layers' own maps."""

import json

import keras
import numpy as np
import pytest
from explained import CLASSES
from explained import SIZE
from explained import make_model
from explained import picture
from explained import tensor_of

from keras_danet import Predictor
from keras_danet import explain
from keras_danet.data.resampling import resize_logits
from keras_danet.explain.observing import class_shares


@pytest.fixture(scope="module")
def model():
    return make_model()


def scores_of(model, kind, image):
    """The whole map, and the features that it is of."""
    layer = model.get_layer(f"{kind}_attention")
    features = tensor_of(model, layer.input, image)
    after, scores = layer(features[None], return_attention_scores=True)
    return (
        features,
        keras.ops.convert_to_numpy(after)[0],
        keras.ops.convert_to_numpy(scores)[0],
    )


def test_points_have_the_rows_of_the_map(model):
    image = picture()
    _, _, scores = scores_of(model, "position", image)
    points = [(0, 0), (47, 71), (20, 31), (23, 40)]
    maps = explain.position_attention(model, image, points)
    assert maps.shape == (4, 6, 9) and maps.dtype == "float32"
    for found, (row, column) in zip(maps, points, strict=True):
        expected = scores[(row // 8) * 9 + column // 8].reshape(6, 9)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert explain.position_attention(model, image, []).shape == (0, 6, 9)


def test_points_are_those_of_the_image_at_any_size_of_the_network(model):
    image = picture(size=(96, 144))
    small = Predictor(model, size=72).resize(image)
    [found] = explain.position_attention(model, image, [(95, 0)], size=72)
    [expected] = explain.position_attention(model, small, [(47, 0)])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_near_and_far():
    maps = np.zeros((2, 4, 4), "float32")
    maps[0, 0, 0] = 0.25
    maps[0, 3, 3] = 0.75
    maps[1] = 1 / 16
    points = [(3, 3), (16, 16)]
    found = explain.reach(maps, points, (32, 32), radius=6.5)
    # Of the first point's position the middle is at 3.5, of the last at 27.5.
    np.testing.assert_allclose(found.near, [0.25, 1 / 16 * 4])
    far, near = np.hypot(24.5, 24.5), np.hypot(0.5, 0.5)
    assert found.distance[0] == pytest.approx(0.25 * near + 0.75 * far)
    np.testing.assert_allclose(found.even_distance[1], found.distance[1])
    assert explain.reach(maps, points, (32, 32)).radius == pytest.approx(
        np.hypot(32, 32) / 8
    )


def expected_class_attention(scores, shares):
    rows = [
        (scores * shares[:, a : a + 1]).sum(0) / shares[:, a].sum()
        for a in range(shares.shape[1])
    ]
    return np.stack(rows) @ shares


@pytest.mark.parametrize("tiled", [False, True])
def test_which_class_looks_at_which(model, monkeypatch, tiled):
    if tiled:
        monkeypatch.setattr("keras_danet.layers.tiled_attention.BLOCK_SIZE", 16)
    image = picture()
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, SIZE).astype("uint8")
    labels[:, 50:] = 255
    found = explain.class_attention(model, image, labels)
    _, _, scores = scores_of(model, "position", image)
    shares = np.stack(
        [
            (labels == k).reshape(6, 8, 9, 8).mean((1, 3)).ravel()
            for k in range(3)
        ],
        1,
    )
    with np.errstate(invalid="ignore"):
        expected = expected_class_attention(scores.astype("float64"), shares)
    np.testing.assert_allclose(found.matrix[:2], expected[:2], rtol=1e-4)
    np.testing.assert_allclose(found.shares, shares.mean(0))
    # There is no sky, and a third of the image has no class.
    assert np.isnan(found.matrix[2]).all() and found.class_names == CLASSES
    assert np.isnan(found.preference[:, 2]).all()
    np.testing.assert_allclose(
        found.preference[:2, :2],
        expected[:2, :2] / shares.mean(0)[:2],
        rtol=1e-4,
    )


def test_its_own_labels_are_the_predictions(model):
    image = picture()
    labels = Predictor(model)(image)
    assert len(np.unique(labels)) > 1
    found = explain.class_attention(model, image)
    expected = explain.class_attention(model, image, labels)
    np.testing.assert_allclose(found.matrix, expected.matrix, rtol=1e-3)
    present = ~np.isnan(found.matrix[:, 0])
    np.testing.assert_allclose(found.matrix[present].sum(1), 1, rtol=1e-5)


def test_shares_of_positions_without_pixels_of_their_own():
    label = np.array([[0, 1], [1, 255]])
    shares = class_shares(label, (3, 2), 2)
    np.testing.assert_array_equal(
        shares, [[1, 0], [0, 1], [0, 1], [0, 0], [0, 1], [0, 0]]
    )


def test_channels_before_and_after(model):
    image = picture()
    features, after, scores = scores_of(model, "channel", image)
    found = explain.channel_attention(model, image)
    np.testing.assert_allclose(found.before, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.after, after, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-3, atol=1e-6)
    gathered = features @ scores.T
    np.testing.assert_allclose(
        found.after, features - 0.7 * gathered, rtol=1e-3, atol=1e-4
    )


def test_classes_of_channels(model):
    pairs = []
    for seed in range(3):
        labels = np.zeros((6, 9), "uint8")
        labels[:, seed + 2 :] = 1
        labels[0] = 255
        pairs.append((picture(seed), labels.repeat(8, 0).repeat(8, 1)))
    found = explain.channel_classes(model, iter(pairs))
    assert found.num_images == 3
    values, classes = [], []
    for image, labels in pairs:
        after = explain.channel_attention(model, image).after
        values.append(after[1:].reshape(-1, after.shape[-1]))
        classes.append(labels[8::8, ::8].ravel())
    values, classes = np.concatenate(values), np.concatenate(classes)
    expected = values[classes == 1].mean(0) - values[classes == 0].mean(0)
    expected /= values.std(0)
    np.testing.assert_allclose(found.responses[:, 1], expected, rtol=1e-3)
    np.testing.assert_allclose(found.responses[:, 0], -expected, rtol=1e-3)
    assert np.isnan(found.responses[:, 2]).all()
    np.testing.assert_array_equal(found.classes, expected > 0)
    assert found.strongest(1, 2) == np.argsort(-expected)[:2].tolist()
    again = explain.ChannelClasses.from_dict(
        json.loads(json.dumps(found.as_dict()))
    )
    np.testing.assert_array_equal(again.responses, found.responses)
    assert again.names == found.names and set(found.names) <= {"road", "tree"}


@pytest.mark.parametrize("kind", ["position", "channel"])
def test_switched_off_is_gamma_of_0(model, kind):
    image = picture()[None].astype("float32")
    layer = model.get_layer(f"{kind}_attention")
    network = explain.without(model, kind)
    with_it = model.predict_on_batch(image)
    found = network.predict_on_batch(image)
    gamma = keras.ops.convert_to_numpy(layer.gamma)
    try:
        layer.gamma.assign(0)
        expected = model.predict_on_batch(image)
    finally:
        layer.gamma.assign(gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(with_it - found).max() > 0.01
    assert any(v is layer.gamma for v in model.trainable_variables)


def test_contributions_are_differences_of_iou(model):
    rng = np.random.default_rng(2)
    pairs = [
        (picture(seed), rng.integers(0, 3, SIZE).astype("uint8"))
        for seed in range(2)
    ]
    pairs[1][1][:20] = 255
    found = explain.contribution(model, iter(pairs))
    kinds = {"position", "channel", "position and channel"}
    assert {c.kind for c in found} == kinds and len(found) == 3
    for each in found:
        off = each.kind.split(" and ")
        others = Predictor(explain.without(model, *off))
        inside, outside = (
            [predict(image) for image, _ in pairs]
            for predict in (Predictor(model), others)
        )
        labels = np.concatenate([label.ravel() for _, label in pairs])
        for predicted, received in (
            (inside, each.with_it),
            (outside, each.without_it),
        ):
            predicted = np.concatenate([p.ravel() for p in predicted])
            predicted = np.where(labels == 255, 255, predicted)
            for k in range(3):
                both = ((labels == k) & (predicted == k)).sum()
                either = ((labels == k) | (predicted == k)).sum()
                assert received[k] == pytest.approx(both / either)
        different = [a != b for a, b in zip(inside, outside, strict=True)]
        assert each.changed == pytest.approx(np.mean(different))
        assert 0 < each.changed < 1
        gains = each.image_gains[each.images_by_gain]
        assert gains[0] >= gains[1]
        names = each.classes_by_gain
        assert each.gains[CLASSES.index(names[0])] == each.gains.max()
    means = [each.gains.mean() for each in found]
    assert means == sorted(means)[::-1]


def backwards(mask, size):
    """The sum over a mask of a bilinear upsampling, for each small pixel."""
    units = np.eye(size[0] * size[1], dtype="float32")
    units = units.reshape(*size, -1)
    return resize_logits(units, mask.shape)[mask].sum(0).reshape(size)


@pytest.mark.parametrize("method", explain.METHODS)
def test_class_activation_of_a_linear_rest(method):
    model = make_model(attention=(), align_corners=False)
    image = picture()
    where = Predictor(model)(image)
    kind = np.bincount(where.ravel(), minlength=3).argmax()
    classifier = model.get_layer("fusion_classifier")
    features = tensor_of(model, classifier.input, image)
    kernel = keras.ops.convert_to_numpy(classifier.kernel)[0, 0, :, kind]
    for mask in (None, np.arange(48 * 72).reshape(SIZE) % 5 == 0):
        at = backwards(where == kind if mask is None else mask, (6, 9))
        gradient = at[..., None] * kernel
        if method == "grad_cam":
            gradient = gradient.mean((0, 1))
        expected = np.maximum((features * gradient).sum(-1), 0)
        assert expected.max() > 0
        found = explain.class_activation(
            model,
            image,
            int(kind),
            stage=classifier.input._keras_history.operation.name,
            method=method,
            mask=mask,
        )
        np.testing.assert_allclose(
            found, expected, rtol=1e-3, atol=1e-4 * expected.max()
        )


@pytest.mark.parametrize(
    "stage, name",
    [
        ("stage3", "stage3_block1_relu"),
        ("stage4", "stage4_block1_relu"),
        ("position_out_relu", "position_out_relu"),
        ("stage4_block1_conv1_relu", "stage4_block1_conv1_relu"),
    ],
)
def test_class_activation_is_of_derivatives(stage, name):
    """The weights of channels, by differences of the network's output."""
    model = make_model(align_corners=False)
    image = picture()
    labels = Predictor(model)(image)
    inside = [*model.layers, *model.get_layer("resnet18").layers]
    [layer] = [layer for layer in inside if layer.name == name]
    step, channels = 0.004, layer.output.shape[-1]
    shifts = step * np.eye(channels, dtype="float32")[:, None, None]
    shifts = keras.ops.convert_to_tensor(np.concatenate([shifts, -shifts]))
    small = keras.Model(model.input, model.features["fusion_logits"])
    call, seen = layer.call, []

    def shifted(*args):
        output = call(*args)
        seen[:] = [keras.ops.convert_to_numpy(output)[0]]
        return output + shifts

    layer.call = shifted
    try:
        batch = np.repeat(image[None], 2 * channels, 0).astype("float32")
        logits = keras.ops.convert_to_numpy(small(batch)).astype("float64")
    finally:
        layer.call = call
    highest = []
    for kind in np.unique(labels).tolist():
        found = explain.class_activation(model, image, kind, stage=stage)
        assert found.shape == (6, 9) and found.min() >= 0
        at = backwards(labels == kind, (6, 9))
        scores = (logits[..., kind] * at).sum((1, 2))
        weights = (scores[:channels] - scores[channels:]) / (2 * step)
        # The derivative along a constant shift is the sum over 54 positions.
        expected = np.maximum(seen[0] @ weights / 54, 0)
        # In units of what is added up, much of which cancels.
        unit = (seen[0] @ np.abs(weights)).max() / 54
        assert np.abs(found - expected).max() < 0.01 * unit
        highest.append(expected.max() / unit)
    assert max(highest) > 0.05


def test_mistakes_are_told(model):
    unlabelled = [(picture(), np.full(SIZE, 255))]
    image = picture()
    label = np.zeros(SIZE, "uint8")
    fcn = make_model(attention=())
    only = make_model(attention=("channel",))
    for call, match in (
        (lambda: explain.position_attention(only, image, []), "has: channel"),
        (lambda: explain.channel_attention(fcn, image), "has: none"),
        (lambda: explain.contribution(fcn, []), "no attention"),
        (lambda: explain.contribution(only, []), "at least one image"),
        (lambda: explain.channel_classes(only, []), "at least one image"),
        (lambda: explain.contribution(only, unlabelled), "pixels of a class"),
        (lambda: explain.channel_classes(only, unlabelled), "pixels of a cl"),
        (
            lambda: explain.position_attention(model, image, [(48, 0)]),
            r"48x72 pixels.*Received: \(48, 0\)",
        ),
        (
            lambda: explain.position_attention(model, image, [(0.5, 0)]),
            "integers",
        ),
        (lambda: explain.class_attention(model, image, label[1:]), "48, 72"),
        (lambda: explain.class_attention(model, image, label + 3), "value 3"),
        (lambda: explain.class_activation(model, image, 3), "class_index"),
        (
            lambda: explain.class_activation(model, image, 0, "stage9"),
            "no stage 'stage9'.*stage4",
        ),
        (
            lambda: explain.class_activation(model, image, 0, method="cam"),
            "method",
        ),
        (
            lambda: explain.class_activation(
                model, image, 0, mask=np.zeros(SIZE)
            ),
            "mask has no pixel",
        ),
        (lambda: explain.without(fcn, "position"), "no position attention"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
