"""Every recipe builds its network and takes a step on its data's layout."""

import keras
import numpy as np
import pytest
from conftest import ROOT
from conftest import one_backend
from layouts import LAYOUTS
from layouts import lay_out
from PIL import Image

from keras_danet import runs
from keras_danet.data.datasets import INVALID_LABEL
from keras_danet.data.datasets import get_dataset
from keras_danet.data.scenes import write_scenes
from keras_danet.recipe import load_recipe
from keras_danet.trainer import build
from keras_danet.trainer import loop

pytestmark = one_backend

RECIPES = sorted((ROOT / "training").glob("*.py"))
# Of each family one; the others differ in numbers only.
QUICK = ("camvid_danet_resnet18", "voc2012_danet_resnet50_mmseg")

# Numbers of trained parameters at 19 classes, counted in PyTorch: the authors'
# DANet (with the plain stem) and MMSegmentation's, and one class of them.
OFFICIAL = {50: 47_462_651, 101: 66_454_779}
MMSEGMENTATION = {50: 49_846_574, 101: 68_838_702}
PER_CLASS = 512 + 1
PER_CLASS_OF_AUXILIARY = 256 + 1


def without_download(path):
    return load_recipe(path).replace(
        {"backbone_weights": None, "start_from": None}
    )


def narrow(path):
    """The recipe with a backbone of few channels; Keras's have none."""
    config = without_download(path)
    if not config.model.is_own:
        config = config.replace({"backbone": "resnet50", "num_stages": 4})
    return config.replace({"filters": 4})


def expected_outputs(config):
    both = len(config.model.attention) == 2
    return {
        "fusion",
        *(config.model.attention if both else ()),
        *(["auxiliary"] if config.model.auxiliary else []),
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_narrow_network_is_built(path):
    config = narrow(path)
    num_classes = get_dataset(config.dataset).num_classes
    model = build.build_model(config, num_classes)
    assert model.num_classes == num_classes
    assert set(model.output) == expected_outputs(config)
    last = [
        layer.dilation_rate[0]
        for layer in model.get_layer(f"resnet{config.model.depth}").layers
        if layer.name.startswith("stage4_block")
        and getattr(layer, "kernel_size", None) == (3, 3)
    ]
    if config.model.depth > 34 and config.model.output_stride == 8:
        # The first block of a dilated stage has half of its rate.
        assert last == list(config.model.multi_grid or (2, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        path
        for path in RECIPES
        # Nobody counts Keras's ResNet-50 with its biases.
        if "resnet18" not in path.stem and load_recipe(path).model.is_own
    ],
    ids=lambda path: path.stem,
)
def test_the_whole_network_has_as_many_parameters_as_published(path):
    config = without_download(path)
    num_classes = get_dataset(config.dataset).num_classes
    model = build.build_model(config, num_classes)
    counted = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    if len(config.model.attention) < 2:
        # Nobody published a count; the branch that is left out is gone.
        assert counted < OFFICIAL[config.model.depth] - 512 * 2048 * 9
        return
    counts, per_class = OFFICIAL, 3 * PER_CLASS
    if config.model.auxiliary:
        counts, per_class = MMSEGMENTATION, per_class + PER_CLASS_OF_AUXILIARY
    assert counted == counts[config.model.depth] + per_class * (
        num_classes - 19
    )


def fabricate(root, config):
    """Pictures and labels of a recipe's splits in its data's layout."""
    if config.dataset == "scenes":
        write_scenes(root, splits={"train": 2, "val": 1}, size=(80, 112))
        return
    dataset = get_dataset(config.dataset)
    raw = [
        value
        for value, train_id in enumerate(dataset.label_map)
        if train_id != INVALID_LABEL
    ]
    random = np.random.default_rng(0)
    for split in {config.train_split, config.val_split}:
        (name,) = (
            name
            for name, layout in LAYOUTS.items()
            if name.split()[0] == config.dataset and layout[1] == split
        )
        for image, label in lay_out(root, name)[2]:
            pixels = random.integers(0, 256, (80, 112, 3), np.uint8)
            Image.fromarray(pixels).save(image)
            blocks = random.choice(raw, (10, 14)).astype("uint8")
            Image.fromarray(np.kron(blocks, np.ones((8, 8), "uint8"))).save(
                label
            )


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.stem,
            marks=[] if path.stem in QUICK else pytest.mark.slow,
        )
        for path in RECIPES
    ],
)
def test_a_recipe_takes_a_step_on_data_of_its_layout(path, tmp_path):
    root = tmp_path / "data"
    config = narrow(path).replace(
        {
            "data_root": str(root),
            "crop_size": (64, 64),
            "batch_size": 2,
            "epochs": 1,
            "jit_compile": keras.backend.backend() == "jax",
        }
    )
    fabricate(root, config)
    history = loop.train(config, tmp_path / "run", verbose=0)
    assert np.isfinite(history["loss"]).tolist() == [True]
    assert 0 <= history["val_mean_iou"][0] <= 1
    model = runs.open_model(tmp_path / "run")[0]
    assert set(model.output) == expected_outputs(config)
    # They start at 0: each output had a loss, and the optimizer a step.
    for name in model.output:
        bias = model.get_layer(f"{name}_classifier").bias
        assert keras.ops.any(bias != 0), name
