"""What a network predicts for an image, and how good that is."""

import typing

from keras_danet.lazy_names import lazily

if typing.TYPE_CHECKING:
    from keras_danet.inference.evaluation import Report as Report
    from keras_danet.inference.evaluation import evaluate as evaluate
    from keras_danet.inference.predictor import Predictor as Predictor
    from keras_danet.inference.predictor import attention_maps as attention_maps

_HOMES = {
    "Predictor": "predictor",
    "attention_maps": "predictor",
    "Report": "evaluation",
    "evaluate": "evaluation",
}
__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
