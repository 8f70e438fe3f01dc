"""What a training shows, notices and sends elsewhere."""

import contextlib
import csv
import io
import math
import pathlib
import sys
import types

import keras
import numpy as np
import pytest
import tiny
from conftest import one_backend
from PIL import Image

from keras_danet.data.scenes import write_scenes
from keras_danet.distribution.engines import Placement
from keras_danet.optimizers import SGD
from keras_danet.recipe import TrainConfig
from keras_danet.trainer import loop
from keras_danet.trainer.callbacks import figures
from keras_danet.trainer.callbacks.checkpoints import Checkpoints
from keras_danet.trainer.callbacks.divergence import StopAtDivergence
from keras_danet.trainer.callbacks.figures import HistoryFile
from keras_danet.trainer.callbacks.figures import Throughput
from keras_danet.trainer.callbacks.progress import Progress
from keras_danet.trainer.callbacks.tracking import TensorBoard
from keras_danet.trainer.callbacks.tracking import tracking
from keras_danet.trainer.callbacks.validation import Validation
from keras_danet.trainer.callbacks.validation import averaged_weights

pytestmark = one_backend


class Place:
    """As far as `Checkpoints` knows it: where a training is."""

    epoch = step = 0
    steps = 100
    newest = None
    folder = pathlib.Path("run", "checkpoints")
    trace = Checkpoints.trace

    def files(self, epoch, step):
        return [f"{epoch}-{step}.png"]


def watch(losses, first=0):
    """Tells the losses of steps as `fit` does: as means of the epoch."""
    place = Place()
    stop = StopAtDivergence(place)
    stop.on_epoch_begin(0)
    for number, mean in enumerate(
        np.cumsum(losses) / np.arange(1, 1 + len(losses))
    ):
        place.step = number
        if number >= first:
            stop.on_train_batch_end(number, {"loss": mean})
    return stop


def test_a_loss_that_is_no_number_ends_a_training():
    for wrong in (math.nan, math.inf):
        with pytest.raises(
            ValueError, match=f"became {wrong} in epoch 1, step 3"
        ) as e:
            watch([1.0, 1.0, wrong, 1.0])
        assert "step 2: 0-1.png; step 3: 0-2.png." in str(e.value)
        assert "none yet" in str(e.value)


def test_a_loss_that_does_not_come_back_ends_a_training():
    # High for a while, which may happen.
    watch([3.0, *[70.0] * 9, 3.0, *[70.0] * 9])
    watch([3.0, *[59.0] * 50])
    with pytest.raises(
        ValueError, match="grew to 70 from 3, .* step 12 of 100"
    ):
        watch([3.0, 3.0, *[70.0] * 10])
    # A first batch without a label tells nothing.
    with pytest.raises(ValueError, match="grew to 70 from 3"):
        watch([0.0, 3.0, *[70.0] * 10])
    watch([0.0, *[3.0] * 50])
    # What was trained before may begin low.
    watch([0.001, *[0.5] * 50])


def test_a_training_that_is_gone_on_with_knows_its_first_loss():
    stop = watch([2.0, 3.0])
    assert stop.get_state() == {"first": 2.0, "high": 0}
    other = StopAtDivergence(Place())
    other.set_state({"first": 2.0, "high": 9})
    other.on_epoch_begin(0)
    other.place.step = 50
    # The mean of an epoch's first half, in which it was still low.
    other.on_train_batch_end(0, {"loss": 30.0})
    assert other.high == 0
    other.place.step = 51
    other.on_train_batch_end(1, {"loss": (30.0 * 51 + 100) / 52})
    assert other.high == 1


def test_history_is_a_table_whatever_epochs_tell(tmp_path):
    history = HistoryFile(tmp_path / "history.csv")
    history.on_epoch_end(0, {"loss": 2.0})
    history.on_epoch_end(1, {"loss": 1.5, "val_mean_iou": math.nan})
    other = HistoryFile(tmp_path / "history.csv")
    other.set_state(history.get_state())
    other.on_epoch_end(2, {"loss": 1.0, "val_mean_iou": 0.25})
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"epoch": "1", "loss": "2.0", "val_mean_iou": ""},
        {"epoch": "2", "loss": "1.5", "val_mean_iou": "nan"},
        {"epoch": "3", "loss": "1.0", "val_mean_iou": "0.25"},
    ]
    assert other.history["loss"] == [2.0, 1.5, 1.0]
    assert len(other.history["val_mean_iou"]) == 2


def progress(monkeypatch, redraw):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(figures.time, "perf_counter", lambda: next(clock))
    throughput = Throughput(8)
    place = Place()
    shown = Progress(throughput, place, epochs=3, redraw=redraw)
    for callback in (throughput, shown):
        callback.on_epoch_begin(0)
    for step in range(6):
        place.step = step
        throughput.on_train_batch_end(step)
        shown.on_train_batch_end(step, {"loss": 1.25, "mean_iou": 0.5})
    place.step = 100
    shown.on_epoch_end(0, {"loss": 1.0, "mean_iou": 0.6, "val_mean_iou": 0.4})


def test_the_step_that_compiles_does_not_slow_the_rate(monkeypatch):
    clock = iter([0, 90, 92, 94, 100, 104])
    monkeypatch.setattr(figures.time, "perf_counter", lambda: next(clock))
    throughput = Throughput(8)
    found = []
    for epoch in range(2):
        throughput.on_epoch_begin(epoch)
        for step in range(3 - 2 * epoch):
            throughput.on_train_batch_end(step)
            found.append(throughput.rate)
        logs = {}
        throughput.on_epoch_end(epoch, logs)
        assert logs["images_per_second"] == throughput.rate
    assert found == [8 / 90, 4.0, 4.0, 2.0]


def test_progress_in_a_log_file(monkeypatch, capsys):
    progress(monkeypatch, redraw=False)
    lines = capsys.readouterr().out.splitlines()
    # At most one a minute, and one at the end of an epoch.
    assert [line.split("  ")[1] for line in lines] == [
        "step 2/100",
        "step 4/100",
        "step 6/100",
        "step 100/100",
    ]
    first = lines[0].split("  ")
    # Two steps of 8 images in 80 s; 298 steps of 3 x 100 are left.
    assert first[0] == "epoch 1/3"
    assert first[2:6] == [
        "loss 1.2500",
        "mean IoU 50.00%",
        "3:18:40 left",
        "0.2 images/s",
    ]
    assert "GiB" in first[6]
    assert "val 40.00%" in lines[-1]


def test_validations_are_in_the_time_left():
    validation = Validation(
        *(None, [], None, "val", [2, 4, 5], None), num_crops=60
    )
    place = Place()
    shown = Progress(Throughput(8), place, 5, False, validation)
    # 10 crops/s forward and backward, 30/s forward alone.
    shown.throughput.rate = 10
    assert shown._validation_seconds(False) == pytest.approx(3 * 2)
    # What was measured is better.
    validation.seconds = 50
    place.epoch = 1
    assert shown._validation_seconds(False) == 150
    assert shown._validation_seconds(True) == 100
    place.epoch = 4
    assert shown._validation_seconds(True) == 0
    # Two machines of four devices measure half each, on a device.
    validation.seconds = None
    validation.placement = Placement("multiworker", 8, 8, shard=(0, 2))
    assert validation.expected_seconds(10) == pytest.approx(8)


def test_a_resumed_run_may_begin_with_a_validation(capsys):
    shown = Progress(Throughput(8), Place(), 5, True)
    shown.shown = -1e9
    shown.show_validation(1, 4)
    assert "validation 1/4 images" in capsys.readouterr().out
    Progress(Throughput(8), Place(), 5, False).show_validation(1, 4)


def test_a_broken_pipe_is_no_wish_above_others(monkeypatch):
    def fail(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", fail)
    for before, after in ((0, 141), (143, 143), (130, 130)):
        place = Place()
        place.stop = types.SimpleNamespace(requested=before)
        shown = Progress(Throughput(1), place, 1, False)
        shown.on_epoch_end(0)
        assert place.stop.requested == after


def test_progress_on_a_terminal(monkeypatch, capsys):
    progress(monkeypatch, redraw=True)
    text = capsys.readouterr().out
    assert text.count("\n") == 1 and text.endswith("\n")
    assert text.count("\r\033[K") == 7
    # Longer lines would scroll.
    lines = text.replace("\n", "").split("\r\033[K")[1:]
    assert max(map(len, lines)) < 80 and all("left" in x for x in lines[1:])


FAKES = {
    "torch": types.SimpleNamespace(
        cuda=types.SimpleNamespace(
            device_count=lambda: 2, max_memory_allocated=lambda i: [3, 7][i]
        )
    ),
    "jax": types.SimpleNamespace(
        local_devices=lambda: [
            types.SimpleNamespace(
                memory_stats=lambda peak=peak: {"peak_bytes_in_use": peak}
            )
            for peak in (7, 3)
        ]
    ),
    "tensorflow": types.SimpleNamespace(
        config=types.SimpleNamespace(
            list_logical_devices={"GPU": ["GPU:0", "GPU:1"]}.get,
            experimental=types.SimpleNamespace(
                get_memory_info={"GPU:0": {"peak": 3}, "GPU:1": {"peak": 7}}.get
            ),
        )
    ),
}


@pytest.mark.parametrize("backend", FAKES)
def test_the_fullest_accelerator_counts(monkeypatch, backend):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setitem(sys.modules, backend, FAKES[backend])
    assert figures.peak_device_memory() == 7


def test_a_cpu_is_no_accelerator(monkeypatch):
    cpu = types.SimpleNamespace(memory_stats=lambda: None)
    fake = types.SimpleNamespace(local_devices=lambda: [cpu])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setitem(sys.modules, "jax", fake)
    assert figures.peak_device_memory() == 0


def test_peak_memory_is_of_the_right_order():
    before = figures.peak_memory()
    block = np.ones(2**26, "uint8")
    after = figures.peak_memory()
    assert 2**24 < before <= after < 2**40 and block.nbytes == 2**26


quick = pytest.fixture(autouse=True, scope="module")(tiny.quick_builds)


@pytest.fixture
def config(tmp_path):
    write_scenes(tmp_path / "data", {"train": 4, "val": 2}, size=(32, 48))
    return TrainConfig(
        dataset="scenes",
        data_root=str(tmp_path / "data"),
        epochs=2,
        batch_size=4,
        model={"depth": 18, "filters": 8},
        augmentation={"crop_size": (32, 32)},
        jit_compile=False,
    )


def test_tensorboard_has_scalars_and_pictures(config, tmp_path):
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader"
    )
    run = tmp_path / "run"
    history = loop.train(config, run, track=["tensorboard"], verbose=0)
    (path,) = (run / "tensorboard").iterdir()
    scalars, pictures = {}, {}
    for event in loader.LegacyEventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.HasField("image"):
                pictures.setdefault(value.tag, []).append(value.image)
            else:
                found = event.step, value.simple_value
                scalars.setdefault(value.tag, []).append(found)
    for tag in ("loss", "val_mean_iou", "gamma_position", "gamma_channel"):
        assert [step for step, _ in scalars[tag]] == [1, 2]
        values = [value for _, value in scalars[tag]]
        assert values == pytest.approx(history[tag], rel=1e-6), tag
    assert scalars["learning_rate"][-1][1] == 0
    assert list(pictures) == ["validation/0", "validation/1"]
    first, _ = pictures["validation/1"]
    with Image.open(io.BytesIO(first.encoded_image_string)) as picture:
        assert picture.size == (first.width, first.height)
        assert first.width > 3 * 48 and first.height > 32


def test_tensorboard_shows_no_step_twice(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    model = types.SimpleNamespace(
        optimizer=types.SimpleNamespace(learning_rate=0.1)
    )
    # Killed after its third epoch, resumed from the second.
    for epochs, loss in ((range(3), 1.0), (range(1, 4), 2.0)):
        board = TensorBoard(tmp_path, 8, None)
        board.set_model(model)
        for epoch in epochs:
            board.on_epoch_begin(epoch)
            board.on_epoch_end(epoch, {"loss": loss})
        board.close()
        # Files are read in the order of their names, which begin with these.
        for path in tmp_path.glob("events*"):
            path.rename(tmp_path / f"{loss}.tfevents")
    # And from the end of the fourth, of which the validation was left.
    board = TensorBoard(tmp_path, 8, None)
    board.set_model(model)
    board.on_epoch_end(3, {"loss": 3.0})
    board.close()
    shown = accumulator.EventAccumulator(str(tmp_path))
    shown.Reload()
    found = [(event.step, event.value) for event in shown.Scalars("loss")]
    assert found == [(8, 1.0), (16, 2.0), (24, 2.0), (32, 3.0)]


class Begun(contextlib.nullcontext):
    """A run of W&B's or MLflow's."""

    def __init__(self, identity):
        super().__init__(self)
        self.id = identity
        self.info = types.SimpleNamespace(run_id=identity)


class Fake(types.ModuleType):
    """A package that notes what is asked of it, and numbers its runs."""

    def __init__(self, name, calls):
        super().__init__(name)
        self.calls = calls

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            if name in ("WandbMetricsLogger", "MlflowCallback"):
                return keras.callbacks.Callback()
            known = options.get("id") or options.get("run_id")
            return Begun(known or f"{name}{len(self.calls)}")

        return call


@pytest.fixture
def calls(monkeypatch):
    """What is asked of W&B and MLflow."""
    calls = []
    for name in ("wandb", "wandb.integration", "wandb.integration.keras"):
        monkeypatch.setitem(sys.modules, name, Fake(name, calls))
    for name in ("mlflow", "mlflow.keras"):
        monkeypatch.setitem(sys.modules, name, Fake(name, calls))
    monkeypatch.setattr(
        sys.modules["mlflow"], "keras", sys.modules["mlflow.keras"], False
    )
    return calls


def test_wandb_and_mlflow_through_their_own_callbacks(config, tmp_path, calls):
    for run in ("first", "first", "second"):
        (tmp_path / run).mkdir(exist_ok=True)
        with tracking(
            ["wandb", "mlflow"], tmp_path / run, config, None, [], None, 1
        ) as callbacks:
            assert len(callbacks) == 2
    begun = [
        [options for name, _, options in calls if name == kind]
        for kind in ("init", "start_run", "log_params")
    ]
    for kind, key, found in (
        ("init", "id", begun[0]),
        ("start_run", "run_id", begun[1]),
    ):
        # A new one, the same one again, and another for another folder.
        assert found[0][key] is None and found[2][key] is None
        assert found[1][key].startswith(kind)
        assert [options[key] for options in found].count(found[1][key]) == 1
    assert [options["resume"] for options in begun[0]] == ["allow"] * 3
    assert begun[0][0]["config"]["batch_size"] == 4
    # MLflow refuses parameters that change.
    assert len(begun[2]) == 2


def test_a_tracker_that_cannot_begin_is_told(
    config, tmp_path, calls, monkeypatch
):
    def fail(**options):
        raise RuntimeError("not logged in")

    monkeypatch.setattr(sys.modules["wandb"], "init", fail, False)
    with pytest.raises(ValueError, match="--track wandb .*: not logged in"):
        loop.train(config, tmp_path / "run", track=["wandb"], verbose=0)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_is_named(config, tmp_path, monkeypatch, name):
    package = "tensorboardX" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, package, None)
    message = f"{name}.*: pip install {package}$"
    with pytest.raises(ImportError, match=message):
        loop.train(config, tmp_path / "run", track=[name], verbose=0)
    assert not (tmp_path / "run").exists()


def test_pictures_are_of_the_averages_that_are_measured(tmp_path):
    pytest.importorskip("tensorboardX")
    model = tiny.danet(attention=("position", "channel"))
    model.compile(SGD(0.1, use_ema=True, ema_momentum=0.5), jit_compile=False)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    labels = rng.integers(0, 3, (2, 32, 32)).astype("uint8")
    for _ in range(2):
        model.train_on_batch(images, labels)
    kernel = model.get_layer("fusion_classifier").kernel
    seen = []

    def draw():
        seen.append(np.copy(keras.ops.convert_to_numpy(kernel)))
        return []

    pictures = types.SimpleNamespace(draw=draw)
    board = TensorBoard(tmp_path / "tensorboard", 1, pictures)
    board.set_model(model)
    board.on_epoch_end(0, {"val_mean_iou": 0.5})
    board.close()
    raw = keras.ops.convert_to_numpy(kernel)
    with averaged_weights(model):
        averages = np.copy(keras.ops.convert_to_numpy(kernel))
    np.testing.assert_array_equal(seen[0], averages)
    assert not np.array_equal(seen[0], raw)


def test_what_is_tracked_nowhere(config, tmp_path):
    with pytest.raises(ValueError, match="tensorboard, wandb, mlflow"):
        loop.train(config, tmp_path / "run", track=["board"], verbose=0)
    assert not (tmp_path / "run").exists()
