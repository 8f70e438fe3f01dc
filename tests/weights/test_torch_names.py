"""The reference networks' numbers for known weights, all layers together."""

import ast
import importlib.util
import json
import math

import keras
import numpy as np
import pytest
from conftest import ROOT
from conftest import one_backend

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet.weights import torch_names
from keras_danet.weights import torch_networks

PARITY = ROOT / "tests" / "parity"
KEYS = PARITY / "checkpoint_keys"

# float32 itself differs from float64 by 1e-4 of the deviation in this net
# (computed with PyTorch in both); 1e-3 is the promise.
TOLERANCE = 1e-3


def load_case(name):
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


@pytest.mark.parametrize("name", ["official_r50", "mmseg_r50"])
def test_logits_equal_the_reference_networks(name):
    case, state_dict = load_case(name)
    with pytest.warns(UserWarning, match="does not state"):
        model = DANet.from_checkpoint(state_dict, pixel_mean=0, pixel_std=1)
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


def small_state_dict(naming="official", num_classes=5, **options):
    """Tensors of a small network in their naming, all of them different."""
    deep = options.get("stem_filters")
    backbone = DilatedResNet(18, filters=8, stem_filters=deep)
    model = DANet(num_classes, backbone, auxiliary=naming == "mmseg")
    rng = np.random.default_rng(0)
    for variable in model.weights:
        value = rng.uniform(0.1, 1, variable.shape)
        variable.assign(value.astype("float32"))
    return model, model.to_state_dict(naming)


@pytest.mark.parametrize("naming", torch_names.NAMINGS)
@pytest.mark.parametrize("stem_filters", [None, (4, 4, 8)])
def test_theirs_to_ours_to_theirs_is_exact(naming, stem_filters):
    model, tensors = small_state_dict(naming, stem_filters=stem_filters)
    copy = DANet.from_checkpoint(
        {f"module.{name}": value for name, value in tensors.items()},
        multi_grid=(4, 8),
        align_corners=True,
        dropout=0.3,
        name="mine",
    )
    assert copy.num_classes == 5
    config = copy.get_config()
    assert (config["dropout"], config["name"]) == (0.3, "mine")
    backbone = copy.get_layer("resnet18")
    assert backbone.get_layer("stage4_block1_conv2").dilation_rate == (8, 8)
    again = copy.to_state_dict(naming)
    assert list(again) == list(tensors)
    for name, value in tensors.items():
        assert again[name].dtype == value.dtype
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    for ours, theirs in zip(copy.weights, model.weights, strict=True):
        assert ours.path == theirs.path


def published_keys(name):
    """Name -> shape of a published network's tensors."""
    lines = (KEYS / f"{name}.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return {name: ast.literal_eval(shape) for name, shape, _ in rows}


@one_backend
@pytest.mark.parametrize(
    "name, naming, depth, stem_filters",
    [
        ("official_r50", "official", 50, None),
        ("official_r101", "official", 101, None),
        ("official_r50_deepstem", "official", 50, (64, 64, 128)),
        ("mmseg_r50", "mmseg", 50, (32, 32, 64)),
        ("mmseg_r101", "mmseg", 101, (32, 32, 64)),
    ],
)
def test_every_published_tensor_has_its_variable(
    name, naming, depth, stem_filters
):
    shapes = published_keys(name)
    tensors = {
        key: np.broadcast_to(np.float32(0), shape)
        for key, shape in shapes.items()
    }
    found = torch_networks.describe(torch_networks.normalize(tensors))
    assert found == torch_networks.Description(
        naming, depth, 64, stem_filters, found.num_classes, naming == "mmseg"
    )
    model = DANet(
        found.num_classes,
        f"resnet{depth}",
        stem_filters=stem_filters,
        auxiliary=found.auxiliary,
    )
    expected = {
        key: shape
        for key, shape in shapes.items()
        if not key.endswith("num_batches_tracked")
        and not key.startswith("pretrained.fc.")
    }
    deep = stem_filters is not None
    ours = {
        torch_names.their_name(weight.path, naming, deep): (
            torch_names.their_layout(
                np.broadcast_to(np.float32(0), tuple(weight.shape)), naming
            ).shape
        )
        for weight in model.weights
    }
    assert ours == expected


@one_backend
def test_no_more_memory_is_taken_than_a_file_has(monkeypatch):
    # Kilobytes that claim the widest network there is.
    tensors = {
        f"pretrained.layer{stage}.{block}.conv1.weight": np.ones((1, 1, 1, 1))
        for stage, blocks in enumerate((3, 8, 36, 3), 1)
        for block in range(blocks)
    }
    wide = np.broadcast_to(np.float32(0), (255, 1, 1, 1))
    tensors["pretrained.layer1.0.conv1.weight"] = wide
    tensors["pretrained.layer1.0.conv3.weight"] = wide
    tensors["head.conv8.1.weight"] = tensors["head.sa.gamma"] = wide
    made = []
    add_weight = keras.layers.Layer.add_weight

    def add(self, shape=None, *args, **kwargs):
        made.append(math.prod(shape))
        return add_weight(self, shape, *args, **kwargs)

    monkeypatch.setattr(keras.layers.Layer, "add_weight", add)
    for load, given in (
        (DANet.from_checkpoint, {"multi_grid": (), "align_corners": True}),
        (DilatedResNet.from_checkpoint, {}),
    ):
        with pytest.raises(ValueError, match="does not fit the model"):
            load(tensors, **given)
    # The network has 800 million.
    assert 0 < sum(made) < 4e6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions(dtype):
    _, tensors = small_state_dict()
    given = {"multi_grid": (), "align_corners": True}
    tensors = {name: value.astype(dtype) for name, value in tensors.items()}
    again = DANet.from_checkpoint(tensors, **given).to_state_dict()
    for name, value in tensors.items():
        assert again[name].dtype == "float32"
        np.testing.assert_array_equal(again[name], value.astype("float32"))


@one_backend
def test_leftovers_on_either_side_are_listed():
    _, tensors = small_state_dict()
    given = {"multi_grid": (), "align_corners": True}
    with pytest.raises(ValueError, match=r"without a variable: head\.conv9"):
        DANet.from_checkpoint(
            {**tensors, "head.conv9.weight": np.ones(1)}, **given
        )
    gone = dict(tensors)
    del gone["head.sc.gamma"]
    with pytest.raises(ValueError, match="without a tensor: channel_attention"):
        DANet.from_checkpoint(gone, **given)
    odd = {**tensors, "head.sa.gamma": np.ones(2, "float32")}
    with pytest.raises(ValueError, match=r"or types: head\.sa\.gamma"):
        DANet.from_checkpoint(odd, **given)
    # What carries nothing may be there or not.
    dead = {
        "pretrained.fc.weight": np.ones((1000, 64), "float32"),
        "pretrained.fc.bias": np.ones(1000, "float32"),
        "pretrained.bn1.num_batches_tracked": np.array(3),
    }
    DANet.from_checkpoint({**tensors, **dead}, **given)


@one_backend
def test_what_tensors_do_not_tell_is_asked_for():
    _, tensors = small_state_dict("mmseg")
    with pytest.warns(UserWarning) as caught:
        model = DANet.from_checkpoint(tensors)
    told = [str(warning.message) for warning in caught]
    assert ["`multi_grid`" in told[0], "`align_corners`" in told[1]] == [
        True
    ] * 2
    assert model.get_config()["align_corners"] is False
    text = "model=dict(decode_head=dict(align_corners=True), auxiliary_head="
    meta = {"config": text + "dict(align_corners = True))"}
    model = DANet.from_checkpoint(
        {"state_dict": tensors, "meta": meta}, multi_grid=()
    )
    assert model.get_config()["align_corners"] is True
    mixed = {"config": "align_corners=True align_corners=False"}
    with pytest.warns(UserWarning, match="`align_corners`"):
        DANet.from_checkpoint(
            {"state_dict": tensors, "meta": mixed}, multi_grid=()
        )


@one_backend
@pytest.mark.parametrize(
    "meta, told",
    [
        ({"multi_grid": "(4, 8, 16)"}, {"multi_grid": (4, 8, 16)}),
        ({"multi_grid": "4 8 16"}, {"multi_grid": (4, 8, 16)}),
        ({"multi_grid": [4, 8]}, {"multi_grid": (4, 8)}),
        ({"multi_grid": None}, {"multi_grid": ()}),
        ({"multi_grid": ()}, {"multi_grid": ()}),
        ({"multi_grid": "None"}, {"multi_grid": ()}),
        ({"align_corners": False}, {"align_corners": False}),
        ({"align_corners": "true"}, {"align_corners": True}),
        # MMSegmentation 1.x, as MMEngine writes it.
        (
            {"cfg": "model = dict(\n    head=dict(\n   align_corners=True))"},
            {"align_corners": True},
        ),
        (
            {"config": {"model": [{"head": {"align_corners": False}}]}},
            {"align_corners": False},
        ),
        (
            {"config": '{"align_corners": true, "multi_grid": [4, 8, 16]}'},
            {"align_corners": True, "multi_grid": (4, 8, 16)},
        ),
        ({"config": "multi_grid=None, x=1"}, {"multi_grid": ()}),
        ({"config": "multi_grid = 4 8 16\nx = 1"}, {"multi_grid": (4, 8, 16)}),
        ({"config": {"multi_grid": (1, 2)}}, {"multi_grid": (1, 2)}),
        # What contradicts itself or is no rate is not told.
        ({"config": "multi_grid=(1, 2)", "multi_grid": [4]}, {}),
        ({"multi_grid": [10**6]}, {}),
        ({"multi_grid": "1025"}, {}),
        ({"multi_grid": "4" * 5000}, {}),
        ({"config": f"multi_grid=({'4' * 5000})"}, {}),
        ({"multi_grid": [0]}, {}),
        ({"multi_grid": [True]}, {}),
        ({"multi_grid": "4, x"}, {}),
        ({"align_corners": 1}, {}),
        ({"multi_grid": {"a": 1}, "align_corners": [True]}, {}),
        ({}, {}),
    ],
)
def test_what_a_file_says_of_itself(meta, told):
    assert torch_networks.told_by(meta) == told


@one_backend
def test_a_file_s_lists_may_hold_themselves():
    endless = [{"align_corners": True}]
    for _ in range(100):
        endless = [endless, endless]
    endless.append(endless)
    for meta in ({"config": endless}, {"config": {"a": endless}}):
        assert torch_networks.told_by(meta) == {"align_corners": True}
    assert torch_networks.told_by({"multi_grid": endless}) == {}


@one_backend
def test_numbers_that_are_none_are_told():
    _, tensors = small_state_dict()
    given = {"multi_grid": (), "align_corners": True}
    name = "head.conv52.0.weight"
    tensors[name] = np.full_like(tensors[name], np.nan)
    with pytest.warns(UserWarning, match=f"NaN or infinity in {name}"):
        DANet.from_checkpoint(tensors, **given)
    DilatedResNet.from_checkpoint(tensors)


def test_other_class_counts_keep_all_but_the_classifiers():
    _, tensors = small_state_dict("mmseg")
    with pytest.warns(UserWarning, match="has 5 classes but num_classes=3"):
        model = DANet.from_checkpoint(
            tensors, (), False, num_classes=3, auxiliary=False
        )
    again = {**model.to_state_dict("mmseg")}
    for name, value in again.items():
        if "conv_seg" in name:
            assert len(value) == 3
        else:
            np.testing.assert_array_equal(value, tensors[name])
    assert not any(name.startswith("auxiliary") for name in again)
    with pytest.raises(ValueError, match="'backbone'.* cannot be overridden"):
        DANet.from_checkpoint(tensors, (), False, backbone="resnet50")


@pytest.mark.parametrize(
    "naming", ["torchvision", "v1c", "mmpretrain", "danet"]
)
def test_backbones_of_classifiers_and_segmentation_networks(naming):
    deep = (4, 4, 8) if naming in ("v1c", "mmpretrain") else None
    model, tensors = small_state_dict(
        "mmseg" if deep else "official", stem_filters=deep
    )
    if naming != "danet":
        tensors = {
            name.removeprefix("pretrained.").removeprefix("backbone."): value
            for name, value in tensors.items()
            if name.startswith(("pretrained.", "backbone."))
        }
        # MMPretrain keeps the backbone's prefix.
        mmpretrain = naming == "mmpretrain"
        if mmpretrain:
            tensors = {f"backbone.{name}": tensors[name] for name in tensors}
        fc = "head.fc" if mmpretrain else "fc"
        tensors[f"{fc}.weight"] = np.ones((1000, 64), "float32")
        tensors[f"{fc}.bias"] = np.ones(1000, "float32")
    backbone = DilatedResNet.from_checkpoint(
        tensors, output_stride=16, multi_grid=(2, 3)
    )
    expected = model.get_layer("resnet18").get_config()
    config = backbone.get_config()
    assert config["output_stride"] == 16
    assert config["stem_filters"] == expected["stem_filters"]
    theirs = {weight.path: weight for weight in model.weights}
    assert len(backbone.weights) > 50
    for weight in backbone.weights:
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(weight),
            keras.ops.convert_to_numpy(theirs[weight.path]),
        )
    if naming != "danet":
        with pytest.raises(ValueError, match="a backbone alone"):
            DANet.from_checkpoint(tensors)


@one_backend
@pytest.mark.parametrize(
    "names, message",
    [
        (("backbone.conv1_1._batch_norm._mean",), "PaddleSeg.*_vd pools"),
        (("backbone_net.conv1.weight",), "SSSeg"),
        (("backbone.layer1.0.conv1.weight", "decode_head.aspp.0"), "DeepLab"),
        (("decode_head.psp_modules.0.1.conv.weight",), "PSPNet"),
        (("decode_head.convs.0.conv.weight",), "FCN"),
        (
            ("backbone.layer1.0.conv1.weight", "classifier.0.project.weight"),
            "torchvision's DeepLab",
        ),
        (("layer1.0.conv1.weight", "layer1.0.se.fc1.weight"), "SE-ResNet"),
        (("blocks.0.attn.qkv.weight",), "an unknown network"),
        ((), "an unknown network"),
    ],
)
def test_other_networks_are_recognised(names, message):
    tensors = dict.fromkeys(names, np.ones((1, 1, 1, 1), "float32"))
    for load in (DANet.from_checkpoint, DilatedResNet.from_checkpoint):
        with pytest.raises(ValueError, match=message):
            load(tensors)


@one_backend
def test_other_resnets_are_recognised():
    _, tensors = small_state_dict()
    resnet_d = {
        **tensors,
        "pretrained.layer2.0.downsample.1.weight": np.ones((2, 2, 1, 1)),
    }
    with pytest.raises(ValueError, match="ResNet-D"):
        DANet.from_checkpoint(resnet_d)
    more = {**tensors, "pretrained.layer2.7.conv1.weight": np.ones(1)}
    with pytest.raises(ValueError, match=r"\(2, 3, 2, 2\) blocks"):
        DANet.from_checkpoint(more)
    name = "pretrained.layer1.0.conv1.weight"
    for shape in ((10**6, 1, 1, 1), (), (0, 8, 3, 3)):
        wide = {**tensors, name: np.broadcast_to(np.float32(0), shape)}
        with pytest.raises(ValueError, match="at most 255 filters"):
            DANet.from_checkpoint(wide)


@one_backend
@pytest.mark.parametrize(
    "shapes, message",
    [
        (((8, 8), (8, 1), (32, 8)), "ResNeXt"),
        (((16, 8), (16, 16), (32, 16)), "wide"),
    ],
)
def test_other_bottlenecks_are_recognised(shapes, message):
    tensors = {
        f"layer1.0.conv{index}.weight": np.ones((*shape, 1, 1), "float32")
        for index, shape in enumerate(shapes, 1)
    }
    with pytest.raises(ValueError, match=message):
        DilatedResNet.from_checkpoint(tensors)


def test_only_what_is_read_starts_at_zero():
    _, tensors = small_state_dict()
    given = {"multi_grid": (), "align_corners": True, "num_classes": 7}
    with pytest.warns(UserWarning, match="newly initialized"):
        model = DANet.from_checkpoint(tensors, **given)
    layer = model.get_layer("position_out")
    initializer = layer.get_config()["kernel_initializer"]
    assert initializer["class_name"] == "VarianceScaling"
    for made in (model, DANet.from_config(model.get_config())):
        for weight in made.weights:
            if weight.path.endswith("kernel"):
                assert keras.ops.convert_to_numpy(weight).std() > 0, weight.path


@one_backend
def test_what_may_be_left_over_is_named():
    _, tensors = small_state_dict()
    given = {"multi_grid": (), "align_corners": True}
    spare = {**tensors, "ema.decay": np.ones(1, "float32")}
    with pytest.raises(ValueError, match="ema.decay.*`ignore`"):
        DANet.from_checkpoint(spare, **given)
    DANet.from_checkpoint(spare, ignore=[r"ema\..*"], **given)
    DilatedResNet.from_checkpoint(spare, ignore=["ema.decay"])
    # One pattern is no list of letters.
    DilatedResNet.from_checkpoint(spare, ignore="ema.decay")
    with pytest.raises(ValueError, match="variable: ema.decay"):
        DANet.from_checkpoint(spare, ignore="ema.", **given)
    DANet.from_checkpoint(spare, ignore="ema.*", **given)
    with pytest.raises(ValueError, match="must hold regular expressions"):
        DANet.from_checkpoint(spare, ignore=["("], **given)


@one_backend
def test_nonsense_beside_a_checkpoint_is_refused():
    _, tensors = small_state_dict()
    for given, message in (
        ({"num_classes": 0}, "`num_classes` must be at least 2"),
        ({"multi_grid": 0}, "`multi_grid` must be None or positive"),
    ):
        with pytest.raises(ValueError, match=message):
            DANet.from_checkpoint(
                tensors, **{"multi_grid": (), "align_corners": True, **given}
            )
    with pytest.raises(ValueError, match="cannot be overridden"):
        DilatedResNet.from_checkpoint(tensors, filters=16)
    name = "pretrained.bn1.weight"
    integers = {**tensors, name: tensors[name].astype("int8")}
    with pytest.raises(ValueError, match="bn1.weight of int8, not a float"):
        DilatedResNet.from_checkpoint(integers)


@one_backend
def test_naming_is_checked():
    model = DANet(2, DilatedResNet(18, filters=8), auxiliary=True)
    with pytest.raises(ValueError, match="no names for auxiliary_in/kernel"):
        model.to_state_dict("official")
    with pytest.raises(ValueError, match="`naming` must be one of"):
        model.to_state_dict("paddle")


@one_backend
def test_names_of_both_implementations():
    for path, official, mmseg in (
        (
            "stage3_block5_conv2_bn/moving_variance",
            "pretrained.layer3.5.bn2.running_var",
            "backbone.layer3.5.bn2.running_var",
        ),
        (
            "stage2_block0_shortcut/kernel",
            "pretrained.layer2.0.downsample.0.weight",
            "backbone.layer2.0.downsample.0.weight",
        ),
        (
            "position_out_bn/beta",
            "head.conv51.1.bias",
            "decode_head.pam_out_conv.bn.bias",
        ),
        (
            "channel_attention/gamma",
            "head.sc.gamma",
            "decode_head.cam.gamma.scale",
        ),
        ("stem_conv1_bn/gamma", "pretrained.bn1.weight", "backbone.bn1.weight"),
        ("auxiliary_in/kernel", None, "auxiliary_head.convs.0.conv.weight"),
        ("seed_generator/state", None, None),
    ):
        assert torch_names.their_name(path, "official") == official
        assert torch_names.their_name(path, "mmseg") == mmseg
    assert torch_names.their_name("stem_conv3_bn/gamma", "official", True) == (
        "pretrained.bn1.weight"
    )
    assert torch_names.their_name("stem_conv2/kernel", "official", True) == (
        "pretrained.conv1.3.weight"
    )
    assert torch_names.their_name("stem_conv3_bn/beta", "mmseg", True) == (
        "backbone.stem.7.bias"
    )
