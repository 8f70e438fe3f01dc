"""What becomes of run folders, whoever fails, is killed or comes twice."""

import fcntl
import json
import os
import subprocess
import sys

import pytest
from conftest import one_backend

from keras_danet import run_folders
from keras_danet.recipes import TrainConfig

pytestmark = one_backend

SETTINGS = {
    "dataset": "scenes",
    "epochs": 1,
    "batch_size": 2,
    "crop_size": [32, 32],
}
CONFIG = TrainConfig(**SETTINGS)


class Failure(Exception):
    """What may end a training."""


def names(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*")
    )


def write(run, name, text="x"):
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def old_run(tmp_path):
    run = tmp_path / "run"
    write(run, "config.json", json.dumps({"config": SETTINGS}))
    write(run, "model.keras", "old")
    return run


def fail(run, *made, **options):
    """A training that makes some files and then fails."""
    with (
        pytest.raises(Failure),
        run_folders.open_run_folder(run, CONFIG, **options) as opened,
    ):
        for name in made:
            write(opened, name, "new")
        raise Failure


@pytest.mark.parametrize(
    "made", ["checkpoints/step-000000001.ckpt", "model.keras"]
)
def test_a_new_run_that_can_be_gone_on_with_stays(tmp_path, made):
    run = old_run(tmp_path)
    fail(run, "config.json", made, overwrite=True)
    assert (run / made).read_text() == "new"
    assert os.listdir(tmp_path) == ["run"]
    assert (run / "config.json").read_text() == "new"


def test_a_new_run_that_is_nothing_yet_goes(tmp_path):
    run = old_run(tmp_path)
    before = names(tmp_path)
    fail(run, "config.json", "history.csv", overwrite=True)
    assert names(tmp_path) == before
    assert (run / "model.keras").read_text() == "old"
    fail(tmp_path / "other", "config.json", "history.csv")
    assert names(tmp_path) == before


KILLED = """
import os, sys
from keras_danet import run_folders

with run_folders.open_run_folder(sys.argv[1], None, overwrite=True) as run:
    for name in sys.argv[2:]:
        (run / name).write_text("new")
    os._exit(9)
"""


@pytest.mark.parametrize("made, kept", [([], "old"), (["model.keras"], "new")])
def test_killed_while_it_replaces_a_run(tmp_path, made, kept, caplog):
    run = old_run(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), "config.json", *made]
    )
    assert done.returncode == 9
    # The next one, of whatever kind, finds one run, that which can be used.
    with pytest.raises(FileExistsError, match="--overwrite"):
        with run_folders.open_run_folder(run, CONFIG):
            pass
    assert (run / "model.keras").read_text() == kept
    assert os.listdir(tmp_path) == ["run"]
    told = [line for line in caplog.messages if "was to be replaced" in line]
    assert len(told) == (kept == "old")


def test_what_was_put_in_a_killed_runs_place_is_not_removed(tmp_path):
    run = old_run(tmp_path)
    os.rename(run, tmp_path / ".run-replaced")
    write(run, "thesis.txt")
    with pytest.raises(FileExistsError, match="not a run folder"):
        with run_folders.open_run_folder(run, CONFIG, resume=True):
            pass
    assert (run / "thesis.txt").exists()
    assert (tmp_path / ".run-replaced" / "model.keras").exists()


def test_a_run_is_replaced_through_a_link(tmp_path):
    run = old_run(tmp_path)
    link = tmp_path / "latest"
    link.symlink_to(run)
    with run_folders.open_run_folder(link, CONFIG, overwrite=True) as opened:
        write(opened, "model.keras", "new")
    assert sorted(os.listdir(tmp_path)) == ["latest", "run"]
    assert (run / "model.keras").read_text() == "new" and link.is_symlink()


def test_what_was_there_before_stays(tmp_path):
    project = tmp_path / "project"
    for name in (".git/HEAD", ".env", "scenes/mine"):
        write(project, name)
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        with run_folders.open_run_folder(project, CONFIG, resume=True):
            pass
    # One killed before it had a config.json, or a folder made by hand.
    for name in (".git", ".env"):
        os.rename(project / name, tmp_path / name)
    write(project, ".partial-config.json")
    before = names(project)
    fail(project, "config.json", "checkpoints/.partial-x", resume=True)
    assert names(project) == before
    (tmp_path / "empty").mkdir()
    fail(tmp_path / "empty", "config.json", resume=True)
    assert names(tmp_path / "empty") == []


def test_one_training_at_a_time(tmp_path):
    run = old_run(tmp_path)
    with run_folders.open_run_folder(run, CONFIG, resume=True):
        before = names(tmp_path)
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(BlockingIOError, match=f"uses .*{run}.*Wait"):
                with run_folders.open_run_folder(run, CONFIG, **options):
                    pass
        assert names(tmp_path) == before
        # Another run beside it is another run.
        fail(tmp_path / "other")
    # Nor may who comes too late for a new folder remove it.
    with run_folders.open_run_folder(tmp_path / "new", CONFIG) as new:
        write(new, "model.keras")
        with pytest.raises(BlockingIOError):
            with run_folders.open_run_folder(tmp_path / "new", CONFIG):
                pass
    assert names(tmp_path / "new") == ["model.keras"]
    assert sorted(os.listdir(tmp_path)) == ["new", "run"]


def test_a_lock_that_was_just_given_back_is_none(tmp_path, monkeypatch):
    flock = fcntl.flock

    def late(file, how):
        os.unlink(file.name)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(BlockingIOError):
        with run_folders.open_run_folder(tmp_path / "run", CONFIG):
            pass
    assert os.listdir(tmp_path) == []


HOLDER = """
import os, signal, subprocess, sys
from keras_danet import run_folders

with run_folders.open_run_folder(sys.argv[1], None):
    # A child that outlives it.
    command = [sys.executable, "-c", "input()"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    signal.pause()
"""


def test_a_killed_training_holds_nothing(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child = int(holder.stdout.readline())
    with pytest.raises(BlockingIOError):
        with run_folders.open_run_folder(tmp_path / "run", CONFIG, resume=True):
            pass
    holder.kill()
    holder.wait()
    os.kill(child, 0)  # it lives
    with run_folders.open_run_folder(
        tmp_path / "run", CONFIG, resume=True
    ) as run:
        write(run, "model.keras")
    holder.communicate()
    assert names(tmp_path) == ["run", "run/model.keras"]


@pytest.mark.parametrize("error", [OSError(95, "no locks"), ImportError()])
def test_where_there_are_no_locks(tmp_path, monkeypatch, error):
    def flock(*arguments):
        raise error

    monkeypatch.setattr("fcntl.flock", flock)
    with run_folders.open_run_folder(tmp_path / "run", CONFIG) as run:
        write(run, "model.keras", "first")
        # Who comes too late still removes nothing.
        with pytest.raises(FileExistsError):
            with run_folders.open_run_folder(run, CONFIG):
                pass
    assert names(tmp_path) == ["run", "run/model.keras"]


def test_too_late_without_locks(tmp_path, monkeypatch):
    """Between a look for the folder and its making another has made it."""
    run = tmp_path / "run"
    monkeypatch.setattr("fcntl.flock", lambda *_: None)

    def look(path, *_):
        write(path, "model.keras", "first")

    monkeypatch.setattr(run_folders, "_choose", look)
    exists = type(run).exists
    monkeypatch.setattr(
        type(run), "exists", lambda path: path != run and exists(path)
    )
    with pytest.raises(FileExistsError):
        with run_folders.open_run_folder(run, CONFIG):
            pass
    assert names(tmp_path) == ["run", "run/model.keras"]


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("file", ["run", "run/checkpoints", "."])
def test_a_file_in_the_way_is_named(tmp_path, options, file):
    folder = tmp_path / "x"
    run = folder / "run"
    if file == "run/checkpoints":
        write(run, "config.json", json.dumps({"config": SETTINGS}))
    way = folder / file
    way.parent.mkdir(exist_ok=True)
    way.write_text("mine")
    with pytest.raises(FileExistsError, match=f"{way} is a file. Expected"):
        with run_folders.open_run_folder(run, CONFIG, **options):
            pass
    assert way.read_text() == "mine"
