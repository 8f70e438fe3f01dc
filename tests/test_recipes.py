import pathlib

import pytest
from conftest import one_backend

from keras_danet.recipes import TrainConfig
from keras_danet.recipes import load_recipe

pytestmark = one_backend

TRAINING = pathlib.Path(__file__).resolve().parents[1] / "training"
CONFIG = TrainConfig(
    dataset="scenes", epochs=2, batch_size=4, crop_size=(32, 48)
)


def test_settings_replace_and_lists_become_tuples():
    config = CONFIG.replace({"crop_size": [64, 64], "learning_rate": 1})
    assert config.crop_size == (64, 64)
    assert config.learning_rate == 1
    assert CONFIG.replace({"attention": "channel"}).attention == "channel"
    assert CONFIG.replace({"jit_compile": False}).jit_compile is False
    assert CONFIG.crop_size == (32, 48)


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
        ({"dtype": "int32"}, "`dtype` must be typing.Literal.*mixed_bfloat16"),
        ({"jit_compile": "yes"}, "`jit_compile` must be"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CONFIG.replace(settings)


@pytest.mark.parametrize("path", sorted(TRAINING.glob("*_danet_*.py")))
def test_recipes_load(path):
    config = load_recipe(path)
    assert isinstance(config, TrainConfig)
    assert path.stem.startswith(config.dataset)


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
    path = tmp_path / "broken.py"
    path.write_text("config = (")
    with pytest.raises(ValueError, match="broken.py"):
        load_recipe(path)
