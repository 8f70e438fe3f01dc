"""Computations that take long: signals are answered, and time is told."""

import atexit
import contextlib
import os
import sys
import threading
import time

# Nothing is told of what takes less, in seconds.
QUIET_SECONDS = 2
# From one line to the next: on a terminal, which redraws it, and in a log.
TERMINAL_SECONDS = 0.5
LOG_SECONDS = 30
_POLL_SECONDS = 0.1
# The innermost `Countdown` in force.
_countdowns: list["Countdown"] = []


def answering(function, *arguments):
    """Calls a function that may compute for minutes, and listens meanwhile.

    Python answers signals between two of its steps, and only in the main
    thread: a network's call is one step. In the main thread the call is made
    by another one, which a signal's exception leaves to itself: the process
    does not wait for it in the end.

    Args:
        function: callable.
        *arguments: its arguments.

    Returns:
        What the function returns; it raises what that raises.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)
    result, error = [], []

    def call():
        try:
            result.append(function(*arguments))
        except BaseException as caught:
            error.append(caught)

    worker = threading.Thread(target=call, daemon=True)
    try:
        # A signal may be answered in here, too.
        worker.start()
        while worker.is_alive():
            worker.join(_POLL_SECONDS)
            if _countdowns:
                _countdowns[-1].tick()
    except (SystemExit, KeyboardInterrupt) as stopped:
        code = getattr(stopped, "code", 130)
        atexit.register(_end, worker, code if isinstance(code, int) else 1)
        raise
    if error:
        raise error[0]
    return result[0]


def _end(worker, code):
    """Ends a process whose libraries would wait for a computation."""
    if worker.is_alive():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)


class Countdown:
    """Tells how far a work is, and how long the rest will take.

    A line that redraws itself on a terminal, and a line now and then
    elsewhere; nothing of what is done within two seconds. Within its context
    `answering` keeps it going.

    Args:
        what: string, what is counted. Defaults to `"images"`.
        stream: where it is written. Defaults to `None`, standard error.
        expected: float, about how many seconds it takes, where that is
            known beforehand. Defaults to `0`.
    """

    def __init__(self, what="images", stream=None, expected=0):
        self.what = what
        self.expected = expected
        self.stream = sys.stderr if stream is None else stream
        self.done, self.count = 0, None
        self.started = self.shown = time.monotonic()
        self.is_drawn = False
        self.first = None

    def __enter__(self):
        _countdowns.append(self)
        return self

    def __exit__(self, *_):
        _countdowns.remove(self)
        if self.is_drawn:
            self._write("\n")

    def __call__(self, done, count):
        """Counts: `done` of `count` are done."""
        if done == 1:
            # Compiling is no part of the others.
            self.first = time.monotonic()
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
        self._write(f"\r\033[K{line}" if redraws else f"{line}\n")

    def line(self, now):
        """The line of this moment."""
        passed = clock(now - self.started)
        if self.count is None:
            text = f"{self.what}: {passed} so far"
        else:
            text = f"{self.done}/{self.count} {self.what}, {passed} so far"
        left = self.seconds_left(now)
        return text if left is None else f"{text}, about {clock(left)} left"

    def seconds_left(self, now):
        """Seconds, or `None` while nothing is known of them."""
        if not self.done:
            # It takes longer than was expected where nothing is left of that.
            left = self.expected - (now - self.started)
            return left if left > 0 else None
        if self.done == 1:
            return (self.first - self.started) * (self.count - 1)
        each = (now - self.first) / (self.done - 1)
        return each * (self.count - self.done)

    def _write(self, text):
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
            # What stands in for a stream may have nothing to flush.
            if hasattr(self.stream, "flush"):
                self.stream.flush()


def is_terminal(stream):
    """Whether a stream is one that redraws its line; some cannot tell."""
    tell = getattr(stream, "isatty", None)
    return tell is not None and tell()


def clock(seconds):
    """Seconds as hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
