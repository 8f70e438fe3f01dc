"""The facts, held against what was read in the data sets' own files."""

import dataclasses

import pytest
from conftest import one_backend

from keras_danet.data.datasets import CAMVID
from keras_danet.data.datasets import DATASETS
from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.datasets import INVALID_LABEL
from keras_danet.data.datasets import SCENES
from keras_danet.data.datasets import get_dataset

pytestmark = one_backend


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_record_is_consistent(dataset):
    classes = range(dataset.num_classes)
    assert DATASETS[dataset.name] is dataset
    assert len(set(dataset.class_names)) == len(dataset.class_names)
    # Every class has a colour, and no two share one.
    assert len(set(dataset.palette)) == len(dataset.palette) == len(classes)
    assert all(0 <= level <= 255 for rgb in dataset.palette for level in rgb)
    assert len(dataset.label_map) == 256
    assert set(classes) <= set(dataset.label_map)
    assert set(dataset.label_map) <= {*classes, IGNORE_LABEL, INVALID_LABEL}
    assert dataset.label_map[IGNORE_LABEL] == IGNORE_LABEL
    for path in (dataset.image_path, dataset.label_path):
        assert path.format(split="val", id="a7").endswith("a7.png")
    assert dataset.list_path.format(split="val") == "val.txt"


def test_camvid():
    assert CAMVID.class_names == tuple(
        "sky building pole road pavement tree sign_symbol fence car "
        "pedestrian bicyclist".split()
    )
    colours = dict(zip(CAMVID.class_names, CAMVID.palette, strict=True))
    assert colours["road"] == (128, 64, 128)
    assert colours["bicyclist"] == (0, 128, 192)
    assert CAMVID.splits == {"train": 367, "val": 101, "test": 233}
    assert CAMVID.label_map[:13] == (*range(11), 255, INVALID_LABEL)
    assert CAMVID.label_map[254:] == (INVALID_LABEL, 255)


def test_scenes():
    assert SCENES.class_names == tuple(
        "sky building road pavement tree pole car pedestrian".split()
    )
    assert SCENES.label_map[:9] == (*range(8), INVALID_LABEL)


def test_records_are_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CAMVID.name = "other"
    assert len({CAMVID, SCENES, CAMVID}) == 2


def test_unknown_name_lists_the_known_and_the_nearest():
    assert get_dataset("camvid") is CAMVID
    with pytest.raises(ValueError, match=r"mean 'camvid'.*camvid, scenes"):
        get_dataset("CamVit")
    with pytest.raises(ValueError, match=r"data set\. Expected one of camvid"):
        get_dataset("zzz")
