"""What is done around the import of a module, whoever imports it."""

import functools
import importlib.abc
import sys


class AroundImport(importlib.abc.MetaPathFinder):
    """Runs some modules in a context of ours when they are first imported.

    Put at the front of `sys.meta_path`, it asks the finders behind it, and
    changes nothing but the moment at which the module runs.

    Args:
        covers: function of a module's name to whether it is meant.
        context: function without arguments to a context manager, within
            which the module runs.
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
            # Loaders of archives serve other modules as well.
            if module.__name__ != name:
                return run(module)
            with self.context():
                return run(module)

        loader.exec_module = exec_module


def install(hook):
    """Puts an `AroundImport` before the other finders."""
    sys.meta_path.insert(0, hook)
