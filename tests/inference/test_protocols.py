import dataclasses
import importlib.util
import json
import pathlib

import numpy as np
import pytest
import tiny
from conftest import one_backend

from keras_danet import Predictor
from keras_danet.inference import PROTOCOLS
from keras_danet.inference import InferenceProtocol
from keras_danet.inference.protocols import make_protocol
from keras_danet.inference.protocols import replace_settings

torch = pytest.importorskip("torch")
_spec = importlib.util.spec_from_file_location(
    "protocol_references",
    pathlib.Path(__file__).with_name("protocol_references.py"),
)
references = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(references)

# The references and ours resize and add in float32, in different orders.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
    model = tiny.danet(4, ("position", "channel"), filters=32)
    classifier = model.get_layer("fusion_classifier")
    classifier.kernel.assign(classifier.kernel * 100)
    # So that each class is somewhere the largest.
    logits = model.predict_on_batch(photo(64, 64)[None])
    classifier.bias.assign(classifier.bias - logits.mean(axis=(0, 1, 2)))
    return model


@pytest.fixture(scope="module")
def network(model):
    def call(x):
        batch = x.numpy().transpose(0, 2, 3, 1)
        logits = model.predict_on_batch(np.ascontiguousarray(batch))
        return torch.from_numpy(np.array(logits).transpose(0, 3, 1, 2).copy())

    return call


def photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    return np.kron(coarse, np.ones((4, 4, 1)))[:height, :width].astype("uint8")


def small(name, **changes):
    return dataclasses.replace(PROTOCOLS[name], **changes)


def agree(model, protocol, image, expected):
    predictor = Predictor(model, protocol=protocol)
    assert predictor.protocol == protocol
    found = predictor.probabilities(image)
    assert found.dtype == "float32"
    # Which class it is matters somewhere.
    assert len(np.unique(expected.argmax(-1))) > 1
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    ordered = np.sort(expected, axis=-1)
    clear = ordered[..., -1] - ordered[..., -2] > 10 * TOLERANCE
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(
        predictor(image)[clear], expected.argmax(-1)[clear]
    )


@pytest.mark.parametrize(
    "size, base",
    [
        # Windows that reach over the border, one row of them, one window.
        ((70, 52), 90),
        ((20, 76), 76),
        ((30, 24), 36),
    ],
)
def test_the_authors_windows(model, network, size, base):
    image = photo(*size)
    protocol = small("authors", size=(base, None), window=40, stride=26)
    expected = references.authors(network, image, base, 40, 26)
    agree(model, protocol, image, expected)


def test_the_authors_scales(model, network):
    image, scales = photo(45, 60), (0.5, 1.1, 1.5)
    protocol = small(
        "authors_multiscale",
        size=(50, None),
        window=40,
        stride=20,
        scales=scales,
    )
    expected = references.authors(network, image, 50, 40, 20, scales)
    agree(model, protocol, image, expected)


@pytest.mark.parametrize(
    "name, crop, stride",
    [
        ("mmsegmentation", None, None),
        ("mmsegmentation_multiscale", None, None),
        ("mmsegmentation_slide", 33, 22),
        # At half the size the image is smaller than the window.
        ("mmsegmentation_slide_multiscale", 33, 22),
    ],
)
def test_mmsegmentation(model, network, name, crop, stride):
    image, limits = photo(43, 57), (67, 61)
    scales = (1.0,)
    if name.endswith("multiscale"):
        scales = (0.5, 1.0, 1.25)
    protocol = small(
        name, size=limits, window=crop, stride=stride, scales=scales
    )
    expected = references.mmsegmentation(
        network, image, limits, scales, "multiscale" in name, crop, stride
    )
    agree(model, protocol, image, expected)


@pytest.mark.parametrize(
    "name, scales, canvas",
    [
        ("paddleseg", (1.0,), None),
        ("paddleseg_flip", (1.0,), None),
        ("paddleseg_multiscale", (0.75, 1.0, 1.25), None),
        ("paddleseg_voc", (1.0,), (64, 64)),
        ("paddleseg_voc_flip", (1.0,), (64, 64)),
        ("paddleseg_voc_multiscale", (0.75, 1.0, 1.25), (64, 64)),
    ],
)
def test_paddleseg(model, network, name, scales, canvas):
    image = photo(43, 57)
    protocol = small(name, canvas=canvas)
    assert protocol.scales == scales
    mirror = "flip" in name or "multiscale" in name
    expected = references.paddleseg(network, image, scales, mirror, canvas)
    agree(model, protocol, image, expected)


@one_backend
@pytest.mark.parametrize(
    "name, image, sizes",
    [
        ("authors", (1024, 2048), [(1024, 2048)]),
        ("authors", (2048, 1000), [(2048, 1000)]),
        # ceil(2048 * 2.2), and the short side follows it.
        ("authors_multiscale", (1024, 2048), [(512, 1024), (2253, 4506)]),
        ("mmsegmentation_slide", (1024, 2048), [(1025, 2049)]),
        # The limits are 1536 x 768: 2049 and 1025 times 0.75, rounded down.
        (
            "mmsegmentation_slide_multiscale",
            (1024, 2048),
            [(512, 1024), (768, 1536)],
        ),
        ("paddleseg_multiscale", (1025, 2047), [(769, 1535), (1025, 2047)]),
        ("paddleseg_voc", (375, 500), [(512, 512)]),
    ],
)
def test_sizes_of_the_published_protocols(name, image, sizes):
    found = PROTOCOLS[name].network_sizes(*image)
    for size in sizes:
        assert size in found


# What is published of each: (window, stride, scales, mirror, average).
EXPONENTIALS = ("exponentials", "exponentials")
MIXED = ("logits", "softmax")
SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
THREE = (0.75, 1.0, 1.25)
PUBLISHED = {
    "authors": (768, 512, (1.0,), True, EXPONENTIALS),
    "authors_multiscale": (1024, 512, (*SIX, 2.0, 2.2), True, EXPONENTIALS),
    "mmsegmentation": (None, None, (1.0,), False, MIXED),
    "mmsegmentation_multiscale": (None, None, SIX, True, MIXED),
    "mmsegmentation_slide": (769, 513, (1.0,), False, MIXED),
    "mmsegmentation_slide_multiscale": (769, 513, SIX, True, MIXED),
    "paddleseg": (None, None, (1.0,), False, MIXED),
    "paddleseg_flip": (None, None, (1.0,), True, MIXED),
    "paddleseg_multiscale": (None, None, THREE, True, MIXED),
    "paddleseg_voc": (None, None, (1.0,), False, MIXED),
    "paddleseg_voc_flip": (None, None, (1.0,), True, MIXED),
    "paddleseg_voc_multiscale": (None, None, THREE, True, MIXED),
}


@one_backend
def test_settings_of_the_published_protocols():
    def pair(side):
        return side and (side, side)

    found = {
        name: (p.window, p.stride, p.scales, p.mirror, p.average)
        for name, p in PROTOCOLS.items()
    }
    assert found == {
        name: (pair(window), pair(stride), *rest)
        for name, (window, stride, *rest) in PUBLISHED.items()
    }


@one_backend
def test_the_records_are_json_and_sentences():
    for name, protocol in PROTOCOLS.items():
        content = json.loads(json.dumps(protocol.as_dict()))
        assert content["name"] == protocol.name == name
        assert set(content) == {
            field.name for field in dataclasses.fields(InferenceProtocol)
        }
        assert str(protocol).startswith(f"{name}: ")
        again = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content.items()
        }
        assert InferenceProtocol(**again) == protocol
    assert PROTOCOLS["authors"].as_dict()["window"] == [768, 768]
    assert str(PROTOCOLS["authors"]) == (
        "authors: windows of 768 x 768 every 512 x 512 pixels of images "
        "resized to a long side of 2048 pixels and logits back, one scale, "
        "with mirror images, mean of exponentials"
    )


@one_backend
def test_arguments_replace_what_a_protocol_says():
    asked = make_protocol("authors", None, window=(512, 512), mirror=False)
    assert asked.name is None
    assert (asked.window, asked.stride) == ((512, 512), (341, 341))
    assert asked.average == ("exponentials", "exponentials") and asked.mirror
    # The model's test size is part of this protocol.
    asked = make_protocol("mmsegmentation", (2048, 512))
    assert (asked.name, asked.size) == ("mmsegmentation", (2048, 512))
    asked = make_protocol("authors", (2048, 512), size=640)
    assert (asked.name, asked.size) == (None, (640, None))
    asked = make_protocol(None, 320, scales=[1.0], average="softmax")
    assert asked == InferenceProtocol(size=(320, None))
    # What is typed counts, even if it is a default.
    asked = replace_settings("authors_multiscale", scales=1, average="softmax")
    assert (asked.name, asked.scales) == (None, (1,))
    assert asked.average == ("softmax", "softmax")
    asked = replace_settings("mmsegmentation", scales=1.0)
    assert (asked.name, asked.size) == ("mmsegmentation", "auto")


@one_backend
@pytest.mark.parametrize(
    "given, message",
    [
        ({"protocol": "author"}, "Did you mean 'authors'"),
        ({"protocol": 3}, "`protocol` must be one of authors"),
        ({"average": "sofmax"}, "Did you mean 'softmax'"),
        ({"average": ("softmax", "logits")}, r"\('logits', 'softmax'\)"),
        ({"average": None}, "`average` must be one of"),
        ({"window": 16, "blend": "gauss"}, "Did you mean 'gaussian'"),
        ({"window": 16, "stride": 17}, r"stride=\(17, 17\), window=\(16, 16\)"),
        ({"window": (16, 32), "stride": (16, 33)}, "at most `window`"),
        ({"stride": 16}, "there is no `window`"),
        ({"window": 0}, "two positive integers"),
        ({"window": 7}, "at least 8 x 8"),
        ({"window": (16, 16, 3)}, "two positive integers"),
        ({"window": "16x16"}, "two positive integers"),
        ({"scales": ()}, "from 0.0625 to 16"),
        ({"scales": 0}, "from 0.0625 to 16"),
        ({"scales": (1, 100)}, "from 0.0625 to 16"),
        ({"scales": (float("nan"),)}, "from 0.0625 to 16"),
        ({"scales": [[1.0]]}, "from 0.0625 to 16"),
        ({"scales": "1,2"}, "from 0.0625 to 16"),
        ({"mirror": "yes"}, "`mirror` must be a boolean"),
    ],
)
def test_settings_that_are_none_are_refused(model, given, message):
    with pytest.raises(ValueError, match=message):
        Predictor(model, **given)


@one_backend
def test_a_wrong_setting_is_told_before_a_model_is_looked_for():
    with pytest.raises(ValueError, match="Did you mean 'authors'"):
        Predictor("no/such/model", protocol="autors")
    with pytest.raises((ValueError, OSError), match="no_such_model"):
        Predictor("no_such_model", protocol="authors")
