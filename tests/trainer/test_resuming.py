"""What the next step depends on, and when a training stops."""

import os
import pathlib
import signal

import keras
import numpy as np
import pytest
import tiny

from keras_danet.trainer.callbacks import checkpoints as keeping
from keras_danet.trainer.callbacks.checkpoints import Checkpoints
from keras_danet.trainer.callbacks.checkpoints import training_state
from keras_danet.trainer.checkpoints import checkpoints
from keras_danet.trainer.checkpoints import load_checkpoint
from keras_danet.trainer.checkpoints import newest_checkpoint
from keras_danet.trainer.checkpoints import read_header
from keras_danet.trainer.checkpoints import save_checkpoint
from keras_danet.trainer.resuming import find_checkpoint
from keras_danet.trainer.stopping import StopSignal


def numbers(state):
    return [keras.ops.convert_to_numpy(v).tolist() for v in state.values()]


def small_model(**options):
    keras.utils.set_random_seed(0)
    model = tiny.danet(attention=("position", "channel"), dropout=0.5)
    model.compile(**options)
    model.build_optimizer()
    return model


def fit(model, steps, first=0):
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (4, 16, 16, 3)).astype("uint8")
    labels = rng.integers(0, 3, (4, 16, 16)).astype("uint8")
    for _ in range(first, steps):
        model.train_on_batch(images, labels)


def test_the_state_is_all_that_the_next_step_needs(tmp_path):
    """Averages, gathered gradients, loss scale, seeds: nothing is forgotten."""
    options = {
        "optimizer": keras.optimizers.SGD(
            0.01,
            momentum=0.9,
            use_ema=True,
            ema_momentum=0.5,
            gradient_accumulation_steps=2,
        ),
        "jit_compile": keras.backend.backend() == "jax",
    }
    model = small_model(**options)
    fit(model, 3)
    save_checkpoint(tmp_path / "a.ckpt", training_state(model), {})
    fit(model, 6, first=3)
    expected = numbers(training_state(model))
    options["optimizer"] = keras.optimizers.SGD.from_config(
        options["optimizer"].get_config()
    )
    other = small_model(**options)
    fit(other, 1)
    load_checkpoint(tmp_path / "a.ckpt", training_state(other))
    fit(other, 6, first=3)
    for name, ours, theirs in zip(
        training_state(other),
        numbers(training_state(other)),
        expected,
        strict=True,
    ):
        assert ours == theirs, name


def test_what_fit_looks_for_in_labels_is_in_no_checkpoint(tmp_path):
    """Those of a training that knew nothing of it are resumed."""
    model = small_model()
    model.compile()
    state = training_state(model)
    paths = [variable.path for variable in state.values()]
    assert not [path for path in paths if "extremes" in path]
    # Each sum once, however often the model was compiled.
    sums = [name for name in state if name.startswith("metrics/")]
    assert len(sums) == 2 + len(model._compile_metrics.variables)
    assert paths.count("loss/total") == 1
    fit(model, 1)


def test_another_models_checkpoint_is_refused(tmp_path):
    model = small_model()
    save_checkpoint(tmp_path / "a.ckpt", training_state(model), {})
    other = tiny.danet(4, ("position", "channel"))
    other.compile()
    other.build_optimizer()
    before = numbers(training_state(other))
    with pytest.raises(ValueError, match="another model's"):
        load_checkpoint(tmp_path / "a.ckpt", training_state(other))
    assert numbers(training_state(other)) == before


class Part:
    def get_state(self):
        return 1

    def set_state(self, state):
        self.state = state


def keeper(tmp_path, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    place = Checkpoints(tmp_path / "checkpoints", 10, **options)
    place.set_model(model)
    place.set_params({"epochs": 99})
    place.parts = {"part": Part()}
    return place


@pytest.mark.parametrize("background", [False, True])
def test_every_so_many_steps_and_so_many_kept(tmp_path, background):
    place = keeper(tmp_path, every=3, keep=2, background=background)
    for epoch in range(2):
        place.on_epoch_begin(epoch)
        for step in range(10):
            place.on_train_batch_end(step, {"loss": 1.0})
        place.on_epoch_end(epoch, {"loss": 1.0})
    place.finish()
    found = [path.name for path in checkpoints(place.folder)]
    assert found == ["step-000000018.ckpt", "step-000000015.ckpt"]
    assert place.newest.name == found[0]
    kept = read_header(place.newest)
    assert (kept["epoch"], kept["step"]) == (1, 8)
    assert kept["logs"] == {"loss": 1.0} and kept["parts"] == {"part": 1}
    place.on_epoch_end(4, {"val_mean_iou": 0.5})
    place.finish()
    assert read_header(place.newest)["epoch"] == 5


@pytest.mark.parametrize("named", ["as it is", "from here"])
def test_damaged_ones_do_not_push_out_whole_ones(tmp_path, named):
    place = keeper(tmp_path, every=1, keep=1)
    place.on_epoch_begin(0)
    for step in range(3):
        place.on_train_batch_end(step, {})
    (whole,) = checkpoints(place.folder)
    damaged = place.folder / "step-000000009.ckpt"
    damaged.write_bytes(whole.read_bytes()[:-100])
    (place.folder / "step-000000001.ckpt").mkdir()
    other = keeper(tmp_path, every=1, keep=1)
    told = []
    path, header = newest_checkpoint(other.folder, told.append)
    assert path == whole and len(told) == 1 and str(damaged) in told[0]
    if named == "from here":
        path = pathlib.Path(os.path.relpath(path))
    other.restore(path, header)
    other.on_epoch_begin(0)
    other.on_train_batch_end(0, {})
    path, header = newest_checkpoint(other.folder, told.append)
    assert (header["step"], path) == (4, other.newest)
    assert checkpoints(other.folder) == [damaged, other.newest]


def test_damaged_ones_that_were_passed_count_for_nothing_either(tmp_path):
    place = keeper(tmp_path, every=3, keep=2)
    place.on_epoch_begin(0)
    for step in range(6):
        place.on_train_batch_end(step, {})
    whole = checkpoints(place.folder)[0]
    damaged = place.folder / "step-000000007.ckpt"
    damaged.write_bytes(whole.read_bytes()[:-100])
    other = keeper(tmp_path, every=3, keep=2)
    path, header = newest_checkpoint(other.folder, [].append)
    other.restore(path, header)
    other.on_epoch_begin(0)
    for step in range(3):
        other.on_train_batch_end(step, {})
    assert other.newest > damaged
    assert checkpoints(other.folder) == [other.newest, damaged, whole]


def test_an_error_behind_is_told(tmp_path, monkeypatch):
    place = keeper(tmp_path, every=1, background=True)

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(keeping, "save_checkpoint", fail)
    place.on_epoch_begin(0)
    place.on_train_batch_end(0, {})
    with pytest.raises(OSError, match="disk full"):
        place.on_train_batch_end(1, {})


def test_what_is_no_number_is_not_kept(tmp_path):
    place = keeper(
        tmp_path, every=1, files=lambda epoch, step: [f"{epoch}-{step}.png"]
    )
    place.on_epoch_begin(0)
    place.on_train_batch_end(0, {})
    place.model.layers[0].kernel.assign([[np.nan], [1.0]])
    with pytest.raises(
        ValueError,
        match="kernel became NaN or infinite after epoch 1, step 2 of",
    ) as e:
        place.on_train_batch_end(1, {})
    assert "step 1: 0-0.png; step 2: 0-1.png." in str(e.value)
    assert "step-000000001.ckpt" in str(e.value)
    assert len(checkpoints(place.folder)) == 1


def test_processes_that_do_not_write_only_take_part(tmp_path):
    place = keeper(tmp_path, every=1, writes=False)
    place.on_epoch_begin(0)
    place.on_train_batch_end(0, {})
    assert not place.folder.exists() and place.newest is None
    place.model.layers[0].kernel.assign([[np.nan], [1.0]])
    # All of them end, not the one that writes.
    with pytest.raises(ValueError, match="became NaN or infinite"):
        place.on_train_batch_end(1, {})


def test_sigterm_is_a_wish_until_the_step_is_done(tmp_path, capfd):
    with StopSignal().listening() as stop:
        place = keeper(tmp_path, every=100, stop=stop)
        place.on_epoch_begin(0)
        place.on_train_batch_end(0, {})
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and not checkpoints(place.folder)
        assert "stopping after this step" in capfd.readouterr().err
        with pytest.raises(SystemExit) as caught:
            place.on_train_batch_end(1, {})
    assert caught.value.code == 143
    kept = read_header(place.newest)
    assert (kept["epoch"], kept["step"]) == (0, 2)


@pytest.fixture
def with_ctrl_c():
    """What runs behind a shell ignores it, these tests perhaps as well."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("with_ctrl_c")
def test_the_first_ctrl_c_is_a_wish_and_the_second_is_not(tmp_path):
    with StopSignal().listening() as stop:
        place = keeper(tmp_path, every=100, stop=stop)
        place.on_epoch_begin(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit) as caught:
            place.on_train_batch_end(0, {})
    assert caught.value.code == 130
    assert read_header(place.newest)["step"] == 1
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_ctrl_c_that_is_ignored_stays_so():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignal().listening() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            stop.check()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_another_runs_checkpoint_is_refused(tmp_path):
    place = keeper(tmp_path, every=1, run="a")
    place.on_epoch_begin(0)
    place.on_train_batch_end(0, {})
    header = read_header(place.newest)
    assert find_checkpoint(tmp_path, None, "a") == (place.newest, header)
    with pytest.raises(ValueError, match="000001.ckpt is of a training with"):
        find_checkpoint(tmp_path, None, "b")


def test_a_header_that_says_nothing_is_refused(tmp_path):
    place = keeper(tmp_path, every=1)
    place.on_epoch_begin(0)
    place.on_train_batch_end(0, {"loss": 1.0})
    whole = read_header(place.newest)
    other = keeper(tmp_path)
    other.restore(place.newest, whole)
    assert (other.epoch, other.step) == (0, 1)
    assert other.parts["part"].state == 1
    for key in ("epoch", "parts", "logs"):
        header = {k: v for k, v in whole.items() if k != key}
        with pytest.raises(ValueError, match=f"000001.ckpt does not .*{key}"):
            keeper(tmp_path).restore(place.newest, header)
