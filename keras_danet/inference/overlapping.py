"""Reading, computing, drawing and writing at the same time, in order."""

import collections
import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from typing import Any

# Items that wait between two steps, and the bytes that they may take together;
# a single larger one passes alone.
AHEAD = 4
BYTES_AHEAD = 2**28
# So that a signal is answered, and a failed thread noticed.
_POLL_SECONDS = 0.1
# A thread that is in the middle of a file may end it after a signal.
_PATIENCE = 5
_END = object()


class _Stopped(Exception):
    """Another step failed, or nobody wants the results any more."""


class _Lane:
    """A queue between two threads that holds a few items, or one large one."""

    def __init__(self, stop, size, tick=None):
        self._stop, self._size, self._tick = stop, size, tick
        self._items = collections.deque()
        self._bytes = 0
        self._changed = threading.Condition()

    def put(self, item):
        size = 0 if item is _END else self._size(item)
        self._wait(
            lambda: (
                not self._items
                or (
                    len(self._items) < AHEAD
                    and self._bytes + size <= BYTES_AHEAD
                )
            ),
            lambda: self._items.append((item, size)),
            size,
        )

    def take(self):
        item, _ = self._wait(lambda: self._items, self._pop)
        return item

    def _pop(self):
        item, size = self._items.popleft()
        self._bytes -= size
        return item, size

    def _wait(self, is_ready, act, size=0):
        while True:
            with self._changed:
                if self._stop.is_set():
                    raise _Stopped
                if is_ready():
                    self._bytes += size
                    result = act()
                    self._changed.notify_all()
                    return result
                self._changed.wait(_POLL_SECONDS)
            if self._tick and threading.current_thread() is (
                threading.main_thread()
            ):
                self._tick()


def overlapped(
    items: Iterable[Any],
    compute: Callable[[Any], Any],
    draw: Callable[[Any], Any],
    deliver: Callable[[Any], Any] | None = None,
    size: Callable[[Any], int] = lambda item: 0,
    tick: Callable[[], None] | None = None,
) -> Generator[Any]:
    """Yields `deliver(draw(compute(item)))` of each item, in order.

    The items are made in one thread, drawn in a few, and delivered in one;
    `compute` is called where the results are asked for, so that what it needs
    of its thread is there. Few items wait between two steps, so that memory
    does not grow with their number. The first error of any step ends all of
    them and is raised; threads do not outlive the iteration for long.

    Args:
        items: iterable.
        compute: function of an item.
        draw: function of what `compute` returns; must not mind its order.
        deliver: function of what `draw` returns, called in order. Defaults to
            `None`, which changes nothing.
        size: function of an item, or of what `compute` returns, to the bytes
            that it takes. Defaults to 0 bytes.
        tick: function that is called now and then by a main thread that
            waits. Defaults to `None`.

    Yields:
        What `deliver` returns.

    Example:

    >>> list(overlapped(range(3), lambda x: x + 1, str))
    ['1', '2', '3']
    """
    steps = _Steps(items, draw, deliver, size, tick)
    try:
        while (item := steps.inbox.take()) is not _END:
            steps.hand_over(compute(item))
            yield from steps.finished()
        steps.outbox.put(_END)
        while steps.deliverer.is_alive():
            steps.deliverer.join(_POLL_SECONDS)
            if tick and threading.current_thread() is threading.main_thread():
                tick()
            yield from steps.finished()
        yield from steps.finished()
        if steps.errors:
            raise steps.errors[0]
    except _Stopped:
        raise steps.errors[0] from None
    finally:
        steps.end()


class _Steps:
    """The threads of one iteration."""

    def __init__(self, items, draw, deliver, size, tick):
        self.stop, self.errors = threading.Event(), []
        self._results = collections.deque()
        self.inbox = _Lane(self.stop, size, tick)
        self.outbox = _Lane(self.stop, lambda pair: size(pair[1]), tick)
        self._jobs = _Lane(self.stop, lambda pair: 0)
        self._items, self._draw, self._deliver = items, draw, deliver
        self.deliverer = self._start(self._delivering)
        self._threads = [self._start(self._reading), self.deliverer]
        # More would only take cores from the network.
        for _ in range(max(1, min(4, (os.cpu_count() or 1) // 2))):
            self._threads.append(self._start(self._drawing))

    def hand_over(self, result):
        future = concurrent.futures.Future()
        self.outbox.put((future, result))
        self._jobs.put((future, result))

    def finished(self):
        while self._results:
            yield self._results.popleft()

    def end(self):
        self.stop.set()
        until = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0, until - time.monotonic()))

    def _start(self, work):
        def guarded():
            try:
                work()
            except _Stopped:
                pass
            except BaseException as error:
                self.errors.append(error)
                self.stop.set()

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _reading(self):
        items = iter(self._items)
        # A generator's files are closed in the thread that read them.
        with contextlib.ExitStack() as stack:
            if hasattr(items, "close"):
                stack.callback(items.close)
            for item in items:
                self.inbox.put(item)
        self.inbox.put(_END)

    def _drawing(self):
        while True:
            future, result = self._jobs.take()
            try:
                future.set_result(self._draw(result))
            except BaseException as error:
                future.set_exception(error)

    def _delivering(self):
        while (pair := self.outbox.take()) is not _END:
            future, _ = pair
            del pair
            while not concurrent.futures.wait([future], _POLL_SECONDS).done:
                if self.stop.is_set():
                    raise _Stopped
            result = future.result()
            if self._deliver:
                result = self._deliver(result)
            self._results.append(result)
