"""The command line: one verb per step of a model's life."""

import argparse
import contextlib
import os
import signal
import sys
import threading
import traceback

from keras_danet.backends import is_importing
from keras_danet.cli import ablate
from keras_danet.cli import bench
from keras_danet.cli import card
from keras_danet.cli import check_data
from keras_danet.cli import class_weights
from keras_danet.cli import compare
from keras_danet.cli import convert
from keras_danet.cli import evaluate
from keras_danet.cli import explain
from keras_danet.cli import explore
from keras_danet.cli import export
from keras_danet.cli import init
from keras_danet.cli import predict
from keras_danet.cli import recipes
from keras_danet.cli import serve
from keras_danet.cli import serve_files
from keras_danet.cli import train
from keras_danet.cli import verify
from keras_danet.cli.output import flush_output
from keras_danet.cli.output import give_up_output
from keras_danet.cli.streams import prepared_streams
from keras_danet.cli.streams import quiet_tensorflow
from keras_danet.text_tables import harmless

# Import name -> the name it is installed by, where they differ.
DISTRIBUTIONS = {"ai_edge_litert": "ai-edge-litert"}

# Arguments for which a shell completes file names.
NAMES_OF_FILES = (
    *("CHECKPOINT", "DIR", "FILE", "FILE.json", "FILE.png", "FOLDER", "INPUT"),
    *("IMAGE", "MODEL", "RECIPE", "REPORT", "ROOT", "RUN"),
)

DESCRIPTION = """\
Train, evaluate, use and export DANet, the Dual Attention Network for scene
segmentation.

The backend is Keras's: KERAS_BACKEND=tensorflow, jax or torch."""

EXAMPLES = """\
examples:
  keras-danet check-data camvid CamVid --sheet samples.png
  keras-danet class-weights camvid CamVid --method enet
  keras-danet recipes
  keras-danet train scenes --output saved_models/run
  keras-danet train camvid_danet_resnet18 --data CamVid \\
      --set epochs=10 --set batch_size=4
  keras-danet ablate scenes --vary attention=none,position,channel,both
  keras-danet init my_data > my_recipe.py
  keras-danet evaluate saved_models/run --split val
  keras-danet compare saved_models/run saved_models/other
  keras-danet predict saved_models/run street.png --output pictures
  keras-danet explain saved_models/run street.png --output why
  keras-danet explore saved_models/run street.png
  keras-danet export saved_models/run --format tflite --quantize int8
  keras-danet serve saved_models/run/exports/danet
  keras-danet convert danet.pth -o danet.keras --multi-grid 4 8 16
  keras-danet card saved_models/run --output README.md

exit codes:
  0  done    1  a check found a problem, or a part failed    2  failed
  130  interrupted from the keyboard        143  stopped by SIGTERM
  141  the reader of the output, such as head, has ended"""


def main(argv=None):
    """Runs the command line.

    It can also be called from a notebook or a thread.

    Args:
        argv: list of strings or paths. Defaults to `None`, the arguments of
            the process.

    Returns:
        Exit code: 0 done, 1 a check found a problem or a part failed, 2
        failed, 130 interrupted from the keyboard, 141 if nobody reads the
        output any more.

    Raises:
        SystemExit: with 143 after SIGTERM; with 2 for unknown arguments,
            and with 0 after `--help` and `--version`.
    """
    with prepared_streams():
        if argv is not None:
            argv = list(map(os.fspath, argv))
        try:
            arguments = _parser().parse_args(argv)
        except SystemExit:
            # After --help, of which head reads the beginning only.
            flush_output()
            raise
        except BrokenPipeError:
            # From --print-completion.
            give_up_output()
            return 141
        with quiet_tensorflow():
            return _run(arguments)


def _run(arguments):
    try:
        _check_words(arguments)
        with _terminable():
            code = arguments.run_verb(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        give_up_output()
        return 141
    except SystemExit:
        flush_output()
        raise
    except KeyboardInterrupt:
        print("keras-danet: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        text = _told(error)
        if text is None or arguments.traceback:
            text = traceback.format_exc().rstrip()
        # File and class names in it are untrusted.
        print("\n".join(map(harmless, text.split("\n"))), file=sys.stderr)
        # Not Python's 1, which says that a part was done.
        return 2


def _check_words(arguments):
    """Refuses empty words, such as those of a shell's unset variables."""
    for name, value in vars(arguments).items():
        words = value if isinstance(value, (list, tuple)) else [value]
        if "" in words:
            raise ValueError(
                f"`{name}` is empty. Expected a name or a number there: a "
                "variable of the shell may not be set."
            )


def _told(error):
    """What users are told of an error, `None` if it is a mistake of ours."""
    text = None
    if isinstance(error, MemoryError):
        text = (
            "Not enough memory. Free some, or use smaller images, windows or "
            "batches."
        )
    # The user's mistakes: our own errors, and the file system's.
    elif isinstance(error, (ValueError, OSError, ImportError)):
        text = _explain(error)
    return text and f"keras-danet: error: {text}"


def _explain(error):
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not name:
        return error
    package = DISTRIBUTIONS.get(name, name)
    return f"{error}. This step needs it: pip install {package}"


@contextlib.contextmanager
def _terminable():
    """Lets SIGTERM unwind like an error: nothing is left half done."""
    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        if is_importing():
            # Half-imported libraries crash as Python exits, and no work has
            # begun yet.
            os._exit(143)
        sys.exit(143)

    previous = signal.signal(signal.SIGTERM, stop)
    hook, sys.unraisablehook = sys.unraisablehook, _send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, previous)


def _send_again(lost):
    """Sends a signal again whose exception Python could not raise.

    A signal may also arrive within a destructor or a callback of the garbage
    collector, from which no exception propagates.
    """
    if isinstance(lost.exc_value, KeyboardInterrupt):
        number = signal.SIGINT
    elif getattr(lost.exc_value, "code", None) in (130, 143):
        # Our exit codes are 128 plus the signal's number.
        number = lost.exc_value.code - 128
    else:
        sys.__unraisablehook__(lost)
        return
    # Once the destructor or callback is done.
    again = threading.Timer(0.1, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _parser():
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="keras-danet",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"keras-danet {_version()}"
    )
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print a script that completes commands in this shell (needs "
        "shtab)",
    )
    _add_traceback(parser, False)
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for verb in (
        check_data,
        class_weights,
        recipes,
        init,
        train,
        ablate,
        card,
        evaluate,
        compare,
        predict,
        explain,
        explore,
        export,
        convert,
        verify,
        bench,
        serve,
        serve_files,
    ):
        verb.add(verbs)
    for verb in verbs.choices.values():
        # No default: it would override a --traceback before the verb.
        _add_traceback(verb, argparse.SUPPRESS)
    return parser


class _PrintCompletion(argparse.Action):
    """Prints a completion script and ends, as --help does."""

    def __call__(self, parser, arguments, shell, option_string=None):
        try:
            import shtab
        except ImportError as error:
            parser.error(f"{_explain(error)}")
        (verbs,) = (
            action
            for action in parser._actions
            if isinstance(action, argparse._SubParsersAction)
        )
        for verb in verbs.choices.values():
            for action in verb._actions:
                if action.metavar in NAMES_OF_FILES:
                    action.complete = shtab.FILE
        print(shtab.complete(parser, shell))
        parser.exit()


def _add_traceback(parser, default):
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=default,
        help="show where in the code an error was raised",
    )


def _version():
    from keras_danet import __version__

    return __version__
