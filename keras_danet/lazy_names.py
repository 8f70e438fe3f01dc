"""The names of a package, each imported when it is first used (PEP 562)."""

import importlib
import importlib.util
import sys


def lazily(package, homes):
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: string, its `__name__`.
        homes: dict of a name to the module of the package that holds it. The
            package's modules themselves are found without.
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
