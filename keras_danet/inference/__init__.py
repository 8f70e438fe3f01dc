"""What a network predicts for an image, and how good that is."""

import typing

from keras_danet.lazy_names import lazily

if typing.TYPE_CHECKING:
    from keras_danet.inference.evaluation import evaluate as evaluate
    from keras_danet.inference.large_images import (
        predict_large as predict_large,
    )
    from keras_danet.inference.passes import Uncertainty as Uncertainty
    from keras_danet.inference.prediction import Outcome as Outcome
    from keras_danet.inference.prediction import predict_files as predict_files
    from keras_danet.inference.predictor import Predictor as Predictor
    from keras_danet.inference.protocols import PROTOCOLS as PROTOCOLS
    from keras_danet.inference.protocols import (
        InferenceProtocol as InferenceProtocol,
    )
    from keras_danet.inference.report import Report as Report

_HOMES = {
    "Predictor": "predictor",
    "InferenceProtocol": "protocols",
    "PROTOCOLS": "protocols",
    "Uncertainty": "passes",
    "predict_large": "large_images",
    "Report": "report",
    "evaluate": "evaluation",
    "Outcome": "prediction",
    "predict_files": "prediction",
}
__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
