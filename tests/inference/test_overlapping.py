"""Steps that overlap: order, errors of each, bounds, and signals."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from conftest import one_backend

from keras_danet.inference import overlapping
from keras_danet.inference.overlapping import overlapped

pytestmark = one_backend


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_results_come_in_order_whatever_takes_long():
    def draw(number):
        time.sleep(0.02 * (number % 3 == 0))
        return number

    here = set()

    def compute(number):
        here.add(threading.current_thread())
        return number * 2

    delivered = []
    found = list(
        overlapped(range(20), compute, draw, lambda x: delivered.append(x) or x)
    )
    assert found == delivered == list(range(0, 40, 2))
    # What a network needs of its thread is there.
    assert here == {threading.current_thread()}


def test_nothing_comes_of_nothing():
    assert list(overlapped([], abs, abs)) == []


def test_steps_overlap():
    """Each step waits for the step after it to have begun an earlier item."""
    drawn, delivered = threading.Event(), threading.Event()

    def compute(number):
        if number == 1:
            assert drawn.wait(5)
        return number

    def draw(number):
        drawn.set()
        if number == 1:
            assert delivered.wait(5)
        return number

    def deliver(number):
        delivered.set()
        return number

    assert list(overlapped(range(2), compute, draw, deliver)) == [0, 1]


@pytest.mark.parametrize("step", ["read", "compute", "draw", "deliver"])
def test_an_error_of_any_step_is_raised_once(step):
    def at(name):
        def work(number):
            if name == step and number == 7:
                raise OSError(28, "No space left on device")
            return number

        return work

    read = at("read")
    items = (read(number) for number in range(100))
    found = []
    with pytest.raises(OSError, match="No space"):
        for value in overlapped(
            items, at("compute"), at("draw"), at("deliver")
        ):
            found.append(value)
    assert found == list(range(len(found))) and len(found) <= 7


def test_reading_does_not_run_ahead():
    made = []

    def items():
        for number in range(50):
            made.append(number)
            yield number

    most = 0

    def compute(number):
        nonlocal most
        time.sleep(0.002)
        most = max(most, len(made) - number)
        return number

    list(overlapped(items(), compute, abs))
    assert most <= overlapping.AHEAD + 2
    # Items that are large pass one by one.
    made.clear()
    most = 0
    list(overlapped(items(), compute, abs, size=lambda x: 2**30))
    assert most <= 3


def test_who_stops_asking_stops_the_threads():
    closed = threading.Event()

    def items():
        try:
            yield from range(10**9)
        finally:
            closed.set()

    steps = overlapped(items(), abs, abs)
    assert next(steps) == 0
    steps.close()
    assert closed.is_set()


SCRIPT = """
import time
from keras_danet.inference.overlapping import overlapped

def slow(number):
    if number == 2:
        print("begun", flush=True)
        time.sleep(0.5)
    return number

try:
    for _ in overlapped(range(10**9), abs, slow):
        pass
finally:
    print("cleaned", flush=True)
"""


def test_a_signal_is_answered_while_a_thread_works():
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),
    )
    assert process.stdout.readline() == "begun\n"
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == "cleaned\n" and "KeyboardInterrupt" in err
    assert time.monotonic() - started < 30
