"""The facts, held against what was read in the data sets' own files."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from conftest import one_backend

from keras_danet.data import class_tables
from keras_danet.data.datasets import CAMVID
from keras_danet.data.datasets import CITYSCAPES
from keras_danet.data.datasets import DATASETS
from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.datasets import INVALID_LABEL
from keras_danet.data.datasets import SCENES
from keras_danet.data.datasets import get_dataset
from keras_danet.data.datasets import make_label_map

pytestmark = one_backend


@pytest.fixture(scope="module")
def facts():
    """What was read in the data sets' own files and those of MMSegmentation."""
    path = pathlib.Path(__file__).with_name("published_facts.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_record_is_consistent(dataset):
    classes = range(dataset.num_classes)
    assert DATASETS[dataset.name] is dataset
    assert len(set(dataset.class_names)) == len(dataset.class_names)
    assert all(name == name.strip() != "" for name in dataset.class_names)
    assert len(dataset.palette) == len(classes)
    assert all(0 <= level <= 255 for rgb in dataset.palette for level in rgb)
    assert len(dataset.label_map) == 256
    assert set(classes) <= set(dataset.label_map)
    assert set(dataset.label_map) <= {*classes, IGNORE_LABEL, INVALID_LABEL}
    assert dataset.label_map[IGNORE_LABEL] == IGNORE_LABEL
    for split in dataset.splits.values():
        # Of some splits there are images only.
        assert split.label or not split.labelled
        for path in filter(None, (split.image, split.label)):
            path = path.format(id="a7", city="ulm")
            assert "a7" in path and path.endswith((".png", ".jpg"))
        assert split.list_holds in ("ids", "pairs")


# Names of records, of their facts, and of the facts' classes and palette.
NAMES = [
    ("cityscapes", "cityscapes", "classes", "palette"),
    ("voc2012", "pascal_voc", "classes", "palette"),
    ("pascal_context", "pascal_context", "classes59", "palette59"),
    ("pascal_context60", "pascal_context", "classes60", "palette60"),
    ("coco_stuff10k", "coco_stuff", "classes", "palette"),
    ("coco_stuff164k", "coco_stuff", "classes", "palette"),
    ("ade20k", "ade20k", "classes", "palette"),
    ("camvid", "camvid_segnet11", "classes", "palette"),
]


def test_every_record_but_the_drawn_scenes_has_facts():
    assert {name for name, *_ in NAMES} | {"scenes"} == set(DATASETS)


@pytest.mark.parametrize("name, source, classes, palette", NAMES)
def test_classes_and_palette(facts, name, source, classes, palette):
    dataset = get_dataset(name)
    assert list(dataset.class_names) == [
        name.strip() for name in facts[source][classes]
    ]
    assert [list(rgb) for rgb in dataset.palette] == facts[source][palette]


def as_label_map(table):
    """256 train ids from a table of the facts: raw value, written out."""
    label_map = [INVALID_LABEL] * 255 + [IGNORE_LABEL]
    for raw, train_id in table.items():
        if 0 <= int(raw) < 256:
            label_map[int(raw)] = train_id
    return tuple(label_map)


def test_label_maps(facts):
    coco = facts["coco_stuff"]
    context = len(facts["pascal_context"]["raw_ids_sorted"])
    tables = {
        "cityscapes": facts["cityscapes"]["id_to_train_id"],
        "voc2012": {index: index for index in range(21)},
        # 0..59 in the files; 59 classes leave the background out.
        "pascal_context60": {index: index for index in range(context)},
        "pascal_context": {
            index: index - 1 if index else 255 for index in range(context)
        },
        "coco_stuff10k": coco["id_to_train_id_10k"],
        "coco_stuff164k": coco["id_to_train_id_164k"],
        # "png 0 (other) -> 255; png k (1..150) -> k-1"
        "ade20k": {index: index - 1 if index else 255 for index in range(151)},
        "camvid": {index: index if index < 11 else 255 for index in range(12)},
    }
    for name, table in tables.items():
        assert get_dataset(name).label_map == as_label_map(table), name
    lut = facts["cityscapes"]["lut_0_33"]
    assert CITYSCAPES.label_map[:34] == tuple(lut)
    for index, raw in enumerate(facts["cityscapes"]["train_id_to_id"]):
        assert CITYSCAPES.label_map[raw] == index


def test_counts(facts):
    cityscapes = facts["cityscapes"]["splits"]
    assert cityscapes["train"] == 2975
    expected = {
        "cityscapes": {
            **cityscapes,
            "train_coarse": cityscapes["train"],
            "val_coarse": cityscapes["val"],
        },
        "voc2012": {
            name: count
            for name, count in facts["pascal_voc"]["splits"].items()
            # Without labels; a part of trainaug.
            if name not in ("test", "aug_only")
        },
        "pascal_context": facts["pascal_context"]["splits"],
        "pascal_context60": facts["pascal_context"]["splits"],
        "coco_stuff10k": facts["coco_stuff"]["splits_10k"],
        "coco_stuff164k": {
            name.removesuffix("2017"): count
            for name, count in facts["coco_stuff"]["splits_164k"].items()
        },
        # Images only, as many as there are.
        "ade20k": {**facts["ade20k"]["splits"], "test": None},
        "camvid": facts["camvid_segnet11"]["splits"],
    }
    for name, counts in expected.items():
        assert counts == {
            split: about.count
            for split, about in get_dataset(name).splits.items()
        }, name


def test_numbers_of_the_context_annotation(facts):
    raw = facts["pascal_context"]["raw_ids_sorted"]
    assert list(class_tables.CONTEXT_RAW_IDS) == raw


def test_palette_rule(facts):
    voc = facts["pascal_voc"]
    colors = [list(class_tables.spread_color(index)) for index in range(21)]
    assert colors == voc["palette"]
    assert list(class_tables.spread_color(255)) == voc["boundary_color"]
    # All of them, by the rule as it is usually written, bit by bit.
    for index in range(256):
        rgb, rest = np.zeros(3, int), index
        for bit in range(8):
            rgb |= (rest >> np.arange(3) & 1) << 7 - bit
            rest >>= 3
        assert class_tables.spread_color(index) == tuple(rgb)


def test_label_map_of_values():
    label_map = make_label_map([3, 0], ignored=[0, 9])
    assert label_map[:10] == (1, *[254] * 2, 0, *[254] * 5, 255)
    assert set(label_map[10:]) == {INVALID_LABEL}


def test_camvid():
    assert CAMVID.class_names == tuple(
        "sky building pole road pavement tree sign_symbol fence car "
        "pedestrian bicyclist".split()
    )
    colours = dict(zip(CAMVID.class_names, CAMVID.palette, strict=True))
    assert colours["road"] == (128, 64, 128)
    assert colours["bicyclist"] == (0, 128, 192)
    assert CAMVID.label_map[:13] == (*range(11), 255, INVALID_LABEL)
    assert CAMVID.label_map[254:] == (INVALID_LABEL, 255)


def test_scenes():
    assert SCENES.class_names == tuple(
        "sky building road pavement tree pole car pedestrian".split()
    )
    assert len(set(SCENES.palette)) == 8
    assert SCENES.label_map[:9] == (*range(8), INVALID_LABEL)


def test_records_are_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CAMVID.name = "other"
    assert len({CAMVID, SCENES, CAMVID}) == 2


def test_unknown_name_lists_the_known_and_the_nearest():
    assert get_dataset("camvid") is CAMVID
    with pytest.raises(ValueError, match=r"mean 'camvid'.*camvid, .*scenes"):
        get_dataset("CamVit")
    with pytest.raises(ValueError, match=r"data set\. Expected one of ade20k"):
        get_dataset("zzz")
    with pytest.raises(ValueError, match=r"'folder' for your own folder"):
        get_dataset("zzz")
