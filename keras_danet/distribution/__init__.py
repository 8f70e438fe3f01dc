"""Several devices and machines, through the engines of the backends."""

import typing

from keras_danet.lazy_names import lazily

if typing.TYPE_CHECKING:
    from keras_danet.distribution.engines import Placement as Placement
    from keras_danet.distribution.engines import scope as scope

__all__ = ["Placement", "scope"]

__getattr__, __dir__ = lazily(
    __name__, {"Placement": "engines", "scope": "engines"}
)
