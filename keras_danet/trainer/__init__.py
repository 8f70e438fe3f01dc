"""How a network is trained, where, and how that survives."""

import typing

from keras_danet.lazy_names import lazily

if typing.TYPE_CHECKING:
    from keras_danet.trainer.loop import train as train

__all__ = ["train"]

__getattr__, __dir__ = lazily(__name__, {"train": "loop"})
