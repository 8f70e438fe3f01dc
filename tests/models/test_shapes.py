"""The shapes that are worked out are those of the networks that are made."""

import pytest
from conftest import one_backend

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet.weights import shapes

pytestmark = one_backend


def assert_shapes(model, expected):
    found = {weight.path: tuple(weight.shape) for weight in model.weights}
    assert found == expected


@pytest.mark.parametrize("depth", shapes.STAGE_BLOCKS)
@pytest.mark.parametrize("stem_filters", [None, (2, 3, 5)])
def test_backbones(depth, stem_filters):
    model = DilatedResNet(depth, stem_filters=stem_filters, filters=4)
    assert_shapes(model, shapes.backbone_shapes(depth, 4, stem_filters))


@pytest.mark.parametrize(
    "attention", [(), ("channel",), ("position",), ("position", "channel")]
)
def test_heads(attention):
    for depth, auxiliary in ((18, True), (50, False)):
        model = DANet(
            3,
            DilatedResNet(depth, filters=6),
            attention=attention,
            auxiliary=auxiliary,
        )
        expected = shapes.danet_shapes(depth, 6, None, 3, auxiliary, attention)
        assert_shapes(model, expected)
