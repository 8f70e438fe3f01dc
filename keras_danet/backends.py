"""Which backend Keras uses, which are installed, and what to do if it is not.

Nothing here imports Keras: that takes a second or more, and fails if its
backend is missing.
"""

import contextlib
import difflib
import importlib
import importlib.util
import json
import os
import pathlib
import sys
import threading

from keras_danet.import_hooks import AroundImport
from keras_danet.import_hooks import install

BACKENDS = ("tensorflow", "jax", "torch")
# Modules that register classes under the package's name, for Keras to load.
_REGISTERING = ("layers", "losses", "metrics", "models", "optimizers")
# How many of the package's modules are being imported, nested.
_importing = threading.local()


def configured_backend():
    """(name, where it comes from) of the backend that Keras uses."""
    if _has_keras():
        return sys.modules["keras"].config.backend(), "which Keras runs on"
    if name := os.environ.get("KERAS_BACKEND"):
        return name, f"KERAS_BACKEND={name}"
    path = _settings_file()
    try:
        settings = json.loads(path.read_text("utf-8"))
        return settings["backend"], f'"backend" in {path}'
    # Keras also ignores a file that it cannot read.
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow", "Keras's default, as KERAS_BACKEND is not set"


def _settings_file():
    home = os.environ.get("KERAS_HOME")
    if home is None:
        user = os.path.expanduser("~")
        home = os.path.join(
            user if os.access(user, os.W_OK) else "/tmp", ".keras"
        )
    return pathlib.Path(home).expanduser() / "keras.json"


def installed_backends():
    """The names of the backends that can be imported."""
    return [name for name in BACKENDS if importlib.util.find_spec(name)]


def check_backend():
    """Raises an ImportError unless Keras's backend is known and installed."""
    name, origin = configured_backend()
    installed = installed_backends()
    if name in installed:
        return
    if name in BACKENDS:
        problem = f"The backend {name} is not installed"
    else:
        problem = (
            f"keras_danet runs on {', '.join(BACKENDS[:-1])} or "
            f"{BACKENDS[-1]}, not on the backend {name!r}"
        )
    raise ImportError(f"{problem} ({origin}). {_remedy(str(name), installed)}")


def _remedy(name, installed):
    if not installed:
        return (
            "None of them is installed. Install one, for example: pip install "
            "tensorflow (or jax, or torch)."
        )
    (best,) = difflib.get_close_matches(name.lower(), installed, 1, 0)
    return (
        f"Installed: {', '.join(installed)}. On the command line type: "
        f"KERAS_BACKEND={best} keras-danet ... In Python, before Keras is "
        f'imported: os.environ["KERAS_BACKEND"] = "{best}".'
    )


def register_classes():
    """Registers the package's classes, so that Keras can load saved models."""
    check_backend()
    with _nested():
        for name in _REGISTERING:
            importlib.import_module(f"keras_danet.{name}")


@contextlib.contextmanager
def _nested():
    _importing.depth = getattr(_importing, "depth", 0) + 1
    try:
        yield
    finally:
        _importing.depth -= 1


def is_importing():
    """Whether this thread is importing Keras or a module that imports it."""
    return getattr(_importing, "depth", 0) > 0


@contextlib.contextmanager
def _around_keras():
    """Explains why Keras cannot be imported; registers classes if it can."""
    check_backend()
    try:
        yield
    except Exception as error:
        name, origin = configured_backend()
        raise ImportError(
            f"Keras cannot be imported with the backend {name} ({origin}): "
            f"{type(error).__name__}: {error}. If that is not about an "
            f"installed package, check Keras's settings, {_settings_file()}"
            f". {_remedy(str(name), installed_backends())}"
        ) from error
    # A half-imported module of ours cannot be imported from; then the
    # outermost import registers the classes when it is done.
    if not is_importing():
        register_classes()


@contextlib.contextmanager
def _around_ours():
    with _nested():
        yield
    if not _importing.depth and _has_keras():
        register_classes()


def _has_keras():
    spec = getattr(sys.modules.get("keras"), "__spec__", None)
    # Not while Keras itself is being imported.
    return spec is not None and not getattr(spec, "_initializing", False)


def watch_imports():
    """Registers classes as soon as Keras is imported, and not before."""
    install(AroundImport("keras".__eq__, _around_keras))
    install(
        AroundImport(lambda name: name.startswith("keras_danet."), _around_ours)
    )
    if _has_keras():
        register_classes()
