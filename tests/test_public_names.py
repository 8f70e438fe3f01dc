"""The names that people import: none goes, and none comes unnoticed."""

import importlib

import pytest
from conftest import one_backend

pytestmark = one_backend

# A name that is taken from here is a change for people who import it: it goes
# into the CHANGELOG with what to use instead.
NAMES = {
    "keras_danet": "BilinearResize ChannelAttention DANet DilatedResNet MeanIoU"
    " PixelAccuracy PixelCrossentropy PolySchedule PositionAttention Predictor"
    " SGD SegmentationMetrics TrainConfig dilate freeze layers losses"
    " optimize_for_inference unfreeze",
    "keras_danet.layers": "BatchNormalization BilinearResize ChannelAttention"
    " Conv2D Normalization PositionAttention WinogradConv2D unrolled_blocks",
    "keras_danet.losses": "DiceLoss FocalLoss LovaszSoftmax OhemCrossentropy"
    " PixelCrossentropy SumOfLosses",
    "keras_danet.models": "DANet DilatedResNet dilate freeze"
    " optimize_for_inference unfreeze",
    "keras_danet.inference": "Predictor Report attention_maps evaluate",
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
