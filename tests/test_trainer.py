import csv
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow", reason="training reads data with tf.data")

from keras_danet import runs
from keras_danet import trainer
from keras_danet.checkpointing import BestModel
from keras_danet.data.scenes import write_scenes
from keras_danet.recipes import TrainConfig


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(root, splits={"train": 12, "val": 3}, size=(48, 64), seed=1)
    return root


def tiny(root, **settings):
    return TrainConfig(
        dataset="scenes",
        data_root=str(root),
        epochs=2,
        batch_size=4,
        crop_size=(32, 48),
        depth=18,
        filters=8,
        # Compiling takes longer than these trainings, but on JAX, where
        # without it every operation is compiled by itself.
        jit_compile=keras.backend.backend() == "jax",
    ).replace(settings)


def test_validation_that_cannot_fit_is_refused_first(
    root, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        trainer,
        "check_memory",
        lambda model, *request, **options: asked.append((request, options)),
    )
    trainer.train(tiny(root, epochs=1), tmp_path / "run", verbose=0)
    assert asked == [
        ((4, 32, 48), {"training": True, "num_devices": 1}),
        ((2, 48, 64), {"num_devices": 1}),
    ]


def test_a_run_explains_itself(root, tmp_path):
    run = tmp_path / "run"
    config = tiny(root, epochs=3, val_every=2)
    history = trainer.train(config, run, recipe="some.py", verbose=0)
    assert sorted(p.name for p in run.iterdir()) == [
        "config.json",
        "history.csv",
        "model.keras",
    ]
    assert len(history["loss"]) == 3
    assert len(history["val_mean_iou"]) == 2
    with open(run / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx(
        history["loss"]
    )
    written = json.loads((run / "config.json").read_text())
    assert written["recipe"] == "some.py"
    assert written["backend"] == keras.backend.backend()
    assert written["versions"]["keras"] == keras.__version__
    assert runs.read_run_config(run) == config
    model = runs.load_run_model(run)
    assert model.num_classes == 8
    [image] = runs.sample_images(config, run, count=1)
    assert model.predict_on_batch(image[None]).shape == (1, 48, 64, 8)


@pytest.mark.parametrize("loader", ["tf.data", "numpy"])
def test_skipped_examples_are_counted_in_the_history(
    root, tmp_path, loader, caplog
):
    bad = tmp_path / "scenes"
    shutil.copytree(root, bad)
    spoilt = sorted((bad / "train").glob("*.png"))[4]
    spoilt.write_bytes(b"")
    config = tiny(bad, loader=loader)
    with pytest.raises(ValueError, match=f"{spoilt.name}.* is empty"):
        trainer.train(config, tmp_path / "run", verbose=0)
    config = config.replace({"on_bad_file": "skip"})
    history = trainer.train(config, tmp_path / "run", verbose=0)
    assert history["skipped"] == [1, 1]
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert "skipped" in rows[0].split(",")
    assert [r for r in caplog.messages if spoilt.name in r]


def test_same_seed_same_weights(root, tmp_path):
    for name in ("a", "b"):
        trainer.train(tiny(root, epochs=1), tmp_path / name, verbose=0)
    first, second = (runs.load_run_model(tmp_path / n) for n in ("a", "b"))
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )


def test_an_existing_run_is_kept(root, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="--overwrite"):
        trainer.train(tiny(root), run, verbose=0)
    # Nor is it lost where the run that shall replace it fails.
    with pytest.raises(ValueError, match="batch_size"):
        trainer.train(tiny(root, batch_size=13), run, overwrite=True, verbose=0)
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "config.json"]
    with runs.new_run_folder(run, overwrite=True) as new:
        assert new == run
        assert list(run.iterdir()) == []
        (run / "model.keras").write_bytes(b"new")
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "model.keras"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match="not a run folder"):
        trainer.train(tiny(root), other, overwrite=True, verbose=0)
    assert (other / "thesis.txt").exists()


def test_nan_ends_training_and_leaves_nothing(root, tmp_path):
    run = tmp_path / "run"
    # With one step an epoch, only validation sees what the update did.
    config = tiny(root, learning_rate=1e30, batch_size=12)
    with pytest.raises(ValueError, match="became nan in epoch 1, validation"):
        trainer.train(config, run, verbose=0)
    assert not run.exists()
    stop = trainer.StopAtNaN()
    stop.on_train_begin()
    stop.on_train_batch_end(0, {"loss": 1.0})
    with pytest.raises(ValueError, match="became inf in epoch 1, step 2"):
        stop.on_train_batch_end(1, {"loss": float("inf")})


def test_an_old_run_survives_a_failure_after_the_first_model(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("old")
    with pytest.raises(ValueError, match="late"):
        with runs.new_run_folder(run, overwrite=True):
            (run / "model.keras").write_bytes(b"new")
            raise ValueError("late")
    assert (run / "config.json").read_text() == "old"
    # An interruption is no failure: what was trained is kept.
    with pytest.raises(KeyboardInterrupt):
        with runs.new_run_folder(run, overwrite=True):
            (run / "model.keras").write_bytes(b"new")
            raise KeyboardInterrupt
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "model.keras"]


def test_bad_files_are_named_and_leave_nothing(tmp_path):
    root = tmp_path / "scenes"
    write_scenes(root, splits={"train": 4, "val": 1}, size=(48, 64), seed=1)
    label = sorted((root / "trainannot").iterdir())[2]
    run = tmp_path / "run"
    # The other kinds of bad files: tests/data/test_files.py.
    Image.fromarray(np.full((48, 64), 37, "uint8")).save(label)
    with pytest.raises(ValueError, match="Label value 37") as error:
        trainer.train(tiny(root), run, verbose=0)
    assert label.name in str(error.value)
    assert not run.exists()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dataset": "camvit"}, "Did you mean 'camvid'"),
        ({"val_split": "vall"}, "vall"),
        ({"val_split": "test"}, "test"),
        ({"batch_size": 13}, "13"),
        ({"crop_size": (0, 32)}, "crop_size"),
        ({"depth": 19}, "`depth` must be"),
    ],
)
def test_bad_settings_leave_nothing(root, tmp_path, settings, message):
    run = tmp_path / "run"
    with pytest.raises((ValueError, OSError), match=message):
        trainer.train(tiny(root, **settings), run, verbose=0)
    assert not run.exists()


def test_missing_data_says_how_to_name_it(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_DANET_CAMVID", raising=False)
    config = tiny(None, dataset="camvid", data_root=None)
    with pytest.raises(ValueError, match="KERAS_DANET_CAMVID"):
        runs.find_data(config, tmp_path)
    monkeypatch.setenv("KERAS_DANET_CAMVID", "somewhere")
    assert runs.find_data(config, tmp_path)[1] == "somewhere"


def test_best_model_is_whole_or_not_there(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    best = BestModel(tmp_path / "model.keras")
    best.set_model(model)
    best.on_epoch_end(0, {"loss": 1.0})
    best.on_epoch_end(0, {"val_mean_iou": float("nan")})
    assert list(tmp_path.iterdir()) == []
    best.on_epoch_end(1, {"val_mean_iou": 0.5})
    kept = (tmp_path / "model.keras").read_bytes()

    def fail(path, zipped):
        pathlib.Path(path, "model.weights.h5").write_bytes(b"half")
        raise OSError("disk full")

    model.save = fail
    with pytest.raises(OSError, match="disk full"):
        best.on_epoch_end(2, {"val_mean_iou": 0.6})
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]
    assert (tmp_path / "model.keras").read_bytes() == kept
    best.on_epoch_end(3, {"val_mean_iou": 0.4})


def test_run_folders_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        runs.read_run_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="at least one epoch"):
        runs.load_run_model(tmp_path)
    for content in (b"", b"PK\x03\x04", b"half a model"):
        (tmp_path / "model.keras").write_bytes(content)
        with pytest.raises(ValueError, match="model.keras cannot be loaded"):
            runs.load_run_model(tmp_path)
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="a Sequential, not a DANet"):
        runs.load_run_model(tmp_path)
    monkeypatch.setattr(runs, "MAX_MODEL_BYTES", 1000)
    with pytest.raises(ValueError, match=r"unpacks to \d+ bytes"):
        runs.load_run_model(tmp_path)
    for content in ("{", "{}", '{"config": {"speed": 3}}', "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match="does not describe a run"):
            runs.read_run_config(tmp_path)
