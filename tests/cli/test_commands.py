import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import one_backend
from PIL import Image

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import runs
from keras_danet.cli import evaluate
from keras_danet.cli import main
from keras_danet.data.datasets import SCENES
from keras_danet.data.scenes import write_scenes
from keras_danet.inference import evaluation
from keras_danet.models import memory

RECIPE = """
from keras_danet import TrainConfig

config = TrainConfig(
    dataset="scenes",
    epochs=1,
    batch_size=4,
    model={"depth": 18, "filters": 8},
    augmentation={"crop_size": (48, 64)},
    jit_compile=False,
)
"""


def users_environment(**environment):
    """As it is for users, who do not set what makefiles and `jax` do."""
    mine = {k: v for k, v in os.environ.items() if k[:7] != "TF_CPP_"}
    return {**mine, **environment}


def run_cli(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "keras_danet", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=users_environment(**environment),
    )


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with tiny scenes and a recipe for them."""
    from keras_danet.data.scenes import write_scenes

    folder = tmp_path_factory.mktemp("workshop")
    write_scenes(
        folder / "scenes", splits={"train": 8, "val": 3}, size=(48, 64)
    )
    (folder / "tiny.py").write_text(RECIPE)
    return folder


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the same steps are tested one by one on every backend",
)
def test_the_whole_way_in_subprocesses(workshop):
    run = workshop / "run"
    done = run_cli(
        "train",
        workshop / "tiny.py",
        "--data",
        workshop / "scenes",
        "--set",
        "epochs=2",
        "--output",
        run,
    )
    assert done.returncode == 0, done.stderr
    assert "Best mean IoU" in done.stdout
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["epochs"] == 2

    assert done.stderr == ""
    done = run_cli("evaluate", run, "--split", "val")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads((run / "report.json").read_text())
    assert report["num_images"] == 3
    printed = done.stdout.partition("mean IoU")[2].split()[0]
    assert printed == f"{report['mean_iou']:.2%}"
    with open(run / "history.csv") as file:
        columns, *rows = [line.strip().split(",") for line in file]
    best = max(float(row[columns.index("val_mean_iou")]) for row in rows)
    # Users' number and training's: whole images, the same pixels. A tie of
    # two logits may fall otherwise in another graph.
    assert report["mean_iou"] == pytest.approx(best, abs=1e-3)

    photo = workshop / "my photo.png"
    Image.fromarray(np.full((37, 53, 3), 200, "uint8")).save(photo)
    output = workshop / "pictures"
    done = run_cli("predict", run, photo, "--output", output)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in output.iterdir()) == [
        "my photo_label.png",
        "my photo_overlay.png",
        "predict.json",
    ]
    label = np.array(Image.open(output / "my photo_label.png"))
    assert label.shape == (37, 53)
    assert label.max() < 8

    for kind in ("saved_model", "tflite"):
        done = run_cli("export", run, "--format", kind)
        assert done.returncode == 0, done.stderr
        # Nothing of TensorFlow's.
        assert done.stderr == ""
        assert "agrees with the model" in done.stdout
    written = run / "exports/tflite_48x64/export.json"
    assert json.loads(written.read_text())["verification"]["passed"]
    done = run_cli("verify", run / "exports/tflite_48x64", run)
    assert done.returncode == 0, done.stderr
    assert "agrees with the model" in done.stdout
    done = run_cli(
        "bench", run / "exports/danet/1", run / "exports/tflite_48x64"
    )
    assert done.returncode == 0, done.stderr
    heading, *lines = done.stdout.strip().splitlines()
    assert heading.split()[-5:] == ["MB", "same", "class", "mIoU", "lost"]
    assert len(lines) == 2
    for line in lines:
        assert line.split()[1] == "float32"
        assert float(line.split()[-2].rstrip("%")) >= 99.99


def test_a_mistake_is_one_line_and_exit_code_2(workshop):
    done = run_cli("train", workshop / "tiny.py", "--set", "bach_size=4")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("keras-danet: error: A recipe has no key")
    assert "Did you mean 'batch_size'" in message


def fails(capsys, *arguments):
    code = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    assert code == 2
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_mistakes_are_explained(workshop, tmp_path, capsys):
    recipe = workshop / "tiny.py"
    run = tmp_path / "run"

    def train(*arguments):
        return fails(capsys, "train", recipe, "--output", run, *arguments)

    assert "KEY=VALUE" in train("--set", "epochs")
    assert "`epochs` must be int" in train("--set", "epochs=many")
    # No literals, for one reason or another.
    for value in ("{[]: 1}", "(" * 300, "-" * 10**6 + "1"):
        assert "`epochs` must be int" in train("--set", f"epochs={value}")
    assert str(tmp_path / "none") in train("--data", tmp_path / "none")
    assert "no recipe" in fails(capsys, "train", tmp_path / "none.py")
    assert "must be one of" in train("--distribute", "horovod")
    assert "at least 1" in train("--devices", 0)
    assert "need --distribute" in train("--distribute", "none", "--devices", 2)
    (tmp_path / "scenes").mkdir()
    assert "train.txt" in train("--data", tmp_path / "scenes")
    assert not run.exists()
    assert "not a run folder" in fails(capsys, "evaluate", tmp_path)
    assert "not a run folder" in fails(
        capsys, "predict", tmp_path, "x.png", "--output", tmp_path / "out"
    )
    assert "not a run folder" in fails(
        capsys, "export", tmp_path, "--format", "tflite"
    )
    assert not (tmp_path / "out").exists()


@one_backend
def test_a_file_in_the_place_of_a_folder_is_told(tmp_path, capsys):
    """Before a model is looked for in what is none."""
    (tmp_path / "a.npz").touch()
    (tmp_path / "recipe.py").write_text(RECIPE)
    model = DANet(8, DilatedResNet(18, filters=8))
    model.save(tmp_path / "model.keras")
    file, output = tmp_path / "a.npz", ["--output", tmp_path / "a.npz" / "b"]
    model, tflite = tmp_path / "model.keras", ["--format", "tflite"]
    for arguments in (
        ["predict", model, "a.png", "--output", file],
        ["predict", model, "a.png", *output],
        ["export", model, *tflite, *output],
        ["convert", file, *output],
        ["train", tmp_path / "recipe.py", *output],
    ):
        message = fails(capsys, *arguments)
        assert f"{file} is a file. Expected a folder" in message
        assert message.endswith("choose another folder.")
    arguments = ["train", tmp_path / "recipe.py", "--output", "/proc/a/b"]
    assert "/proc/a cannot be made: No such" in fails(capsys, *arguments)


def test_bad_images_leave_no_output(workshop, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    config = {"dataset": "scenes", "epochs": 1, "batch_size": 1}
    config["crop_size"] = [32, 32]
    (run / "config.json").write_text(json.dumps({"config": config}))
    DANet(8, DilatedResNet(18, filters=8)).save(run / "model.keras")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    output = tmp_path / "out"
    message = fails(capsys, "predict", run, bad, "--output", output)
    assert "bad.png cannot be read" in message
    # The same once more is the same.
    message = fails(capsys, "predict", run, bad, bad, "--output", output)
    assert "bad.png cannot be read" in message
    assert not output.exists()


def test_an_interruption_has_its_exit_code(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run", interrupt)
    assert main(["evaluate", "run"]) == 130
    assert capsys.readouterr().err == "keras-danet: interrupted\n"


def test_too_little_memory_is_one_sentence(monkeypatch, capsys):
    def run(arguments):
        raise MemoryError

    monkeypatch.setattr(evaluate, "run", run)
    assert main(["evaluate", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "keras-danet: error: Not enough memory. Free some, or use smaller "
        "images, windows or batches."
    )


def test_a_mistake_of_ours_is_no_partial_success(monkeypatch, capsys):
    """1 would say that the rest was done."""

    def run(arguments):
        raise RuntimeError("road\x1b[2J")

    monkeypatch.setattr(evaluate, "run", run)
    assert main(["evaluate", "run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.endswith("RuntimeError: road\\x1b[2J\n")


@pytest.mark.slow
def test_output_on_a_full_disk_is_no_error_of_a_training(tmp_path):
    write_scenes(tmp_path / "scenes", {"train": 8, "val": 2}, size=(48, 64))
    (tmp_path / "recipe.py").write_text(RECIPE)
    arguments = ["recipe.py", "--data", "scenes", "--output", "run"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "keras_danet", "train", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=users_environment(),
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.keras").exists()
    assert "Best mean IoU" in done.stderr
    assert done.stderr.count("No space left") == 2
    for word in ("Traceback", "ignored"):
        assert word not in done.stderr


@pytest.mark.parametrize(
    "verb", ["recipes", pytest.param("train", marks=pytest.mark.slow)]
)
def test_output_that_nobody_reads_is_no_error(tmp_path, verb):
    (tmp_path / "recipe.py").write_text(RECIPE)
    arguments = {
        "recipes": [tmp_path],
        "train": [tmp_path / "recipe.py", "--output", tmp_path / "run"],
    }[verb]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "keras_danet", verb, *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=users_environment(),
    )
    os.close(writer)
    assert done.returncode == 141
    assert (verb == "train") == (tmp_path / "run/checkpoints").is_dir()
    for word in ("keras-danet", "BrokenPipe", "Traceback", "ignored"):
        assert word not in done.stderr


def test_a_checkpoint_is_converted(tmp_path, capsys):
    model = DANet(3, DilatedResNet(18, filters=8))
    model.get_layer("position_attention").gamma.assign(0.5)
    tensors = model.to_state_dict()
    tensors["pretrained.bn1.num_batches_tracked"] = np.array(4)
    checkpoint, output = tmp_path / "theirs.npz", tmp_path / "ours.keras"
    np.savez(checkpoint, **tensors)
    arguments = ["convert", str(checkpoint), "-o", str(output)]
    assert main([*arguments, "--multi-grid", "4", "8"]) == 0
    captured = capsys.readouterr()
    assert "ResNet-18 of 8 filters, 7x7 stem, DANet of 3 classes" in (
        captured.out
    )
    taken = f"{len(tensors) - 1} taken, 1 ignored (1 num_batches_tracked)"
    assert taken in captured.out
    assert "note: " in captured.err and "`align_corners`" in captured.err
    loaded = keras.saving.load_model(output)
    for name, value in loaded.to_state_dict().items():
        np.testing.assert_array_equal(value, tensors[name])
    assert "it exists" in fails(capsys, *arguments)
    output.unlink()
    assert main([*arguments, "--multi-grid", "4", "8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_taken"] == len(tensors) - 1
    assert report["ignored"] == ["pretrained.bn1.num_batches_tracked"]
    output.unlink()

    tensors["ema\x1b[2J"] = np.ones(1, "float32")
    np.savez(checkpoint, **tensors)
    assert "variable: ema\\x1b[2J." in fails(capsys, *arguments)
    anew = ["--num-classes", "5", "--multi-grid", "--ignore", "ema.*"]
    assert main([*arguments, *anew]) == 0
    captured = capsys.readouterr()
    taken = f"{len(tensors) - 8} taken, 8 ignored (ema\\x1b[2J, head.conv6.1.b"
    assert taken in captured.out
    assert "\x1b" not in captured.out + captured.err
    output.unlink()
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert "theirs.npz is not read" in fails(capsys, *arguments)
    assert not output.exists()


@one_backend
def test_a_model_becomes_a_preset_of_half_the_bytes(tmp_path, capsys):
    model, folder = tmp_path / "ours.keras", tmp_path / "preset"
    DANet(3, DilatedResNet(18, filters=8)).save(model)
    arguments = ["convert", str(model), "--kernel-dtype", "float16", "-o"]
    assert main([*arguments, str(folder)]) == 0
    assert "logits of a ramp" in capsys.readouterr().out
    assert (folder / "model.weights.h5").stat().st_size < 0.7 * (
        model.stat().st_size
    )
    assert DANet.from_preset(folder).num_classes == 3
    other = str(tmp_path / "other.keras")
    assert "for the folder of a preset" in fails(capsys, *arguments, other)
    assert not pathlib.Path(other).exists()


@one_backend
def test_a_model_on_the_hub_may_have_a_dot_in_its_name(
    tmp_path, capsys, monkeypatch
):
    asked = []

    def open_model(source):
        asked.append(source)
        return DANet(3, DilatedResNet(18, filters=8)), None

    monkeypatch.setattr(runs, "open_model", open_model)
    name, output = "hf://user/danet-v1.5", tmp_path / "ours.keras"
    assert main(["convert", name, "-o", str(output)]) == 0
    assert asked == [name] and output.is_file()
    capsys.readouterr()


def test_sigterm_unwinds(monkeypatch):
    unwound = []

    def wait(arguments):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            unwound.append(True)

    monkeypatch.setattr(evaluate, "run", wait)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error:
        main(["evaluate", "run"])
    assert error.value.code == 143
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_within_a_destructor_is_not_lost(monkeypatch):
    class Stopped:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def drop(arguments):
        Stopped()
        time.sleep(10)

    monkeypatch.setattr(evaluate, "run", drop)
    hook = sys.unraisablehook
    started = time.monotonic()
    with pytest.raises(SystemExit) as error:
        main(["evaluate", "run"])
    assert error.value.code == 143
    assert time.monotonic() - started < 5
    assert sys.unraisablehook is hook


def test_sigterm_while_keras_is_imported():
    """Libraries that are half there crash as Python ends."""
    program = (
        "import os, signal, threading\n"
        "from keras_danet import backends, cli\n"
        "from keras_danet.cli import evaluate\n"
        "def run(arguments):\n"
        "    with backends._nested():\n"
        "        try:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        finally:\n"
        "            print('unwound')\n"
        "evaluate.run = run\n"
        "cli.main(['evaluate', 'run'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (143, ""), done.stderr


def test_predict_replaces_nothing_unasked(workshop, tmp_path, capsys):
    run, output = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    config = {"dataset": "scenes", "epochs": 1, "batch_size": 1}
    config["crop_size"] = [32, 32]
    (run / "config.json").write_text(json.dumps({"config": config}))
    DANet(8, DilatedResNet(18, filters=8)).save(run / "model.keras")
    output.mkdir()
    image = Image.new("RGB", (48, 40))
    image.save(output / "a.png")
    arguments = ["predict", run, output / "a.png", "--output", output]
    assert main(list(map(str, arguments))) == 0
    capsys.readouterr()
    image.save(output / "a.png")
    assert "a_label.png exists" in fails(capsys, *arguments)
    assert main([*map(str, arguments), "--overwrite"]) == 0
    capsys.readouterr()
    arguments = [*arguments[:3], output / "a_label.png", *arguments[3:]]
    message = fails(capsys, *arguments, "--overwrite")
    assert "would replace an input" in message


def test_what_does_not_fit_is_refused_first(
    workshop, tmp_path, capsys, monkeypatch
):
    run, output = tmp_path / "run", tmp_path / "out"
    arguments = ["train", workshop / "tiny.py", "--output", run]
    arguments += ["--data", workshop / "scenes", "--set", "batch_size=8"]
    monkeypatch.setattr(memory, "available_memory", lambda devices: 2**20)
    assert "No size fits" in fails(capsys, *arguments)
    # What four images take, the recipe's own batch.
    model = DANet(8, DilatedResNet(18, filters=8))
    needed = memory.estimate_memory(model, 4, 48, 64, training=True)
    monkeypatch.setattr(memory, "available_memory", lambda devices: needed)
    message = fails(capsys, *arguments)
    assert "Training on 8 images of 48 x 64 pixels takes about" in message
    assert message.endswith("batch_size=4 fits.")
    assert not run.exists()

    run.mkdir()
    config = {"dataset": "scenes", "epochs": 1, "batch_size": 1}
    config["crop_size"] = [32, 32]
    (run / "config.json").write_text(json.dumps({"config": config}))
    model.save(run / "model.keras")
    huge = tmp_path / "huge.png"
    Image.new("RGB", (4200, 4000)).save(huge)
    small = tmp_path / "small.png"
    Image.new("RGB", (48, 40)).save(small)
    message = fails(capsys, "predict", run, huge, "--output", output)
    assert "Predicting 1 image of 4000 x 4200 pixels takes about" in message
    assert not output.exists()
    arguments = ["predict", run, small, huge, "--output", output]
    assert main(list(map(str, arguments))) == 1
    error, _ = capsys.readouterr().err.splitlines()
    assert "Predicting 1 image of 4000 x 4200 pixels takes about" in error
    assert (output / "small_label.png").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_nobody_reads_is_no_error(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "keras_danet", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("columns", ["1", "0", "20"])
def test_help_in_a_narrow_terminal(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    for arguments in (["--help"], ["train", "--help"], ["predict", "--help"]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 0
        assert "keras-danet" in capsys.readouterr().out


@one_backend
@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "run", "", "--output", "out"],
        ["predict", "run", "a.png", "--output", ""],
        ["train", "scenes", "--output", ""],
    ],
)
def test_an_empty_word_is_no_folder(capsys, arguments):
    assert main(arguments) == 2
    assert "is empty. Expected a name or a number" in capsys.readouterr().err


def test_usage(capsys):
    for arguments in (
        [],
        ["fly"],
        ["export", "run", "--format", "caffe"],
        ["predict", "run", "%d.png", "--output", "out", "--fps", "0"],
    ):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    for verb in ("train", "evaluate", "predict", "export"):
        assert verb in text
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    of_predict = capsys.readouterr().out
    for code in ("130  interrupted from the keyboard", "143  stopped by SIG"):
        assert code in text and code in of_predict
    assert "1  a check found a problem, or a part failed" in text
    assert "--size and each option below" in " ".join(of_predict.split())


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@one_backend
def test_folders_are_predicted_and_reports_are_json(
    workshop, tmp_path, capsys, monkeypatch
):
    run, output = tmp_path / "run", tmp_path / "photos" / "out"
    run.mkdir()
    config = {"dataset": "scenes", "epochs": 1, "batch_size": 1}
    config |= {"crop_size": [32, 32], "data_root": str(workshop / "scenes")}
    (run / "config.json").write_text(json.dumps({"config": config}))
    model = DANet(8, DilatedResNet(18, filters=8))
    model.save(run / "model.keras")
    names = ["b.png", "a.JPG", "deep/er/a.png", ".hidden/c.png", "notes.txt"]
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.new("RGB", (48, 40)).save(path)
    arguments = ["predict", run, tmp_path / "photos", "--output", output]
    arguments = list(map(str, [*arguments, "--json"]))
    # The second time the results of the first are none of the images.
    for more in ([], ["--overwrite"]):
        assert main([*arguments, *more]) == 0
        captured = capsys.readouterr()
        rows = json.loads(captured.out)
        assert [row["label"] for row in rows] == [
            f"{output}/{name}_label.png" for name in ("a", "b", "deep/er/a")
        ]
        assert captured.err.endswith("that is not an image: notes.txt\n")
        for row in rows:
            label = np.array(Image.open(row["label"]))
            assert label.shape == (40, 48)
            assert len(row["classes"]) == len(np.unique(label))
    # Among the images themselves.
    arguments[-2] = str(tmp_path / "photos")
    for more in ([], ["--overwrite"]):
        assert main([*arguments, *more]) == 0
        assert len(json.loads(capsys.readouterr().out)) == 3
    (tmp_path / "photos" / "notes.txt").unlink()
    Image.new("RGB", (48, 40)).save(tmp_path / "photos" / "a.png")
    # Two images of one name have results of their own.
    assert main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [pathlib.Path(row["label"]).name for row in rows] == [
        *("a_JPG_label.png", "a_png_label.png", "b_label.png", "a_label.png")
    ]
    (tmp_path / "empty").mkdir()
    arguments[2] = tmp_path / "empty"
    assert "holds no image" in fails(capsys, *arguments)

    # Nothing is measured for a file that cannot be written.
    (tmp_path / "file").touch()
    with monkeypatch.context() as context:
        context.setattr(evaluation, "evaluate", None)
        for place, problem in (
            (tmp_path / "file" / "report.json", f"{tmp_path}/file is a file."),
            ("/proc/none/report.json", "/proc/none cannot be made: No such"),
            (tmp_path / "empty", "empty is a folder. Expected a file"),
        ):
            message = fails(capsys, "evaluate", run, "--output", place)
            assert problem in message and "hoose another" in message
    with monkeypatch.context() as context:
        context.setattr(evaluation.Report, "save", full_disk)
        assert main(["evaluate", str(run), "--json"]) == 2
        captured = capsys.readouterr()
        assert json.loads(captured.out)["num_images"] == 3
        assert "No space left" in captured.err
    assert main(["evaluate", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((run / "report.json").read_text())
    assert report["num_images"] == 3


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="TensorFlow exports",
)
def test_an_export_tells_its_check_as_json(workshop, tmp_path, capfd):
    run = tmp_path / "run"
    run.mkdir()
    config = {"dataset": "scenes", "epochs": 1, "batch_size": 1}
    config |= {"crop_size": [32, 32], "data_root": str(workshop / "scenes")}
    (run / "config.json").write_text(json.dumps({"config": config}))
    DANet(8, DilatedResNet(18, filters=8)).save(run / "model.keras")
    assert main(["export", str(run), "--format", "tflite", "--json"]) == 0
    captured = capfd.readouterr()
    report = json.loads(captured.out)
    assert report["verification"]["passed"]
    assert report["folder"] == str(run / "exports" / "tflite_48x64")
    assert "XNNPACK" not in captured.err


@one_backend
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_completion_script_names_verbs_and_options(shell, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as caught:
        main(["--print-completion", shell])
    assert caught.value.code == 0
    script = capsys.readouterr().out
    assert "class-weights" in script and "--checkpoint-every" in script


@one_backend
def test_a_completion_script_needs_a_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as caught:
        main(["--print-completion", "bash"])
    assert caught.value.code == 2
    assert "pip install shtab" in capsys.readouterr().err


@one_backend
def test_evaluate_goes_on_writes_a_page_and_is_compared(
    workshop, tmp_path, capsys, monkeypatch
):
    model = tmp_path / "model.keras"
    DANet(8, DilatedResNet(18, filters=8)).save(model)
    output = tmp_path / "results" / "first.json"
    arguments = ["evaluate", str(model), "--data", "scenes"]
    arguments += [str(workshop / "scenes"), "--size", "image"]
    arguments += ["--output", str(output)]
    with monkeypatch.context() as context:
        stopped = evaluation.count_image
        calls = []

        def count_image(*given):
            calls.append(given)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return stopped(*given)

        context.setattr(evaluation, "count_image", count_image)
        assert main(arguments) == 130
    capsys.readouterr()
    assert main([*arguments, "--html"]) == 0
    captured = capsys.readouterr()
    assert "note: resuming: " in captured.err
    assert "first.images.partial.jsonl already has 1 of 3" in captured.err
    assert "mean Boundary IoU" in captured.out
    assert "wrote" in captured.err
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "first.html",
        "first.images.jsonl",
        "first.json",
    ]
    assert (output.parent / "first.html").read_text().count("<img") == 9
    report = json.loads(output.read_text())
    assert report["settings"]["scales"] == [1.0]
    assert report["expected_calibration_error"] >= 0

    other = str(tmp_path / "mirrored.json")
    assert main([*arguments[:-1], other, "--mirror"]) == 0
    capsys.readouterr()
    assert main(["compare", str(output), other, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["reports"][1]["mean_iou_difference"]["interval"]
    assert "The protocols differ" in content["notes"][0]

    # What cannot be done is said before anything is measured.
    monkeypatch.setattr(evaluation, "evaluate", None)
    for more, problem in (
        (["--split", "test", "--data", "a", "b", "c"], None),
        (["--submission", str(tmp_path / "files")], "no form of submission"),
    ):
        if problem is None:
            with pytest.raises(SystemExit):
                main([*arguments, *more])
            assert "takes ROOT, or NAME and ROOT" in capsys.readouterr().err
        else:
            assert problem in fails(capsys, *arguments, *more)
    assert "--output" in fails(capsys, *arguments[:-2], "--html")


@one_backend
def test_a_report_that_was_not_saved_is_not_measured_again(
    workshop, tmp_path, capsys, monkeypatch
):
    model = tmp_path / "model.keras"
    DANet(8, DilatedResNet(18, filters=8)).save(model)
    arguments = ["evaluate", str(model), "--dataset", "scenes", "--data"]
    arguments += [str(workshop / "scenes"), "--size", "image"]
    arguments += ["--output", str(tmp_path / "report.json")]

    def full_disk(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as context:
        context.setattr(evaluation.Report, "save", full_disk)
        assert main(arguments) == 2
    capsys.readouterr()
    assert main(arguments) == 0
    assert "already has 3 of 3 images" in capsys.readouterr().err
    with monkeypatch.context() as context:
        context.setattr(evaluation.Report, "save_html", full_disk)
        assert main([*arguments, "--html"]) == 2
    assert main([*arguments, "--html"]) == 0
    assert "already has 3 of 3 images" in capsys.readouterr().err
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "report.images.jsonl").exists()


@one_backend
def test_a_report_replaces_only_reports(
    workshop, tmp_path, capsys, monkeypatch
):
    model = tmp_path / "model.keras"
    DANet(8, DilatedResNet(18, filters=8)).save(model)
    arguments = ["evaluate", model, "--data", "scenes", workshop / "scenes"]
    arguments += ["--size", "image", "--html", "--output"]
    folder = tmp_path / "reports"
    for scale in ("1.0", "1.5", "1.0"):
        output = folder / f"scale-{scale}.json"
        assert main(list(map(str, [*arguments, output]))) == 0
        assert "resuming" not in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == [
        f"scale-{scale}{ending}"
        for scale in ("1.0", "1.5")
        for ending in (".html", ".images.jsonl", ".json")
    ]

    config, page = tmp_path / "config.json", tmp_path / "mine.html"
    config.write_text("{}")
    page.write_text("<p>mine</p>")
    records = tmp_path / "notes.images.jsonl"
    records.write_text("mine")
    kept = {path: path.read_bytes() for path in (model, config, page, records)}
    monkeypatch.setattr(evaluation, "evaluate", None)
    for output, problem in (
        (model, "--output must end in .json. Received: "),
        (folder / "scale-1.0", "such as scale-1.0.json"),
        (config, "config.json exists and is not a report, so it is not"),
        (page.with_suffix(".json"), "mine.html exists and is not the page of"),
        (tmp_path / "notes.json", "notes.images.jsonl exists and is not of a"),
    ):
        assert problem in fails(capsys, *arguments, output)
    assert kept == {path: path.read_bytes() for path in kept}


@one_backend
def test_the_data_set_of_a_run_may_be_named(workshop, tmp_path, capsys):
    run, scenes = tmp_path / "run", workshop / "scenes"
    run.mkdir()
    config = {"dataset": "scenes", "epochs": 1, "batch_size": 1}
    config |= {"crop_size": [32, 32], "data_root": str(scenes)}
    (run / "config.json").write_text(json.dumps({"config": config}))
    DANet(8, DilatedResNet(18, filters=8)).save(run / "model.keras")
    for named in ([], ["--dataset", "scenes"], ["--data", "scenes", scenes]):
        assert main(list(map(str, ["evaluate", run, *named]))) == 0
        assert json.loads((run / "report.json").read_text())["split"] == "val"
        (run / "report.json").unlink()
    # Another data set of the same classes.
    other = tmp_path / "other"
    classes = [{"name": name} for name in SCENES.class_names]
    for kind in ("images", "masks"):
        (other / kind / "val").mkdir(parents=True)
        Image.new("L", (40, 32)).save(other / kind / "val" / "a.png")
    (other / "classes.json").write_text(json.dumps({"classes": classes}))
    arguments = ["evaluate", run, "--data", "folder", other]
    assert main(list(map(str, arguments))) == 0
    assert "folder val, 1 images" in capsys.readouterr().out
    assert not (run / "report.json").exists()
