"""A measurement that was stopped goes on, and only where it may."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from conftest import ROOT
from conftest import one_backend
from PIL import Image

from keras_danet.data.datasets import SCENES
from keras_danet.data.files import Pair
from keras_danet.inference import image_records
from keras_danet.inference.evaluation import evaluate
from keras_danet.inference.image_records import open_records
from keras_danet.inference.image_records import read_records
from keras_danet.inference.image_records import worst_images
from keras_danet.inference.scores import Counts

pytestmark = one_backend

RECORDS = "report.images.jsonl"
PARTIAL = "report.images.partial.jsonl"


class Brightness:
    """A predictor whose classes and confidences are functions of the image."""

    def __init__(self, weight=0.0, protocol="whole images"):
        weights = [np.full(3, weight, "float32")]
        self.model = types.SimpleNamespace(weights=weights)
        self.protocol = protocol
        self.seen = []

    def label_and_confidence(self, image):
        self.seen.append(int(image[0, 0, 2]))
        return image[..., 0] // 32, image[..., 1].astype("float32") / 255


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for index in range(5):
        folder = tmp_path / "data" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        size = (9 + index, 7)
        image = rng.integers(0, 256, (*size, 3)).astype("uint8")
        image[0, 0, 2] = index
        label = rng.integers(0, 8, size).astype("uint8")
        label[0] = 255
        pair = Pair(str(folder / f"{index}.png"), str(folder / f"{index}.PNG"))
        Image.fromarray(image).save(pair.image)
        Image.fromarray(label).save(pair.label)
        found.append(pair)
    return found


def measure(predictor, pairs, tmp_path, **arguments):
    return evaluate(
        predictor,
        pairs,
        SCENES,
        "val",
        records=tmp_path / RECORDS,
        **arguments,
    )


def stop_after(count, pairs, tmp_path, predictor=None):
    def progress(done, _):
        if done == count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(predictor or Brightness(), pairs, tmp_path, progress=progress)
    assert not (tmp_path / RECORDS).exists()


def test_records_add_up_to_the_report(pairs, tmp_path):
    report = measure(Brightness(), pairs, tmp_path)
    plain = evaluate(Brightness(), pairs, SCENES, "val")
    assert report.as_json() == plain.as_json()
    assert report.image_sizes == tuple((9 + k, 7, 1) for k in range(5))
    assert report.ignored_pixels == 5 * 7
    assert not (tmp_path / PARTIAL).exists()
    assert [path.name for path in tmp_path.glob(".*")] == []
    header, read = read_records(tmp_path / RECORDS)
    assert header["class_names"] == list(SCENES.class_names)
    records = list(read())
    assert [r.index for r in records] == list(range(5))
    assert [r.name for r in records] == [
        f"{'ab'[k % 2]}/{k}.png" for k in range(5)
    ]
    total = sum((r.counts for r in records[1:]), records[0].counts)
    np.testing.assert_array_equal(total.confusion, report.confusion_matrix)
    np.testing.assert_array_equal(total.boundary, report.boundary_counts)
    np.testing.assert_array_equal(total.calibration, report.calibration_counts)


def test_it_goes_on_where_it_stopped(pairs, tmp_path):
    expected = evaluate(Brightness(), pairs, SCENES, "val").as_json()
    stop_after(3, pairs, tmp_path)
    again, told = Brightness(), []
    with pytest.warns(UserWarning, match="already has 3 of 5 images"):
        report = measure(
            again, pairs, tmp_path, progress=lambda *done: told.append(done)
        )
    assert again.seen == [3, 4] and told == [(4, 5), (5, 5)]
    assert report.as_json() == expected
    # What is finished is measured again.
    again = Brightness()
    assert measure(again, pairs, tmp_path).as_json() == expected
    assert len(again.seen) == 5


def tear(path):
    content = path.read_bytes()
    path.write_bytes(content[:-5])


def garble(path):
    lines = path.read_text().split("\n")
    lines[2] = '{"index": 1, "cells": [99999], "pixels": [1]}'
    path.write_text("\n".join(lines))


def enlarge(path):
    lines = path.read_text().split("\n")
    lines[2] = json.dumps({**json.loads(lines[2]), "size": [10**30, 1]})
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("damage", [tear, garble, enlarge])
def test_torn_and_broken_lines_are_dropped(pairs, tmp_path, damage):
    expected = evaluate(Brightness(), pairs, SCENES, "val").as_json()
    stop_after(3, pairs, tmp_path)
    damage(tmp_path / PARTIAL)
    again = Brightness()
    with pytest.warns(UserWarning, match="already has 2 of 5"):
        report = measure(again, pairs, tmp_path)
    assert report.as_json() == expected and len(again.seen) == 3
    assert len(list(read_records(tmp_path / RECORDS)[1]())) == 5


def test_a_file_that_changed_is_measured_again(pairs, tmp_path):
    stop_after(3, pairs, tmp_path)
    label = np.zeros((10, 7), "uint8")
    Image.fromarray(label).save(pairs[1].label)
    expected = evaluate(Brightness(), pairs, SCENES, "val").as_json()
    again = Brightness()
    with pytest.warns(UserWarning, match="already has 2 "):
        assert measure(again, pairs, tmp_path).as_json() == expected
    assert again.seen == [1, 3, 4]


@pytest.mark.parametrize(
    "predictor, place, problem",
    [
        (Brightness(weight=1), slice(None), "its weights"),
        (Brightness(protocol="windows"), slice(None), "its protocol"),
        (Brightness(), slice(1, None), "its images"),
    ],
)
def test_another_measurement_starts_anew(
    pairs, tmp_path, predictor, place, problem
):
    stop_after(3, pairs, tmp_path)
    predictor.seen.clear()
    chosen = pairs[place]
    with pytest.warns(UserWarning, match=rf"another .*{problem}.* anew"):
        report = measure(predictor, chosen, tmp_path)
    assert len(predictor.seen) == len(chosen) == report.num_images
    assert len(list(read_records(tmp_path / RECORDS)[1]())) == len(chosen)


def test_values_that_mean_other_classes_start_anew(pairs, tmp_path):
    stop_after(3, pairs, tmp_path)
    order = (1, 0, *SCENES.label_map[2:])
    swapped = dataclasses.replace(SCENES, label_map=order)
    again = Brightness()
    with pytest.warns(UserWarning, match=r"another .*its label_values.* anew"):
        report = evaluate(
            again, pairs, swapped, "val", records=tmp_path / RECORDS
        )
    assert len(again.seen) == 5
    plain = evaluate(Brightness(), pairs, swapped, "val")
    assert report.as_json() == plain.as_json()
    black, white = (0, 0, 0), (255, 255, 255)
    meanings = [
        image_records.digest_of_labels(
            dataclasses.replace(SCENES, label_colors=colors)
        )
        for colors in (
            None,
            {black: 0, white: 1},
            {black: 1, white: 0},
            {white: 1, black: 0},
        )
    ]
    assert len(set(meanings)) == 3 and meanings[1] == meanings[3]


def test_a_function_is_never_the_same(pairs, tmp_path):
    calls = []

    def function(image):
        calls.append(1)
        return image[..., 0] // 32

    stop_after(2, pairs, tmp_path, function)
    calls.clear()
    with pytest.warns(UserWarning, match="A function cannot be recognised"):
        report = measure(function, pairs, tmp_path)
    assert len(calls) == 5 and report.calibration_counts is None
    assert "`label_and_confidence`" in report.table()


def test_what_was_measured_before_a_bad_file_stays(pairs, tmp_path):
    good = pathlib.Path(pairs[3].label).read_bytes()
    pathlib.Path(pairs[3].label).write_bytes(good[:40])
    with pytest.raises(ValueError, match=r"3\.PNG"):
        measure(Brightness(), pairs, tmp_path)
    assert len((tmp_path / PARTIAL).read_text().splitlines()) == 4
    pathlib.Path(pairs[3].label).write_bytes(good)
    again = Brightness()
    with pytest.warns(UserWarning, match="already has 3 "):
        measure(again, pairs, tmp_path)
    assert again.seen == [3, 4]


def test_two_at_once_do_not_share_a_file(pairs, tmp_path):
    header = {"format": 1, "class_names": ["a"], "weights": "w"}
    empty = Counts.zeros(1, False, False)
    with open_records(tmp_path / RECORDS, header, pairs, empty):
        with pytest.raises(BlockingIOError, match="another evaluation"):
            measure(Brightness(), pairs, tmp_path)


def run_python(code):
    folders = [ROOT, ROOT / "tests", ROOT / "tests" / "inference"]
    path = os.pathsep.join(map(str, folders))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


MEASURE = """
import pathlib, resource, signal, time
from test_image_records import Brightness, measure
from keras_danet.data.files import Pair

pairs = [Pair(*pair) for pair in {pairs}]
{before}
try:
    measure(Brightness(), pairs, pathlib.Path({folder!r}), progress={progress})
except OSError as error:
    print(error)
"""


def test_a_full_disk_is_named(pairs, tmp_path):
    stop_after(3, pairs, tmp_path)
    room = (tmp_path / PARTIAL).stat().st_size - 20
    (tmp_path / PARTIAL).unlink()
    code = MEASURE.format(
        pairs=[tuple(pair) for pair in pairs],
        folder=str(tmp_path),
        progress=None,
        before="signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))",
    )
    said, _ = run_python(code).communicate()
    assert f"{tmp_path / PARTIAL} cannot be written: " in said
    again = Brightness()
    with pytest.warns(UserWarning, match="already has 2 "):
        report = measure(again, pairs, tmp_path)
    plain = evaluate(Brightness(), pairs, SCENES, "val")
    assert report.as_json() == plain.as_json()


def test_killed_at_any_moment(pairs, tmp_path):
    """SIGKILL after the second image, and after the fourth."""
    code = MEASURE.format(
        pairs=[tuple(pair) for pair in pairs],
        folder=str(tmp_path),
        progress="lambda *_: time.sleep(0.3)",
        before="",
    )
    for lines in (3, 5):
        process = run_python(code)
        partial = tmp_path / PARTIAL
        until = time.monotonic() + 120
        while time.monotonic() < until:
            found = partial.read_bytes() if partial.exists() else b""
            if found.count(b"\n") >= lines:
                break
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / RECORDS).exists()
    again = Brightness()
    with pytest.warns(UserWarning, match="resuming: "):
        report = measure(again, pairs, tmp_path)
    assert len(again.seen) <= 1
    plain = evaluate(Brightness(), pairs, SCENES, "val")
    assert report.as_json() == plain.as_json()


def test_worst_images_are_those_with_the_lowest_iou(pairs, tmp_path):
    measure(Brightness(), pairs, tmp_path)
    _, read = read_records(tmp_path / RECORDS)
    expected = []
    for pair in pairs:
        one = evaluate(Brightness(), [pair], SCENES, "val")
        truth = np.flatnonzero(one.confusion_matrix.sum(axis=1))
        ious = [[*one.class_iou.values()][k] for k in truth]
        expected.append(np.mean(ious))
    worst = worst_images(read(), 2)
    order = np.argsort(expected)[:2]
    assert [record.index for _, record in worst] == order.tolist()
    np.testing.assert_allclose([s for s, _ in worst], np.sort(expected)[:2])


@pytest.mark.parametrize(
    "content, problem",
    [
        ("", "Line 1 of"),
        ("{}\n", "does not say what was measured"),
        ("[1]\n", "not an object"),
        (
            json.dumps({"format": 1, "class_names": ["x"] * 60_000}) + "\n",
            "it has 60000 classes",
        ),
    ],
)
def test_what_is_no_file_of_records(tmp_path, content, problem):
    path = tmp_path / RECORDS
    path.write_text(content)
    with pytest.raises(ValueError, match=problem):
        read_records(path)


def test_a_broken_line_is_named(pairs, tmp_path):
    measure(Brightness(), pairs, tmp_path)
    path = tmp_path / RECORDS
    lines = path.read_text().splitlines()
    bad = ["{", json.dumps({"index": 1}), json.dumps({"cells": "a"})]
    record = json.loads(lines[3])
    for wrong in (
        {"size": [10**30, 1]},
        {"size": [0, 7]},
        {"ignored": -1},
        {"ignored": 10**30},
    ):
        bad.append(json.dumps({**record, **wrong}))
    for line in bad:
        path.write_text("\n".join([*lines[:3], line, *lines[4:]]) + "\n")
        _, read = read_records(path)
        with pytest.raises(ValueError, match=r"Line 4 of .*measure again"):
            list(read())


def test_names_of_images(tmp_path):
    pair = Pair(str(tmp_path / "x" / "1.png"), "")
    assert image_records.image_names([pair]) == ["1.png"]
    assert image_records.image_names([]) == []
