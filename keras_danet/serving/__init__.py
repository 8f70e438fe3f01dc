"""How is an export asked? A client, a small server, files for large ones."""

import typing

from keras_danet.lazy_names import lazily

if typing.TYPE_CHECKING:
    from keras_danet.serving.client import Client as Client

_HOMES = {"Client": "client"}
__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
