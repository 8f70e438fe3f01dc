"""Runs code around the import of a module, wherever it is imported."""

import functools
import importlib.abc
import sys


class AroundImport(importlib.abc.MetaPathFinder):
    """Runs certain modules in a given context when they are first imported.

    Placed at the front of `sys.meta_path`, it asks the finders behind it, and
    changes only the context that the module runs in.

    Args:
        covers: function from a module's name to whether it is covered.
        context: function without arguments that returns the context manager
            in which the module runs.
    """

    def __init__(self, covers, context):
        self.covers = covers
        self.context = context

    def find_spec(self, name, path=None, target=None):
        if not self.covers(name):
            return None
        for finder in list(sys.meta_path):
            if isinstance(finder, AroundImport):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    self._wrap(spec.loader, name)
                return spec
        return None

    def _wrap(self, loader, name):
        run = loader.exec_module

        @functools.wraps(run)
        def exec_module(module):
            # Loaders of archives also serve other modules.
            if module.__name__ != name:
                return run(module)
            with self.context():
                return run(module)

        loader.exec_module = exec_module


def install(hook):
    """Puts an `AroundImport` before the other finders."""
    sys.meta_path.insert(0, hook)
