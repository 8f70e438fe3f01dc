"""Which forgotten mapping the values of labels give away."""

import dataclasses

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.data.datasets import ADE20K
from keras_danet.data.datasets import CAMVID
from keras_danet.data.datasets import CITYSCAPES
from keras_danet.data.datasets import DATASETS
from keras_danet.data.datasets import get_dataset
from keras_danet.data.datasets import make_label_map
from keras_danet.data.label_values import guess_mapping
from keras_danet.data.label_values import to_train_ids

pytestmark = one_backend

VOC = get_dataset("voc2012")
TWO = dataclasses.replace(
    CAMVID,
    class_names=("ground", "road"),
    palette=CAMVID.palette[:2],
    label_map=make_label_map(range(2), (255,)),
)
# Nineteen classes of one's own, numbered as they come.
NINETEEN = dataclasses.replace(
    CITYSCAPES, name="folder", label_map=make_label_map(range(19), (255,))
)
COLORS = dataclasses.replace(
    CAMVID, label_colors={c: n for n, c in enumerate(CAMVID.palette)}
)


def luminance(palette):
    grey = Image.new("RGB", (len(palette), 1))
    grey.putdata([tuple(color) for color in palette])
    return np.array(grey.convert("L")).ravel().tolist()


def codes(colors):
    return [r << 16 | g << 8 | b for r, g, b in colors]


@pytest.mark.parametrize(
    "values, dataset, part",
    [
        ([0, 255], TWO, "black and white mask"),
        (
            [0, 255],
            dataclasses.replace(TWO, label_map=make_label_map(range(2), ())),
            "black and white mask",
        ),
        ([*range(1, 22), 255], VOC, "seem to count from 1. Subtract 1"),
        ([*range(22)], VOC, "reduce_zero_label"),
        ([*range(19), 255], CITYSCAPES, "train ids already"),
        ([*range(19)], CITYSCAPES, "train ids already"),
        ([*range(150), 255], ADE20K, "train ids already"),
        ([7, 8, 11, 26, 33, 0], NINETEEN, "dataset='cityscapes'"),
        (
            [*range(151)],
            dataclasses.replace(
                ADE20K, label_map=make_label_map(range(150), (255,))
            ),
            "reduce_zero_label",
        ),
        (luminance(VOC.palette), VOC, "converted to grey"),
        ([*range(0, 256, 3)], VOC, "interpolation"),
        (codes(c[::-1] for c in CAMVID.palette), COLORS, "OpenCV"),
        (
            codes(
                (min(r + 9, 255), g, max(b - 7, 0))
                for r, g, b in CAMVID.palette
            ),
            COLORS,
            "JPEG",
        ),
    ],
)
def test_what_was_forgotten_is_guessed(values, dataset, part):
    assert part in guess_mapping(values, dataset)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_what_is_right_is_not_suspected(name):
    dataset = DATASETS[name]
    known = [
        n for n, train_id in enumerate(dataset.label_map) if train_id != 254
    ]
    assert guess_mapping(known, dataset) is None
    # A few images have a few classes.
    for value in known:
        assert guess_mapping([known[0], value], dataset) is None
    for start in range(0, len(known), 5):
        assert guess_mapping(known[start : start + 5], dataset) is None


def test_a_guess_needs_a_ground():
    # Of one's own classes the last may be absent.
    own = dataclasses.replace(
        ADE20K, name="folder", label_map=make_label_map(range(1, 12), (0, 255))
    )
    own = dataclasses.replace(own, class_names=tuple("abcdefghijk"))
    assert guess_mapping([*range(11), 255], own) is None
    assert guess_mapping({0: 10**6, 5: 10**6, 21: 3}, VOC) is None
    assert guess_mapping([3, 77], VOC) is None
    assert guess_mapping(codes([(1, 255, 3)]), COLORS) is None
    # A small part of ADE20K without a flag is no mistake.
    assert guess_mapping(range(150), ADE20K) is None


def test_training_tells_the_guess():
    raw = np.array([[0, 1, 2], [3, 21, 5]], "uint8")
    with pytest.raises(ValueError, match="21 in a.png .1 pixels; 1 .*reduce_z"):
        to_train_ids(raw, VOC, "a.png")
    with pytest.raises(ValueError, match="Correct the label"):
        to_train_ids(np.array([[77]], "uint8"), VOC, "a.png")
