"""`keras-danet ablate`: whole grids of tiny trainings."""

import json
import os
import subprocess
import sys
import time

import keras
import psutil
import pytest
from conftest import one_backend

from keras_danet.cli import ablate
from keras_danet.cli import main
from keras_danet.data.scenes import write_scenes

RECIPE = """
from keras_danet import TrainConfig

config = TrainConfig(
    dataset="scenes",
    epochs=2,
    batch_size=2,
    model={"depth": 18, "filters": 8, "attention": ()},
    augmentation={"crop_size": (32, 32)},
    jit_compile=JIT,
)
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workshop")
    write_scenes(folder / "data", {"train": 4, "val": 2}, size=(32, 48))
    jit = keras.backend.backend() == "jax"
    (folder / "tiny.py").write_text(RECIPE.replace("JIT", str(jit)))
    return folder


@pytest.fixture
def here(workshop, monkeypatch):
    """Children are calls in this process, which has imported everything."""
    calls = []

    def call(arguments):
        words = list(map(str, arguments))
        calls.append(words[0] + (" at scales" if "--scales" in words else ""))
        return main(words)

    monkeypatch.chdir(workshop)
    monkeypatch.setattr(ablate, "_call", call)
    return calls


def grid(*more, output="grid"):
    arguments = ["ablate", "tiny.py", "--data", "data", "--output", output]
    return [*arguments, "--distribute", "none", *more]


@one_backend
def test_a_grid_is_trained_measured_and_skipped(here, workshop, capsys):
    vary = ("--vary", "learning_rate=0.01,0.02", "--seeds", "0,1")
    assert main(grid(*vary)) == 0
    assert here == ["train", "evaluate"] * 4
    out = capsys.readouterr().out
    assert "[2/4] learning_rate=0.02, seed 0\n" in out
    rows = json.loads((workshop / "grid/ablation.json").read_text())["rows"]
    for row in rows:
        for run in row["runs"]:
            folder = workshop / "grid" / run["folder"]
            report = json.loads((folder / "report.json").read_text())
            assert run["mean_iou"] == report["mean_iou"]
            config = json.loads((folder / "config.json").read_text())["config"]
            assert config["seed"] == run["seed"]
            assert (
                str(config["optimization"]["learning_rate"])
                == (row["settings"]["learning_rate"])
            )
            assert [step for step, _ in run["curve"]] == [2, 4]
    # Finished: nothing is trained, and the table comes from the folders.
    here.clear()
    assert main(grid(*vary)) == 0
    assert here == []
    assert "seed 1: finished" in capsys.readouterr().out
    (workshop / "grid/ablation.json").unlink()
    assert main(["ablate", "--table", "grid"]) == 0
    assert here == []
    again = json.loads((workshop / "grid/ablation.json").read_text())["rows"]
    assert again == rows
    # A model that was trained after its report is measured again.
    folder = workshop / "grid" / rows[0]["runs"][0]["folder"]
    os.utime(folder / "model.keras")
    assert main(grid(*vary)) == 0
    assert here == ["train", "evaluate"]
    # One whose record was kept without it is not trained again.
    (folder / "model.keras").unlink()
    here.clear()
    assert main(grid(*vary)) == 0
    assert here == []


@one_backend
def test_a_variant_that_fails_is_named(here, capsys):
    vary = ("--vary", "backbone_weights=none.npz,None", "--seeds", "0")
    assert main(grid(*vary, "--set", "epochs=1", output="failing")) == 1
    assert here == ["train", "train", "evaluate"]
    errors = capsys.readouterr().err
    assert "failed: backbone_weights=none.npz, seed 0 (train)" in errors
    assert main(["ablate", "--table", "failing"]) == 1
    errors = capsys.readouterr().err
    assert "not measured yet: backbone_weights=none.npz, seed 0" in errors
    vary = ("--vary", "backbone_weights=none.npz,gone.npz", "--seeds", "0")
    assert main(grid(*vary, output="hopeless")) == 2
    assert "No run in hopeless was trained" in capsys.readouterr().err


def bad(*words):
    """A grid with a mistake in its last words."""
    return grid("--vary", "depth=18,34", *words, output="mistaken")


def table(*words):
    return ["ablate", "--table", "grid", *words]


@one_backend
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["ablate"], "Received: neither"),
        (["ablate", "tiny.py", "--table", "grid"], "Received: both"),
        (["ablate", "tiny.py"], "Nothing is varied"),
        (["ablate", "--table", "data"], "not an ablation's folder"),
        (grid("--vary", "atention=none,both"), "Did you mean"),
        (grid("--vary", "depth=18,34", output="data"), "no ablation's folder"),
        (bad("--seeds", "0,4294967296"), "below 4294967296"),
        (bad("--checkpoint-every", "0"), "expected an integer of 1 or more"),
        (bad("--checkpoint-every", "-5"), "expected an integer of 1 or more"),
        (bad("--devices", "99"), "99 devices need --distribute"),
        (bad("--devices", "0"), "must be an integer, at least 1"),
        (bad("--model-devices", "0"), "must be an integer, at least 1"),
        (bad("--distribute", "nowhere"), "`distribute` must be one of"),
        (bad("--data", "nowhere"), "nowhere"),
        (bad("--set", "val_split=nowhere"), "nowhere"),
        (bad("--scales", "0,99"), "`scales` must be numbers from"),
        (bad("--mirror"), "Give --scales as well"),
        (table("--seeds", "0"), "Received also: --seeds"),
        (table("--vary", "depth=18,34"), "Received also: --vary"),
        (table("--set", "epochs=1", "--output", "x"), "--set, --output"),
        (table("--mirror", "--scales", "1,2"), "--scales, --mirror"),
        (table("--devices", "2"), "Received also: --devices"),
        (table("--data", "data"), "Received also: --data"),
    ],
)
def test_mistakes_end_before_the_first_training(
    here, workshop, capsys, arguments, message
):
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert here == []
    assert not (workshop / "mistaken").exists()


@pytest.mark.slow
def test_devices_are_opened_where_they_are_given_back(workshop, capfd):
    """A batch that does not divide is known before the first training."""
    words = ["--vary", "learning_rate=0.01,0.02", "--seeds", "0"]
    words += ["--distribute", ENGINES[keras.backend.backend()]]
    command = [sys.executable, "-m", "keras_danet"]
    command += grid(*words, "--devices", "3", output="mistaken")
    done = subprocess.run(command, cwd=workshop, capture_output=True, text=True)
    assert done.returncode == 2
    assert MESSAGES[keras.backend.backend()] in done.stderr
    assert "Traceback" not in done.stderr and "[1/2]" not in done.stdout
    assert not (workshop / "mistaken").exists()


ENGINES = {
    "tensorflow": "mirrored",
    "jax": "data_parallel",
    "torch": "data_parallel",
}
MESSAGES = {
    "tensorflow": "must divide among the 3 replicas",
    "jax": "must divide among the 3 replicas",
    "torch": "needs keras.distribution",
}


@one_backend
def test_a_run_ended_by_its_patience_is_finished(here, workshop):
    # Nothing is learnt: no validation is better than the first.
    words = ("--vary", "momentum=0.0,0.5", "--seeds", "0", "--set", "epochs=3")
    words += ("--set", "learning_rate=1e-30", "--set", "patience=1")
    words += ("--set", "model.freeze=batch_norm")
    assert main(grid(*words, output="patient")) == 0
    assert here == ["train", "evaluate"] * 2
    history = workshop / "patient/momentum=0.0/seed-0/history.csv"
    assert len(history.read_text().splitlines()) == 3
    here.clear()
    assert main(grid(*words, output="patient")) == 0
    assert here == []


@one_backend
def test_runs_are_measured_at_several_scales_once(here, workshop, capsys):
    words = ("--vary", "learning_rate=0.01,0.02", "--seeds", "0")
    words += ("--set", "epochs=1")
    assert main(grid(*words, output="scales")) == 0
    assert "multi-scale" not in capsys.readouterr().out
    here.clear()
    several = (*words, "--scales", "0.5,1", "--mirror")
    assert main(grid(*several, output="scales")) == 0
    assert here == ["evaluate at scales"] * 2
    out = capsys.readouterr().out
    assert "Multi-scale: whole images at their own size, scales 0.5, 1," in out
    rows = json.loads((workshop / "scales/ablation.json").read_text())["rows"]
    for row in rows:
        (run,) = row["runs"]
        folder = workshop / "scales" / run["folder"]
        report = json.loads((folder / "report_multi_scale.json").read_text())
        assert report["settings"]["scales"] == [0.5, 1.0]
        assert report["settings"]["mirror"]
        assert run["multi_scale_mean_iou"] == report["mean_iou"]
    here.clear()
    assert main(grid(*several, output="scales")) == 0
    assert here == []
    # Another value is trained and measured in both ways; a run without its
    # model cannot be measured again.
    (folder / "model.keras").unlink()
    words = ("--vary", "learning_rate=0.01,0.03", "--seeds", "0")
    words += ("--set", "epochs=1", "--scales", "0.5,1", "--mirror")
    assert main(grid(*words, output="scales")) == 0
    assert here == ["train", "evaluate", "evaluate at scales"]
    here.clear()
    assert main(grid(*several, output="scales")) == 0
    assert here == []


@one_backend
def test_a_stopped_child_stops_the_grid(monkeypatch):
    real = subprocess.Popen
    for script, code in (("kill -TERM $$", 143), ("exit 130", 130)):
        monkeypatch.setattr(
            ablate.subprocess,
            "Popen",
            lambda _, script=script, **more: real(
                ["/bin/sh", "-c", script], **more
            ),
        )
        with pytest.raises(SystemExit) as stop:
            ablate._call(["train"])
        assert stop.value.code == code


def _start(workshop, *more):
    command = [sys.executable, "-m", "keras_danet"]
    command += grid("--vary", "learning_rate=0.01,0.02", "--seeds", "0")
    return subprocess.Popen(
        [*command, "--output", "killed", "--checkpoint-every", "1", *more],
        cwd=workshop,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@one_backend
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's prctl")
def test_a_killed_grid_goes_on_where_it_was(workshop):
    first, second = (
        workshop / f"killed/learning_rate={rate}/seed-0"
        for rate in ("0.01", "0.02")
    )
    parent = _start(workshop, "--set", "epochs=40")
    _wait_for(lambda: any(first.glob("checkpoints/*.ckpt")), parent)
    children = psutil.Process(parent.pid).children()
    parent.kill()
    parent.communicate()
    # It saves where it is, and does not go on alone.
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive
    assert not (first / "report.json").exists()
    parent = _start(workshop, "--set", "epochs=40")
    _wait_for(lambda: any(second.glob("checkpoints/*.ckpt")), parent)
    parent.terminate()
    parent.communicate(timeout=120)
    assert parent.returncode == 143
    sessions = json.loads((first / "config.json").read_text())["sessions"]
    assert len(sessions) == 2
    assert len((first / "history.csv").read_text().splitlines()) == 41
    assert (first / "report.json").is_file()
    assert not (second / "report.json").exists()


def _wait_for(condition, process):
    for _ in range(3000):
        if condition():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    process.kill()
    raise AssertionError("it took more than five minutes")
