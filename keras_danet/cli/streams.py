"""The standard streams while a verb of the command line runs."""

import contextlib
import faulthandler
import io
import logging
import os
import re
import sys
import tempfile

from keras_danet.import_hooks import AroundImport
from keras_danet.import_hooks import install
from keras_danet.text_tables import harmless

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# On Linux, and on Linux under Windows.
NVIDIA_DEVICES = ("/dev/nvidiactl", "/dev/dxg")
LOGGERS = ("absl", "tensorflow")


@contextlib.contextmanager
def prepared_streams():
    """Gives every verb a standard output and error that it can write to.

    Without a console both are None; in notebooks they are not files; and a
    replacement may have no method but `write`.
    """
    with contextlib.ExitStack() as stack:
        for name, redirect in (
            ("stdout", contextlib.redirect_stdout),
            ("stderr", contextlib.redirect_stderr),
        ):
            stream = getattr(sys, name)
            if stream is None:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect(nowhere))
            elif not (hasattr(stream, "flush") and hasattr(stream, "isatty")):
                stack.enter_context(redirect(_WrittenTo(stream)))
        stack.enter_context(_any_name_printed(sys.stdout))
        stack.enter_context(_log_as_lines())
        yield


class _Lines(logging.Handler):
    """Prints what the package logs like every other line to standard error."""

    def emit(self, record):
        lines = map(harmless, record.getMessage().split("\n"))
        print("keras-danet: " + "\n".join(lines), file=sys.stderr)


@contextlib.contextmanager
def _log_as_lines():
    logger = logging.getLogger("keras_danet")
    # Whoever calls this from Python may have said where logs go.
    if logger.hasHandlers():
        yield
        return
    lines = _Lines()
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)


class _WrittenTo(io.TextIOBase):
    """A full text stream around an object with only `write`."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        self._stream.write(text)
        return len(text)

    def flush(self):
        if hasattr(self._stream, "flush"):
            self._stream.flush()


@contextlib.contextmanager
def _any_name_printed(stream):
    """Escapes characters of file names that the terminal cannot show."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        yield
        return
    before = stream.errors
    reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        # It may have been closed or replaced meanwhile.
        with contextlib.suppress(ValueError, OSError):
            reconfigure(errors=before)


@contextlib.contextmanager
def quiet_tensorflow():
    """Keeps TensorFlow's messages about itself from standard error.

    Its import always writes some lines. They are held in a file, which is
    shown if the import fails. Errors after it are shown, but not on a machine
    without a GPU: there TensorFlow logs the missing GPU as an error, and real
    errors come as exceptions.
    """
    chosen = LOG_LEVEL in os.environ
    has_gpu = any(map(os.path.exists, NVIDIA_DEVICES))
    os.environ.setdefault(LOG_LEVEL, "2" if has_gpu else "3")
    filtered = []

    @contextlib.contextmanager
    def held_import():
        with held_standard_error():
            yield
        # After the import: absl registers a logger of its own class. A
        # filter, because the level is set again later.
        for logger in () if chosen else map(logging.getLogger, LOGGERS):
            logger.addFilter(_is_error)
            filtered.append(logger)

    hook = AroundImport("tensorflow".__eq__, held_import)
    install(hook)
    try:
        yield
    finally:
        sys.meta_path.remove(hook)
        if not chosen:
            os.environ.pop(LOG_LEVEL, None)
        for logger in filtered:
            logger.removeFilter(_is_error)


def _is_error(record):
    return record.levelno >= logging.ERROR


@contextlib.contextmanager
def held_standard_error(noise=""):
    """Holds back what is written to descriptor 2 inside the context.

    Args:
        noise: string, a regular expression for the beginning of lines to
            hide; after an error all are shown. Defaults to `""`, which hides
            every line.
    """
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            kept = os.dup(2)
        except OSError:
            # No standard error, or nowhere to hold it.
            held = None
        if held is None:
            yield
            return
        stack.callback(os.close, kept)
        # If the process crashes in here, at least its traceback is seen.
        watched = not faulthandler.is_enabled()
        if watched:
            faulthandler.enable(kept)
        _flush()
        os.dup2(held.fileno(), 2)
        shown = re.compile(rb"(?!%s)" % noise.encode())
        try:
            yield
        # Not if it is stopped: the lines would not explain that.
        except Exception:
            shown = re.compile(rb"")
            raise
        finally:
            _flush()
            os.dup2(kept, 2)
            if watched:
                faulthandler.disable()
            held.seek(0)
            for line in held:
                if shown.match(line):
                    os.write(2, line)


def _flush():
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
