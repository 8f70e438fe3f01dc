"""Backbones of keras.applications by name: their pixels, weights and runs."""

import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from conftest import SHARED
from conftest import one_backend
from conftest import slow_but_on_torch
from keras import layers

from keras_danet import DANet
from keras_danet import freeze
from keras_danet import runs
from keras_danet.cli import main
from keras_danet.data.scenes import write_scenes
from keras_danet.models.freezing import backbone_of
from keras_danet.models.keras_backbones import describe
from keras_danet.models.keras_backbones import keras_backbone
from keras_danet.models.keras_backbones import pixel_statistics
from keras_danet.recipe import TrainConfig
from keras_danet.trainer import build
from keras_danet.trainer import loop
from keras_danet.weights import keras_applications
from keras_danet.weights.keras_applications import APPLICATIONS

NAME = "keras.applications.Tiny"
SIZE = (128, 96)


def make_tiny(include_top, weights, filters=32):
    """A function as those of keras.applications are, with five strides."""
    x = inputs = keras.Input((None, None, 3))
    for number in range(5):
        x = layers.Conv2D(filters, 3, 2, "same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"conv{number}_bn")(x)
        x = layers.ReLU(name=f"conv{number}_relu")(x)
    model = keras.Model(inputs, x, name="tiny")
    if weights == "imagenet":
        model.get_layer("conv0").kernel.assign(np.full((3, 3, 3, 32), 2.0))
    assert not include_top
    return model


@pytest.fixture
def tiny(monkeypatch):
    """Keras with one more application, trained on blue, green, red."""
    monkeypatch.setattr(keras.applications, "Tiny", make_tiny, raising=False)
    monkeypatch.setitem(APPLICATIONS, NAME, APPLICATIONS[RESNET])


RESNET = "keras.applications.ResNet50"


def config(**settings):
    return TrainConfig(
        dataset="scenes",
        epochs=2,
        batch_size=2,
        model={"backbone": NAME, "output_stride": 16, "dropout": 0.0},
        augmentation={"crop_size": (32, 32)},
        jit_compile=keras.backend.backend() == "jax",
    ).replace(settings)


def random_images():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (2, *SIZE, 3)).astype("float32")


def seen_by(model, images):
    """The last features of a DANet's backbone, of RGB images in 0-255."""
    features = keras.Model(model.input, model.features["stage4"])
    return keras.ops.convert_to_numpy(features(images, training=False))


def shuffled(original):
    rng = np.random.default_rng(1)
    for weight in original.weights:
        values = rng.uniform(0.5, 1.5, weight.shape)
        if len(weight.shape) == 4:
            values = rng.normal(
                0, np.prod(weight.shape[:3]) ** -0.5, values.shape
            )
        weight.assign(values)
    return original


def saved(folder, ending, **options):
    original = shuffled(make_tiny(False, None, **options))
    path = folder / f"tiny{ending}"
    save = original.save if ending == ".keras" else original.save_weights
    save(path)
    return original, str(path)


# Numbers from Keras's own `preprocess_input`


@one_backend
@pytest.mark.parametrize("name", APPLICATIONS)
def test_pixels_are_those_of_preprocess_input(name):
    make = getattr(keras.applications, name.rpartition(".")[2])
    module = importlib.import_module(make.__module__)
    images = random_images()
    expected = module.preprocess_input(images.copy())
    if APPLICATIONS[name].bgr:
        expected = expected[..., ::-1]
    given = pixel_statistics(name)
    found = (images - np.float32(given["pixel_mean"])) / np.float32(
        given["pixel_std"]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@one_backend
def test_every_application_is_in_the_table():
    there = {
        f"keras.applications.{name}"
        for name, value in vars(keras.applications).items()
        if callable(value)
    }
    assert set(APPLICATIONS) == there


@one_backend
@pytest.mark.parametrize("name", [RESNET, "keras.applications.MobileNetV2"])
def test_a_network_sees_what_keras_shows_it(name, tmp_path):
    make = getattr(keras.applications, name.rpartition(".")[2])
    original = shuffled(make(include_top=False, weights=None))
    original.save_weights(tmp_path / "its.weights.h5")
    module = importlib.import_module(make.__module__)
    images = random_images()
    expected = keras.ops.convert_to_numpy(
        original(module.preprocess_input(images.copy()), training=False)
    )
    backbone = keras_backbone(name, str(tmp_path / "its.weights.h5"), 32)
    model = DANet(3, backbone, attention=(), **pixel_statistics(name))
    # Sums of many numbers of pixels' size, in another order.
    np.testing.assert_allclose(
        seen_by(model, images), expected, atol=1e-3 * expected.std()
    )


@one_backend
def test_the_shared_weights_are_loaded():
    path = SHARED / "weights" / "resnet50_imagenet_notop.weights.h5"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    original = keras.applications.ResNet50(include_top=False, weights=None)
    original.load_weights(path)
    backbone = keras_backbone(RESNET, str(path), 16)
    for ours, theirs in zip(backbone.weights, original.weights, strict=True):
        expected = keras.ops.convert_to_numpy(theirs)
        if theirs.path == "conv1_conv/kernel":
            expected = expected[:, :, ::-1]
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), expected
        )


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_weights_of_bgr_networks_see_rgb(tiny, tmp_path, ending):
    original, path = saved(tmp_path, ending)
    model = build.build_model(
        config(backbone_weights=path, output_stride=32), 3
    )
    images = random_images()
    # What keras.applications.resnet.preprocess_input does, by hand.
    turned = images[..., ::-1] - np.float32([103.939, 116.779, 123.68])
    expected = keras.ops.convert_to_numpy(original(turned, training=False))
    assert expected.std() > 0.1
    np.testing.assert_allclose(
        seen_by(model, images), expected, atol=1e-4 * expected.std()
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )


@one_backend
def test_imagenet_is_what_keras_downloads(tiny):
    model = build.build_model(config(backbone_weights="imagenet"), 3)
    kernel = backbone_of(model).get_layer("conv0").kernel
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel), 2.0)
    assert config(backbone_weights="imagenet").model.own().backbone == NAME


@one_backend
def test_without_a_network_there_is_a_sentence(tiny, monkeypatch):
    def fails(**_):
        raise Exception("URL fetch failure on https://storage: None")

    monkeypatch.setattr(keras.applications, "Tiny", fails, raising=False)
    with pytest.raises(ConnectionError, match=r"weights of .*Tiny \(URL fetch"):
        build.build_model(config(backbone_weights="imagenet"), 3)


def test_the_multiplier_is_of_the_head_alone(tiny):
    model = build.build_model(config(head_multiplier=10.0), 3)
    inside = {id(v) for v in backbone_of(model).trainable_variables}
    optimizer = build.build_optimizer(model, config(head_multiplier=10.0), 9)
    optimizer.build(model.trainable_variables)
    before = [keras.ops.copy(v) for v in model.trainable_variables]
    optimizer.weight_decay = 0.0
    optimizer.apply(
        [keras.ops.ones(v.shape) for v in before], model.trainable_variables
    )
    steps = {True: [], False: []}
    for old, new in zip(before, model.trainable_variables, strict=True):
        step = keras.ops.convert_to_numpy(old - new)
        steps[id(new) in inside].append(step.max())
    np.testing.assert_allclose(steps[True], 0.01, rtol=0.05)
    np.testing.assert_allclose(steps[False], 0.1, rtol=0.05)


@one_backend
@pytest.mark.parametrize(
    "part", ["backbone", "batch_norm", "backbone_batch_norm"]
)
def test_parts_are_frozen_as_in_our_own(tiny, part):
    model = build.build_model(config(freeze=part), 3)
    inner = {v.path for v in backbone_of(model).trainable_variables}
    expected = {
        "backbone": set(),
        "batch_norm": {f"conv{n}/{w}" for n in range(5) for w in KERNELS},
        "backbone_batch_norm": {
            f"conv{n}/{w}" for n in range(5) for w in KERNELS
        },
    }
    assert inner == expected[part]
    same = freeze(build.build_model(config(), 3), part)
    assert [v.path for v in same.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]


KERNELS = ("kernel", "bias")


@one_backend
def test_bfloat16_reaches_every_layer(tiny):
    model = build.build_model(config(dtype="mixed_bfloat16"), 3)
    inside = [
        layer.compute_dtype
        for layer in backbone_of(model).layers
        if not isinstance(layer, layers.InputLayer)
    ]
    assert set(inside) == {"bfloat16"}


# What a name may be


@one_backend
@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"backbone": "ResNet50"},
            "Did you mean 'keras.applications.ResNet50'",
        ),
        (
            {"backbone": "keras.applications.ConvNextTiny"},
            "Did you mean 'keras.applications.ConvNeXtTiny'",
        ),
        ({"backbone": "keras.applications.NASNetMobile"}, "cannot be dilated"),
        (
            {"backbone": "keras.applications.VGG16", "output_stride": 8},
            r"one of \[32\]. Received: output_stride=8",
        ),
        (
            {"backbone": RESNET, "num_stages": 3, "output_stride": 32},
            "Three stages of keras.applications.ResNet50 end at a stride of 16",
        ),
        ({"num_stages": 2}, "`num_stages` must be one of 3, 4. Received"),
        ({"depth": 7}, "`depth` must be one of 18, 34, 50, 101, 152. Received"),
        ({"output_stride": 4}, "`output_stride` must be one of 8, 16, 32"),
        ({"num_stages": 3}, "Our own ResNet always has four stages"),
        (
            {"backbone": "resnet18", "num_stages": 3},
            "Our own ResNet always has four stages",
        ),
        ({"backbone": RESNET, "depth": 101}, "`depth` does not go with"),
        ({"backbone": RESNET, "filters": 32}, "`filters` does not go with"),
        ({"backbone": RESNET, "multi_grid": (1, 2)}, "`multi_grid` does not"),
        ({"backbone": RESNET, "stem_filters": (8, 8, 8)}, "`stem_filters`"),
        ({"backbone": "resnet18", "depth": 34}, "`depth` does not go with"),
        (
            {"backbone": RESNET, "backbone_weights": "resnet50_imagenet"},
            "Presets and PyTorch's files are for our own",
        ),
        (
            {"backbone": RESNET, "backbone_weights": "imagnet"},
            "Did you mean 'imagenet'",
        ),
    ],
)
def test_bad_names_are_refused(tiny, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**{"backbone": None, **settings})


@one_backend
def test_the_last_stage_can_be_left_out(tiny, tmp_path):
    model = build.build_model(config(num_stages=3), 3)
    assert sorted(backbone_of(model).output)[-1] == "stage3"
    path = str(tmp_path / "model.keras")
    model.save(path)
    start = {"start_from": path}
    same = build.build_model(config(**start, num_stages=3), 3)
    assert same.count_params() == model.count_params()
    with pytest.raises(ValueError, match="num_stages=3 .received 4."):
        build.build_model(config(**start), 3)


@one_backend
def test_our_own_are_called_by_name_as_well(tiny):
    named = config(backbone="resnet18", filters=8, backbone_weights=None)
    model = build.build_model(named, 3)
    assert backbone_of(model).get_config()["depth"] == 18
    imagenet = config(backbone="resnet34", backbone_weights="imagenet").model
    assert imagenet.own().backbone_weights == "resnet34_imagenet"
    assert imagenet.own().depth == 34
    assert config(attention="none").model.attention == ()
    both = config(attention="both").model.attention
    assert both == ("position", "channel")


@one_backend
def test_weights_of_another_network_are_refused(tiny, tmp_path):
    wide = saved(tmp_path, ".keras", filters=40)[1]
    narrow = saved(tmp_path, ".weights.h5", filters=8)[1]
    # With enough numbers, but in other shapes: Keras warns of each layer.
    (tmp_path / "other").mkdir()
    other = saved(tmp_path / "other", ".weights.h5", filters=40)[1]
    broken = tmp_path / "broken.weights.h5"
    broken.write_bytes(b"no HDF5")
    for path, message in (
        (wide, f"not those of {NAME}.*a model 'tiny' with 30 weights"),
        (narrow, "the file has .* numbers, and the network "),
        (str(broken), f"not those of {NAME}"),
        (other, f"not those of {NAME}.*could not be loaded"),
    ):
        with pytest.raises(ValueError, match=message) as told:
            build.build_model(config(backbone_weights=path), 3)
        assert len(str(told.value)) < 600 and "\n" not in str(told.value)
    with pytest.raises(FileNotFoundError, match="There is no none.keras"):
        build.build_model(config(backbone_weights="none.keras"), 3)


# A run


@slow_but_on_torch
def test_a_run_is_resumed_measured_and_fine_tuned(tiny, tmp_path, capsys):
    data = write_scenes(
        tmp_path / "data", {"train": 4, "val": 2}, size=(32, 48)
    )
    _, path = saved(tmp_path, ".weights.h5")
    given = config(backbone_weights=path, data_root=data)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("as if killed")

    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="as if killed"):
        loop.train(given, run, verbose=0, callbacks=[Stop()])
    # A checkpoint brings the weights, and the file is not needed any more.
    (tmp_path / "tiny.weights.h5").rename(tmp_path / "moved.weights.h5")
    loop.train(given, run, verbose=0, resume=True)
    (tmp_path / "moved.weights.h5").rename(tmp_path / "tiny.weights.h5")
    loop.train(given, tmp_path / "unbroken", verbose=0)
    broken, whole = (
        runs.open_model(folder)[0] for folder in (run, tmp_path / "unbroken")
    )
    for one, other in zip(broken.weights, whole.weights, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(one),
            keras.ops.convert_to_numpy(other),
            atol=1e-6,
        )
    assert runs.read_run_config(run) == given
    assert main(["evaluate", str(run)]) == 0
    assert "mean IoU" in capsys.readouterr().out
    finer = given.replace({"start_from": str(run), "backbone_weights": None})
    model = build.build_model(finer, 8)
    assert backbone_of(model).name == "Tiny"
    coarse = build.build_model(finer.replace({"output_stride": 32}), 8)
    assert describe(backbone_of(coarse))["config"]["output_stride"] == 32
    for settings, message in (
        ({"num_stages": 3}, r"num_stages=4 \(received 3\)"),
        ({"backbone": None}, r"backbone='keras.applications.Tiny' \(received"),
    ):
        with pytest.raises(ValueError, match=message):
            build.build_model(finer.replace(settings), 8)
    _in_a_fresh_process(run / "model.keras", data)
    if keras.backend.backend() == "tensorflow":
        arguments = ["export", str(run), "--format", "saved_model"]
        assert main(arguments) == 0
        assert "agrees with the model" in capsys.readouterr().out


def _in_a_fresh_process(path, data):
    """There Keras has no such application: the file holds the network."""
    image = next((data / "val").glob("*.png"))
    code = (
        "import sys, keras_danet\n"
        "print(keras_danet.Predictor(sys.argv[1])(sys.argv[2]).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(image)],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "(32, 48)", done.stderr


# Documents


@one_backend
def test_the_table_of_the_documents_is_the_code_s():
    page = (ROOT / "docs" / "backbones.md").read_text()
    for names, row in keras_applications.ROWS:
        strides = ", ".join(map(str, row.strides)) or "refused"
        cells = [", ".join(names), row.pixel_mean, row.pixel_std]
        order = "BGR" if row.bgr else "RGB"
        line = f"| {' | '.join(map(str, [*cells, order, strides]))} |"
        assert line in page.splitlines(), line


@one_backend
def test_a_named_backbone_at_another_output_stride(tiny):
    source = DANet(3, keras_backbone(NAME, output_stride=16, num_stages=3))
    new = DANet.from_model(source, output_stride=8, dtype="float32")
    assert describe(backbone_of(new))["config"] == {
        "output_stride": 8,
        "num_stages": 3,
    }
    for old, received in zip(source.weights, new.weights, strict=True):
        np.testing.assert_array_equal(
            *map(keras.ops.convert_to_numpy, (old, received))
        )
