"""Long computations that answer signals and report their progress."""

import atexit
import contextlib
import os
import shutil
import sys
import threading
import time

from rich.cells import cell_len
from rich.cells import set_cell_size

# Nothing is reported about work that takes fewer seconds.
QUIET_SECONDS = 2
# Seconds between lines: on a terminal, which redraws its line, and in a log.
TERMINAL_SECONDS = 0.5
LOG_SECONDS = 30
_POLL_SECONDS = 0.1
# The `Countdown`s in use, the innermost last.
_countdowns: list["Countdown"] = []


def answering(function, *arguments):
    """Calls a function that may compute for minutes, and answers signals.

    Python answers signals between two of its steps, and only in the main
    thread; a network's call is one step. So the main thread makes the call in
    another thread. A signal's exception abandons that thread: the process
    does not wait for it when it ends.

    Args:
        function: callable.
        *arguments: its arguments.

    Returns:
        What the function returns; it raises what that raises.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)
    result, error = [], []
    # A thread whose `join` a signal interrupted may say that it has ended.
    ended = threading.Event()

    def call():
        try:
            result.append(function(*arguments))
        except BaseException as caught:
            error.append(caught)
        finally:
            ended.set()

    try:
        # A signal may also be answered in here.
        threading.Thread(target=call, daemon=True).start()
        while not ended.wait(_POLL_SECONDS):
            tick()
    except (SystemExit, KeyboardInterrupt) as stopped:
        code = getattr(stopped, "code", 130)
        atexit.register(_end, ended, code if isinstance(code, int) else 1)
        raise
    if error:
        raise error[0]
    return result[0]


def tick():
    """Keeps the innermost `Countdown` updated, if there is one."""
    if _countdowns:
        _countdowns[-1].tick()


def _end(ended, code):
    """Ends a process whose libraries would wait for a computation."""
    if not ended.is_set():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)


class Countdown:
    """Shows how far some work is, and how long the rest will take.

    A line that redraws itself on a terminal, and a line now and then
    elsewhere; nothing if the work is done within two seconds. Within its
    context `answering` keeps it updated.

    Args:
        what: string, what is counted. Defaults to `"images"`.
        stream: where it is written. Defaults to `None`, standard error.
        expected: float, about how many seconds it takes, if that is known
            beforehand. Defaults to `0`.
        unit: string, of which the line says how many are done in a second.
            Defaults to `None`: it says nothing of that.
    """

    def __init__(self, what="images", stream=None, expected=0, unit=None):
        self.what = what
        self.expected = expected
        self.unit = unit
        self.stream = sys.stderr if stream is None else stream
        self.done, self.count = 0, None
        self.started = self.shown = time.monotonic()
        self.is_drawn = False
        self.first, self.begun = None, 0

    def __enter__(self):
        _countdowns.append(self)
        return self

    def __exit__(self, *_):
        _countdowns.remove(self)
        if self.is_drawn:
            self._write("\n")

    def __call__(self, done, count):
        """Counts: `done` of `count` are done; `None`, if nobody knows."""
        if self.first is None:
            # Later items do not include compiling. Work that is resumed
            # begins with more than one done.
            self.first, self.begun = time.monotonic(), done
        self.done, self.count = done, count
        self.tick()

    def tick(self):
        """Shows a line if it is time for one."""
        now = time.monotonic()
        if now - self.started < QUIET_SECONDS or self.stream is None:
            return
        redraws = is_terminal(self.stream)
        pause = TERMINAL_SECONDS if redraws else LOG_SECONDS
        if now - self.shown < pause and self.is_drawn | (not redraws):
            return
        self.shown = now
        self.is_drawn = redraws
        line = self.line(now)
        if redraws:
            # A longer one would scroll.
            columns = shutil.get_terminal_size().columns - 1
            line = set_cell_size(line, min(columns, cell_len(line)))
        self._write(f"\r\033[K{line}" if redraws else f"{line}\n")

    def clear(self):
        """Makes room for a line of another kind, where this one redraws."""
        if self.is_drawn:
            self._write("\r\033[K")
            self.is_drawn = False

    def line(self, now):
        """The current line."""
        passed = clock(now - self.started)
        if not self.done and self.count is None:
            text = f"{self.what}: {passed} so far"
        elif self.count is None:
            text = f"{self.done} {self.what}, {passed} so far"
        else:
            text = f"{self.done}/{self.count} {self.what}, {passed} so far"
        left = self.seconds_left(now)
        if left is not None:
            text = f"{text}, about {clock(left)} left"
        if self.unit and self.done > self.begun and now > self.first:
            rate = (self.done - self.begun) / (now - self.first)
            text = f"{text}, {rate:.3g} {self.unit}/s"
        return text

    def seconds_left(self, now):
        """Seconds, or `None` while they are unknown."""
        if not self.done:
            # If nothing is left, it takes longer than expected.
            left = self.expected - (now - self.started)
            return left if left > 0 else None
        if self.count is None:
            return None
        if self.done == self.begun:
            return (self.first - self.started) * (self.count - self.done)
        each = (now - self.first) / (self.done - self.begun)
        return each * (self.count - self.done)

    def _write(self, text):
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
            # A replaced stream may have no `flush`.
            if hasattr(self.stream, "flush"):
                self.stream.flush()


def is_terminal(stream):
    """Whether a stream is a terminal; some streams cannot tell."""
    tell = getattr(stream, "isatty", None)
    return tell is not None and tell()


def clock(seconds):
    """Seconds as hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
