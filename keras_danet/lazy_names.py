"""Names of a package that are imported on first use (PEP 562)."""

import importlib
import importlib.util
import sys


def lazily(package, homes):
    """`__getattr__` and `__dir__` for a package.

    Args:
        package: string, its `__name__`.
        homes: dict from a name to the module of the package that holds it.
            The package's modules need no entry.
    """

    def __getattr__(name):
        if home := homes.get(name):
            module = importlib.import_module(f"{package}.{home}")
            value = getattr(module, name)
        elif not name.startswith("_") and importlib.util.find_spec(
            f"{package}.{name}"
        ):
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}"
            )
        setattr(sys.modules[package], name, value)
        return value

    def __dir__():
        return sorted({*vars(sys.modules[package]), *homes})

    return __getattr__, __dir__
