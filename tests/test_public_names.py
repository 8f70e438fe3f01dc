"""The names that people import: none goes, and none comes unnoticed."""

import importlib
import inspect

import keras
import pytest
from conftest import one_backend

pytestmark = one_backend

# A name that is taken from here is a change for people who import it: it goes
# into the CHANGELOG with what to use instead.
NAMES = {
    "keras_danet": "BilinearResize ChannelAttention DANet DilatedResNet MeanIoU"
    " PixelAccuracy PixelCrossentropy PolySchedule PositionAttention Predictor"
    " SGD SegmentationMetrics TrainConfig dilate export_model freeze layers"
    " losses"
    " optimize_for_inference unfreeze",
    "keras_danet.layers": "BatchNormalization BilinearResize ChannelAttention"
    " Conv2D Normalization PositionAttention WinogradConv2D unrolled_blocks",
    "keras_danet.losses": "DiceLoss FocalLoss LovaszSoftmax OhemCrossentropy"
    " PixelCrossentropy SumOfLosses",
    "keras_danet.models": "DANet DilatedResNet dilate freeze"
    " optimize_for_inference unfreeze",
    "keras_danet.inference": "InferenceProtocol Outcome PROTOCOLS Predictor"
    " Report Uncertainty evaluate predict_files predict_large",
    "keras_danet.explain": "ChannelAttention ChannelClasses ClassAttention"
    " Contribution Explainer Explanation METHODS Widget channel_attention"
    " channel_classes class_activation class_attention contribution grouped"
    " position_attention reach widget without",
    "keras_danet.export": "Contract Export ExportReport Sample Verification"
    " export_model verify_export",
    "keras_danet.serving": "Client",
    "keras_danet.trainer": "train",
    "keras_danet.distribution": "Placement scope",
    "keras_danet.recipe": "ModelConfig ObjectiveConfig OptimizationConfig"
    " TrainConfig find_recipe load_recipe recipes_folder",
}


@pytest.mark.parametrize("module", NAMES)
def test_public_names_stay(module):
    module = importlib.import_module(module)
    assert " ".join(sorted(module.__all__)) == NAMES[module.__name__]
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)


def test_what_there_is_not_is_no_name():
    module = importlib.import_module("keras_danet")
    with pytest.raises(AttributeError, match="no attribute 'DANett'"):
        module.DANett  # noqa: B018


# Keras's own methods have no types either.
KERAS_CLASSES = (
    keras.layers.Layer,
    keras.Loss,
    keras.Metric,
    keras.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
)


def untyped(name, function):
    """Arguments without a type, of a function or method."""
    signature = inspect.signature(function)
    missing = [
        f"{name}({parameter.name})"
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty
        and parameter.name not in ("self", "cls")
        and parameter.kind
        not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if name.endswith("__init__") or signature.return_annotation is not (
        signature.empty
    ):
        return missing
    return [*missing, f"{name} ->"]


@pytest.mark.parametrize("module", NAMES)
def test_public_names_have_types(module):
    module = importlib.import_module(module)
    missing = []
    for name in module.__all__:
        found = getattr(module, name)
        if inspect.isfunction(found):
            missing += untyped(name, inspect.unwrap(found))
        elif inspect.isclass(found):
            methods = {
                key: getattr(value, "fget", getattr(value, "__func__", value))
                for key, value in vars(found).items()
                if not key.startswith("_") or key in ("__init__", "__call__")
            }
            if issubclass(found, KERAS_CLASSES):
                methods = {
                    key: value
                    for key, value in methods.items()
                    if key == "__init__" or key.startswith("from_")
                    if key != "from_config"
                }
            for key, method in methods.items():
                if inspect.isfunction(method):
                    missing += untyped(f"{name}.{key}", method)
    assert not missing
