import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny
from conftest import one_backend

from keras_danet import Predictor
from keras_danet.inference import InferenceProtocol
from keras_danet.inference import passes
from keras_danet.inference import windows
from keras_danet.inference.windows import Windows
from keras_danet.inference.windows import softmax
from keras_danet.inference.windows import window_starts
from keras_danet.inference.windows import window_weights


@pytest.fixture(scope="module")
def model():
    model = tiny.danet(4, ("position", "channel"))
    classifier = model.get_layer("fusion_classifier")
    classifier.kernel.assign(classifier.kernel * 100)
    logits = model.predict_on_batch(photo(64, 64)[None])
    classifier.bias.assign(classifier.bias - logits.mean(axis=(0, 1, 2)))
    return model


def photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3)).astype("uint8")


def logits_of(model, image):
    return np.array(model.predict_on_batch(image[None]))[0].astype("float64")


def exact_softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@one_backend
def test_windows_cover_an_axis():
    for side, window, stride, last, expected in [
        (10, 4, 4, "shifted", [0, 4, 6]),
        (10, 4, 4, "padded", [0, 4, 8]),
        (10, 4, 3, "shifted", [0, 3, 6]),
        (10, 12, 5, "shifted", [0]),
        (10, 12, 5, "padded", [0]),
        (1, 1, 1, "shifted", [0]),
        (5, 4, 4, "shifted", [0, 1]),
    ]:
        assert window_starts(side, window, stride, last) == expected


@one_backend
@pytest.mark.parametrize("blend", ["uniform", "gaussian", "cosine"])
def test_weights_sum_to_one_and_leave_cuts_out(blend):
    starts = window_starts(50, 16, 8)
    weights = window_weights(starts, 50, 16, 8, blend)
    total = np.zeros(50)
    for start, weight in zip(starts, weights, strict=True):
        assert (weight >= 0).all()
        total[start : start + 16] += weight
    np.testing.assert_allclose(total, 1, atol=1e-12)
    if blend != "uniform":
        # A quarter of the overlap of 8 pixels, but not at the image's border.
        assert (weights[1:, :2] == 0).all() and (weights[:-1, -2:] == 0).all()
        assert weights[0, 0] == weights[-1, -1] == 1
        assert (weights[1, 2:-2] > 0).all()


@one_backend
@pytest.mark.parametrize("last", ["shifted", "padded"])
@pytest.mark.parametrize("blend", ["uniform", "gaussian"])
@pytest.mark.parametrize("size", [(23, 37), (9, 40), (8, 8), (1, 30), (30, 1)])
def test_a_map_goes_through_windows_unchanged(size, blend, last):
    """Bands join into the image: what is cut out comes back in its place."""
    protocol = InferenceProtocol(
        window=(9, 11), stride=(5, 7), blend=blend, last_window=last
    )
    image = photo(*size).astype("float32")
    windows = Windows(size, protocol, (1, 2, 3))
    seen = []

    def values(batch):
        seen.append(batch.shape)
        return batch.copy()

    def read(top, bottom, left, right):
        assert bottom <= size[0] and right <= size[1]
        return image[top:bottom, left:right]

    count = windows.batch_size(4)
    bands = [b.copy() for b in windows.bands(read, values, count)]
    np.testing.assert_allclose(np.concatenate(bands), image, rtol=1e-6)
    # Every batch has one shape: JAX compiles once.
    assert len(set(seen)) == 1
    assert seen[0][1:] == (9, 11, 3)


@one_backend
def test_batches_divide_a_row_of_windows():
    protocol = InferenceProtocol(window=8, stride=8)
    windows = Windows((8, 96), protocol)
    assert windows.count == 12
    assert [windows.batch_size(n) for n in (0, 1, 5, 7, 11, 12, 99)] == [
        *(1, 1, 4, 6, 6, 12, 12)
    ]


@one_backend
@pytest.mark.parametrize("factor", [1, 40, 1000])
def test_softmax_of_small_and_large_logits(factor):
    x = np.random.default_rng(0).normal(size=(5, 6, 9)).astype("float32")
    found = softmax(x * factor)
    np.testing.assert_allclose(
        found, exact_softmax(np.float64(x * factor)), atol=1e-6
    )


@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_means_over_windows(model, average):
    image = photo(40, 52)
    predictor = Predictor(model, window=(24, 32), stride=16, average=average)
    total, count = np.zeros((40, 52, 4)), np.zeros((40, 52, 1))
    for top in (0, 16):
        for left in (0, 16, 20):
            place = np.s_[top : top + 24, left : left + 32]
            found = logits_of(model, image[place])
            if average == "softmax":
                found = exact_softmax(found)
            total[place] += found
            count[place] += 1
    expected = total / count
    if average == "logits":
        np.testing.assert_allclose(
            predictor.logits(image), expected, atol=1e-4 * expected.std()
        )
        expected = exact_softmax(expected)
    else:
        with pytest.raises(ValueError, match="use `probabilities`"):
            predictor.logits(image)
    found = predictor.probabilities(image)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    label, confidence = predictor.label_and_confidence(image)
    np.testing.assert_array_equal(label, found.argmax(-1))
    np.testing.assert_allclose(confidence, expected.max(-1), atol=1e-5)
    clear = np.abs(np.diff(np.sort(expected)[..., -2:])[..., 0]) > 1e-4
    np.testing.assert_array_equal(
        predictor(image)[clear], expected.argmax(-1)[clear]
    )


def test_a_small_image_is_padded_with_the_mean_pixel(model):
    image = photo(20, 10)
    mean = np.float32([123.675, 116.28, 103.53])
    padded = np.tile(mean, (32, 24, 1))
    padded[:20, :10] = image
    expected = exact_softmax(logits_of(model, padded))[:20, :10]
    found = Predictor(model, window=(32, 24)).probabilities(image)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    from keras_danet import optimize_for_inference

    fast = Predictor(optimize_for_inference(model), window=(32, 24))
    np.testing.assert_allclose(fast.probabilities(image), expected, atol=1e-4)


def test_mirror_images_and_what_their_passes_disagree_on(model):
    image = photo(33, 20)
    passes = [
        exact_softmax(logits_of(model, image)),
        exact_softmax(logits_of(model, image[:, ::-1].copy()))[:, ::-1],
    ]
    mean = np.mean(passes, axis=0)
    found = Predictor(model, mirror=True).uncertainty(image)
    np.testing.assert_allclose(found.confidence, mean.max(-1), atol=1e-5)
    entropy = -(mean * np.log(mean)).sum(-1)
    np.testing.assert_allclose(found.entropy, entropy, atol=1e-4)
    spread = np.sqrt(np.var(passes, axis=0).sum(-1))
    assert spread.max() > 0.05
    np.testing.assert_allclose(found.spread, spread, atol=1e-4)
    once = Predictor(model).uncertainty(image)
    assert (once.spread == 0).all()
    assert once.label.dtype == "uint8" and once.entropy.max() <= np.log(4)


def test_a_mean_of_logits_is_not_their_sum(model):
    image = photo(33, 20)
    mean = np.mean(
        [
            logits_of(model, image),
            logits_of(model, image[:, ::-1].copy())[:, ::-1],
        ],
        axis=0,
    )
    expected = exact_softmax(mean)
    assert abs(expected - exact_softmax(2 * mean)).max() > 0.05
    predictor = Predictor(model, mirror=True, average="logits")
    found = predictor.probabilities(image)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    uncertainty = predictor.uncertainty(image)
    _, confidence = predictor.label_and_confidence(image)
    for values in (uncertainty.confidence, confidence):
        np.testing.assert_allclose(values, expected.max(-1), atol=1e-5)
    entropy = -(expected * np.log(expected)).sum(-1)
    np.testing.assert_allclose(uncertainty.entropy, entropy, atol=1e-4)
    np.testing.assert_allclose(
        exact_softmax(np.float64(predictor.logits(image))), expected, atol=1e-5
    )


@one_backend
def test_spread_is_about_the_mean_of_probabilities(model):
    image = photo(30, 41)
    for average in ("softmax", "logits", "exponentials"):
        passes = [
            Predictor(model, scales=scale, average=average).probabilities(image)
            for scale in (0.5, 1.0, 1.5)
        ]
        expected = np.sqrt(np.var(np.float64(passes), axis=0).sum(-1))
        predictor = Predictor(model, scales=(0.5, 1, 1.5), average=average)
        found = predictor.uncertainty(image)
        np.testing.assert_allclose(found.spread, expected, atol=1e-4)
        np.testing.assert_array_equal(
            found.label, predictor.probabilities(image).argmax(-1)
        )


@one_backend
def test_exponentials_of_large_logits_stay_finite():
    model = tiny.danet(3)
    bias = model.get_layer("fusion_classifier").bias
    bias.assign([100.0, 99.0, -100.0])
    predictor = Predictor(model, average="exponentials", mirror=True)
    found = predictor.probabilities(photo(9, 17))
    # Twice the difference of 1, for the image and its mirror image.
    assert found[..., 0] == pytest.approx(1 / (1 + np.exp(-2)), abs=0.1)
    bias.assign([1e4, 0.0, 0.0])
    found = predictor.probabilities(photo(9, 17))
    np.testing.assert_allclose(found[..., 0], 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 97)])
@pytest.mark.parametrize(
    "settings",
    [
        {"window": (16, 24), "scales": (0.5, 1), "mirror": True},
        {"window": 16, "average": "exponentials", "blend": "cosine"},
    ],
)
def test_odd_sizes(model, size, settings):
    found = Predictor(model, **settings).probabilities(photo(*size))
    assert found.shape == (*size, 4)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


@one_backend
def test_threads_share_windows(model):
    images = [photo(30 + seed % 3, 40, seed) for seed in range(12)]
    predictor = Predictor(model, window=24, scales=(0.8, 1.2), mirror=True)
    expected = [predictor.probabilities(image) for image in images]
    before = threading.active_count()
    with ThreadPoolExecutor(12) as pool:
        for found, wanted in zip(
            pool.map(predictor.probabilities, images), expected, strict=True
        ):
            np.testing.assert_array_equal(found, wanted)
    assert threading.active_count() <= before


@one_backend
def test_windows_that_do_not_fit_go_one_by_one(model, monkeypatch):
    from keras_danet.inference import predictor as module

    asked = []

    def check(_, count, *size, **__):
        asked.append((count, *size))
        if count > 2:
            raise ValueError("too much")

    monkeypatch.setattr(module, "check_memory", check)
    predictor = Predictor(model, window=16, stride=16)
    sizes = []
    forward = predictor._forward
    predictor._forward = lambda batch: (
        sizes.append(len(batch)) or forward(batch)
    )
    predictor(photo(16, 64))
    assert asked == [(1, 16, 16), (4, 16, 16), (2, 16, 16)]
    assert sizes == [2, 2]


@one_backend
def test_time_counts_every_window(model, monkeypatch):
    from keras_danet.inference import predictor as module
    from keras_danet.models.memory import count_multiplications

    monkeypatch.setattr(module, "LARGE", 100)
    predictor = Predictor(model, window=16, stride=8, mirror=True)
    predictor._speed = 1.0
    one = count_multiplications(model, 16, 16)
    assert predictor.expected_seconds(32, 24) == 2 * 3 * 2 * one


@one_backend
def test_scales_hold_no_pass_but_one(model):
    """The largest scale is seen first, while there is no sum yet."""
    predictor = Predictor(model, scales=(0.5, 2, 1), mirror=True)
    forward, seen = predictor._forward, []
    predictor._forward = lambda batch: (
        seen.append(batch.shape[1]) or forward(batch)
    )
    predictor.probabilities(photo(32, 24))
    assert seen == [64, 64, 32, 32, 16, 16]


@one_backend
def test_an_image_is_not_resized_to_more_than_can_be_held(model):
    predictor = Predictor(model, size=2**20, window=32)
    for request in (predictor, lambda x: predictor.check_size(*x.shape[:2])):
        with pytest.raises(ValueError, match="1048576 x 1048576 pixels"):
            request(photo(9, 9))


@one_backend
@pytest.mark.parametrize(
    ("method", "settings", "num_bytes"),
    [
        ("__call__", {"scales": (0.5, 1)}, 20 * 30 * 4 * 4),
        ("__call__", {"window": 16}, 16 * 30 * 4 * 4),
        ("probabilities", {}, 20 * 30 * 4 * 4),
        ("probabilities", {"mirror": True}, 2 * 20 * 30 * 4 * 4),
        ("probabilities", {"average": "exponentials"}, 20 * 30 * 4 * 8),
        ("uncertainty", {"scales": (0.5, 1)}, 2 * 20 * 30 * 4 * 4),
        ("label_and_confidence", {"mirror": True}, 20 * 30 * 4 * 4),
    ],
)
def test_maps_of_all_classes_without_room_are_refused(
    model, monkeypatch, method, settings, num_bytes
):
    image = photo(20, 30)
    predict = getattr(Predictor(model, **settings), method)
    monkeypatch.setattr(passes, "host_memory", lambda: num_bytes)
    predict(image)
    monkeypatch.setattr(passes, "host_memory", lambda: num_bytes - 1)
    with pytest.raises(ValueError, match="20 x 30 pixels takes .* 4 classes"):
        predict(image)


@one_backend
def test_a_large_image_needs_room_for_a_band(model, monkeypatch):
    predictor = Predictor(model, window=16, mirror=True)
    monkeypatch.setattr(passes, "host_memory", lambda: 16 * 30 * 4 * 4)
    bands = predictor.passes(photo(90, 30)).windowed_labels()
    assert sum(len(label) for _, label, _ in bands) == 90


@one_backend
def test_a_window_is_checked_before_it_is_filled_up(model, monkeypatch):
    from keras_danet.inference import predictor as module

    def refuse(*_, remedy):
        raise ValueError(f"too much. {remedy}")

    monkeypatch.setattr(module, "check_memory", refuse)
    monkeypatch.setattr(windows, "pad", None)
    with pytest.raises(ValueError, match="much. Choose a smaller `window`"):
        Predictor(model, window=4096)(photo(9, 9))


def test_threads_wait_for_each_other_without_a_limit(model, monkeypatch):
    from keras_danet.inference import predictor as module

    monkeypatch.setattr(module, "PATIENCE", 0.05)
    predictor = Predictor(model)
    forward = predictor._forward
    predictor._forward = lambda batch: time.sleep(0.1) or forward(batch)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(predictor, [photo(16, 16)] * 4))
    assert len(found) == 4


@one_backend
def test_exponentials_of_the_lowest_logits(model):
    layer = model.get_layer("fusion_classifier")
    bias = layer.get_weights()[-1]
    layer.bias.assign(bias - 2000)
    try:
        predictor = Predictor(model, average="exponentials")
        found = predictor.probabilities(photo(16, 16))
    finally:
        layer.bias.assign(bias)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
