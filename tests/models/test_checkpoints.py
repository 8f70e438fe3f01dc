"""The reference networks' numbers for known weights, all layers together."""

import importlib.util
import json

import keras
import numpy as np
import pytest
from conftest import SHARED

from keras_danet import DANet
from keras_danet.models import checkpoints

PARITY = SHARED / "parity"

# float32 itself differs from float64 by 1e-4 of the deviation in this net
# (reference/danet.md, section 2); 1e-3 is the promise.
TOLERANCE = 1e-3


def load_case(name):
    if not PARITY.is_dir():
        pytest.skip(f"the parity cases are not at {PARITY}")
    case = np.load(PARITY / f"{name}.npz")
    spec = importlib.util.spec_from_file_location(
        "parity_weights", PARITY / "weights.py"
    )
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    state_dict = {
        key: weights.tensor(key, shape)
        for key, shape in json.loads(str(case["state_dict"])).items()
    }
    return case, state_dict


@pytest.mark.parametrize(
    "name, options",
    [
        ("official_r50", {}),
        (
            "mmseg_r50",
            {
                "stem_filters": (32, 32, 64),
                "auxiliary": True,
                "align_corners": False,
            },
        ),
    ],
)
def test_logits_equal_the_reference_networks(name, options):
    case, state_dict = load_case(name)
    model = DANet(7, "resnet50", pixel_mean=0, pixel_std=1, **options)
    checkpoints.load_state_dict(model, state_dict)
    images = case["input"].transpose(0, 2, 3, 1)
    inside = keras.Model(model.input, {**model.features, **model.output})
    values = {
        key: keras.ops.convert_to_numpy(value)
        for key, value in inside(images, training=False).items()
    }

    for stage in ("stage1", "stage2", "stage3", "stage4"):
        mean = values[stage].mean(axis=(1, 2))
        expected = case[f"{stage}_mean"]
        np.testing.assert_allclose(
            mean, expected, atol=TOLERANCE * expected.std()
        )
    for output in model.output:
        for ours, theirs in (
            (f"{output}_logits", f"stride8_{output}"),
            (output, f"full_{output}"),
        ):
            expected = case[theirs].transpose(0, 2, 3, 1)
            np.testing.assert_allclose(
                values[ours], expected, atol=TOLERANCE * expected.std()
            )
            agreement = values[ours].argmax(-1) == expected.argmax(-1)
            assert agreement.mean() > 0.999
    fused = values["fusion"]
    np.testing.assert_allclose(
        model.predict(images, verbose=0), fused, atol=TOLERANCE * fused.std()
    )


def test_every_tensor_is_accounted_for():
    model = DANet(7, "resnet18", pixel_mean=0, pixel_std=1)
    with pytest.raises(ValueError, match="without a variable: head.conv9"):
        checkpoints.load_state_dict(model, {"head.conv9.weight": np.ones(1)})
    before = model.get_layer("position_attention").gamma.numpy()
    state_dict = {"head.sa.gamma": np.ones(1, "float32")}
    with pytest.raises(ValueError, match="Variables without a tensor: chan"):
        checkpoints.load_state_dict(model, state_dict)
    assert model.get_layer("position_attention").gamma.numpy() == before


def test_names_of_both_implementations():
    same = [
        (
            "pretrained.layer3.5.bn2.running_var",
            "backbone.layer3.5.bn2.running_var",
        ),
        ("head.conv51.1.bias", "decode_head.pam_out_conv.bn.bias"),
        ("head.sc.gamma", "decode_head.cam.gamma.scale"),
    ]
    for official, mmseg in same:
        assert checkpoints.our_path(official) == checkpoints.our_path(mmseg)
    assert checkpoints.our_path("pretrained.bn1.weight") == (
        "stem_conv1_bn/gamma"
    )
    assert checkpoints.our_path("pretrained.bn1.weight", deep_stem=True) == (
        "stem_conv3_bn/gamma"
    )
    assert checkpoints.our_path("pretrained.fc.weight") is None
