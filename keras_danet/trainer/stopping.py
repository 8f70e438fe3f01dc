"""SIGTERM and Ctrl-C, answered between two steps."""

import contextlib
import os
import signal
import threading

STOPPING = b"\nstopping after this step; Ctrl-C again stops at once\n"


class StopSignal:
    """Turns SIGTERM and Ctrl-C into a request, answered between two steps.

    A second Ctrl-C ends the training at once.

    Attributes:
        requested: integer, the requested exit code: 143 after SIGTERM, 130
            after Ctrl-C, 141 after `Progress` found the output pipe closed;
            0 before.
    """

    def __init__(self):
        self.requested = 0
        self._is_prompt = False

    @contextlib.contextmanager
    def listening(self):
        """Listens to both; in the main thread only, as Python requires."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {
            number: signal.getsignal(number)
            for number in (signal.SIGTERM, signal.SIGINT)
        }

        def request(number, _):
            self.requested = 128 + number
            signal.signal(signal.SIGINT, previous[signal.SIGINT])
            if self._is_prompt:
                raise SystemExit(self.requested)
            # Not by `print`, which this may have interrupted.
            with contextlib.suppress(OSError):
                os.write(2, STOPPING)

        for number, handler in previous.items():
            # Shells let what runs behind them ignore Ctrl-C.
            if handler != signal.SIG_IGN:
                signal.signal(number, request)
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def prompt(self):
        """Answers a request at once, where nothing is lost by it."""
        self.check()
        self._is_prompt = True
        try:
            yield
        finally:
            self._is_prompt = False

    def check(self):
        """Raises SystemExit if there is a request."""
        if self.requested:
            raise SystemExit(self.requested)
