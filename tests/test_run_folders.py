"""What becomes of run folders, whoever fails, is killed or comes twice."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import one_backend

from keras_danet.data.scenes import write_scenes
from keras_danet.recipe import TrainConfig
from keras_danet.trainer import run_folder

pytestmark = one_backend

SETTINGS = {
    "dataset": "scenes",
    "epochs": 1,
    "batch_size": 2,
    "crop_size": [32, 32],
}
CONFIG = TrainConfig.from_keys(SETTINGS)
CONFIG_TEXT = json.dumps({"config": SETTINGS})


CHECKPOINT = "checkpoints/step-000000001.ckpt"
OLD = {"run/model.keras": "old"}
WAITING = {".run-replaced/model.keras": "old"}
NEWER = "checkpoints/step-000000007.ckpt"
ONE = {f"run/{NEWER}": "new"}
BOTH = {**WAITING, f"run/{CHECKPOINT}": "new"}


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
    write(run, "config.json", CONFIG_TEXT)
    write(run, "model.keras", "old")
    return run


def empty_folder(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    return run


def no_folder(tmp_path):
    return tmp_path / "run"


def fail(run, *made, **options):
    """A training that makes some files and then fails."""
    with (
        pytest.raises(Failure),
        run_folder.open_run_folder(run, CONFIG, **options) as opened,
    ):
        for name in made:
            write(opened, name, CONFIG_TEXT if "config" in name else "new")
        raise Failure


def kept(folder):
    """What there is to use or to resume, and whose it is."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.suffix in (".keras", ".ckpt")
    }


def test_a_new_run_with_a_model_stays(tmp_path, caplog):
    run = old_run(tmp_path)
    fail(run, "config.json", "model.keras", overwrite=True)
    assert kept(tmp_path) == {"run/model.keras": "new"}
    assert os.listdir(tmp_path) == ["run"]
    assert not caplog.messages


def stopped_run(tmp_path):
    """A finished run, and one of a step that was to replace it."""
    run = old_run(tmp_path)
    fail(run, "config.json", CHECKPOINT, overwrite=True)
    assert kept(tmp_path) == BOTH
    return run


def test_a_finished_run_outlives_a_mistake_of_one_step(tmp_path, caplog):
    run = stopped_run(tmp_path)
    [told] = caplog.messages
    assert f"{run} has no model.keras yet" in told
    assert f"kept in {tmp_path / '.run-replaced'}. --resume continues" in told
    assert f"remove {run}: the next start" in told
    # Going on ends with both as well, as long as there is no model,
    with pytest.raises(FileExistsError, match="--overwrite"):
        with run_folder.open_run_folder(run, CONFIG):
            pass
    fail(run, resume=True)
    assert kept(tmp_path) == BOTH
    # and keeps the new run once there is one.
    fail(run, "model.keras", resume=True)
    assert kept(tmp_path) == {
        "run/model.keras": "new",
        f"run/{CHECKPOINT}": "new",
    }
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("options", [{}, {"resume": True}])
def test_the_old_run_is_had_back_by_removing_the_new(tmp_path, options, caplog):
    shutil.rmtree(stopped_run(tmp_path))
    caplog.clear()
    with contextlib.suppress(FileExistsError):
        with run_folder.open_run_folder(tmp_path / "run", CONFIG, **options):
            pass
    assert kept(tmp_path) == OLD
    assert os.listdir(tmp_path) == ["run"]
    assert f"previous run in {tmp_path / 'run'} was restored" in caplog.text


def test_what_is_replaced_twice_for_nothing_is_told_once(tmp_path, caplog):
    # As a kill leaves it.
    os.rename(old_run(tmp_path), tmp_path / ".run-replaced")
    fail(tmp_path / "run", "config.json", overwrite=True)
    assert kept(tmp_path) == OLD
    [told] = caplog.messages
    assert told.endswith("its replacement saved no checkpoint, or was removed.")


def test_a_run_without_a_model_is_replaced_by_a_newer_one(tmp_path):
    run = stopped_run(tmp_path)
    # It comes back, if the newer one comes to nothing,
    fail(run, "config.json", overwrite=True)
    assert kept(tmp_path) == BOTH
    # goes once that can be resumed,
    fail(run, "config.json", NEWER, overwrite=True)
    assert kept(tmp_path) == {**WAITING, **ONE}
    assert sorted(os.listdir(tmp_path)) == [".run-replaced", "run"]
    # and the finished one with it, once there is a model.
    fail(run, "config.json", "model.keras", overwrite=True)
    assert kept(tmp_path) == {"run/model.keras": "new"}
    assert os.listdir(tmp_path) == ["run"]


def test_a_new_run_that_is_nothing_yet_goes(tmp_path):
    run = old_run(tmp_path)
    before = names(tmp_path)
    fail(run, "config.json", "history.csv", overwrite=True)
    assert names(tmp_path) == before
    assert (run / "model.keras").read_text() == "old"
    fail(tmp_path / "other", "config.json", "history.csv")
    assert names(tmp_path) == before


CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}


def is_killed(change, run, *made, **options):
    """Whether a training is killed, before its so manieth change of files."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        return code != 0
    changes = itertools.count()

    def watch(event, _):
        if event in CHANGES and next(changes) == change:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(watch)
        with run_folder.open_run_folder(run, CONFIG, **options) as opened:
            if "config.json" in made:
                size = {"train": 1, "val": 1}, (32, 32)
                write_scenes(opened / "scenes", *size)
            for name in made:
                write(opened, name, CONFIG_TEXT if "config" in name else "new")
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize(
    "made",
    [
        ["config.json", "history.csv", "classes.json", "tensorboard/x"],
        ["config.json", NEWER],
        ["config.json", NEWER, "model.keras"],
    ],
    ids=["nothing", "checkpoint", "model"],
)
@pytest.mark.parametrize(
    "begin, options, expected",
    [
        (old_run, {"overwrite": True}, [OLD, {**WAITING, **ONE}]),
        (stopped_run, {"overwrite": True}, [BOTH, {**WAITING, **ONE}]),
        (empty_folder, {}, [{}, ONE]),
        (no_folder, {}, [{}, ONE]),
    ],
)
def test_a_kill_at_any_moment_loses_nothing(
    tmp_path, made, begin, options, expected
):
    expected = [*expected, {"run/model.keras": "new", **ONE}]
    for change in itertools.count():
        folder = tmp_path / str(change)
        write(folder, "thesis.txt")
        run = begin(folder)
        if not is_killed(change, run, *made, **options):
            break
        # Nor does one of the next start, which settles what was left.
        is_killed(change % 9, run, resume=True)
        fail(run, resume=True)
        assert kept(folder) in expected
        assert set(os.listdir(folder)) <= {"thesis.txt", "run", ".run-replaced"}
        assert not [*folder.rglob(".partial-*"), *folder.rglob(".scenes-*")]
        for scenes in folder.rglob("scenes"):
            assert len(os.listdir(scenes)) == 6
    assert change > 10


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_killed_while_it_draws_or_before(tmp_path, options):
    run = tmp_path / "run"
    write(run, ".scenes-0gk3_x1z/scenes/train/a.png")
    write(run, ".partial-config.json")
    write(run, "lost+found/x")
    write(run, "scenes/train.txt")
    stay = ["lost+found", "lost+found/x", "scenes", "scenes/train.txt"]
    write(tmp_path, ".run-removed/model.keras")
    with run_folder.open_run_folder(run, CONFIG, **options):
        assert names(run) == stay
        assert sorted(os.listdir(tmp_path)) == [".run.lock", "run"]
    assert names(run) == stay
    # The one that it was to replace is there first.
    waiting = old_run(tmp_path / "x")
    os.rename(waiting, tmp_path / ".run-replaced")
    shutil.rmtree(run / "lost+found")
    write(run, ".scenes-0gk3_x1z/scenes/train/a.png")
    if options:
        fail(run, **options)
    else:
        with pytest.raises(FileExistsError, match="--overwrite"):
            with run_folder.open_run_folder(run, CONFIG):
                pass
    assert names(run) == ["config.json", "model.keras"]
    assert sorted(os.listdir(tmp_path)) == ["run", "x"]


@pytest.mark.parametrize("mine", ["thesis.txt", "scenes/mine", "lost+found/x"])
def test_what_was_put_in_a_killed_runs_place_is_not_removed(tmp_path, mine):
    run = old_run(tmp_path)
    os.rename(run, tmp_path / ".run-replaced")
    write(run, mine)
    with pytest.raises(FileExistsError, match="not a run folder"):
        with run_folder.open_run_folder(run, CONFIG, resume=True):
            pass
    assert (run / mine).exists()
    assert kept(tmp_path) == WAITING


def test_a_run_is_replaced_through_a_link(tmp_path):
    run = old_run(tmp_path)
    link = tmp_path / "latest"
    link.symlink_to(run)
    with run_folder.open_run_folder(link, CONFIG, overwrite=True) as opened:
        write(opened, "model.keras", "new")
    assert sorted(os.listdir(tmp_path)) == ["latest", "run"]
    assert (run / "model.keras").read_text() == "new" and link.is_symlink()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_what_was_there_before_stays(tmp_path, options):
    project = tmp_path / "project"
    for name in (".git/HEAD", "scenes/mine"):
        write(project, name)
    with pytest.raises(OSError, match="not a run folder|--overwrite"):
        with run_folder.open_run_folder(project, CONFIG, **options):
            pass
    os.rename(project / ".git", tmp_path / ".git")
    before = names(project)
    fail(project, "config.json", "checkpoints/.partial-x", **options)
    assert names(project) == before
    # It may be where a volume is mounted.
    run = empty_folder(tmp_path)
    fail(run, "config.json", "checkpoints/.partial-x", "scenes/x", **options)
    assert names(run) == []
    # What is resumed, whoever began it, is not new.
    write(run, "config.json", CONFIG_TEXT)
    fail(run, "history.csv", resume=True)
    assert names(run) == ["config.json", "history.csv"]
    shutil.rmtree(run)
    # Somebody may remove it meanwhile.
    with run_folder.open_run_folder(run, CONFIG, **options):
        run.rmdir()
    assert not run.exists()


def test_one_training_at_a_time(tmp_path):
    run = old_run(tmp_path)
    with run_folder.open_run_folder(run, CONFIG, resume=True):
        before = names(tmp_path)
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(BlockingIOError, match=f"uses .*{run}.*Wait"):
                with run_folder.open_run_folder(run, CONFIG, **options):
                    pass
        assert names(tmp_path) == before
        # Another run beside it is another run.
        fail(tmp_path / "other")
    # Nor may who comes too late for a new folder remove it.
    with run_folder.open_run_folder(tmp_path / "new", CONFIG) as new:
        write(new, "model.keras")
        with pytest.raises(BlockingIOError):
            with run_folder.open_run_folder(tmp_path / "new", CONFIG):
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
        with run_folder.open_run_folder(tmp_path / "run", CONFIG):
            pass
    assert os.listdir(tmp_path) == []


HOLDER = """
import os, signal, subprocess, sys
from keras_danet.trainer import run_folder

with run_folder.open_run_folder(sys.argv[1], None):
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
        with run_folder.open_run_folder(tmp_path / "run", CONFIG, resume=True):
            pass
    holder.kill()
    holder.wait()
    os.kill(child, 0)  # it lives
    with run_folder.open_run_folder(
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
    with run_folder.open_run_folder(tmp_path / "run", CONFIG) as run:
        write(run, "model.keras", "first")
        # Who comes too late still removes nothing.
        with pytest.raises(FileExistsError):
            with run_folder.open_run_folder(run, CONFIG):
                pass
    assert names(tmp_path) == ["run", "run/model.keras"]


def test_too_late_without_locks(tmp_path, monkeypatch):
    """Between a look for the folder and its making another has made it."""
    run = tmp_path / "run"
    monkeypatch.setattr("fcntl.flock", lambda *_: None)

    def look(path, **_):
        write(path, "model.keras", "first")

    monkeypatch.setattr(run_folder, "_settle", look)
    exists = type(run).exists
    monkeypatch.setattr(
        type(run), "exists", lambda path: path != run and exists(path)
    )
    with pytest.raises(FileExistsError):
        with run_folder.open_run_folder(run, CONFIG):
            pass
    assert names(tmp_path) == ["run", "run/model.keras"]


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV])
def test_a_run_that_cannot_be_moved_is_named(tmp_path, monkeypatch, code):
    """It is itself where a volume is mounted."""
    run = old_run(tmp_path)

    def rename(*paths):
        raise OSError(code, os.strerror(code), *map(str, paths))

    monkeypatch.setattr(os, "rename", rename)
    message = (
        f"{run} cannot be renamed .*{os.strerror(code)}. Expected .*Choose"
    )
    with pytest.raises(OSError, match=message):
        with run_folder.open_run_folder(run, CONFIG, overwrite=True):
            pass
    assert kept(tmp_path) == OLD and os.listdir(tmp_path) == ["run"]
    # Nor is it in the way of one that waits.
    write(tmp_path / ".run-replaced", "model.keras", "old")
    (run / "model.keras").unlink()
    with pytest.raises(OSError, match=message):
        with run_folder.open_run_folder(run, CONFIG, resume=True):
            pass
    assert kept(tmp_path) == WAITING
    assert sorted(os.listdir(tmp_path)) == [".run-replaced", "run"]


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_root_has_no_name(options):
    with pytest.raises(ValueError, match="root .*Received: /. Choose another"):
        with run_folder.open_run_folder("/", CONFIG, **options):
            pass


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
        with run_folder.open_run_folder(run, CONFIG, **options):
            pass
    assert way.read_text() == "mine"


@pytest.mark.parametrize(
    "left, resumes",
    [
        (["config.json"], True),
        (["config.json", CHECKPOINT], True),
        (["config.json", CHECKPOINT, "model.keras"], True),
        # There is nothing to go on from.
        (["config.json", "model.keras"], False),
        (["notes.txt"], False),
    ],
)
def test_what_was_killed_is_told_to_be_resumed(tmp_path, left, resumes):
    for name in left:
        write(tmp_path / "run", name, CONFIG_TEXT)
    with pytest.raises(FileExistsError) as error:
        fail(tmp_path / "run")
    remedies = ["--resume"] * resumes + ["--output", "--overwrite"]
    places = [str(error.value).find(remedy) for remedy in remedies]
    assert -1 not in places and places == sorted(places)
    assert ("--resume" in str(error.value)) == resumes
