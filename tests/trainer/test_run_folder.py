"""What becomes of run folders, whoever fails, is killed or comes twice."""

import errno
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
NEWER = "checkpoints/step-000000007.ckpt"
OLD = {"run/model.keras": "old"}
ASIDE = {"run.old-1/model.keras": "old"}
ONE = {f"run/{NEWER}": "new"}


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
        run_folder.open_run_folder(run, **options) as opened,
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


def test_a_replaced_run_is_renamed_and_kept(tmp_path, caplog):
    run = old_run(tmp_path)
    fail(run, "config.json", "model.keras", overwrite=True)
    assert kept(tmp_path) == {"run/model.keras": "new", **ASIDE}
    assert sorted(os.listdir(tmp_path)) == ["run", "run.old-1"]
    [told] = caplog.messages
    assert told == f"The run in {run} was renamed to {run}.old-1."
    # The next one takes the next number, and none is ever removed.
    fail(run, "config.json", CHECKPOINT, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["run", "run.old-1", "run.old-2"]
    assert kept(tmp_path) == {
        **ASIDE,
        "run.old-2/model.keras": "new",
        f"run/{CHECKPOINT}": "new",
    }
    # What is resumed is renamed by nobody.
    fail(run, resume=True)
    assert sorted(os.listdir(tmp_path)) == ["run", "run.old-1", "run.old-2"]


def test_a_replaced_run_has_its_name_back_after_a_mistake(tmp_path, caplog):
    run = old_run(tmp_path)
    fail(run, "config.json", overwrite=True)
    assert kept(tmp_path) == OLD
    assert os.listdir(tmp_path) == ["run"]
    assert f"{run} has its name back" in caplog.messages[-1]


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
        with run_folder.open_run_folder(run, **options) as opened:
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
    "begin, options",
    [
        (old_run, {"overwrite": True}),
        (empty_folder, {}),
        (no_folder, {}),
    ],
)
def test_a_kill_at_any_moment_loses_nothing(tmp_path, made, begin, options):
    before = [OLD, ASIDE] if begin == old_run else [{}]
    new = [{}, ONE, {"run/model.keras": "new", **ONE}]
    # Old ones are there in any case, under the one name or the other.
    expected = [*before, *({**old, **made} for old in before for made in new)]
    for change in itertools.count():
        folder = tmp_path / str(change)
        write(folder, "thesis.txt")
        run = begin(folder)
        if not is_killed(change, run, *made, **options):
            break
        # Nor does one of the next start.
        is_killed(change % 9, run, resume=True)
        fail(run, resume=True)
        assert kept(folder) in expected
        assert set(os.listdir(folder)) <= {"thesis.txt", "run", "run.old-1"}
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
    with run_folder.open_run_folder(run, **options):
        assert names(run) == stay
        assert sorted(os.listdir(tmp_path)) == [".run.lock", "run"]
    assert names(run) == stay


def test_a_run_is_replaced_through_a_link(tmp_path):
    run = old_run(tmp_path)
    link = tmp_path / "latest"
    link.symlink_to(run)
    with run_folder.open_run_folder(link, overwrite=True) as opened:
        write(opened, "model.keras", "new")
    assert sorted(os.listdir(tmp_path)) == ["latest", "run", "run.old-1"]
    assert (run / "model.keras").read_text() == "new" and link.is_symlink()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_what_was_there_before_stays(tmp_path, options):
    project = tmp_path / "project"
    for name in (".git/HEAD", "scenes/mine"):
        write(project, name)
    with pytest.raises(OSError, match="not a run folder|--overwrite"):
        with run_folder.open_run_folder(project, **options):
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
    with run_folder.open_run_folder(run, **options):
        run.rmdir()
    assert not run.exists()


def test_folders_above_a_run_go_with_it(tmp_path):
    """But not those that were there, or that hold something by now."""
    (tmp_path / "a").mkdir()
    run = tmp_path / "a" / "b" / "c" / "run"
    fail(run, "config.json")
    assert names(tmp_path) == ["a"]
    with pytest.raises(Failure):
        with run_folder.open_run_folder(run):
            write(tmp_path, "a/b/mine.txt")
            raise Failure
    assert names(tmp_path) == ["a", "a/b", "a/b/mine.txt"]
    fail(run, CHECKPOINT)
    assert kept(tmp_path) == {f"a/b/c/run/{CHECKPOINT}": "new"}


def test_one_training_at_a_time(tmp_path):
    run = old_run(tmp_path)
    with run_folder.open_run_folder(run, resume=True):
        before = names(tmp_path)
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(BlockingIOError, match=f"uses .*{run}.*Wait"):
                with run_folder.open_run_folder(run, **options):
                    pass
        assert names(tmp_path) == before
        # Another run beside it is another run.
        fail(tmp_path / "other")
    # Nor may who comes too late for a new folder remove it.
    with run_folder.open_run_folder(tmp_path / "new") as new:
        write(new, "model.keras")
        with pytest.raises(BlockingIOError):
            with run_folder.open_run_folder(tmp_path / "new"):
                pass
    assert names(tmp_path / "new") == ["model.keras"]
    assert sorted(os.listdir(tmp_path)) == ["new", "run"]


HOLDER = """
import os, signal, subprocess, sys
from keras_danet.trainer import run_folder

with run_folder.open_run_folder(sys.argv[1]):
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
        with run_folder.open_run_folder(tmp_path / "run", resume=True):
            pass
    holder.kill()
    holder.wait()
    os.kill(child, 0)  # it lives
    with run_folder.open_run_folder(tmp_path / "run", resume=True) as run:
        write(run, "model.keras")
    holder.communicate()
    assert names(tmp_path) == ["run", "run/model.keras"]


@pytest.fixture(params=[OSError(95, "no locks"), NotImplementedError()])
def without_locks(request, monkeypatch):
    def acquire(lock):
        raise request.param

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)


@pytest.mark.usefixtures("without_locks")
def test_where_there_are_no_locks(tmp_path, caplog):
    with run_folder.open_run_folder(tmp_path / "run") as run:
        write(run, "model.keras", "first")
        [told] = caplog.messages
        assert f"{run} cannot be locked (no locks" in told
        # Who comes too late still removes nothing.
        with pytest.raises(FileExistsError):
            with run_folder.open_run_folder(run):
                pass
    assert names(tmp_path) == ["run", "run/model.keras"]


@pytest.mark.usefixtures("without_locks")
def test_too_late_without_locks(tmp_path, monkeypatch):
    """Between a look for the folder and its making another has made it."""
    run = tmp_path / "run"
    write(run, "model.keras", "first")
    exists = type(run).exists
    monkeypatch.setattr(
        type(run), "exists", lambda path: path != run and exists(path)
    )
    with pytest.raises(FileExistsError):
        with run_folder.open_run_folder(run):
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
        with run_folder.open_run_folder(run, overwrite=True):
            pass
    assert kept(tmp_path) == OLD and os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_root_has_no_name(options):
    with pytest.raises(ValueError, match="root .*Received: /. Choose another"):
        with run_folder.open_run_folder("/", **options):
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
        with run_folder.open_run_folder(run, **options):
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
    remedies = ["--resume"] * resumes + ["--output"]
    if "config.json" in left:
        remedies.append("--overwrite")
    places = [str(error.value).find(remedy) for remedy in remedies]
    assert -1 not in places and places == sorted(places)
    assert ("--resume" in str(error.value)) == resumes


def test_the_working_directory_is_not_renamed(tmp_path, monkeypatch):
    run = old_run(tmp_path)
    monkeypatch.chdir(run)
    with pytest.raises(FileExistsError, match="is the working directory"):
        with run_folder.open_run_folder(".", overwrite=True):
            pass
    assert kept(tmp_path) == OLD
