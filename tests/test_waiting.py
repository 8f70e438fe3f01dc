import io
import os
import signal
import subprocess
import sys
import threading
import time
import types

import pytest
from conftest import ROOT
from conftest import one_backend

from keras_danet import waiting
from keras_danet.waiting import Countdown
from keras_danet.waiting import answering
from keras_danet.waiting import clock

pytestmark = one_backend

SCRIPT = """
import contextlib, ctypes, sys
from keras_danet.cli import commands
from keras_danet.waiting import answering

def verb(arguments):
    try:
        print("begun", flush=True)
        # Native code that ends when it ends.
        answering(ctypes.CDLL(None).sleep, 60)
    finally:
        print("cleaned", flush=True)

class Parser:
    def parse_args(self, argv):
        import argparse
        return argparse.Namespace(run_verb=verb, traceback=False)

commands._parser = Parser
sys.exit(commands.main([]))
"""


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals_are_answered_within_a_native_call(number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # Whoever started the tests may ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),
    )
    assert process.stdout.readline() == "begun\n"
    started = time.monotonic()
    process.send_signal(number)
    said, _ = process.communicate(timeout=50)
    assert time.monotonic() - started < 10
    assert process.returncode == code
    assert said == "cleaned\n"


def test_answers_and_errors_come_back():
    assert answering(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        answering(divmod, 7, 0)
    # In another thread nothing has to be answered.
    found = []
    thread = threading.Thread(
        target=lambda: found.append(answering(threading.get_ident))
    )
    thread.start()
    thread.join()
    assert found == [thread.ident]


def test_a_signal_leaves_the_computation(monkeypatch):
    release, kept = threading.Event(), []
    monkeypatch.setattr(waiting.atexit, "register", lambda *a: kept.append(a))

    def stop(*_):
        raise SystemExit(143)

    previous = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        started = time.monotonic()
        with pytest.raises(SystemExit) as caught:
            answering(release.wait, 60)
        assert caught.value.code == 143
        assert time.monotonic() - started < 10
    finally:
        release.set()
        signal.signal(signal.SIGTERM, previous)
    ((end, ended, code),) = kept
    assert code == 143
    assert ended.wait(10)
    # It has ended by now: the process ends as any other.
    end(ended, code)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def at(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])

    def set_time(seconds):
        now[0] = 100.0 + seconds

    return set_time


def test_what_is_quick_is_not_told(at):
    for stream in (io.StringIO(), Terminal()):
        with Countdown(stream=stream) as countdown:
            for done in range(1, 6):
                at(done * 0.3)
                countdown(done, 5)
        assert stream.getvalue() == ""
        at(0)


def test_a_log_gets_a_line_now_and_then(at):
    stream = io.StringIO()
    with Countdown(stream=stream) as countdown:
        # The first one compiles.
        at(20)
        countdown(1, 11)
        for done in range(2, 12):
            at(20 + 6 * (done - 1))
            countdown(done, 11)
    assert stream.getvalue().splitlines() == [
        "3/11 images, 0:00:32 so far, about 0:00:48 left",
        "8/11 images, 0:01:02 so far, about 0:00:18 left",
    ]


def test_a_terminal_gets_one_line_that_is_redrawn(at):
    stream = Terminal()
    with Countdown("photo.jpg", stream=stream) as countdown:
        for seconds in (1, 2.5, 2.6, 3.5):
            at(seconds)
            countdown.tick()
    assert stream.getvalue() == (
        "\r\033[Kphoto.jpg: 0:00:02 so far\r\033[Kphoto.jpg: 0:00:04 so far\n"
    )


def test_what_is_expected_is_left(at):
    stream = Terminal()
    with Countdown("photo.jpg", stream=stream, expected=60) as countdown:
        for seconds in (3, 50, 70):
            at(seconds)
            countdown.tick()
    assert stream.getvalue().rstrip().split("\r\033[K")[1:] == [
        "photo.jpg: 0:00:03 so far, about 0:00:57 left",
        "photo.jpg: 0:00:50 so far, about 0:00:10 left",
        # Nobody knows.
        "photo.jpg: 0:01:10 so far",
    ]


def test_a_stream_that_can_only_be_written_to(at):
    written = []
    stream = types.SimpleNamespace(write=written.append)
    with Countdown(stream=stream) as countdown:
        at(40)
        countdown(1, 3)
    assert written == ["1/3 images, 0:00:40 so far, about 0:01:20 left\n"]


def test_waiting_keeps_a_countdown_going(monkeypatch):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0)
    stream = Terminal()
    with Countdown("photo", stream=stream):
        answering(time.sleep, 0.3)
    assert "photo: 0:00:00 so far" in stream.getvalue()
    assert not waiting._countdowns


def test_clock():
    assert clock(3661.4) == "1:01:01"
