"""Standard output that cannot be written any more."""

import contextlib
import os
import sys
import warnings


@contextlib.contextmanager
def warnings_as_notes():
    """Prints what is warned of as lines, without the place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        print(f"keras-danet: note: {warning.message}", file=sys.stderr)


def say_last(text):
    """Prints what a verb ends with, whose work is done and stays done."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # A full disk below a log, perhaps.
        print(f"{text} (Standard output: {error})", file=sys.stderr)
        give_up_output()


def give_up_output():
    """Drops what is left to print: Python would complain as it ends."""
    # A notebook's stream, or one of the caller's, is not ours to drop.
    if sys.stdout is not sys.__stdout__:
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def flush_output():
    """Prints what is left to print, or drops it."""
    try:
        sys.stdout.flush()
    except OSError:
        give_up_output()
