"""What the command line does to standard streams while a verb runs."""

import contextlib
import faulthandler
import os
import sys
import tempfile

from keras_danet.import_hooks import AroundImport
from keras_danet.import_hooks import install

# Errors are shown; what TensorFlow says of itself is not.
LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
LEAST_LEVEL = "2"


@contextlib.contextmanager
def prepared_streams():
    """Gives every verb a standard output and error that it can write to.

    Without a console both are None; in notebooks they are no files.
    """
    with contextlib.ExitStack() as stack:
        for name, redirect in (
            ("stdout", contextlib.redirect_stdout),
            ("stderr", contextlib.redirect_stderr),
        ):
            if getattr(sys, name) is None:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect(nowhere))
        stack.enter_context(_any_name_printed(sys.stdout))
        yield


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
    file, which is shown if the import fails. Errors after it are shown.
    """
    chosen = LOG_LEVEL in os.environ
    os.environ.setdefault(LOG_LEVEL, LEAST_LEVEL)
    hook = AroundImport("tensorflow".__eq__, held_standard_error)
    install(hook)
    try:
        yield
    finally:
        sys.meta_path.remove(hook)
        if not chosen:
            os.environ.pop(LOG_LEVEL, None)


@contextlib.contextmanager
def held_standard_error():
    """Holds what is written to descriptor 2; shows it after an exception."""
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
        try:
            yield
        except BaseException:
            _flush()
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            _flush()
            os.dup2(kept, 2)
            if watched:
                faulthandler.disable()


def _flush():
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
