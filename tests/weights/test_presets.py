"""Presets: the table, the folder, and the way from a name to a model."""

import ast
import collections
import hashlib
import io
import json
import os
import re
import shutil
import sys

import h5py
import keras
import numpy as np
import pytest
from conftest import ROOT
from conftest import one_backend

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import dilate
from keras_danet.models.keras_backbones import keras_backbone
from keras_danet.weights import downloads
from keras_danet.weights import presets
from keras_danet.weights import torch_names
from keras_danet.weights.preset_tables import BACKBONES
from keras_danet.weights.preset_tables import DANET
from keras_danet.weights.preset_tables import OURS

KEYS = ROOT / "tests" / "parity" / "checkpoint_keys"
IMAGE = np.random.default_rng(0).uniform(0, 255, (1, 33, 47, 3))


def randomized(model):
    """The model with weights that all matter, gamma of attentions as well."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        low = 0.5 if weight.path.endswith("moving_variance") else -0.5
        values = random.uniform(low, 1.0, weight.shape)
        # Without it energies overflow, and NaN is equal to NaN.
        weight.assign(values * (0.1 if "kernel" in weight.path else 1.0))
    return model


def small_danet(**options):
    options = {"auxiliary": True, "dropout": 0.2, **options}
    return randomized(DANet(4, DilatedResNet(18, filters=8), **options))


def logits(model):
    values = keras.ops.convert_to_numpy(model.predict_on_batch(IMAGE))
    assert np.isfinite(values).all() and values.std() > 0.1
    return values


def assert_same_weights(model, other, but=()):
    values = {weight.path: np.asarray(weight) for weight in other.weights}
    for weight in model.weights:
        same = np.array_equal(np.asarray(weight), values.get(weight.path))
        anew = weight.path.partition("/")[0] in but
        assert same != anew, weight.path


# The table.


MMSEG = {name: row for name, row in DANET.items() if name not in OURS}


@one_backend
def test_there_are_the_sixteen_of_mmsegmentation():
    assert DANet.presets == {**MMSEG, **OURS}
    assert len(MMSEG) == 16
    assert len({row["source"] for row in MMSEG.values()}) == 16
    counts = collections.Counter(row["dataset"] for row in MMSEG.values())
    assert counts == {"cityscapes": 8, "ade20k": 4, "voc2012": 4}


@one_backend
@pytest.mark.parametrize("name", OURS)
def test_our_own_are_what_the_table_says(name):
    row, folder = OURS[name], ROOT / "saved_models" / name
    content = (folder / "model.weights.h5").read_bytes()
    assert hashlib.sha256(content).hexdigest() == row["sha256"]
    assert len(content) < 1e6 * row["size_mb"] <= 25e6
    report = json.loads((folder / "report.json").read_text())
    assert row["mean_iou"] == round(100 * report["mean_iou"], 2)
    assert (
        f"| mean IoU | {row['mean_iou']:.2f}% |"
        in (folder / "README.md").read_text()
    )
    model = DANet.from_preset(name)
    assert model.class_names == tuple(report["class_names"])
    # The folder, which has its configuration, is the same model.
    assert_same_weights(model, DANet.from_preset(folder))
    untrained = DANet.from_preset(name, load_weights=False)
    assert untrained.count_params() == model.count_params()


@one_backend
@pytest.mark.parametrize("name", [*MMSEG, *BACKBONES])
def test_rows_are_well_formed(name):
    row = {**MMSEG, **BACKBONES}[name]
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert re.fullmatch(r"https://[\w./-]+\.(pth|safetensors)", row["source"])
    assert row["license"] in ("Apache-2.0", "BSD-3-Clause", "not stated")
    assert 40 < row["size_mb"] < 300
    assert row["description"]
    digits = row["sha256"]
    if digits is None:
        # Verified by the digest of the first download.
        assert "/resolve/main/" in row["source"]
    elif len(digits) == 8:
        assert row["source"].endswith(f"-{digits}.pth")
    else:
        # A file that is known whole is asked for at its commit.
        assert re.search(r"/resolve/[0-9a-f]{40}/", row["source"])
        assert re.fullmatch("[0-9a-f]{64}", digits)
    if name in MMSEG:
        assert 40 < row["mean_iou"] < 90
        # The short name is the best of its depth and data set.
        short = "_".join(name.split("_")[:3])
        assert row["mean_iou"] <= DANET[short]["mean_iou"]
        assert f"_r{row['arguments']['backbone'][6:]}-d8_" in row["source"]
        assert row["arguments"]["align_corners"] == ("769" in row["source"])


@one_backend
@pytest.mark.parametrize("name", ["resnet50_ade20k", "resnet101_voc2012"])
def test_a_preset_s_network_is_that_of_its_file(name):
    # The tensors of the published files, listed by name and shape.
    model = DANet.from_preset(f"danet_{name}", load_weights=False)
    depth = re.search(r"\d+", name)[0]
    expected = {}
    for line in (KEYS / f"mmseg_r{depth}.txt").read_text().splitlines():
        if not line.startswith("#") and "num_batches_tracked" not in line:
            key, shape, _ = line.split("\t")
            expected[key] = ast.literal_eval(shape)
            if re.fullmatch(torch_names.CLASSIFIER_NAMES, key):
                expected[key] = (model.num_classes, *expected[key][1:])
    found = model.to_state_dict("mmseg")
    assert {key: value.shape for key, value in found.items()} == expected


@one_backend
@pytest.mark.parametrize(
    "arguments",
    # In one order, or processes that share the tests collect different ones.
    sorted(
        {json.dumps(row["arguments"], sort_keys=True) for row in MMSEG.values()}
    ),
)
def test_every_configuration_is_one_of_the_constructor(arguments):
    # Their sizes make no difference to what is accepted.
    small = json.loads(arguments)
    depth = int(small.pop("backbone").removeprefix("resnet"))
    backbone = DilatedResNet(
        depth, 8, small.pop("multi_grid"), small.pop("stem_filters"), filters=4
    )
    model = DANet(backbone=backbone, **small)
    assert sorted(model.output) == [
        "auxiliary",
        "channel",
        "fusion",
        "position",
    ]
    assert model.output["fusion"].shape[-1] == small["num_classes"]


# By name.


def npz(tensors):
    file = io.BytesIO()
    np.savez(file, **tensors)
    return file.getvalue()


def offer(site, monkeypatch, model, **changes):
    """Puts `model` on the site, as MMSegmentation's, and into the table."""
    content = npz(model.to_state_dict("mmseg"))
    site.files["/zoo/small.npz"] = content
    row = {
        "source": f"{site.address}/zoo/small.npz",
        "sha256": hashlib.sha256(content).hexdigest()[:8],
        "arguments": {
            "num_classes": 4,
            "auxiliary": True,
            "align_corners": False,
            "multi_grid": None,
            **changes,
        },
    }
    monkeypatch.setattr(DANet, "presets", {"small": row})


def test_a_name_is_fetched_and_converted_once(download_site, monkeypatch):
    published = small_danet(align_corners=False)
    offer(download_site, monkeypatch, published)
    model = DANet.from_preset("small")
    assert_same_weights(model, published)
    np.testing.assert_array_equal(logits(model), logits(published))
    assert model.get_config()["align_corners"] is False

    # From now on neither the site nor the checkpoint is needed.
    download_site.shutdown()
    (downloads.cache_folder() / "small" / "small.npz").unlink()
    assert_same_weights(DANet.from_preset("small"), published)
    assert len(download_site.asked) == 1


def test_num_classes_and_overrides(download_site, monkeypatch):
    published = small_danet(align_corners=False)
    offer(download_site, monkeypatch, published)
    with pytest.warns(UserWarning, match="4 classes but num_classes=7"):
        model = DANet.from_preset("small", num_classes=7)
    assert model.num_classes == 7
    assert_same_weights(model, published, but=torch_names.CLASSIFIERS)

    model = DANet.from_preset(
        "small", num_classes=4, auxiliary=False, output_stride=16, dropout=0.0
    )
    assert sorted(model.output) == ["channel", "fusion", "position"]
    assert model.features["stage4"].shape[-1] == 64
    assert model.get_config()["dropout"] == 0.0
    values = {weight.path: np.asarray(weight) for weight in published.weights}
    for weight in model.weights:
        np.testing.assert_array_equal(weight, values[weight.path])
    small = keras.Model(model.input, model.features["stage4"])
    assert small(np.zeros((1, 64, 32, 3))).shape == (1, 4, 2, 64)

    half = DANet.from_preset("small", dtype="mixed_bfloat16")
    assert half.get_layer("fusion_classifier").compute_dtype == "bfloat16"
    assert_same_weights(half, published)


@one_backend
def test_what_weights_decide_is_not_overridden(tmp_path):
    for override in ({"backbone": "resnet18"}, {"attention": ()}):
        with pytest.raises(ValueError, match="cannot be overridden"):
            DANet.from_preset("danet_resnet50_cityscapes", **override)
    with pytest.raises(ValueError, match="cannot be overridden"):
        DilatedResNet.from_preset("resnet50_imagenet", depth=18)
    small_danet(auxiliary=False).save_to_preset(tmp_path / "preset")
    with pytest.raises(ValueError, match="no weights for auxiliary_in/kernel"):
        DANet.from_preset(tmp_path / "preset", auxiliary=True)


@one_backend
def test_a_file_that_is_not_what_the_table_says(download_site, monkeypatch):
    offer(download_site, monkeypatch, small_danet(), num_classes=5)
    with pytest.raises(ValueError, match="num_classes=4 but the table has 5"):
        DANet.from_preset("small")
    home = downloads.cache_folder() / "small"
    assert not list(home.glob("preset*"))

    offer(download_site, monkeypatch, small_danet())
    DANet.presets["small"]["sha256"] = "0" * 8
    (home / "small.npz").unlink()
    with pytest.raises(ValueError, match="SHA-256 that begins with 00000000"):
        DANet.from_preset("small")


@one_backend
def test_a_row_that_changes_is_converted_again(download_site, monkeypatch):
    offer(download_site, monkeypatch, small_danet(align_corners=False))
    DANet.from_preset("small")
    DANet.presets["small"]["sha256"] = "0" * 8
    with pytest.raises(ValueError, match="SHA-256 that begins with 00000000"):
        DANet.from_preset("small")


@one_backend
@pytest.mark.filterwarnings("ignore:.*unverified")
def test_a_first_download_that_is_no_use_is_forgotten(
    download_site, monkeypatch, tmp_path
):
    # A page that asks for a password, say.
    model = small_danet(align_corners=False)
    offer(download_site, monkeypatch, model)
    DANet.presets["small"]["sha256"] = None
    content = download_site.files["/zoo/small.npz"]
    download_site.files["/zoo/small.npz"] = b"<html>"
    with pytest.raises(ValueError, match="is not read"):
        DANet.from_preset("small")
    download_site.files["/zoo/small.npz"] = content
    assert_same_weights(DANet.from_preset("small"), model)


@one_backend
@pytest.mark.parametrize(
    "changes",
    [{"num_classes": 3}, {"backbone": "resnet152"}, {"num_classes": "4"}],
)
def test_a_fetched_folder_that_does_not_fit_is_fetched_again(
    download_site, monkeypatch, folder, changes
):
    monkeypatch.setenv("HF_ENDPOINT", download_site.address)
    repaired = (folder / "config.json").read_bytes()
    edit(folder, **changes)
    download_site.publish(folder)
    with pytest.raises(ValueError, match="does not fit|must be an integer"):
        DANet.from_preset("hf://me/danet")
    # Its author mends it.
    (folder / "config.json").write_bytes(repaired)
    download_site.publish(folder)
    assert DANet.from_preset("hf://me/danet").num_classes == 4


@one_backend
def test_a_class_of_the_user_s_own(download_site, monkeypatch):
    class Mine(DANet):
        pass

    published = small_danet(align_corners=False)
    offer(download_site, monkeypatch, published)
    mine = Mine.from_preset("small")
    assert type(mine) is Mine
    assert_same_weights(mine, published)
    assert_same_weights(DANet.from_preset("small"), published)


@one_backend
def test_no_network_says_what_to_do(download_site, monkeypatch):
    offer(download_site, monkeypatch, small_danet())
    source = DANet.presets["small"]["source"]
    path = downloads.cache_folder() / "small" / "small.npz"
    content = download_site.files.pop("/zoo/small.npz")
    with pytest.raises(FileNotFoundError) as error:
        DANet.from_preset("small")
    for part in (source, f"copy it to {path}", "from_checkpoint"):
        assert part in str(error.value)
    path.write_bytes(content)
    assert DANet.from_preset("small").num_classes == 4


@pytest.fixture
def ours(monkeypatch, tmp_path):
    """A model of the project's own, in a checkout and in the table."""
    backbone = keras_backbone(
        "keras.applications.MobileNetV3Small", None, 16, num_stages=3
    )
    model = randomized(DANet(11, backbone, pixel_mean=0, pixel_std=1))
    monkeypatch.setattr(presets, "SAVED_MODELS", tmp_path / "saved_models")
    folder = tmp_path / "saved_models" / "small"
    model.save_to_preset(folder, kernel_dtype="float16")
    config = json.loads((folder / "config.json").read_text())["config"]
    # The table has no dtype: the policy is the user's.
    del config["dtype"]
    content = (folder / "model.weights.h5").read_bytes()
    row = {
        "source": "small.weights.h5",
        "sha256": hashlib.sha256(content).hexdigest(),
        "dataset": "camvid",
        "arguments": config,
    }
    monkeypatch.setattr(DANet, "presets", {"small": row})
    return folder, row


def test_a_model_of_ours_lies_in_the_checkout(ours):
    model = DANet.from_preset("small")
    assert_same_weights(model, DANet.from_preset(ours[0]))
    assert model.class_names[0] == "sky"
    untrained = DANet.from_preset("small", load_weights=False)
    assert untrained.output["fusion"].shape[-1] == 11


@one_backend
def test_a_model_of_ours_is_fetched_from_a_release(ours, download_site):
    folder, row = ours
    published = DANet.from_preset("small")
    content = (folder / "model.weights.h5").read_bytes()
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="saved_models/small of a"):
        DANet.from_preset("small")
    download_site.files["/v1/small.weights.h5"] = content
    row["source"] = f"{download_site.address}/v1/small.weights.h5"
    assert_same_weights(DANet.from_preset("small"), published)
    download_site.shutdown()
    with pytest.warns(UserWarning, match="11 classes but num_classes=3"):
        again = DANet.from_preset("small", num_classes=3)
    assert_same_weights(again, published, but=torch_names.CLASSIFIERS)


@one_backend
def test_an_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="mean 'danet_resnet50_voc2012'"):
        DANet.from_preset("danet_resnet50_voc")
    with pytest.raises(ValueError, match="'resnet50_imagenet' is a backbone"):
        DANet.from_preset("resnet50_imagenet")
    (tmp_path / "danet.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"DANet\.from_checkpoint"):
        DANet.from_preset(tmp_path / "danet.pth")


def test_a_pretrained_backbone_in_one_line(download_site, monkeypatch):
    trained = randomized(DilatedResNet(18))
    tensors = torch_names.to_tensors(
        {weight.path: np.asarray(weight) for weight in trained.weights},
        "official",
        deep_stem=False,
    )
    tensors = {
        name.removeprefix("pretrained."): value
        for name, value in tensors.items()
    }
    tensors["fc.weight"] = np.zeros((10, 512), "float32")
    tensors["fc.bias"] = np.zeros(10, "float32")
    download_site.files["/r18.npz"] = npz(tensors)
    row = {
        **DilatedResNet.presets["resnet18_imagenet"],
        "source": f"{download_site.address}/r18.npz",
        "sha256": None,
    }
    monkeypatch.setattr(DilatedResNet, "presets", {"resnet18_imagenet": row})
    with pytest.warns(UserWarning, match="unverified"):
        model = DANet(3, "resnet18_imagenet", output_stride=16)
    backbone = model.get_layer("resnet18")
    assert_same_weights(backbone, trained)
    images = np.random.default_rng(2).normal(size=(1, 64, 64, 3))
    assert backbone(images)["stage4"].shape == (1, 4, 4, 512)

    # Made again from its configuration it needs no network.
    download_site.shutdown()
    config = model.get_config()
    assert (config["backbone"], config["output_stride"]) == ("resnet18", 16)
    assert DANet.from_config(config).count_params() == model.count_params()
    with pytest.raises(ValueError, match="`stem_filters` are set by"):
        DANet(3, "resnet18_imagenet", stem_filters=(32, 32, 64))

    # The second time it lies converted in the cache.
    again = DilatedResNet.from_preset("resnet18_imagenet", multi_grid=(4, 8))
    assert_same_weights(again, trained)
    assert again.get_config()["multi_grid"] == (4, 8)


# The folder.


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
def test_a_folder_keeps_a_model(tmp_path, dtype):
    folder = tmp_path / "new" / "preset"
    model = small_danet(dtype=dtype, pixel_mean=(1, 2, 3), align_corners=False)
    model.get_layer("fusion_classifier").trainable = False
    model.save_to_preset(folder)
    assert sorted(os.listdir(folder)) == ["config.json", "model.weights.h5"]
    assert os.listdir(folder.parent) == ["preset"]
    again = DANet.from_preset(folder)
    assert presets._describe(again, True) == presets._describe(model, True)
    assert again.get_layer("fusion_classifier").trainable
    assert_same_weights(again, model)
    np.testing.assert_array_equal(logits(again), logits(model))

    backbone = randomized(DilatedResNet(18, filters=8, multi_grid=(2, 4)))
    backbone.save_to_preset(folder)
    again = DilatedResNet.from_preset(str(folder))
    assert again.get_config() == backbone.get_config()
    assert_same_weights(again, backbone)
    with pytest.raises(ValueError, match="describes 'DilatedResNet'"):
        DANet.from_preset(folder)
    model.save_to_preset(folder)
    with pytest.raises(ValueError, match=r"\.get_layer\('resnet50'\)"):
        DilatedResNet.from_preset(folder)


def test_a_named_backbone_stays_a_name(tmp_path):
    model = DANet(3, "resnet18", attention="channel", multi_grid=(2, 4))
    model.save_to_preset(tmp_path / "preset")
    text = (tmp_path / "preset" / "config.json").read_text()
    assert json.loads(text)["config"]["backbone"] == "resnet18"
    again = DANet.from_preset(tmp_path / "preset")
    assert again.get_config() == model.get_config()
    assert_same_weights(again, model)


@one_backend
def test_nothing_of_the_user_is_replaced(tmp_path, monkeypatch):
    model = small_danet()
    (tmp_path / "thesis.txt").write_text("my life")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        model.save_to_preset(tmp_path)
    with pytest.raises(FileExistsError, match="not a folder"):
        model.save_to_preset(tmp_path / "thesis.txt")
    assert os.listdir(tmp_path) == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(FileExistsError, match="working directory"):
        model.save_to_preset(".")


@one_backend
def test_a_failed_save_leaves_the_old_preset(tmp_path, monkeypatch):
    model = small_danet()
    model.save_to_preset(tmp_path / "preset")

    def fail(path):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(model, "save_weights", fail)
        with pytest.raises(OSError, match="full"):
            model.save_to_preset(tmp_path / "preset")
    assert os.listdir(tmp_path) == ["preset"]
    rename = os.rename

    def fail_to_place(source, target):
        if source.name == "new":
            raise OSError("the disk is gone")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail_to_place)
        with pytest.raises(OSError, match="gone"):
            model.save_to_preset(tmp_path / "preset")
    assert os.listdir(tmp_path) == ["preset"]
    assert_same_weights(DANet.from_preset(tmp_path / "preset"), model)


@one_backend
def test_other_backbones_are_saved_whole(tmp_path):
    network = keras.applications.MobileNet(
        input_shape=(None, None, 3), alpha=0.25, include_top=False, weights=None
    )
    model = DANet(3, dilate(network))
    with pytest.raises(ValueError, match=r"model\.save\('danet\.keras'\)"):
        model.save_to_preset(tmp_path / "preset")
    assert os.listdir(tmp_path) == []


def test_a_backbone_of_keras_is_kept_by_its_name(tmp_path):
    name, folder = "keras.applications.MobileNetV3Small", tmp_path / "preset"
    backbone = keras_backbone(name, output_stride=16, num_stages=3)
    model = randomized(DANet(3, backbone, pixel_mean=0, pixel_std=1))
    model.save_to_preset(folder)
    config = json.loads((folder / "config.json").read_text())["config"]
    assert config["backbone"] == {
        "class_name": name,
        "config": {"output_stride": 16, "num_stages": 3},
    }
    again = DANet.from_preset(folder)
    assert_same_weights(again, model)
    np.testing.assert_array_equal(logits(again), logits(model))
    assert_same_weights(keras.saving.load_model(folder), model)
    finer = DANet.from_preset(folder, output_stride=8, dtype="mixed_bfloat16")
    assert_same_weights(finer, model)
    small = keras.Model(finer.input, finer.features["stage3"])
    assert small(np.zeros((1, 64, 32, 3))).shape == (1, 8, 4, 288)
    assert (
        finer.get_layer("MobileNetV3Small").get_layer("conv").compute_dtype
        == "bfloat16"
    )


def test_kernels_can_be_kept_in_half(tmp_path):
    model = small_danet()
    for kind, options in ("whole", {}), ("half", {"kernel_dtype": "float16"}):
        model.save_to_preset(tmp_path / kind, **options)
    whole, half = (
        (tmp_path / kind / "model.weights.h5").stat().st_size
        for kind in ("whole", "half")
    )
    assert half < 0.65 * whole
    again = DANet.from_preset(tmp_path / "half")
    for mine, theirs in zip(again.weights, model.weights, strict=True):
        expected = np.asarray(theirs)
        assert mine.dtype == "float32"
        if expected.ndim > 1:
            expected = expected.astype("float16").astype("float32")
        np.testing.assert_array_equal(np.asarray(mine), expected)


@one_backend
def test_a_kernel_that_half_cannot_hold(tmp_path):
    model = small_danet()
    kernel = model.get_layer("fusion_classifier").kernel
    kernel.assign(np.full(kernel.shape, 1e5))
    with pytest.raises(ValueError, match="above 65504"):
        model.save_to_preset(tmp_path / "preset", kernel_dtype="float16")
    with pytest.raises(ValueError, match="`kernel_dtype` must be"):
        model.save_to_preset(tmp_path / "preset", kernel_dtype="int8")
    assert os.listdir(tmp_path) == []


@one_backend
def test_a_folder_on_the_hub(download_site, monkeypatch, tmp_path):
    model = small_danet()
    model.save_to_preset(tmp_path / "preset")
    download_site.publish(tmp_path / "preset", revision="v1.0")
    monkeypatch.setenv("HF_ENDPOINT", download_site.address)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    again = DANet.from_preset("hf://me/danet@v1.0")
    assert_same_weights(again, model)
    assert "Bearer hf_mine" in download_site.tokens
    asked = len(download_site.asked)
    DANet.from_preset(f"hf://me/danet@{download_site.commit}")
    with pytest.raises(OSError, match="Repository Not Found"):
        DANet.from_preset("hf://me/other")
    # Without a network what is there is taken.
    download_site.shutdown()
    download_site.server_close()
    assert_same_weights(DANet.from_preset("hf://me/danet@v1.0"), model)
    assert len(download_site.asked) == asked + 2
    for handle in ("hf://me", "hf://../x", "hf://a/b/c", "hf://a/b@../c"):
        with pytest.raises(ValueError, match="Expected 'hf://user/repo'"):
            DANet.from_preset(handle)


@one_backend
def test_the_hub_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        DANet.from_preset("hf://me/danet")


@one_backend
def test_what_is_too_large_on_the_hub_is_not_fetched(
    download_site, monkeypatch, folder
):
    (folder / "config.json").write_text(" " * 2**20 + "{}")
    download_site.publish(folder)
    monkeypatch.setenv("HF_ENDPOINT", download_site.address)
    with pytest.raises(ValueError, match="has 1048578 bytes"):
        DANet.from_preset("hf://me/danet")
    assert download_site.asked == []


# Folders of strangers.


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "good"
    small_danet().save_to_preset(folder)
    return folder


@pytest.fixture
def folder(good_folder, tmp_path):
    return shutil.copytree(good_folder, tmp_path / "preset")


def edit(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["config"].update(changes)
    path.write_text(json.dumps(content))


def assert_refused(folder, reason):
    with pytest.raises((ValueError, FileNotFoundError), match=reason) as error:
        DANet.from_preset(folder)
    assert str(folder) in str(error.value)


@one_backend
@pytest.mark.parametrize("file", ["config.json", "model.weights.h5"])
def test_links_are_refused(folder, file, tmp_path):
    os.rename(folder / file, tmp_path / "elsewhere")
    assert_refused(folder, f"no .*{file}")
    (folder / file).symlink_to(tmp_path / "elsewhere")
    assert_refused(folder, f"{file} is a symbolic link")


@one_backend
@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"run": "os.system"}, r"sets \['run'\]"),
        ({"backbone": "resnet18_imagenet"}, "describes None"),
        (
            {"backbone": {"class_name": "Lambda", "config": {}}},
            "describes 'Lambda'",
        ),
        (
            {
                "backbone": {
                    "class_name": "DilatedResNet",
                    "config": {"depth": 18, "filters": 10**6},
                }
            },
            "sets filters=1000000",
        ),
        (
            {
                "backbone": {
                    "class_name": "keras.applications.ResNet50",
                    "config": {"weights": "imagenet"},
                }
            },
            r"is made with `output_stride` and .*Received: \['weights'\]",
        ),
        (
            {"backbone": {"class_name": "keras.applications.ResNet50"}},
            "is made with `output_stride` and .*Received: None",
        ),
        ({"stem_filters": [10**6] * 3}, r"sets stem_filters=\[1000000"),
        ({"dtype": {"module": "os"}}, "sets dtype="),
        ({"dtype": "int8_from_float32"}, "sets dtype="),
        ({"multi_grid": [10**30]}, r"sets multi_grid=\[1000"),
        ({"pixel_mean": None}, "No DANet can be made"),
        ({"pixel_std": 1e300}, "No DANet can be made.*`pixel_std` must be"),
        ({"pixel_mean": 10**400}, "No DANet can be made.*`pixel_mean` must"),
        ({"attention": [["position"]]}, "No DANet can be made"),
        ({"num_classes": 5}, "does not fit the config.json"),
        ({"num_classes": 3}, "does not fit the config.json"),
        ({"backbone": "resnet152"}, "holds 2[0-9]{5} numbers, and such a"),
        ({"num_classes": "5"}, "`num_classes` must be an integer"),
        (
            {
                "backbone": {
                    "class_name": "DilatedResNet",
                    "config": {"depth": [18]},
                }
            },
            "No DANet can be made",
        ),
    ],
)
def test_other_configurations_are_refused(folder, changes, reason):
    edit(folder, **changes)
    assert_refused(folder, reason)


@one_backend
@pytest.mark.parametrize(
    "text, reason",
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "describes None"),
        (" " * 2**20 + "{}", "has 1048578 bytes"),
        ('{"class_name": "DANet"}', "describes 'DANet'"),
    ],
)
def test_other_texts_are_refused(folder, text, reason):
    (folder / "config.json").write_text(text)
    assert_refused(folder, reason)


def harmful(file, kind, tmp_path):
    """Puts something that no `save_weights` writes into an HDF5 file."""
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as secret:
        secret["data"] = np.zeros(3)
    if kind == "external link":
        file["link"] = h5py.ExternalLink(str(other), "data")
    elif kind == "soft link":
        file["link"] = h5py.SoftLink("/layers")
    elif kind == "virtual":
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource(str(other), "data", (3,))
        file.create_virtual_dataset("data", layout)
    elif kind == "external data":
        file.create_dataset("data", (3,), "f4", external=[(str(other), 0, 12)])
    elif kind == "bomb":
        # A petabyte of nothing.
        file.create_dataset("data", (2**38, 2**10), "f4", chunks=(1024, 1024))
    elif kind == "text":
        file["data"] = ["a", "b"]
    elif kind == "circle":
        file["layers/circle"] = file["layers"]


@one_backend
@pytest.mark.parametrize(
    "kind, reason",
    [
        ("external link", "links elsewhere"),
        ("soft link", "links elsewhere"),
        ("virtual", "is stored elsewhere"),
        ("external data", "is stored elsewhere"),
        ("bomb", "claim to unpack"),
        ("text", "holds no numbers"),
        ("circle", "tensors"),
    ],
)
def test_harmful_weights_are_refused(folder, kind, reason, tmp_path):
    with h5py.File(folder / "model.weights.h5", "a") as file:
        harmful(file, kind, tmp_path)
    assert_refused(folder, reason)


@one_backend
def test_a_backbone_larger_than_its_weights_is_refused(folder):
    DilatedResNet(18, filters=8).save_to_preset(folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("18,", "152,"))
    with pytest.raises(ValueError, match="numbers, and such a network has"):
        DilatedResNet.from_preset(folder)


@one_backend
def test_damaged_weights_are_refused(folder):
    path = folder / "model.weights.h5"
    content = path.read_bytes()
    for damaged in (content[:-1000], b"", b"no HDF5"):
        path.write_bytes(damaged)
        assert_refused(folder, "is not read")
    DilatedResNet(18, filters=8).save_weights(path)
    assert_refused(folder, "does not fit")
