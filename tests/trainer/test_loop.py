import contextlib
import csv
import dataclasses
import errno
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import types

import keras
import numpy as np
import pytest
from conftest import one_backend
from conftest import slow_but_on_torch
from PIL import Image
from tiny import quick_builds

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import runs
from keras_danet import waiting
from keras_danet.data.files import find_pairs
from keras_danet.data.scenes import write_scenes
from keras_danet.distribution import engines as distribution
from keras_danet.distribution import keras_distributions
from keras_danet.distribution.engines import Placement
from keras_danet.inference import predictor as inference
from keras_danet.inference.evaluation import evaluate
from keras_danet.inference.predictor import Predictor
from keras_danet.optimizers import SGD
from keras_danet.recipe import TrainConfig
from keras_danet.trainer import loop
from keras_danet.trainer import training as training_module
from keras_danet.trainer.callbacks import progress
from keras_danet.trainer.callbacks import validation
from keras_danet.trainer.callbacks.checkpoints import Checkpoints
from keras_danet.trainer.callbacks.checkpoints import training_state
from keras_danet.trainer.checkpoints import checkpoints
from keras_danet.trainer.checkpoints import load_checkpoint
from keras_danet.trainer.checkpoints import read_header
from keras_danet.trainer.run_folder import open_run_folder
from keras_danet.trainer.training import Training
from keras_danet.weights import keras_files

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="tf.data's"
)


quick = pytest.fixture(autouse=True, scope="module")(quick_builds)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(root, splits={"train": 12, "val": 3}, size=(48, 64), seed=1)
    return root


def trained_model(run):
    return runs.open_model(run)[0]


def tiny(root, **settings):
    return TrainConfig(
        dataset="scenes",
        data_root=str(root),
        epochs=2,
        batch_size=4,
        model={"depth": 18, "filters": 8},
        augmentation={"crop_size": (32, 48)},
        # Compiling takes longer than these trainings, but on JAX, where
        # without it every operation is compiled by itself.
        jit_compile=keras.backend.backend() == "jax",
    ).replace(settings)


def test_validation_that_cannot_fit_is_refused_first(
    root, tmp_path, monkeypatch
):
    asked = []
    for module in (training_module, inference):
        monkeypatch.setattr(
            module,
            "check_memory",
            lambda model, *request, **options: asked.append((request, options)),
        )
    # What is asked for, and measured, has the size that training saw.
    config, run = tiny(root, epochs=1, long_side=32), tmp_path / "run"
    history = loop.train(config, run, verbose=0)
    assert asked == [
        ((4, 32, 48), {"training": True, "num_devices": 1}),
        ((1, 24, 32), {"remedy": None}),
    ]
    path = run / "config.json"
    content = json.loads(path.read_text())
    # As a run was before there was a test size.
    assert content["config"].pop("test_size") == "training"
    path.write_text(json.dumps(content))
    sides = runs.read_run_config(run).test_sides
    predictor = Predictor(trained_model(run), size=sides)
    dataset, _ = runs.find_data(config, run)
    pairs = find_pairs(dataset, root, "val")
    report = evaluate(predictor, pairs, dataset, "val")
    assert [report.mean_iou] == history["val_mean_iou"]
    assert "resized to a long side of 32 pixels" in report.protocol


def test_a_run_explains_itself(root, tmp_path):
    run = tmp_path / "run"
    config = tiny(root, epochs=3, val_every=2)
    history = loop.train(config, run, recipe="some.py", verbose=0)
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoints",
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
    (session,) = written["sessions"]
    assert session["versions"]["keras"] == keras.__version__
    assert runs.read_run_config(run) == config
    model = trained_model(run)
    assert model.num_classes == 8
    [image] = runs.sample_images(config, run, count=1)
    assert model.predict_on_batch(image[None]).shape == (1, 48, 64, 8)


@pytest.mark.parametrize(
    "loader", [pytest.param("tf.data", marks=needs_tensorflow), "numpy"]
)
def test_skipped_examples_are_counted_in_the_history(
    root, tmp_path, loader, caplog
):
    bad = tmp_path / "scenes"
    shutil.copytree(root, bad)
    spoilt = sorted((bad / "train").glob("*.png"))[4]
    spoilt.write_bytes(b"")
    config = tiny(bad, loader=loader)
    with pytest.raises(ValueError, match=f"{spoilt.name}.* is empty"):
        loop.train(config, tmp_path / "run", verbose=0)
    config = config.replace({"on_bad_file": "skip"})
    history = loop.train(config, tmp_path / "run", verbose=0)
    assert history["skipped"] == [1, 1]
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert "skipped" in rows[0].split(",")
    assert [r for r in caplog.messages if spoilt.name in r]


@pytest.mark.parametrize(
    ("number", "spoilt", "message"),
    [
        # A map that was forgotten.
        (0, Image.new("L", (64, 48), 200), "Label value 200 in .*valannot"),
        (1, Image.new("L", (64, 47)), "differ in size"),
    ],
)
def test_bad_validation_files_are_found_before_training(
    root, tmp_path, number, spoilt, message
):
    bad = tmp_path / "scenes"
    shutil.copytree(root, bad)
    spoilt.save(sorted((bad / "valannot").iterdir())[number])
    with pytest.raises(ValueError, match=message):
        loop.train(tiny(bad), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_same_seed_same_weights(root, tmp_path):
    for name in ("a", "b"):
        loop.train(tiny(root, epochs=1), tmp_path / name, verbose=0)
    first, second = (trained_model(tmp_path / n) for n in ("a", "b"))
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )


def test_an_existing_run_is_kept(root, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="--overwrite"):
        loop.train(tiny(root), run, verbose=0)
    # Nor is it lost where the run that shall replace it fails.
    with pytest.raises(ValueError, match="batch_size"):
        loop.train(tiny(root, batch_size=13), run, overwrite=True, verbose=0)
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "config.json"]
    with open_run_folder(run, overwrite=True) as new:
        assert new == run
        assert list(run.iterdir()) == []
        (run / "model.keras").write_bytes(b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run.old-1"]
    assert (tmp_path / "run.old-1" / "config.json").read_text() == "{}"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match="not a run folder"):
        loop.train(tiny(root), other, overwrite=True, verbose=0)
    assert (other / "thesis.txt").exists()


def test_nan_ends_training_and_leaves_nothing(root, tmp_path):
    run = tmp_path / "run"
    config = tiny(root, learning_rate=1e30)
    with pytest.raises(ValueError, match="epoch 1, step 2 of 3") as caught:
        loop.train(config, run, verbose=0)
    assert not run.exists()
    # The batch whose update spoilt it, and the one that showed it.
    assert "none yet" in str(caught.value)
    training = Training(config, tmp_path, Placement(), None)
    for step in range(2):
        (names,) = re.findall(f"step {step + 1}: ([^;]*png)", str(caught.value))
        assert names.split(", ") == training.files(0, step)


def test_the_files_of_a_batch_are_those_that_are_read(root, tmp_path):
    config = tiny(root, flip=0.0, scale_range=(1.0, 1.0), crop_size=(48, 64))
    training = Training(config, tmp_path, Placement(), None)
    with training._crops(1, 2) as batches:
        images, _ = next(iter(batches))
    images = keras.ops.convert_to_numpy(images)
    for name, image in zip(training.files(1, 2), images, strict=True):
        np.testing.assert_allclose(image, np.array(Image.open(name)), atol=1e-3)


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
        loop.train(tiny(root, **settings), run, verbose=0)
    assert not run.exists()


def test_missing_data_says_how_to_name_it(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_DANET_CAMVID", raising=False)
    config = tiny(None, dataset="camvid", data_root=None)
    with pytest.raises(ValueError, match="KERAS_DANET_CAMVID"):
        runs.find_data(config, tmp_path)
    monkeypatch.setenv("KERAS_DANET_CAMVID", "somewhere")
    assert runs.find_data(config, tmp_path)[1] == "somewhere"


@pytest.fixture(scope="module")
def unbroken(root, tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    config = tiny(root, patience=9)
    return config, run, loop.train(config, run, verbose=0)


def same_weights(run, other):
    ours, theirs = (
        [
            keras.ops.convert_to_numpy(weight)
            for weight in trained_model(folder).weights
        ]
        for folder in (run, other)
    )
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


class Killed(BaseException):
    """As a SIGKILL does, it lets nobody clean up by a plain `except`."""


class KillAt:
    """Stands in for the moments between which a training may be killed."""

    def __init__(self, monkeypatch, owner, name, number):
        self.calls = 0
        original = getattr(owner, name)

        def killing(*arguments, **options):
            result = original(*arguments, **options)
            self.calls += 1
            if self.calls == number:
                raise Killed
            return result

        monkeypatch.setattr(owner, name, killing)


def slow(*moment):
    return pytest.param(*moment, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "owner, name, number",
    [
        # After a step: the first, in the middle, the last of an epoch.
        slow(Checkpoints, "on_train_batch_end", 1),
        (Checkpoints, "on_train_batch_end", 2),
        slow(Checkpoints, "on_train_batch_end", 3),
        slow(Checkpoints, "on_train_batch_end", 5),
        # In a validation, before and after the best model is kept.
        (validation, "evaluate", 1),
        slow(validation, "evaluate", 2),
        slow(validation, "save_model", 2),
        # After the last checkpoint.
        slow(Checkpoints, "on_epoch_end", 2),
    ],
)
def test_a_killed_run_ends_like_an_unbroken_one(
    unbroken, tmp_path, monkeypatch, owner, name, number
):
    config, run, history = unbroken
    with monkeypatch.context() as patch, pytest.raises(Killed):
        KillAt(patch, owner, name, number)
        loop.train(config, tmp_path / "run", checkpoint_every=1, verbose=0)
    resumed = loop.train(config, tmp_path / "run", resume=True, verbose=0)
    assert same_weights(run, tmp_path / "run")
    for name in ("loss", "mean_iou", "val_mean_iou", "gamma_position"):
        assert resumed[name] == history[name], name
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(written["sessions"]) == 2


@slow_but_on_torch
def test_averages_survive_as_well(root, tmp_path, monkeypatch):
    """`fit` would end a part of an epoch with averages as weights."""

    def compile_with_averages(model, config, total_steps):
        model.compile(
            SGD(0.05, use_ema=True, ema_momentum=0.5),
            jit_compile=config.jit_compile,
        )

    monkeypatch.setattr(training_module, "compile_model", compile_with_averages)
    # The last epoch is the best.
    scores = iter(range(100))
    monkeypatch.setattr(
        validation,
        "evaluate",
        lambda *_, **__: types.SimpleNamespace(
            mean_iou=next(scores), pixel_accuracy=0.5
        ),
    )
    config = tiny(root, epochs=3)
    loop.train(config, tmp_path / "a", verbose=0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        KillAt(patch, Checkpoints, "on_train_batch_end", 4)
        loop.train(config, tmp_path / "b", checkpoint_every=2, verbose=0)
    loop.train(config, tmp_path / "b", resume=True, verbose=0)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    # What is kept are the averages, not the weights that go on.
    training = Training(config, tmp_path / "a", Placement(), None)
    place = Checkpoints(tmp_path / "a" / "checkpoints", training.steps)
    place.set_model(training.model)
    training.model.build_optimizer()
    load_checkpoint(
        checkpoints(place.folder)[0],
        {
            name: variable
            for name, variable in training_state(training.model).items()
            if not name.startswith("metrics")
        },
    )
    kernel = training.model.get_layer("fusion_classifier").kernel
    kept = trained_model(tmp_path / "a").get_layer("fusion_classifier")
    with validation.averaged_weights(training.model):
        averaged = keras.ops.convert_to_numpy(kernel)
    raw = keras.ops.convert_to_numpy(kernel)
    best = keras.ops.convert_to_numpy(kept.kernel)
    assert np.array_equal(best, averaged) and not np.array_equal(best, raw)


class Unread:
    """A pipe whose reader has ended."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        pass


@one_backend
def test_output_that_nobody_reads_ends_it_with_a_checkpoint(
    unbroken, tmp_path, monkeypatch
):
    config, run, history = unbroken
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Unread())
        patch.setattr(progress, "SECONDS_PER_LINE", 0)
        with pytest.raises(SystemExit) as caught:
            loop.train(config, tmp_path / "run", verbose=2)
    assert caught.value.code == 141
    kept = read_header(checkpoints(tmp_path / "run" / "checkpoints")[0])
    assert (kept["epoch"], kept["step"]) == (0, 1)
    resumed = loop.train(config, tmp_path / "run", resume=True, verbose=0)
    assert resumed["loss"] == history["loss"]
    assert same_weights(run, tmp_path / "run")


@one_backend
def test_sigterm_while_scenes_are_drawn_ends_before_training(
    root, tmp_path, monkeypatch
):
    def write(folder):
        shutil.copytree(root, folder)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("keras_danet.data.scenes.write_scenes", write)
    monkeypatch.setattr(Training, "fit", None)
    config = tiny(root).replace({"data_root": None})
    with pytest.raises(SystemExit) as caught:
        loop.train(config, tmp_path / "run", verbose=0)
    assert caught.value.code == 143
    assert not (tmp_path / "run").exists()


@one_backend
def test_a_full_disk_below_the_log_does_not_end_a_training(
    unbroken, tmp_path, monkeypatch, caplog
):
    config, run, history = unbroken

    class Full(Unread):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        patch.setattr(progress, "SECONDS_PER_LINE", 0)
        found = loop.train(config, tmp_path / "run", verbose=2)
    assert found["loss"] == history["loss"]
    assert same_weights(run, tmp_path / "run")
    told = [text for text in caplog.messages if "No space left" in text]
    assert len(told) == 1 and "history.csv" in told[0]


@one_backend
def test_a_run_is_not_begun_anew_unasked(unbroken, tmp_path, caplog):
    config, run, _ = unbroken
    there = tmp_path / "run"
    shutil.copytree(run, there)
    for path in checkpoints(there / "checkpoints"):
        os.truncate(path, path.stat().st_size - 50)
    before = {p: p.read_bytes() for p in there.rglob("*") if p.is_file()}
    message = "it reached epoch 2 of 2, and .*checkpoints has no intact"
    with pytest.raises(ValueError, match=message):
        loop.train(config, there, resume=True, verbose=0)
    assert before == {p: p.read_bytes() for p in before}
    shutil.rmtree(there / "checkpoints")
    with pytest.raises(ValueError, match=message):
        loop.train(config, there, resume=True, verbose=0)
    # At its end after a single validation; beyond its only one so far.
    rows = (there / "history.csv").read_text().splitlines(True)
    column = rows[0].split(",").index("val_mean_iou")

    def without(row):
        cells = row.split(",")
        cells[column] = ""
        return ",".join(cells)

    for ended in (
        [rows[0], without(rows[1]), rows[2]],
        [*rows[:2], without(rows[2])],
    ):
        (there / "history.csv").write_text("".join(ended))
        with pytest.raises(ValueError, match="cannot be resumed"):
            loop.train(config, there, resume=True, verbose=0)
    # Killed between the first model and the first checkpoint.
    (there / "history.csv").write_text("".join(rows[:2]))
    loop.train(config, there, resume=True, verbose=0)
    assert same_weights(run, there)


@one_backend
def test_a_best_model_that_is_missing_is_told(
    unbroken, tmp_path, monkeypatch, caplog
):
    config, run, _ = unbroken
    ended = tmp_path / "ended"
    shutil.copytree(run, ended)
    (ended / "model.keras").unlink()
    with pytest.raises(ValueError, match="model.keras is missing, .* ended"):
        loop.train(config, ended, resume=True, verbose=0)
    there = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        KillAt(patch, Checkpoints, "on_epoch_end", 1)
        loop.train(config, there, verbose=0)
    kept = read_header(checkpoints(there / "checkpoints")[0])
    assert kept["parts"]["validation"]["best"] is not None
    (there / "model.keras").unlink()
    # The epoch that is left is worse, and still the best there is.
    worse = types.SimpleNamespace(mean_iou=0.0, pixel_accuracy=0.0)
    monkeypatch.setattr(validation, "evaluate", lambda *_, **__: worse)
    loop.train(config, there, resume=True, verbose=0)
    assert (there / "model.keras").exists()
    assert any(
        "the best of the remaining epochs" in text for text in caplog.messages
    )
    kept = read_header(checkpoints(there / "checkpoints")[0])
    assert kept["parts"]["validation"]["best"] == 0.0


@one_backend
def test_what_a_training_began_with_need_not_stay(
    unbroken, tmp_path, monkeypatch
):
    config, _, _ = unbroken
    # Of which a recipe does not tell the input's mean.
    source = tmp_path / "source.keras"
    model = DANet(
        8, DilatedResNet(18, filters=8), pixel_mean=7.0, pixel_std=50.0
    )
    model.save(source)
    config = config.replace({"start_from": str(source)})
    loop.train(config, tmp_path / "a", verbose=0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        KillAt(patch, Checkpoints, "on_train_batch_end", 5)
        loop.train(config, tmp_path / "b", checkpoint_every=1, verbose=0)
    source.unlink()
    loop.train(config, tmp_path / "b", resume=True, verbose=0)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    found = trained_model(tmp_path / "b").get_config()
    assert found["pixel_mean"] == model.get_config()["pixel_mean"]
    with pytest.raises(FileNotFoundError):
        loop.train(config, tmp_path / "c", resume=True, verbose=0)
    # A model alone is not what it started from.
    shutil.rmtree(tmp_path / "b" / "checkpoints")
    (tmp_path / "b" / "history.csv").unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        loop.train(config, tmp_path / "b", resume=True, verbose=0)


@slow_but_on_torch
def test_sigterm_saves_and_says_143(unbroken, tmp_path, monkeypatch):
    config, run, history = unbroken
    for number, (owner, name) in enumerate(
        [(Checkpoints, "on_train_batch_end"), (validation, "evaluate")]
    ):
        original = getattr(owner, name)

        def terminate(*arguments, original=original, **options):
            os.kill(os.getpid(), signal.SIGTERM)
            return original(*arguments, **options)

        there = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, terminate)
            with pytest.raises(SystemExit) as caught:
                loop.train(config, there, verbose=0)
        assert caught.value.code == 143
        kept = read_header(checkpoints(there / "checkpoints")[0])
        assert (kept["epoch"], kept["step"]) == [(0, 1), (0, 3)][number]
        resumed = loop.train(config, there, resume=True, verbose=0)
        assert resumed["loss"] == history["loss"]
        assert same_weights(run, there)


@one_backend
def test_a_signal_within_an_image_of_a_validation(
    unbroken, tmp_path, monkeypatch
):
    config, run, history = unbroken
    entered, release = threading.Event(), threading.Event()
    original = Predictor._compute

    def forward(batch):
        entered.set()
        release.wait(60)

    def compute(predictor, batch):
        predictor._forward = forward
        return original(predictor, batch)

    def terminate():
        assert entered.wait(60)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    sent, kept = [], []
    # The process of the tests goes on.
    monkeypatch.setattr(waiting.atexit, "register", lambda *a: kept.append(a))
    killer = threading.Thread(target=terminate)
    killer.start()
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "_compute", compute)
        with pytest.raises(SystemExit) as caught:
            loop.train(config, tmp_path / "run", verbose=0)
    assert time.monotonic() - sent[0] < 30
    release.set()
    killer.join()
    assert kept[0][1].wait(60)
    assert caught.value.code == 143
    # The steps of the epoch are done, and only its validation is repeated.
    header = read_header(checkpoints(tmp_path / "run" / "checkpoints")[0])
    assert (header["epoch"], header["step"]) == (0, 3)
    resumed = loop.train(config, tmp_path / "run", resume=True, verbose=0)
    assert resumed["val_mean_iou"] == history["val_mean_iou"]
    assert same_weights(run, tmp_path / "run")


@one_backend
def test_a_shared_validation_is_not_left_by_one_process_alone(
    root, tmp_path, monkeypatch
):
    """The others would wait for it; it stops once all have measured."""

    @contextlib.contextmanager
    def first_of_two(*_):
        yield Placement("data_parallel", 2, 2, shard=(0, 2))

    summed = []

    def sum_over_processes(counts):
        if not summed and stops[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        summed.append(counts.sum())
        return counts

    monkeypatch.setattr(distribution, "scope", first_of_two)
    monkeypatch.setattr(
        keras_distributions, "sum_over_processes", sum_over_processes
    )
    config = tiny(root, ema_momentum=0.5, loader="numpy")
    stops = [False]
    loop.train(config, tmp_path / "a", verbose=0)
    # Half of the images are another's.
    assert len(set(summed)) == 1
    stops[0] = summed.clear() is None
    with pytest.raises(SystemExit) as caught:
        loop.train(config, tmp_path / "b", verbose=0)
    assert caught.value.code == 143
    kept = read_header(checkpoints(tmp_path / "b" / "checkpoints")[0])
    assert (kept["epoch"], kept["step"]) == (1, 0)
    loop.train(config, tmp_path / "b", resume=True, verbose=0)
    ours, theirs = (
        load_arrays(checkpoints(tmp_path / name / "checkpoints")[0])
        for name in "ab"
    )
    assert len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def load_arrays(path):
    with np.load(path) as archive:
        names = [name for name in archive.files if name != "header.json"]
        return [archive[name] for name in names]


def test_a_truncated_checkpoint_costs_only_itself(
    unbroken, tmp_path, monkeypatch, caplog
):
    config, run, _ = unbroken
    with monkeypatch.context() as patch, pytest.raises(Killed):
        KillAt(patch, Checkpoints, "on_train_batch_end", 2)
        loop.train(config, tmp_path / "b", checkpoint_every=1, verbose=0)
    newest = checkpoints(tmp_path / "b" / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    loop.train(config, tmp_path / "b", resume=True, verbose=0)
    assert [m for m in caplog.messages if str(newest) in m]
    assert same_weights(run, tmp_path / "b")


def test_what_was_changed_is_told(unbroken, tmp_path, root):
    config, run, _ = unbroken
    there = tmp_path / "run"
    shutil.copytree(run, there)
    with pytest.raises(ValueError, match="power was 0.9 and is 0.8"):
        loop.train(config.replace({"power": 0.8}), there, resume=True)
    written = json.loads((there / "config.json").read_text())
    for key, message in (("backend", "backend"), ("data_digest", "list of")):
        text = json.dumps({**written, key: "other"})
        (there / "config.json").write_text(text)
        with pytest.raises(ValueError, match=f"another {message}.*: other"):
            loop.train(config, there, resume=True)
    (there / "config.json").write_text(json.dumps(written))
    # Data may move.
    shutil.copytree(root, tmp_path / "moved")
    moved = config.replace({"data_root": str(tmp_path / "moved")})
    before = (there / "model.keras").read_bytes()
    loop.train(moved, there, resume=True, verbose=0)
    assert (there / "model.keras").read_bytes() == before


def test_what_is_no_run_is_not_gone_on_with(root, tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        loop.train(tiny(root), tmp_path, resume=True)
    with pytest.raises(ValueError, match="Received: both"):
        loop.train(tiny(root), tmp_path, resume=True, overwrite=True)
    with pytest.raises(ValueError, match="checkpoint_every"):
        loop.train(tiny(root), tmp_path / "run", checkpoint_every=0)
    # One killed before it had said what it is.
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / ".partial-config.json").write_text("{")
    loop.train(tiny(root, epochs=1), bare, resume=True, verbose=0)
    assert (bare / "model.keras").exists()
    assert not (bare / ".partial-config.json").exists()


class Counter(keras.callbacks.Callback):
    """Counts epochs, over a resumption as well, and ends a training."""

    def __init__(self, last, within=False):
        super().__init__()
        self.last = last
        self.within = within
        self.seen = []

    def on_train_begin(self, logs=None):
        self.has_begun = True

    def on_train_batch_end(self, batch, logs=None):
        if self.within:
            self.model.stop_training = True

    def get_state(self):
        return self.seen

    def set_state(self, state):
        self.seen = state

    def on_epoch_end(self, epoch, logs=None):
        assert self.has_begun
        self.seen = [*self.seen, logs.get("val_mean_iou")]
        if len(self.seen) == self.last:
            self.model.stop_training = True


@slow_but_on_torch
def test_callbacks_of_your_own(root, tmp_path):
    config = tiny(root, epochs=4)
    with pytest.raises(ValueError, match="`callbacks` must be a list of inst"):
        loop.train(config, tmp_path / "run", callbacks=[Counter], verbose=0)
    with pytest.raises(ValueError, match="`callbacks` must be a list"):
        loop.train(config, tmp_path / "run", callbacks=None, verbose=0)
    run, counter = tmp_path / "run", Counter(last=2)
    # A generator is as good as a list.
    history = loop.train(
        config, run, callbacks=(each for each in [counter]), verbose=0
    )
    # It is asked once an epoch and ends the training,
    assert counter.seen == history["val_mean_iou"] and len(counter.seen) == 2
    # is kept in checkpoints,
    again = Counter(last=3)
    history = loop.train(config, run, callbacks=[again], resume=True, verbose=0)
    assert again.seen == history["val_mean_iou"] and len(again.seen) == 3
    # and may be another one the next time.
    other = keras.callbacks.LambdaCallback()
    history = loop.train(config, run, callbacks=[other], resume=True, verbose=0)
    assert len(history["val_mean_iou"]) == 4


@slow_but_on_torch
@pytest.mark.parametrize("within", [False, True])
def test_a_stop_before_the_first_validation_is_saved(root, tmp_path, within):
    config = tiny(root, epochs=3, val_every=3, ema_momentum=0.5)
    unbroken = loop.train(config, tmp_path / "unbroken", verbose=0)
    run = tmp_path / "run"
    stop = Counter(last=1, within=within)
    history = loop.train(config, run, callbacks=[stop], verbose=0)
    assert len(history["loss"]) == 1
    kept = read_header(checkpoints(run / "checkpoints")[0])
    assert (kept["epoch"], kept["step"]) == (1, 0)
    resumed = loop.train(config, run, resume=True, verbose=0)
    assert resumed["loss"] == unbroken["loss"]
    assert same_weights(tmp_path / "unbroken", run)


@one_backend
def test_an_epoch_that_is_only_validated_begins_for_callbacks(
    root, tmp_path, monkeypatch
):
    config, run = tiny(root), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        KillAt(patch, validation, "evaluate", 1)
        loop.train(config, run, checkpoint_every=1, verbose=0)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    loop.train(config, run, resume=True, callbacks=[log, Counter(9)], verbose=0)
    assert (tmp_path / "log.csv").read_text().count("\n") >= 2


@one_backend
def test_states_of_callbacks_that_cannot_be_kept(root, tmp_path):
    class Bad(Counter):
        def get_state(self):
            return {1, 2}

    with pytest.raises(ValueError, match="`get_state` of the callback Bad"):
        loop.train(tiny(root), tmp_path / "a", callbacks=[Bad(9)], verbose=0)

    class Picky(Counter):
        def set_state(self, state):
            raise ValueError("mine")

    run = tmp_path / "run"
    loop.train(tiny(root), run, callbacks=[Picky(1)], verbose=0)
    with pytest.raises(ValueError, match=r"^mine$"):
        loop.train(
            tiny(root), run, callbacks=[Picky(1)], resume=True, verbose=0
        )


@one_backend
@pytest.mark.parametrize("name", ["data_root", "start_from"])
def test_a_run_is_not_replaced_by_one_that_needs_it(root, tmp_path, name):
    run = tmp_path / "run"
    config = tiny(root).replace({name: str(run / "model.keras")})
    with pytest.raises(ValueError, match=f"`{name}` is in the run folder"):
        loop.train(config, run, overwrite=True, verbose=0)


def test_patience_ends_a_training(root, tmp_path, monkeypatch):
    scores = iter([0.2, 0.3, 0.3, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9])
    monkeypatch.setattr(
        validation,
        "evaluate",
        lambda *_, **__: types.SimpleNamespace(
            mean_iou=next(scores), pixel_accuracy=0.5
        ),
    )
    config = tiny(root, epochs=9, patience=2)
    history = loop.train(config, tmp_path / "run", verbose=0)
    # Two without a better one, as Keras's EarlyStopping counts.
    assert history["val_mean_iou"] == [0.2, 0.3, 0.3, 0.1]
    # Nothing is left to resume.
    again = loop.train(config, tmp_path / "run", resume=True, verbose=0)
    assert again == history


def test_nothing_to_measure_on_is_told(root, tmp_path):
    bare = tmp_path / "scenes"
    shutil.copytree(root, bare)
    for path in (bare / "valannot").glob("*.png"):
        Image.new("L", (64, 48), 255).save(path)
    with pytest.raises(ValueError, match="'val' has no labelled pixel"):
        loop.train(tiny(bare, epochs=1), tmp_path / "run", verbose=0)


@one_backend
def test_nothing_to_learn_from_is_told(root, tmp_path):
    bare = tmp_path / "scenes"
    shutil.copytree(root, bare)
    for path in (bare / "trainannot").glob("*.png"):
        Image.new("L", (64, 48), 255).save(path)
    with pytest.raises(ValueError, match="No pixel of epoch 1 is labelled"):
        loop.train(tiny(bare), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


@one_backend
def test_what_tells_a_training_from_others(root, tmp_path):
    def digest(root, **settings):
        config = tiny(root, **settings)
        return Training(config, tmp_path, Placement(), None).digest

    shutil.copytree(root, tmp_path / "moved")
    shutil.copytree(root, tmp_path / "less")
    listed = tmp_path / "less" / "train.txt"
    listed.write_text("".join(listed.read_text().splitlines(True)[1:]))
    same = digest(root)
    assert digest(tmp_path / "moved") == same
    assert digest(tmp_path / "less") != same
    shutil.copytree(root, tmp_path / "judged")
    listed = tmp_path / "judged" / "val.txt"
    listed.write_text("".join(listed.read_text().splitlines(True)[1:]))
    assert digest(tmp_path / "judged") != same
    training = Training(tiny(root), tmp_path, Placement(), None)
    assert training.digest == same
    swapped = list(training.dataset.label_map)
    swapped[:2] = swapped[1::-1]
    training.dataset = dataclasses.replace(
        training.dataset, label_map=tuple(swapped)
    )
    assert training.digest != same
    assert digest(root, seed=1) != same


def test_validation_is_what_evaluate_tells(unbroken):
    config, run, history = unbroken
    dataset, root = runs.find_data(config, run)
    predictor = Predictor(trained_model(run))
    report = evaluate(
        predictor, find_pairs(dataset, root, "val"), dataset, "val"
    )
    assert report.mean_iou == max(history["val_mean_iou"])


def test_run_folders_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        runs.read_run_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        trained_model(tmp_path)
    for content in (b"", b"PK\x03\x04", b"half a model"):
        (tmp_path / "model.keras").write_bytes(content)
        with pytest.raises(ValueError, match="model.keras cannot be loaded"):
            trained_model(tmp_path)
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="images"):
        Predictor(tmp_path)
    monkeypatch.setattr(keras_files, "MAX_MODEL_BYTES", 1000)
    with pytest.raises(ValueError, match=r"unpacks to \d+ bytes"):
        trained_model(tmp_path)
    for content in ("{", "{}", '{"config": {"speed": 3}}', "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match="does not describe a run") as told:
            runs.read_run_config(tmp_path)
        assert "written by" not in str(told.value)


def test_a_run_of_another_version_says_so(tmp_path):
    content = {
        "config": {"speed": 3},
        "sessions": [{"versions": {"keras-danet": "99.1"}}],
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    message = "no key 'speed'.*written by keras-danet 99.1, .* or a later one"
    with pytest.raises(ValueError, match=message):
        runs.read_run_config(tmp_path)
