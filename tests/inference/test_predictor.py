import io
import re
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from conftest import one_backend
from PIL import Image
from PIL import ImageOps

from keras_danet import Predictor
from keras_danet import explain
from keras_danet import optimize_for_inference
from keras_danet.data import decoding
from keras_danet.data.resampling import resize_image
from keras_danet.data.resampling import resize_logits
from keras_danet.distribution.keras_distributions import turn_of
from keras_danet.inference import images
from keras_danet.inference import passes
from keras_danet.inference import predictor as inference
from keras_danet.models import memory


def photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3)).astype("uint8")


@pytest.mark.parametrize("size", [(1, 1), (7, 120), (121, 9), (40, 56)])
def test_label_map_is_the_argmax_of_the_logits(model, size):
    image = photo(*size)
    label = Predictor(model)(image)
    assert label.shape == size
    assert label.dtype == "uint8"
    logits = keras.ops.convert_to_numpy(model(image[None]))[0]
    sorted_logits = np.sort(logits, axis=-1)
    clear = sorted_logits[..., -1] - sorted_logits[..., -2] > 1e-4
    np.testing.assert_array_equal(label[clear], logits.argmax(-1)[clear])
    if min(size) > 1:
        assert clear.mean() > 0.5


def test_every_form_of_an_image_is_the_same(model, tmp_path):
    image = photo(33, 20)
    path = tmp_path / "photo with space.png"
    Image.fromarray(image).save(path)
    predictor = Predictor(model)
    expected = predictor.logits(image)
    for given in (
        image.astype("float32"),
        path,
        str(path),
        Image.fromarray(image),
    ):
        np.testing.assert_allclose(predictor.logits(given), expected, atol=1e-5)


def test_photos_are_turned_upright_and_to_rgb(model, tmp_path):
    image = photo(20, 32)
    rotated = Image.fromarray(image)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    path = tmp_path / "rotated.png"
    rotated.save(path, exif=exif)
    np.testing.assert_array_equal(
        Predictor.as_array(path), np.rot90(image, k=-1)
    )
    grey = tmp_path / "grey.png"
    Image.fromarray(image[..., 0]).save(grey)
    assert Predictor.as_array(grey).shape == (20, 32, 3)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 4)), np.zeros((0, 4, 3))]
)
def test_bad_arrays_are_refused(model, image):
    with pytest.raises(ValueError, match="must have the shape"):
        Predictor(model)(image)


@pytest.mark.parametrize(
    "value, message",
    [
        (np.nan, "0-255.*nan"),
        (256.0, "0-255.*256"),
        (-1, "0-255.*-1"),
        (True, "dtype bool"),
        ("x", "dtype <U1"),
    ],
)
def test_bad_values_are_refused(model, value, message):
    image = np.full((4, 4, 3), value)
    with pytest.raises(ValueError, match=message):
        Predictor(model)(image)


def test_memory_is_asked_for_where_a_size_is_larger(model, monkeypatch):
    asked = []
    monkeypatch.setattr(
        inference,
        "check_memory",
        lambda _, *request, **__: asked.append(request),
    )
    predictor = Predictor(model)
    for size in ((33, 49), (33, 49), (49, 33), (33, 20)):
        predictor(photo(*size))
    assert asked == [(1, 33, 49), (1, 49, 33)]


def test_weights_that_are_no_numbers_are_named(model):
    bias = model.get_layer("fusion_classifier").bias
    before = np.array(bias)
    image = photo(20, 30)
    try:
        for wrong in (np.nan, np.inf, -np.inf):
            bias.assign(np.where(np.arange(len(before)) == 1, wrong, before))
            for predict in (
                Predictor(model),
                Predictor(model).probabilities,
                Predictor(model, window=16).label_and_confidence,
            ):
                with pytest.raises(ValueError, match="computes NaN or infin"):
                    predict(image)
    finally:
        bias.assign(before)
    assert Predictor(model)(image).shape == (20, 30)


def test_more_than_eight_bits_are_refused(model, tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 40000, "uint16")).save(path)
    Image.fromarray(np.zeros((4, 4), "float32")).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r".Pillow mode F, F;32F.\. Expected"):
        Predictor(model)(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="deep.png has more than 8 bits"):
        Predictor(model)(path)


def test_another_model_is_refused(model):
    features = keras.Model(model.input, model.features["stage4"])
    for other in (None, keras.layers.ReLU(), keras.Sequential(), features):
        with pytest.raises(ValueError, match="must be a DANet"):
            Predictor(other)


def test_predicts_with_the_optimized_copy(model):
    fast = Predictor(optimize_for_inference(model))
    logits = Predictor(model).logits(photo(33, 49))
    np.testing.assert_allclose(
        fast.logits(photo(33, 49)), logits, atol=1e-4 * logits.std()
    )
    np.testing.assert_array_equal(fast(photo(33, 49)), logits.argmax(-1))


def test_bad_files_are_refused(model, tmp_path):
    path = tmp_path / "bad.png"
    for content in (b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 30):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="bad.png"):
            Predictor(model)(path)
    with pytest.raises(FileNotFoundError, match="missing.png"):
        Predictor(model)(tmp_path / "missing.png")
    whole = tmp_path / "whole.png"
    Image.fromarray(photo(60, 60)).save(whole)
    path.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match="bad.png"):
        Predictor(model)(path)


@pytest.mark.parametrize(
    "size, seen",
    [(24, (15, 24)), ((None, 20), (20, 32)), ((64, 20), (20, 32))],
)
def test_the_network_sees_the_test_size(model, size, seen):
    image = photo(40, 64)
    predictor = Predictor(model, size=size)
    assert predictor.network_size(40, 64) == seen
    small = resize_image(image, seen)
    assert small.shape == (*seen, 3)
    inside = keras.ops.convert_to_numpy(model(small[None]))[0]
    expected = resize_logits(inside, (40, 64))
    logits = predictor.logits(image)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * inside.std())
    np.testing.assert_array_equal(predictor(image), logits.argmax(-1))
    assert predictor(image).shape == (40, 64)


def test_the_protocol_says_the_size(model):
    texts = {
        None: "at their own size",
        320: "resized to a long side of 320 pixels and logits back",
        (None, 608): "resized to a short side of 608 pixels and logits back",
        (2048, 512): "resized to fit into 2048 x 512 pixels (long x short "
        "side) and logits back",
    }
    for size, text in texts.items():
        assert str(Predictor(model, size=size).protocol) == (
            f"whole images {text}, one scale, no mirroring"
        )


def test_memory_is_asked_for_of_what_the_network_sees(model, monkeypatch):
    asked = []
    monkeypatch.setattr(
        inference,
        "check_memory",
        lambda _, *request, **__: asked.append(request),
    )
    predictor = Predictor(model, size=32)
    predictor.check_size(3000, 4000)
    explain.position_attention(model, photo(60, 80), [(0, 0)], size=32)
    assert asked == [(1, 24, 32)] * 2


def test_threads_share_a_predictor(model):
    images = [photo(9 + 8 * (seed % 3), 17, seed) for seed in range(24)]
    predictor = Predictor(model)
    expected = [predictor.logits(image) for image in images]
    maps = explain.position_attention(model, images[0], [(0, 0)])

    def use(number):
        if number % 8 == 6:
            found = model.predict(images[number][None], verbose=0)[0]
            np.testing.assert_allclose(found, expected[number], atol=1e-4)
        if number % 8 == 7:
            found = explain.position_attention(model, images[0], [(0, 0)])
            np.testing.assert_array_equal(found, maps)
        logits = predictor.logits(images[number])
        np.testing.assert_array_equal(logits, expected[number])

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(use, range(24)))
    # The model is as whole as before.
    assert np.isfinite(model.predict_on_batch(images[0][None])).all()


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="JAX takes the weights away"
)
def test_a_model_that_is_trained_meanwhile_is_told(model, monkeypatch):
    monkeypatch.setattr(inference, "PATIENCE", 0.1)
    begun, release = threading.Event(), threading.Event()

    def train():
        with turn_of(model):
            begun.set()
            release.wait(60)

    thread = threading.Thread(target=train)
    thread.start()
    begun.wait(60)
    with pytest.raises(RuntimeError, match="in use in another thread"):
        Predictor(model)(photo(16, 16))
    release.set()
    thread.join()
    assert Predictor(model)(photo(16, 16)).shape == (16, 16)


def test_weights_that_change_are_seen(model):
    predictor, image = Predictor(model), photo(16, 16)
    bias = model.get_layer("fusion_classifier").bias
    before, logits = np.array(bias), predictor.logits(image)
    bias.assign(before + 3)
    np.testing.assert_allclose(predictor.logits(image), logits + 3, atol=1e-4)
    bias.assign(before)


def ways_in(path):
    """An image file as a path, a Pillow object, bytes and a file."""
    yield path
    for is_loaded in (False, True):
        with Image.open(path) as image:
            if is_loaded:
                image.load()
            yield image
    yield path.read_bytes()
    yield io.BytesIO(path.read_bytes())
    with open(path, "rb") as file:
        yield file


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_way_in_gives_the_same_pixels(tmp_path, mode):
    picture = Image.fromarray(photo(12, 20)).convert(mode)
    kind = "PNG" if mode in ("1", "L", "LA", "P", "RGBA") else "JPEG"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a", kind, exif=exif)
    found = [Predictor.as_array(each) for each in ways_in(tmp_path / "a")]
    with Image.open(tmp_path / "a") as stored:
        upright = ImageOps.exif_transpose(stored)
        if mode == "P":
            upright = upright.convert("RGBA")
        expected = np.array(upright.convert("RGB"))
    assert len(found) == 6
    for each in found:
        np.testing.assert_array_equal(each, expected)


@pytest.mark.parametrize("deep", ["I;16", "I", "F", "RGB"])
def test_more_than_eight_bits_are_refused_on_every_way_in(tmp_path, deep):
    path = tmp_path / "deep.img"
    if deep == "RGB":
        # Pillow writes none.
        rows = b"".join(b"\0" + bytes(4 * 6) for _ in range(4))
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ]
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(
                struct.pack(">I", len(data))
                + name
                + data
                + struct.pack(">I", zlib.crc32(name + data))
                for name, data in chunks
            )
        )
    else:
        values = np.full((8, 8), 40000)
        kind = {"I;16": "uint16", "I": "int32", "F": "float32"}[deep]
        Image.fromarray(values.astype(kind)).save(path, "TIFF")
    for each in ways_in(path):
        with pytest.raises(ValueError, match="more than 8 bits"):
            Predictor.as_array(each)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_colours_multiplied_by_opacity_are_read(mode):
    picture = Image.fromarray(photo(12, 20)).convert(mode)
    expected = Predictor.as_array(picture)
    multiplied = picture.convert(mode.replace("A", "a"))
    np.testing.assert_array_equal(Predictor.as_array(multiplied), expected)


def test_pillow_objects_that_are_none_are_refused(monkeypatch):
    whole = io.BytesIO()
    Image.fromarray(photo(60, 60)).save(whole, "PNG")
    cut = io.BytesIO(whole.getvalue()[:5000])
    for given in (Image.open(cut), cut.getvalue(), b"no image", b""):
        with pytest.raises(ValueError, match="The image cannot be read"):
            Predictor.as_array(given)
    with pytest.raises(ValueError, match="is empty"):
        Predictor.as_array(Image.new("RGB", (0, 4)))
    with pytest.raises(ValueError, match="open for reading bytes"):
        Predictor.as_array(io.StringIO("text"))
    for module in (images, decoding):
        monkeypatch.setattr(module, "MAX_PIXELS", 100)
    for given in (Image.new("RGB", (20, 20)), np.zeros((20, 20, 3), "uint8")):
        with pytest.raises(ValueError, match="at most 100|may have 100"):
            Predictor.as_array(given)


@pytest.mark.parametrize(
    "image, remedy",
    [
        (np.zeros((1, 4, 5, 3)), "one image of the batch at a time"),
        (np.zeros((3, 4, 5)), "channels last"),
        (np.zeros((4, 5)), "np.stack"),
        ([[[0, 0, 0]], [[0, 0]]], "must be an array"),
        (None, "Received: shape ()"),
    ],
)
def test_shapes_are_refused_with_a_remedy(image, remedy):
    with pytest.raises(ValueError, match=re.escape(remedy)):
        Predictor.as_array(image)


def test_infinity_and_objects_are_refused():
    with pytest.raises(ValueError, match="0-255.*inf"):
        Predictor.as_array(np.full((2, 2, 3), np.inf))
    with pytest.raises(ValueError, match="dtype object"):
        Predictor.as_array(np.full((2, 2, 3), None))
    with pytest.raises(ValueError, match="dtype complex"):
        Predictor.as_array(np.zeros((2, 2, 3), complex))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32", "float32"])
def test_tensors_are_taken(dtype):
    image = photo(4, 5) // 2
    tensor = keras.ops.cast(keras.ops.convert_to_tensor(image), dtype)
    found = Predictor.as_array(tensor)
    expected = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, expected)


@one_backend
def test_long_steps_leave_the_main_thread_to_signals(
    model, tmp_path, monkeypatch
):
    """Native code, which Python cannot interrupt."""
    seen = []

    def watched(module, name):
        original = getattr(module, name)

        def call(*arguments):
            seen.append(name)
            assert threading.current_thread() is not threading.main_thread()
            return original(*arguments)

        monkeypatch.setattr(module, name, call)

    watched(images, "read_image")
    watched(passes, "resize_image")
    watched(inference, "largest_class")
    watched(inference, "resize_logits")
    Image.new("RGB", (40, 24)).save(tmp_path / "a.png")
    predictor = Predictor(model, size=32)
    assert predictor(tmp_path / "a.png").shape == (24, 40)
    assert predictor.logits(tmp_path / "a.png").shape == (24, 40, 5)
    once = ["read_image", "resize_image"]
    assert seen == [*once, "largest_class", *once, "resize_logits"]


@one_backend
def test_how_long_a_large_image_takes_is_measured_on_a_small_one(
    model, monkeypatch
):
    predictor = Predictor(model)
    small, seen = predictor._forward, []

    def forward(batch):
        seen.append(batch.shape[1:3])
        return small(batch)

    clock = iter([0, 90, 100, 102])
    predictor._forward = forward
    monkeypatch.setattr(inference, "LARGE", 50 * 100)
    monkeypatch.setattr(inference, "TRIAL", 25 * 50)
    monkeypatch.setattr(inference.time, "perf_counter", lambda: next(clock))
    assert predictor.expected_seconds(49, 100) == 0
    assert Predictor(model, size=99).expected_seconds(500, 1000) == 0
    assert not seen
    # The one that compiles, 90 s, does not count.
    done = memory.count_multiplications(model, 25, 50)
    asked = memory.count_multiplications(model, 500, 1000)
    found = predictor.expected_seconds(500, 1000)
    assert found == pytest.approx(2 * asked / done)
    # Of 400 times the pixels; attention makes it more.
    assert found > 2 * 400
    assert predictor.expected_seconds(500, 1000) == found
    assert seen == [(25, 50), (25, 50)]


def test_every_way_gives_the_same_labels(model):
    # Logits that rounding cannot tell apart once they are probabilities.
    layer = model.get_layer("fusion_classifier")
    weights = [w * 1e-7 for w in layer.get_weights()]
    before = layer.get_weights()
    layer.set_weights(weights)
    try:
        predictor = Predictor(model, size=64)
        image = np.random.default_rng(0).integers(0, 256, (57, 90, 3), "uint8")
        label = predictor(image)
        assert len(np.unique(label)) > 1
        np.testing.assert_array_equal(
            predictor.label_and_confidence(image)[0], label
        )
        np.testing.assert_array_equal(predictor.uncertainty(image).label, label)
        found, values = predictor.label_and_probabilities(image)
        np.testing.assert_array_equal(found, label)
        # Or there would be nothing to mistake.
        assert (values.argmax(-1) != label).any()
        predictor = Predictor(model, window=(57, 90))
        label = predictor(image)
        bands = predictor.passes(image).windowed_labels()
        found = np.concatenate([part for _, part, _ in bands])
        np.testing.assert_array_equal(found, label)
    finally:
        layer.set_weights(before)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="JAX alone compiles every size"
)
def test_quick_compiling_changes_rounding_at_most(model, monkeypatch):
    from keras_danet.inference import forward

    image = np.random.default_rng(0).integers(0, 256, (57, 90, 3), "uint8")
    quick = Predictor(model, size=None).logits(image)
    thorough = {
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
    }
    monkeypatch.setattr(forward, "CPU_OPTIONS", thorough)
    expected = Predictor(model, size=None).logits(image)
    np.testing.assert_allclose(quick, expected, atol=1e-5 * expected.std())
