"""What the command line does to standard streams while a verb runs."""

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

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Of Linux, and of Linux under Windows.
NVIDIA_DEVICES = ("/dev/nvidiactl", "/dev/dxg")
LOGGERS = ("absl", "tensorflow")


@contextlib.contextmanager
def prepared_streams():
    """Gives every verb a standard output and error that it can write to.

    Without a console both are None; in notebooks they are no files; and what
    stands in for them may have no method but `write`.
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
        yield


class _WrittenTo(io.TextIOBase):
    """All that a text stream has, over what can be written to."""

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
    """Names of files need not be text that the terminal knows."""
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
    """Keeps what TensorFlow says of itself from standard error.

    Its import writes some lines whatever one asks for. They are held in a
    file, which is shown if the import fails. Errors after it are shown; where
    there is no GPU it calls that, and kernels of other processors, errors,
    and its real ones come as exceptions.
    """
    chosen = LOG_LEVEL in os.environ
    has_gpu = any(map(os.path.exists, NVIDIA_DEVICES))
    os.environ.setdefault(LOG_LEVEL, "2" if has_gpu else "3")
    filtered = []

    @contextlib.contextmanager
    def held_import():
        with held_standard_error():
            yield
        # Not made before: absl makes its own, of a class of its own. And not
        # its level, which is set again.
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
    """Holds what is written to descriptor 2 while something is done.

    Args:
        noise: string, a regular expression of the beginning of lines that
            are not to be seen; all are, after an error. Defaults to `""`,
            the beginning of every line.
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
        # If the process dies in here, this much is seen.
        watched = not faulthandler.is_enabled()
        if watched:
            faulthandler.enable(kept)
        _flush()
        os.dup2(held.fileno(), 2)
        shown = re.compile(rb"(?!%s)" % noise.encode())
        try:
            yield
        # Not where it is stopped, which nothing in there explains.
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
