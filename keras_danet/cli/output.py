"""Standard output that cannot be written any more."""

import contextlib
import os
import sys
import warnings

from keras_danet.text_tables import harmless


@contextlib.contextmanager
def warnings_as_notes():
    """Prints warnings as lines, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_note
        yield


def _show_note(message, *_, **__):
    print(f"keras-danet: note: {harmless(str(message))}", file=sys.stderr)


def say_last(text):
    """Prints a verb's last line; failing to print it is not an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # A log on a full disk, perhaps.
        print(f"{text} (Standard output: {error})", file=sys.stderr)
        give_up_output()


def give_up_output():
    """Drops what is left to print: Python would complain as it exits."""
    # A stream of a notebook or of the caller is not ours to drop.
    if sys.stdout is not sys.__stdout__:
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def flush_output():
    """Prints what is left to print, or drops it."""
    try:
        sys.stdout.flush()
    except OSError:
        give_up_output()
