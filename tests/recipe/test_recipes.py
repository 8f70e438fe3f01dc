import ast
import dataclasses
import json
import pathlib
import pickle
import re
import signal

import numpy as np
import pytest
from conftest import ROOT
from conftest import one_backend
from PIL import Image

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet.cli import main
from keras_danet.data.datasets import get_dataset
from keras_danet.data.plan import Augmentation
from keras_danet.data.plan import steps_per_epoch
from keras_danet.recipe import ModelConfig
from keras_danet.recipe import TrainConfig
from keras_danet.recipe import find_recipe
from keras_danet.recipe import load_recipe
from keras_danet.recipe.config import describe_keys

pytestmark = one_backend

TRAINING = ROOT / "training"
RECIPES = sorted(TRAINING.glob("*.py"))
CROP = {"crop_size": (32, 48)}
CONFIG = TrainConfig("scenes", epochs=2, batch_size=4, augmentation=CROP)


def test_settings_replace_and_lists_become_tuples():
    config = CONFIG.replace({"crop_size": [64, 64], "learning_rate": 1})
    assert config.augmentation.crop_size == (64, 64)
    # What compares equal is written alike, for checkpoints' digests.
    config = config.replace({"scale_range": [1, 2], "class_weights": (1, 3)})
    assert repr(config.augmentation.scale_range) == "(1.0, 2.0)"
    assert repr(config.objective.class_weights) == "(1.0, 3.0)"
    assert repr(config.augmentation.crop_size) == "(64, 64)"
    assert config.optimization.learning_rate == 1
    channel = CONFIG.replace({"model.attention": "channel"})
    assert channel.model.attention == "channel"
    assert CONFIG.replace({"jit_compile": False}).jit_compile is False
    assert CONFIG.augmentation.crop_size == (32, 48)


OLD_KEYS = {
    "dataset": "scenes",
    "epochs": 2,
    "batch_size": 4,
    "crop_size": [32, 48],
    "scale_range": [0.5, 1.5],
    "hue": 10,
    "patience": 3,
    "depth": 18,
    "attention": ["channel"],
    "learning_rate": 0.02,
    "loss": "focal",
    "dice_weight": 1,
    "seed": 3,
}


def test_keys_of_runs_from_before_there_were_groups_are_read():
    config = TrainConfig.from_keys(OLD_KEYS)
    assert config == TrainConfig(
        "scenes",
        epochs=2,
        batch_size=4,
        augmentation=Augmentation((32, 48), (0.5, 1.5), hue=10),
        patience=3,
        model={"depth": 18, "attention": ("channel",)},
        optimization={"learning_rate": 0.02},
        objective={"loss": "focal", "dice_weight": 1.0},
        seed=3,
    )
    # What a run writes is read as well.
    written = json.loads(json.dumps(dataclasses.asdict(config)))
    assert TrainConfig.from_keys(written) == config
    # A checkpoint of theirs holds a digest of this text, in this order.
    assert json.dumps(config.changes()) == json.dumps(
        {**OLD_KEYS, "hue": 10.0, "dice_weight": 1.0}
    )


def test_a_key_may_stand_with_its_group_or_alone():
    alone = CONFIG.replace({"depth": 18, "hue": 3})
    assert alone.model.depth == 18 and alone.augmentation.hue == 3.0
    assert CONFIG.replace({"model.depth": 18, "augmentation.hue": 3}) == alone
    grouped = {"model": {"depth": 18}, "augmentation": {"hue": 3}}
    assert CONFIG.replace(grouped) == alone
    # A group that is given whole has its own defaults.
    with_whole = alone.replace({"model": ModelConfig(filters=8)})
    assert with_whole.model == ModelConfig(filters=8)
    assert with_whole.augmentation == alone.augmentation


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"model.dpth": 3}, "no key 'model.dpth'. Did you mean 'model.depth'"),
        ({"dpth": 3}, "no key 'dpth'. Did you mean 'depth'"),
        ({"objective.depth": 3}, "no key 'objective.depth'. Did you mean"),
        ({"model": {"hue": 3}}, "no key 'model.hue'"),
        ({"model": 3}, "`model` must be a dict of its keys. Received: model=3"),
        ({"model": {3: 3}}, "no key 'model.3'"),
        ({3: 3}, "no key '3'"),
        ({"model.momentum": 1}, "Did you mean 'optimization.momentum'"),
        ({"model.epochs": 1}, "Did you mean 'epochs'"),
    ],
)
def test_keys_in_the_wrong_place_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CONFIG.replace(settings)


def test_of_two_spellings_the_last_counts(tmp_path, monkeypatch):
    from keras_danet.trainer import loop

    keys = {"depth": 18, "model.depth": 34}
    assert CONFIG.replace(keys).model.depth == 34
    path = tmp_path / "recipe.py"
    path.write_text(GOOD)
    seen = []

    def train(config, *_, **__):
        seen.append(config)
        raise ValueError("enough")

    monkeypatch.setattr(loop, "train", train)
    spellings = ("depth=18", "model.depth=34", "depth=50")
    given = [text for each in spellings for text in ("--set", each)]
    assert main(["train", str(path), *given]) == 2
    assert seen[0].model.depth == 50


def test_keys_that_are_missing_are_named():
    with pytest.raises(ValueError, match="Missing: epochs, augmentation"):
        TrainConfig.from_keys({"dataset": "scenes", "batch_size": 2})


def test_a_recipe_needs_a_crop_size():
    with pytest.raises(ValueError, match="`augmentation` must have a `crop_s"):
        TrainConfig("scenes", 1, 1, augmentation={"hue": 1})
    with pytest.raises(ValueError, match="no key 'augmentation.dept'"):
        TrainConfig("scenes", 1, 1, augmentation={"dept": 1})
    with pytest.raises(ValueError, match="`augmentation` must be Augmentat"):
        TrainConfig("scenes", 1, 1, (32, 32))


def test_a_key_outside_of_its_group_is_told_its_group():
    told = r"`backbone` belongs to a group. Expected model=\{'backbone': \.\.\."
    with pytest.raises(ValueError, match=told):
        TrainConfig("scenes", 1, 1, backbone="keras.applications.ResNet50")
    with pytest.raises(ValueError, match=r"Expected augmentation=\{'crop_size"):
        TrainConfig("scenes", 1, 1, crop_size=(32, 32))
    assert pickle.loads(pickle.dumps(CONFIG)) == CONFIG


def test_whole_numbers_become_floats():
    """Keras takes `momentum=0.0` but not 0."""
    config = CONFIG.replace({"momentum": 0, "clip_norm": 5, "epochs": 3})
    optimization = config.optimization
    given = (optimization.momentum, optimization.clip_norm, config.epochs)
    assert list(map(repr, given)) == ["0.0", "5.0", "3"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batchsize": 4}, "no key 'batchsize'. Did you mean 'batch_size'"),
        ({"epochs": 2.5}, "`epochs` must be int"),
        ({"epochs": True}, "`epochs` must be int"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"crop_size": (64,)}, "`crop_size` must be"),
        ({"crop_size": "64"}, "`crop_size` must be"),
        ({"attention": ("channel", 3)}, "`attention` must be"),
        ({"multi_grid": 4}, "`multi_grid` must be"),
        ({"learning_rate": "fast"}, "`learning_rate` must be float"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be at least 0"),
        ({"learning_rate": -0.1}, "`learning_rate` must be at least 0"),
        ({"momentum": 1}, "`momentum` must be at least 0 and below 1"),
        ({"dtype": "int32"}, "`dtype` must be 'float32' or.*'mixed_bfloat16'"),
        ({"jit_compile": "yes"}, "`jit_compile` must be"),
        ({"dataset": "nonsense"}, "Unknown data set.*'nonsense'"),
        ({"epochs": 10**14}, "`epochs` must be at least 1 and below 1000000"),
        ({"filters": 10**6}, "`filters` must be at least 4 and below 1025"),
        ({"stem_filters": (9, 9, 10**9)}, "`stem_filters` must be .*to 1024"),
        ({"learning_rate": 10**400}, "`learning_rate` must be .*below 1e.38"),
        ({"clip_norm": 0}, "`clip_norm` must be above 0"),
        (
            {"learning_rate": 1e-3, "end_learning_rate": 1.0},
            "`end_learning_rate` must be at most",
        ),
        ({"patience": 0}, "`patience` must be at least 1"),
        ({"loss": "ohem", "ohem_threshold": 0}, "`ohem_threshold` must be ab"),
        # The crop has 1,536 pixels.
        (
            {"loss": "ohem"},
            "`ohem_min_kept` .* all 1536.*=100000.*example: 307",
        ),
        ({"loss": "ohem", "ohem_min_kept": 1536}, "`ohem_min_kept` must be"),
        ({"ohem_min_kept": 99}, "`ohem_min_kept` is for loss='ohem'"),
        ({"ohem_threshold": 0.6}, "`ohem_threshold` is for loss='ohem'"),
        (
            {"loss": "focal", "label_smoothing": 0.1},
            "`label_smoothing` is for loss='crossentropy'",
        ),
        ({"class_weights": (0, 0.0)}, "`class_weights` must be .* not all 0"),
        ({"class_weights": (1, -1)}, "`class_weights` must be"),
        ({"class_weights": ()}, "`class_weights` must be"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CONFIG.replace(settings)


# What nobody has published: measured here, or not yet.
OURS = {
    "camvid_danet_resnet18": 50.58,
    "camvid_danet_resnet50": 65.00,
    "camvid_danet_resnet50_imagenet": 59.09,
    "camvid_danet_resnet50_stride8": 67.71,
    "scenes_danet_resnet18": 77.05,
}

each_recipe = pytest.mark.parametrize(
    "path", RECIPES, ids=lambda path: path.stem
)


@each_recipe
def test_recipes_load_from_any_folder(path, tmp_path, monkeypatch):
    config = load_recipe(path)
    assert path.stem.startswith(
        f"{config.dataset}_danet_resnet{config.model.depth}"
    )
    # Alone, with nothing beside it.
    alone = tmp_path / path.name
    alone.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert load_recipe(alone) == config


@each_recipe
def test_recipes_explain_themselves(path):
    docstring = ast.get_docstring(ast.parse(path.read_bytes()))
    fields = re.findall(r"^(\w[\w ]*): ", docstring, re.MULTILINE)
    needed = ["Data", "Command", "Hardware", "Expected mean IoU", "Measured"]
    if path.stem not in OURS:
        needed = ["Paper", "Source", *needed]
    assert fields == needed
    assert f"keras-danet train training/{path.name}" in docstring


@each_recipe
def test_recipes_name_what_exists(path):
    config = load_recipe(path)
    splits = get_dataset(config.dataset).splits
    assert config.train_split in splits
    assert config.val_split in splits
    if made_by := splits[config.train_split].made_by:
        assert (ROOT / made_by).is_file()
        assert made_by in path.read_text()
    if path.stem in OURS:
        return
    preset = DilatedResNet.presets[config.model.backbone_weights]["arguments"]
    assert preset == {
        "depth": config.model.depth,
        "stem_filters": config.model.stem_filters,
    }


# The paper's tables and the authors' repository, by ResNet-50 and 101.
PUBLISHED = {
    "cityscapes_danet_resnet{}_fcn": (70.03, 72.54),
    "cityscapes_danet_resnet{}_pam": (75.74, 77.03),
    "cityscapes_danet_resnet{}_cam": (74.28, 76.55),
    "cityscapes_danet_resnet{}_pam_cam": (76.34, 77.57),
    "cityscapes_danet_resnet{}_scales": (None, 78.83),
    "cityscapes_danet_resnet{}": (None, 79.93),
    "pascal_context60_danet_resnet{}": (50.1, 52.6),
    "coco_stuff10k_danet_resnet{}": (37.2, 39.7),
    "coco_stuff164k_danet_resnet{}_mmseg": (None, None),
}
# Presets of MMSegmentation's model zoo whose training ours follows.
ZOO = {
    "cityscapes": (
        "danet_resnet50_cityscapes",
        "danet_resnet101_cityscapes_80k",
    ),
    "voc2012": ("danet_resnet50_voc2012", "danet_resnet101_voc2012"),
    "ade20k": ("danet_resnet50_ade20k", "danet_resnet101_ade20k"),
}


def test_recipes_expect_what_was_published(capsys):
    assert main(["recipes", str(TRAINING), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["recipe"] for row in rows] == [path.name for path in RECIPES]
    published = dict(OURS)
    for name, values in PUBLISHED.items():
        published |= {
            name.format(depth): value
            for depth, value in zip((50, 101), values, strict=True)
        }
    for dataset, presets in ZOO.items():
        for depth, preset in zip((50, 101), presets, strict=True):
            published[f"{dataset}_danet_resnet{depth}_mmseg"] = DANet.presets[
                preset
            ]["mean_iou"]
    for row in rows:
        expected = published.pop(row["recipe"].removesuffix(".py"))
        share = row["expected_mean_iou"]
        assert share == (expected and pytest.approx(expected / 100)), row
    # What has no figure may have no recipe.
    assert not any(published.values())


def test_the_readme_has_every_recipe():
    readme = (TRAINING / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+_danet_\w+)` \| (.*?) \|", readme, re.M))
    measured = dict(
        re.findall(r"^\| `(\w+_danet_\w+)` .* \| (.*?) \|$", readme, re.M)
    )
    assert list(rows) == [path.stem for path in RECIPES]
    for path in RECIPES:
        said = f"Expected mean IoU: {rows[path.stem]}"
        assert re.search(rf"^{said}( \(|$)", path.read_text(), re.M), path
        said = f"Measured: {measured[path.stem]}"
        assert re.search(rf"^{said}(;| \(|$)", path.read_text(), re.M), path


@pytest.mark.parametrize(
    "name, iterations",
    [
        ("cityscapes_danet_resnet50_mmseg", 80_000),
        ("cityscapes_danet_resnet101_mmseg", 80_000),
        ("voc2012_danet_resnet50_mmseg", 40_000),
        ("voc2012_danet_resnet101_mmseg", 40_000),
        ("ade20k_danet_resnet50_mmseg", 160_000),
        ("ade20k_danet_resnet101_mmseg", 160_000),
        ("coco_stuff164k_danet_resnet50_mmseg", 80_000),
    ],
)
def test_epochs_are_the_published_iterations(name, iterations):
    config = load_recipe(TRAINING / f"{name}.py")
    split = get_dataset(config.dataset).splits[config.train_split]
    steps = steps_per_epoch(split.count, config.batch_size)
    assert (config.epochs - 1) * steps < iterations <= config.epochs * steps


def differences(first, second):
    """The settings in which two recipes differ, as those of the second."""
    before, after = (
        load_recipe(TRAINING / f"{name}.py").values()
        for name in (first, second)
    )
    return {k: value for k, value in after.items() if before[k] != value}


def test_an_ablation_changes_what_it_is_about():
    base = "cityscapes_danet_resnet101"
    assert differences(base, f"{base}_scales") == {"model.multi_grid": None}
    assert differences(f"{base}_scales", f"{base}_pam_cam") == {
        "augmentation.scale_range": (1.0, 1.0),
        "epochs": 180,
    }
    for kind, attention in (
        ("fcn", ()),
        ("pam", ("position",)),
        ("cam", ("channel",)),
    ):
        assert differences(f"{base}_pam_cam", f"{base}_{kind}") == {
            "model.attention": attention,
            # The authors: one loss, a larger rate.
            "optimization.learning_rate": 0.01,
        }


@pytest.mark.parametrize(
    "name",
    [
        path.stem
        for path in RECIPES
        if path.with_name(path.name.replace("50", "101")).is_file()
        and "resnet50" in path.stem
    ],
)
def test_depths_differ_in_the_backbone_alone(name):
    changed = differences(name, name.replace("resnet50", "resnet101"))
    assert set(changed) == {"model.depth", "model.backbone_weights"}


def test_bad_recipes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no recipe"):
        load_recipe(tmp_path / "none.py")
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(ValueError, match="must define `config"):
        load_recipe(path)
    path = tmp_path / "recipe.txt"
    path.write_text("")
    with pytest.raises(ValueError, match="ends in .py"):
        load_recipe(path)
    path = tmp_path / "zero.py"
    path.write_text("epochs = 1 // 0")
    with pytest.raises(ValueError, match="zero.py.*ZeroDivisionError"):
        load_recipe(path)
    path.write_text("raise SystemExit(0)")
    with pytest.raises(ValueError, match="zero.py.*SystemExit"):
        load_recipe(path)
    path.write_text(
        "from keras_danet import TrainConfig\n"
        "config = TrainConfig('scenes', 1, 1, {'crop_size': (8, 8)}, depth=34)"
    )
    with pytest.raises(ValueError, match=r"`depth` bel.*model={'depth': ...}"):
        load_recipe(path)
    path = tmp_path / "broken.py"
    path.write_text("config = (")
    with pytest.raises(ValueError, match="broken.py"):
        load_recipe(path)


def test_signals_end_the_loading_of_a_recipe(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text("import signal; signal.raise_signal(signal.SIGINT)")
    (tmp_path / "killed.py").write_text("raise SystemExit(143)")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            load_recipe(path)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(SystemExit):
        load_recipe(tmp_path / "killed.py")


def listed(capsys, *arguments):
    """Exit code, output and errors of `keras-danet recipes`."""
    code = main(["recipes", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


GOOD = """\"\"\"A recipe.

Expected mean IoU: 8.5 % (a guess)
Measured: 7.25 %; it was late
\"\"\"
from keras_danet import TrainConfig

print("while it is loaded")
config = TrainConfig(
    "camvid",
    epochs=3,
    batch_size=16,
    augmentation={"crop_size": (64, 96)},
    model={"backbone_weights": "mine.npz"},
)
"""


def test_recipes_are_listed(tmp_path, capsys):
    (tmp_path / "b.py").write_text(GOOD)
    (tmp_path / "a.py").write_text(
        "import keras_danet as k\n"
        "config: object = k.TrainConfig('scenes', 1, 2,\n"
        "    {'crop_size': (8, 8)}, model={'depth': 34})\n"
    )
    # Neither is a recipe, and neither is executed.
    (tmp_path / "notes.txt").write_text("config = 1 // 0")
    (tmp_path / "prepare").mkdir()
    (tmp_path / "prepare" / "labels.py").write_text("raise SystemExit(3)")
    code, output, errors = listed(capsys, tmp_path)
    assert code == 0
    assert errors == "while it is loaded\n"
    assert [line.split() for line in output.splitlines()] == [
        "recipe data set backbone crop batch epochs expected measured".split(),
        ["a.py", "scenes", "resnet34", "8x8", "2", "1", "-", "-"],
        "b.py camvid mine.npz 64x96 16 3 8.5 % 7.25 %".split(),
    ]
    code, output, _ = listed(capsys, tmp_path, "--json")
    assert code == 0
    assert json.loads(output)[1] == {
        "recipe": "b.py",
        "dataset": "camvid",
        "backbone": "mine.npz",
        "crop_size": [64, 96],
        "batch_size": 16,
        "epochs": 3,
        "expected_mean_iou": 0.085,
        "expected": "8.5 % (a guess)",
        "measured_mean_iou": 0.0725,
        "measured": "7.25 %; it was late",
    }


@pytest.mark.parametrize(
    "contents, message",
    [
        (b"config = (", "broken.py cannot be run: SyntaxError"),
        (b"config = '\xff'", "broken.py cannot be run: SyntaxError"),
        (b"raise SystemExit(3)", "broken.py cannot be run: SystemExit: 3"),
        (b"print('a script')", "broken.py must define `config"),
        (b"config = 1 // 0", "broken.py cannot be run: ZeroDivisionError"),
        (b"import siblings\nconfig = 1", "broken.py cannot be run: Module"),
        (
            b"import keras_danet as k\n"
            b"config = k.TrainConfig('nonsense', 1, 2, {'crop_size': (8, 8)})",
            "broken.py cannot be run: ValueError: Unknown data set",
        ),
        (b"config = 3", "broken.py must define `config"),
    ],
)
def test_a_broken_recipe_is_named(tmp_path, capsys, contents, message):
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "broken.py").write_bytes(contents)
    code, output, errors = listed(capsys, tmp_path)
    assert code == 1
    assert message in errors
    assert "good.py" in output
    assert "broken.py" not in output
    code, output, _ = listed(capsys, tmp_path, "--json")
    assert code == 1
    broken, good = json.loads(output)
    assert message in broken["error"]
    assert good["epochs"] == 3


def test_what_is_no_file_is_told(tmp_path, capsys):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "link.py").symlink_to("gone.py")
    (tmp_path / "loop.py").symlink_to("loop.py")
    code, _, errors = listed(capsys, tmp_path)
    folder, link, loop = errors.splitlines()
    assert code == 1
    assert f"no recipe {tmp_path / 'folder.py'} (that is a folder)." in folder
    assert "link.py (that is a link to gone.py, which is missing)." in link
    assert "loop.py" in loop
    for name in ("folder", "link"):
        assert main(["train", str(tmp_path / f"{name}.py")]) == 2
        assert "There is no recipe" in capsys.readouterr().err


def test_a_folder_without_recipes(tmp_path, capsys):
    code, output, errors = listed(capsys, tmp_path, "--json")
    assert (code, json.loads(output)) == (0, [])
    assert "no recipe in" in errors
    code, _, errors = listed(capsys, tmp_path / "none")
    assert code == 2
    assert re.match("keras-danet: error: There is no folder .*none", errors)


def test_recipes_of_the_package_have_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, stem in (
        ("scenes", "scenes_danet_resnet18"),
        ("camvid", "camvid_danet_resnet18"),
        ("camvid_danet_resnet50", "camvid_danet_resnet50"),
        ("cityscapes_danet_resnet50.py", "cityscapes_danet_resnet50"),
        ("coco_stuff164k", "coco_stuff164k_danet_resnet50_mmseg"),
    ):
        found = find_recipe(name)
        assert found.stem == stem
        assert found.is_file()
    with pytest.raises(ValueError, match=r"begin with 'voc2012'.*resnet101_mm"):
        find_recipe("voc2012")
    with pytest.raises(FileNotFoundError, match="Did you mean 'scenes'"):
        find_recipe("scene")
    # A file of that name comes first.
    (tmp_path / "scenes").write_text("")
    assert find_recipe("scenes") == pathlib.Path("scenes")
    for path in ("folder/none.py", "./scenes_danet_resnet18"):
        assert find_recipe(path) == pathlib.Path(path)
    assert main(["train", "nothing_such"]) == 2
    assert "neither a file nor one of" in capsys.readouterr().err
    code, output, errors = listed(capsys)
    assert (code, errors) == (0, "")
    rows = {line.split()[0]: line.split() for line in output.splitlines()}
    assert rows["scenes_danet_resnet18.py"][-4:] == "77.05 % 77.05 %".split()
    assert rows["cityscapes_danet_resnet101.py"][-3:] == "79.93 % -".split()


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for name in CONFIG.values():
        assert re.search(rf"^  {name} \(.*;", text, re.MULTILINE)
    assert "batch_size (int; required)" in text
    assert "optimization.momentum (float; default: 0.9)" in text
    assert "augmentation.long_side (int or None; default: None)" in text
    meanings = {name: meaning for name, *_, meaning in describe_keys()}
    assert list(meanings) == list(CONFIG.values())
    assert all(meanings.values())
    # The type stands beside the key.
    assert meanings["augmentation.flip"].startswith("in [0, 1], the chance")
    assert meanings["seed"] == "seed of weights and augmentation."
    # One text may stand for two keys of one meaning, but not for these.
    sides = (
        meanings[f"augmentation.{side}_side"] for side in ("long", "short")
    )
    assert len(set(sides)) == 2
    for meaning in meanings.values():
        assert not re.match("(boolean|float|integer|string)s?\\b", meaning)


def test_paths_are_kept_as_strings(tmp_path):
    config = CONFIG.replace(
        {"data_root": tmp_path, "start_from": tmp_path / "run"}
    )
    assert config.data_root == str(tmp_path)
    assert config.model.start_from == str(tmp_path / "run")
    assert TrainConfig(
        "scenes", 2, 4, CROP, data_root=tmp_path
    ) == CONFIG.replace({"data_root": str(tmp_path)})
    for settings in ({"epochs": tmp_path}, {"dtype": tmp_path}):
        with pytest.raises(ValueError, match="must be"):
            CONFIG.replace(settings)


@pytest.mark.parametrize("splits", [("train", "val"), ("",)])
def test_init_writes_a_recipe(tmp_path, capsys, splits):
    folder = tmp_path / 'my "data"'
    draw = np.random.default_rng(0)
    for split, count in zip(splits, (11, 3), strict=False):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            label = draw.choice([0, 3, 255], (100, 2000)).astype("uint8")
            Image.fromarray(label).save(
                folder / "masks" / split / f"{number}.png"
            )
            Image.new("RGB", (2000, 100)).save(
                folder / "images" / split / f"{number}.jpg"
            )
    assert main(["init", str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert f"Save this as {folder / 'classes.json'}" in line
    proposal = line.partition(": {")[2]
    (folder / "classes.json").write_text("{" + proposal)
    assert [c["value"] for c in json.loads("{" + proposal)["classes"]] == [0, 3]
    assert main(["init", str(folder)]) == 0
    path = tmp_path / "mine.py"
    path.write_text(capsys.readouterr().out)
    config = load_recipe(path)
    assert config.dataset == "folder"
    assert config.data_root == str(folder)
    assert (config.train_split, config.val_split) == (
        ("train", "val") if len(splits) == 2 else ("all", "all")
    )
    # 1,280 of 2,000 pixels are left, and of 100 64.
    assert config.augmentation.long_side == 1280
    assert config.augmentation.crop_size == (64, 512)
    assert (config.batch_size, config.epochs) == (8, 400)
    assert config.optimization.learning_rate == 0.01


@pytest.mark.parametrize(
    "name",
    [
        'x"""; import os; os.system("id"); """y',
        'ends in a quote"',
        "ends in a backslash\\",
        '\\"""\\',
        "'''",
    ],
)
def test_init_writes_names_as_text(tmp_path, capsys, name):
    folder = tmp_path / name
    for kind in ("images", "masks"):
        (folder / kind / name).mkdir(parents=True)
        Image.new("L", (64, 64)).save(folder / kind / name / "0.png")
    classes = {"classes": [{"name": name}]}
    (folder / "classes.json").write_text(json.dumps(classes))
    assert main(["init", str(folder)]) == 0
    text = capsys.readouterr().out
    docstring, imported, assigned = ast.parse(text).body
    assert isinstance(docstring.value, ast.Constant)
    assert isinstance(imported, ast.ImportFrom)
    assert isinstance(assigned, ast.Assign)
    (tmp_path / "mine.py").write_text(text)
    config = load_recipe(tmp_path / "mine.py")
    assert config.train_split == config.val_split == name
    assert config.data_root == str(folder)


def test_init_crops_what_photos_both_upright_and_not_have(tmp_path, capsys):
    classes = [{"name": "a"}, {"name": "b"}]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes}))
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for number in range(8):
            size = (200, 300) if number % 2 else (300, 200)
            Image.new("L", size).save(tmp_path / kind / f"{number}.png")
    assert main(["init", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "Data: 8 pairs in 'all'; images of 200 x 300 to 300 x 200" in text
    (tmp_path / "mine.py").write_text(text)
    config = load_recipe(tmp_path / "mine.py")
    assert config.augmentation.crop_size == (192, 192)


def test_init_tells_what_a_folder_lacks(tmp_path, capsys):
    for name, expected in (
        ("none", "There is no folder"),
        (".", "a folder without masks/*.png"),
    ):
        assert main(["init", str(tmp_path / name)]) == 2
        assert expected in capsys.readouterr().err
    (tmp_path / "masks").mkdir()
    mask = np.zeros((8, 9, 3), "uint8")
    mask[0] = 128, 64, 32
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    assert main(["init", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert '"color": [128, 64, 32]' in error
    assert '"labels": "colors"' in error


@pytest.mark.parametrize(
    "settings, sides",
    [
        ({}, (None, None)),
        ({"long_side": 320}, (320, None)),
        ({"long_side": 2048, "short_side": 512}, (2048, 512)),
        ({"long_side": 320, "test_size": "image"}, (None, None)),
        ({"short_side": 608, "test_size": 608}, (608, None)),
        ({"test_size": [2048, 512]}, (2048, 512)),
    ],
)
def test_the_test_size_is_that_of_training_unless_it_is_said(settings, sides):
    config = TrainConfig("scenes", 1, 1, CROP).replace(settings)
    assert config.test_sides == sides


@pytest.mark.parametrize("size", [0, "own", (1, 2, 3), True, 2.5])
def test_what_is_no_test_size(size):
    with pytest.raises(ValueError, match="`test_size`"):
        TrainConfig("scenes", 1, 1, CROP, test_size=size)
