"""Files for the servers of Cityscapes and ADE20K."""

import dataclasses
import json
import os
import types

import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet.data.datasets import ADE20K
from keras_danet.data.datasets import CAMVID
from keras_danet.data.datasets import CITYSCAPES
from keras_danet.data.files import find_images
from keras_danet.data.files import find_pairs
from keras_danet.data.files import find_splits
from keras_danet.inference import PROTOCOLS
from keras_danet.inference.submission import write_submission

pytestmark = one_backend

# cityscapesscripts, helpers/labels.py: the id of every train id.
LABEL_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)


class Stripes:
    """Predicts a class by the column."""

    protocol = "whole"

    def __init__(self, num_classes, weight=0.0):
        weights = [np.full(2, weight, "float32")]
        self.model = types.SimpleNamespace(weights=weights)
        self.num_classes = num_classes
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        height, width = image.shape[:2]
        row = np.arange(width) % self.num_classes
        return np.tile(row.astype("uint8"), (height, 1))


def write_images(folder, names, size=(6, 200)):
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", size[::-1]).save(folder / name)


@pytest.fixture
def cityscapes(tmp_path):
    root = tmp_path / "cityscapes"
    for city in ("berlin", "bonn"):
        write_images(
            root / "leftImg8bit" / "test" / city,
            [f"{city}_00000{k}_000019_leftImg8bit.png" for k in range(2)],
        )
    return root


def test_cityscapes_wants_label_ids_in_one_folder(cityscapes, tmp_path):
    # There is no folder of labels.
    images = find_images(CITYSCAPES, cityscapes, "test")
    out = tmp_path / "out"
    written = write_submission(Stripes(19), images, CITYSCAPES, out, "test")
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(
        f"{city}_00000{k}_000019_leftImg8bit.png"
        for city in ("berlin", "bonn")
        for k in range(2)
    )
    assert sorted(written) == [str(out / name) for name in names]
    with Image.open(written[0]) as picture:
        assert picture.mode == "L" and picture.size == (200, 6)
        row = np.array(picture)[3]
    assert row.tolist() == [LABEL_IDS[k % 19] for k in range(200)]


def test_ade20k_wants_numbers_from_1(tmp_path):
    root = tmp_path / "ade"
    names = ["ADE_test_00000001.jpg", "ADE_test_00000002.jpg"]
    write_images(root / "release_test" / "testing", names)
    images = find_images(ADE20K, root, "test")
    out = tmp_path / "out"
    write_submission(Stripes(150), images, ADE20K, out, "test")
    assert sorted(path.name for path in out.iterdir()) == [
        name.replace("jpg", "png") for name in names
    ]
    row = np.array(Image.open(out / "ADE_test_00000001.png"))[0]
    assert row.tolist() == [1 + k % 150 for k in range(200)]
    with pytest.raises(ValueError, match=r"not published.*--submission"):
        find_pairs(ADE20K, root, "test")
    with pytest.raises(FileNotFoundError):
        find_splits(ADE20K, root)


def test_what_is_there_is_not_made_again(cityscapes, tmp_path):
    images = find_images(CITYSCAPES, cityscapes, "test")
    out = tmp_path / "out"
    told = []

    def stop(done, count):
        told.append((done, count))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_submission(Stripes(19), images, CITYSCAPES, out, "test", stop)
    again = Stripes(19)
    write_submission(again, images, CITYSCAPES, out, "test")
    assert again.calls == 1 and told == [(1, 4), (2, 4), (3, 4)]
    header = json.loads((tmp_path / "out.json").read_text())
    assert header["dataset"] == "cityscapes" and header["protocol"] == "whole"
    with pytest.raises(FileExistsError, match="another model"):
        write_submission(Stripes(19, 1.0), images, CITYSCAPES, out, "test")


def test_other_images_or_settings_are_no_part_of_it(cityscapes, tmp_path):
    images = find_images(CITYSCAPES, cityscapes, "test")
    write_submission(Stripes(19), images, CITYSCAPES, tmp_path / "a", "test")
    other = Stripes(19)
    other.protocol = PROTOCOLS["authors"]
    settings = dataclasses.replace(other.protocol, padding="mean")
    # Sentences for people leave this out.
    assert str(settings) == str(other.protocol)
    write_submission(other, images, CITYSCAPES, tmp_path / "b", "test")
    other.protocol = settings
    with pytest.raises(FileExistsError, match="another model, protocol"):
        write_submission(other, images, CITYSCAPES, tmp_path / "b", "test")
    os.utime(images[0], ns=(0, 0))
    with pytest.raises(FileExistsError, match="of other images"):
        again = Stripes(19)
        write_submission(again, images, CITYSCAPES, tmp_path / "a", "test")


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"mean_iou": 0.5}'])
def test_another_file_is_not_taken_for_the_note(cityscapes, tmp_path, text):
    images = find_images(CITYSCAPES, cityscapes, "test")
    note = tmp_path / "authors.json"
    note.write_text(text)
    out = tmp_path / "authors"
    with pytest.raises(FileExistsError, match=r"authors\.json is in the way"):
        write_submission(Stripes(19), images, CITYSCAPES, out, "test")
    assert note.read_text() == text and not out.exists()


def test_images_are_not_overwritten(cityscapes):
    images = find_images(CITYSCAPES, cityscapes, "test")[:2]
    folder = cityscapes / "leftImg8bit" / "test" / "berlin"
    before = [path.read_bytes() for path in sorted(folder.iterdir())]
    with pytest.raises(FileExistsError, match="holds files of another"):
        write_submission(Stripes(19), images, CITYSCAPES, folder, "test")
    after = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert before == after


@pytest.mark.parametrize(
    "dataset, images, problem",
    [
        (CAMVID, ["a.png"], "no form of submission for CamVid"),
        (CITYSCAPES, ["street.png"], r"street\.png has no name.*CITY_SEQ"),
        (ADE20K, ["a/x.jpg", "b/x.jpg"], "have the same name"),
    ],
)
def test_what_no_server_takes(tmp_path, dataset, images, problem):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=problem):
        write_submission(Stripes(3), images, dataset, out, "test")
    assert not out.exists()
