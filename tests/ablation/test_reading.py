"""What is refused of the runs of a grid, and that no damage is a traceback."""

import dataclasses
import json
import random
import shutil

import pytest
import tiny
from conftest import one_backend
from runs_by_hand import IOUS
from runs_by_hand import report
from runs_by_hand import write_grid
from runs_by_hand import write_run

from keras_danet.ablation import grid as grids
from keras_danet.ablation import grid_file
from keras_danet.ablation.reading import read_runs
from keras_danet.cli import main

pytestmark = one_backend
quick_builds = pytest.fixture(autouse=True)(tiny.quick_builds)


@pytest.fixture
def grid(tmp_path):
    return write_grid(tmp_path)


def rewrite(path, **changes):
    """Changes keys of a JSON file; those of `config` in that alone."""
    content = json.loads(path.read_text())
    content["config"] = {
        **content.get("config", {}),
        **changes.pop("config", {}),
    }
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"num_images": 4}, "num_images is 4 and 3"),
        ({"dataset": "camvid"}, "dataset is 'camvid'"),
        ({"split": "test"}, "split is 'test'"),
        ({"images": "def"}, "images is 'def' and 'abc'"),
        ({"class_names": ("road", "sky", "bus")}, "class_names is"),
        ({"protocol": "windows"}, "protocol is 'windows'"),
        ({"settings": {"padding": "black"}}, "settings is"),
    ],
)
def test_what_cannot_be_compared_is_refused(grid, facts, message):
    place = write_run(grid, grid.variants[1], 2, (0.1, 0.2, 0.3), **facts)
    with pytest.raises(ValueError, match=message) as caught:
        read_runs(grid)
    assert f"{place} and " in str(caught.value)
    assert "were measured differently" in str(caught.value)


def test_what_older_reports_leave_out_is_not_compared(grid):
    older = {"images": None, "settings": None, "weights": None}
    place = write_run(grid, grid.variants[1], 2, (0.1, 0.2, 0.3), **older)
    assert place in read_runs(grid)[0]


def test_another_size_is_the_same_protocol_only_where_it_is_varied(tmp_path):
    write_grid(tmp_path)
    grid = grids.make_grid(
        tmp_path / "sizes",
        str(tmp_path / "tiny.py"),
        {"attention": "none"},
        ["test_size=image,64"],
        "0,1",
    )
    for (variant, seed), size in zip(grid.cells, (None, 64) * 2, strict=True):
        settings = {"size": [size, None]}
        text = f"size {size}"
        place = write_run(
            *(grid, variant, seed, IOUS["none", seed]),
            settings=settings,
            protocol=text,
            # The size that a network is measured at changes no weights.
            weights=f"of seed {seed}",
        )
        test_size = size or "image"
        rewrite(place / "config.json", config={"test_size": test_size})
    assert len(read_runs(grid)[0]) == 4
    mirrored = {"settings": {"size": [64, None], "mirror": True}}
    report(IOUS["none", 1], protocol="size 64", **mirrored).save(
        place / "report.json"
    )
    with pytest.raises(ValueError, match="measured differently: settings"):
        read_runs(grid)
    report(IOUS["none", 1], protocol="size 65").save(place / "report.json")
    with pytest.raises(ValueError, match="measured differently: protocol"):
        read_runs(grid)


def test_a_copy_is_refused(grid):
    place = write_run(
        grid, grid.variants[1], 2, (0.1, 0.2, 0.3), weights="of another"
    )
    read_runs(grid)
    original = grid.run(grid.variants[0], 1) / "report.json"
    shutil.copy(original, place / "report.json")
    message = f"{original.parent} and {place} have the same weights"
    with pytest.raises(ValueError, match=message):
        read_runs(grid)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": 7}, "seed is 7, not 1"),
        ({"epochs": 3}, "epochs is 3, not 4"),
        ({"model": {"depth": 18, "filters": 8}}, "model.attention is"),
        ({"optimization": {"learning_rate": 1}}, "learning_rate is 1.0, not"),
        ({"model": {"start_from": "/x/other"}}, "start_from is 'other'"),
    ],
)
def test_a_run_of_another_training_is_refused(grid, changes, message):
    place = grid.run(grid.variants[0], 1)
    rewrite(place / "config.json", config=changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_runs(grid)
    assert f"{place / 'config.json'} is of another training" in str(
        caught.value
    )


def test_data_and_weights_may_lie_elsewhere(grid):
    weights = {"backbone_weights": "/here/w.h5"}
    there = dataclasses.replace(
        grid, config=grid.config.replace({**weights, "data_root": "/here"})
    )
    for (attention, seed), _ in IOUS.items():
        number = ("none", "position").index(attention)
        place = grid.run(grid.variants[number], seed)
        model = {"depth": 18, "filters": 8, "attention": attention}
        model["backbone_weights"] = "other/folder/w.h5"
        changes = {"model": model, "data_root": "/there"}
        rewrite(place / "config.json", config=changes)
    assert len(read_runs(there)[0]) == len(IOUS)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mean_iou": 7}, "mean_iou is 7 in it, and 0.28"),
        ({"mean_iou": -0.1}, "mean_iou is -0.1 in it"),
        ({"mean_iou": float("nan")}, "mean_iou is nan in it"),
        ({"mean_iou": 10**400}, "mean_iou is 1000"),
        ({"mean_iou": "0.3"}, "mean_iou is '0.3' in it"),
        ({"class_iou": "road"}, "IoU of road is None"),
        ({"class_iou": {"road": 0.4}}, "IoU of sky is None"),
        ({"class_iou": {"road": 0.5, "sky": 0.35}}, "IoU of road is 0.5 in it"),
        ({"confusion_matrix": [[0] * 3] * 3}, "contradicts itself"),
        ({"class_names": ["road", "sky"]}, "is not a report"),
        ({"weights": ["x"]}, "weights is no string"),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(grid, changes, message):
    path = grid.run(grid.variants[0], 1) / "report.json"
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_runs(grid)
    assert str(path) in str(caught.value)


def test_what_measured_nothing_is_refused(grid):
    path = grid.run(grid.variants[0], 1) / "report.json"
    empty = report((0.5, 0.5, 0.5))
    dataclasses.replace(
        empty, confusion_matrix=0 * empty.confusion_matrix
    ).save(path)
    with pytest.raises(ValueError, match="measured nothing"):
        read_runs(grid)


def test_several_scales_are_of_the_same_weights_and_alike(grid):
    first, second = (grid.run(grid.variants[0], seed) for seed in (0, 1))
    weights = [f"of {IOUS['none', seed]}" for seed in (0, 1)]
    name = "report_multi_scale.json"
    report((0.5, 0.4, 0.3), weights="others").save(first / name)
    with pytest.raises(ValueError, match="weights is 'others'") as caught:
        read_runs(grid)
    assert str(first / name) in str(caught.value)
    report((0.5, 0.4, 0.3), weights=weights[0]).save(first / name)
    other = {"settings": {"scales": [2.0]}}
    report((0.5, 0.4, 0.3), weights=weights[1], **other).save(second / name)
    with pytest.raises(ValueError, match="measured differently: settings"):
        read_runs(grid)


def test_a_run_that_did_not_end_is_not_counted(grid, capsys):
    place = grid.run(grid.variants[0], 1)
    rows = (place / "history.csv").read_text().splitlines(True)
    (place / "history.csv").write_text("".join(rows[:3]))
    runs, missing = read_runs(grid)
    assert place not in runs
    assert missing == {
        "attention=none, seed 1": "not finished, epoch 2 of 4",
        "attention=position, seed 2": "not measured yet",
    }
    assert main(["ablate", "--table", str(grid.folder)]) == 1
    errors = capsys.readouterr().err
    assert "not finished, epoch 2 of 4: attention=none, seed 1\n" in errors
    (place / "history.csv").unlink()
    assert place not in read_runs(grid)[0]


def test_patience_ends_a_run_before_its_epochs(grid):
    grid = dataclasses.replace(
        grid, config=grid.config.replace({"patience": 1})
    )
    for place in grid.folder.glob("*/seed-*"):
        rewrite(place / "config.json", config={"patience": 1})
    place = grid.run(grid.variants[0], 1)
    for scores, ended in (
        ((0.3, 0.4), False),
        ((0.4, 0.3), True),
        # One that is as good is no better.
        ((0.4, 0.4), True),
        ((0.3, ""), False),
    ):
        rows = [f"{n},{score}\n" for n, score in enumerate(scores, 1)]
        text = "".join(["epoch,val_mean_iou\n", *rows])
        (place / "history.csv").write_text(text)
        assert (place in read_runs(grid)[0]) == ended, scores


HEAD = b"epoch,val_mean_iou,gamma_position\n"
FILES = ("config.json", "history.csv", "report.json", "report_multi_scale.json")
DAMAGES = {
    "empty": b"",
    "binary": bytes(range(256)) * 9,
    "UTF-16": "{}".encode("utf-16"),
    "list": b"[]",
    "list of lists": b"[[1, 2], [3]]",
    "number": b"5",
    "null": b"null",
    "text": b'"text"',
    "no keys": b"{}",
    "deep": b"[" * 10_000 + b"]" * 10_000,
    "deep dicts": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "long number": b"9" * 10_000,
    "infinite": b'{"mean_iou": Infinity, "config": NaN}',
    "NUL": b"epoch,val_mean_iou\n1,\0\n",
    "long cell": HEAD + b"1" * 200_000 + b",0.1,0.1\n",
    "open quote": HEAD + b'"' + b"x" * 200_000 + b"\n",
    "no epoch": b"a,b\n1,2\n",
    "epoch of text": HEAD + b"one,0.1,0.1\n",
    "epochs in no order": HEAD + b"2,0.1,0.1\n1,0.1,0.1\n",
    "a score above 1": HEAD + b"1,7,0.1\n",
    "a score below 0": HEAD + b"1,-0.1,0.1\n",
    "NaN score": HEAD + b"1,nan,0.1\n",
    "endless gamma": HEAD + b"1,0.1,inf\n",
    "short row": HEAD + b"1,0.1\n",
    "long row": HEAD + b"1,0.1,0.1,0.1\n",
    "cut in a number": HEAD + b"1,0.1,0.1",
    "no scores": b"epoch\n1\n2\n3\n4\n",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_without_a_traceback(grid, capfd, name, damage):
    path = grid.run(grid.variants[0], 0) / name
    path.write_bytes(DAMAGES[damage])
    code = main(["ablate", "--table", str(grid.folder)])
    said = capfd.readouterr().err
    assert "Traceback" not in said
    # An empty history is that of a run which was not begun.
    unfinished = name == "history.csv" and damage == "empty"
    assert code == (1 if unfinished else 2), said
    named = "not finished, epoch 0" if unfinished else str(path)
    assert named in said


# What is put in the place of every value of a file, one after the other.
VALUES = (
    *(None, True, -1, 0, 10**400, 0.5, 1e999, float("nan"), "", "text"),
    *("\x1b[2J", [], [1], [[1, [2]]], {}, {"a": 1}),
)


def places(content, path=()):
    """The paths of all values in what a JSON file holds."""
    yield path
    inner = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        inner = enumerate(content[:2])
    for key, value in inner:
        yield from places(value, (*path, key))


def replaced(content, path, value):
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = replaced(content[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("name", ["grid.json", *FILES])
def test_no_value_of_a_file_is_a_traceback(grid, name):
    run = grid.run(grid.variants[0], 0)
    shutil.copy(run / "report.json", run / "report_multi_scale.json")
    path = grid.folder / name if name == "grid.json" else run / name
    if name == "history.csv":
        whole = path.read_text()
        contents = [
            whole.replace(cell, str(value), 1)
            for cell in ("epoch", "val_mean_iou", "3", "0.5")
            for value in VALUES
        ]
    else:
        whole, chance = json.loads(path.read_text()), random.Random(0)
        contents = [
            json.dumps(replaced(whole, place, value))
            for place in places(whole)
            for value in chance.sample(VALUES, 4)
        ]
    accepted = 0
    for content in contents:
        path.write_text(content)
        try:
            read_runs(grid_file.open_grid(grid.folder))
        except (ValueError, OSError) as error:
            assert str(path.parent) in str(error), content
        else:
            accepted += 1
    assert accepted < len(contents)


def test_nothing_of_a_file_reaches_the_terminal_raw(grid, capfd):
    escape = "\x1b[2J"
    path = grid.folder / "grid.json"
    content = json.loads(path.read_text())
    # What may be any text: a split, a path, a protocol, a class.
    content["vary"] = {"train_split": ["train", escape]}
    content["settings"] = [f"data_root='{escape}'"]
    path.write_text(json.dumps(content))
    opened = grid_file.open_grid(grid.folder)
    names = ("road", f"sky{escape}", "car")
    for (variant, seed), ious in zip(
        opened.cells[:3], IOUS.values(), strict=False
    ):
        place = write_run(
            *(opened, variant, seed, ious),
            protocol=f"whole{escape}",
            split=escape,
            class_names=names,
        )
        config = {"train_split": variant.settings["train_split"]}
        config["model"] = {"depth": 18, "filters": 8}
        rewrite(place / "config.json", config=config)
    main(["ablate", "--table", str(grid.folder)])
    said = capfd.readouterr()
    for text in (said.out, said.err, (grid.folder / "ablation.md").read_text()):
        assert "\x1b" not in text
        assert "\\x1b" in text
