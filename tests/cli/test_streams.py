"""The command line under streams that are no terminal's, and in threads."""

import io
import os
import pathlib
import subprocess
import sys
import threading

import pytest
from conftest import one_backend

from keras_danet.cli import evaluate
from keras_danet.cli import main
from keras_danet.cli import streams
from keras_danet.trainer.stopping import StopSignal
from keras_danet.waiting import Countdown
from keras_danet.waiting import is_terminal

pytestmark = one_backend


class NotebookStream(io.TextIOBase):
    """What notebooks print to: text, no file, nothing to configure."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)


def verb_of(monkeypatch, run):
    monkeypatch.setattr(evaluate, "run", run)
    return ["evaluate", "run"]


def say_and_fail(arguments):
    print("a name: \udcff")
    raise ValueError("the remedy")


@pytest.mark.parametrize("kind", [NotebookStream, io.StringIO])
def test_streams_that_are_no_files(monkeypatch, kind):
    output, errors = kind(), kind()
    arguments = verb_of(monkeypatch, say_and_fail)
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    assert main(arguments) == 2
    assert main(["recipes", "nothing/there"]) == 2
    for stream in (output, errors):
        text = stream.text if kind is NotebookStream else stream.getvalue()
        found = "a name" if stream is output else "error: the remedy"
        assert found in text


class WriteOnly:
    """What programs put in a stream's place, and no more than they need."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


def test_streams_that_can_only_be_written_to(monkeypatch):
    def say_and_fail(arguments):
        print("begun", flush=True)
        with Countdown() as countdown:
            monkeypatch.setattr(countdown, "started", -100)
            countdown(1, 2)
        assert not sys.stderr.isatty()
        raise ValueError("the remedy")

    output, errors = WriteOnly(), WriteOnly()
    arguments = verb_of(monkeypatch, say_and_fail)
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    assert main(arguments) == 2
    assert output.text == "begun\n"
    assert errors.text.endswith("keras-danet: error: the remedy\n")
    assert sys.stdout is output and sys.stderr is errors
    monkeypatch.setattr(evaluate, "run", lambda arguments: 0)
    assert main(["evaluate", pathlib.Path("run")]) == 0


def test_no_streams_at_all(monkeypatch):
    """As under pythonw, where there is no console."""
    arguments = verb_of(monkeypatch, say_and_fail)
    for name in ("stdout", "stderr", "stdin"):
        monkeypatch.setattr(sys, name, None)
    assert main(arguments) == 2
    assert main(["recipes"]) == 0
    assert not is_terminal(sys.stdout)
    assert sys.stdout is None and sys.stderr is None


def test_a_stream_is_left_as_it_was(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="strict")
    arguments = verb_of(monkeypatch, say_and_fail)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(arguments) == 2
    assert stream.errors == "strict"
    stream.flush()
    assert stream.buffer.getvalue().strip() == b"a name: \\udcff"


@pytest.mark.parametrize("kind", [NotebookStream, io.StringIO])
def test_nobody_reads_a_stream_that_is_no_file(monkeypatch, kind):
    def break_pipe(arguments):
        raise BrokenPipeError

    arguments = verb_of(monkeypatch, break_pipe)
    monkeypatch.setattr(sys, "stdout", kind())
    assert main(arguments) == 141
    print("still there")


def test_in_a_thread(monkeypatch, capsys):
    codes = []
    arguments = verb_of(monkeypatch, lambda arguments: 0)

    def work():
        codes.append(main(arguments))
        with StopSignal().listening() as stop:
            codes.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [0, 0]
    assert capsys.readouterr().err == ""


def test_the_traceback_is_asked_for_anywhere(monkeypatch, capsys):
    arguments = verb_of(monkeypatch, say_and_fail)
    assert main(arguments) == 2
    for asked in (
        ["--traceback", *arguments],
        [*arguments, "--traceback"],
        [arguments[0], "--traceback", *arguments[1:]],
    ):
        capsys.readouterr()
        assert main(asked) == 2
        error = capsys.readouterr().err
        assert "Traceback" in error and "ValueError: " in error


def test_a_missing_package_is_named(monkeypatch, capsys):
    def needs(arguments):
        raise ModuleNotFoundError(
            "No module named 'ai_edge_litert'", name="ai_edge_litert"
        )

    assert main(verb_of(monkeypatch, needs)) == 2
    assert capsys.readouterr().err == (
        "keras-danet: error: No module named 'ai_edge_litert'. This step "
        "needs it: pip install ai-edge-litert\n"
    )


def test_what_is_held_is_shown_after_an_error(capfd):
    with streams.held_standard_error():
        os.write(2, b"noise\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ImportError):
        with streams.held_standard_error():
            os.write(2, b"the reason\n")
            raise ImportError
    assert capfd.readouterr().err == "the reason\n"
    os.write(2, b"after it\n")
    assert capfd.readouterr().err == "after it\n"


@pytest.mark.parametrize("stop", [SystemExit(143), KeyboardInterrupt()])
def test_noise_does_not_explain_a_stop(capfd, stop):
    with pytest.raises(type(stop)):
        with streams.held_standard_error():
            os.write(2, b"noise\n")
            raise stop
    assert capfd.readouterr().err == ""


def test_what_is_no_noise_is_shown(capfd):
    with streams.held_standard_error("INFO: Created"):
        os.write(2, b"INFO: Created a delegate\na real error\n")
    assert capfd.readouterr().err == "a real error\n"


def test_nowhere_to_hold_it(monkeypatch, capfd):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(streams.tempfile, "TemporaryFile", full)
    with streams.held_standard_error():
        os.write(2, b"noise\n")
    assert capfd.readouterr().err == "noise\n"


# A TensorFlow whose import writes to the descriptor, as the real one's does.
TENSORFLOW = """
import os
os.write(2, b"I0000 oneDNN custom operations are on\\n")
if os.environ.get("FAILS"):
    raise ImportError("no such symbol")
"""
PROGRAM = """
import os, sys
from keras_danet.cli import commands
from keras_danet.cli import evaluate

def run(arguments):
    import tensorflow
    os.write(2, b"E0000 a real error\\n")
    print(os.environ["TF_CPP_MIN_LOG_LEVEL"])
    return 0

evaluate.run = run
code = commands.main(["evaluate", "run"])
print(code, os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
"""


@pytest.mark.parametrize("fails", ["", "1"])
def test_the_noise_of_an_import_is_held(tmp_path, fails):
    (tmp_path / "tensorflow.py").write_text(TENSORFLOW)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "FAILS": fails}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=environment,
    )
    level = 2 if any(map(os.path.exists, streams.NVIDIA_DEVICES)) else 3
    if fails:
        assert done.stdout == "2 None\n"
        noise, error = done.stderr.splitlines()
        assert "oneDNN" in noise
        assert error == "keras-danet: error: no such symbol"
    else:
        assert done.stdout == f"{level}\n0 None\n"
        assert done.stderr == "E0000 a real error\n"


@one_backend
def test_what_is_logged_has_the_form_of_every_line(tmp_path):
    call = (
        "import logging, sys\n"
        "from keras_danet.cli import streams\n"
        "with streams.prepared_streams():\n"
        "    log = logging.getLogger('keras_danet')\n"
        "    log.warning('Skipped: %s', 'a\\x1bb')\n"
        "print(log.handlers)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", call], capture_output=True, text=True, check=True
    )
    assert done.stderr == "keras-danet: Skipped: a\\x1bb\n"
    assert done.stdout == "[]\n"
