"""Whatever names a model, everywhere a model is asked for."""

import json
import shutil
import zipfile

import keras
import numpy as np
import pytest
from conftest import ROOT
from conftest import one_backend

import keras_danet
from keras_danet import runs
from keras_danet.arguments import did_you_mean
from keras_danet.cli import main
from keras_danet.data.datasets import get_dataset
from keras_danet.data.scenes import write_scenes
from keras_danet.trainer.build import build_backbone
from keras_danet.trainer.build import build_model
from keras_danet.weights import sources

FIXTURE = ROOT / "tests" / "fixtures"
IMAGE = (np.arange(37 * 51 * 3).reshape(37, 51, 3) % 256).astype("uint8")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run and a preset of before, and the model in every other form."""
    folder = tmp_path_factory.mktemp("saved")
    with zipfile.ZipFile(FIXTURE / "saved_models_of_2026-11.zip") as archive:
        archive.extractall(folder)
    path = folder / "run/model.keras"
    model = keras.saving.load_model(path, compile=False)
    model.class_names = get_dataset("scenes").class_names
    model.palette = get_dataset("scenes").palette
    model.save(folder / "new.keras")
    model.save(folder / "unzipped", zipped=False)
    model.save_to_preset(folder / "new_preset")
    return folder


FORMS = ["run", "run/model.keras", "preset", "new.keras", "unzipped"]
FORMS = [*FORMS, "new_preset"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_everywhere(form, saved):
    # Of torch on a CPU, at every sixth pixel; in float32 backends agree to
    # some 1e-5 of logits that deviate by 9.
    expected = np.load(saved / "logits.npy")
    source = str(saved / form)
    predictor = keras_danet.Predictor(source, size=None)
    models = [
        predictor.model,
        keras_danet.DANet.from_preset(source),
        keras_danet.DANet.from_model(saved / form),
    ]
    if form not in ("run", "run/model.keras", "new.keras", "preset"):
        models.append(keras.saving.load_model(source))
    for model in models:
        received = model.predict(IMAGE[None], verbose=0)[0, ::6, ::6]
        np.testing.assert_allclose(received, expected, atol=2e-3)
    backbone = (
        keras_danet.DilatedResNet.from_preset(source)
        if ("preset" not in form and form != "unzipped")
        else None
    )
    if backbone:
        np.testing.assert_array_equal(
            backbone.get_weights()[0],
            models[0].get_layer("resnet18").get_weights()[0],
        )
    names = predictor.class_names
    told = form in ("run", "new.keras", "unzipped", "new_preset")
    assert names[0] == (
        get_dataset("scenes").class_names[0] if told else "class 0"
    )
    assert len(predictor.palette) == len(names) == 8


def test_the_test_size_stays_with_the_model(saved, tmp_path):
    """Else the number that is reported is not the one that a user gets."""
    model = keras_danet.DANet.from_model(saved / "new.keras", test_size=24)
    logits = keras_danet.Predictor(model).logits(IMAGE)
    at_24 = keras_danet.Predictor(saved / "new.keras", size=24).logits(IMAGE)
    np.testing.assert_allclose(logits, at_24, atol=1e-5)
    whole = keras_danet.Predictor(saved / "new.keras").logits(IMAGE)
    assert np.abs(logits - whole).max() > 1
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset")
    for source in (
        tmp_path / "model.keras",
        tmp_path / "preset",
        keras_danet.DANet.from_model(model),
        keras_danet.optimize_for_inference(model),
    ):
        predictor = keras_danet.Predictor(source)
        assert predictor.size == (24, None)
        assert predictor.class_names == model.class_names
        np.testing.assert_allclose(predictor.logits(IMAGE), logits, atol=1e-3)
    model.test_size = None
    assert keras_danet.Predictor(model).size == (None, None)
    with pytest.raises(ValueError, match="longer side"):
        model.test_size = "image"


def test_class_names_stay_with_the_classes(saved):
    scenes = get_dataset("scenes")
    model = keras_danet.DANet.from_model(saved / "new.keras", dropout=0.0)
    assert model.class_names == scenes.class_names
    assert model.palette == scenes.palette
    with pytest.warns(UserWarning, match="newly initialized"):
        other = keras_danet.DANet.from_preset(saved / "new_preset", 3)
    assert other.class_names is None and other.palette is None
    with pytest.raises(ValueError, match="8 different strings"):
        model.class_names = ["road"] * 8
    with pytest.raises(ValueError, match="8 colors"):
        model.palette = [(0, 0, 256)] * 8


def test_a_preset_by_name_knows_its_classes():
    model = keras_danet.DANet.from_preset(
        "danet_resnet50_voc2012", load_weights=False
    )
    assert model.class_names == get_dataset("voc2012").class_names
    # Of 500x375 pixels, as the score of the preset was measured.
    assert keras_danet.Predictor(model).network_size(375, 500) == (512, 683)


def test_what_names_no_model_is_told_apart(saved, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(saved / "run/config.json", begun)
    for name in ("a.pth", "b.h5", "c.weights.h5", "d.tflite"):
        (tmp_path / name).write_bytes(b"?")
    for source, said in (
        (begun, "has no model.keras yet"),
        (tmp_path, "not a run folder, nor a preset's"),
        (tmp_path / "a.pth", "keras-danet convert"),
        (tmp_path / "b.h5", "not a .keras file"),
        (tmp_path / "c.weights.h5", "holds weights but no network"),
        (tmp_path / "d.tflite", "not a .keras file"),
        (tmp_path / "gone.keras", "There is no"),
        ("danet_resnet50_citscapes", "mean 'danet_resnet50_cityscapes'"),
        ("DANet-ResNet50-ADE20k", "mean 'danet_resnet50_ade20k'"),
        ("nothing", "No file, folder or preset named 'nothing'. Expected"),
    ):
        for ask in (
            sources.find,
            keras_danet.Predictor,
            keras_danet.DANet.from_preset,
            keras_danet.DANet.from_model,
            keras_danet.DilatedResNet.from_preset,
            runs.open_model,
        ):
            with pytest.raises((ValueError, OSError)) as caught:
                ask(str(source))
            assert said in str(caught.value), (ask, source)


@one_backend
def test_a_model_with_code_in_it_is_refused(tmp_path):
    code = keras.layers.Lambda(lambda images: images)
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((8, 8, 3)), code]).save(path)
    with pytest.raises(
        ValueError, match="model.keras cannot be loaded.*unsafe"
    ):
        keras_danet.Predictor(path)
    with pytest.raises(
        ValueError, match="model.keras cannot be loaded.*unsafe"
    ):
        keras_danet.DANet.from_model(path)


def test_a_backbone_has_nothing_to_measure(capsys):
    assert main(["evaluate", "resnet18_imagenet"]) == 2
    assert "is a backbone without a head" in capsys.readouterr().err


def test_did_you_mean_passes_over_how_it_is_written():
    known = ["resnet50", "resnet50_imagenet", "resnet101"]
    for name in ("ResNet50", "resnet-50", "resnet_50", "ResNet 50"):
        assert did_you_mean(name, known) == " Did you mean 'resnet50'?"
    assert did_you_mean("vgg", known) == ""


def test_a_backbone_that_is_none_is_told_what_to_do():
    with pytest.raises(ValueError, match="mean 'resnet50'"):
        keras_danet.DANet(5, backbone="ResNet-50")
    plain = keras.applications.MobileNetV2(
        alpha=0.35, weights=None, include_top=False
    )
    with pytest.raises(ValueError, match=r"keras_danet\.dilate\(backbone\)"):
        keras_danet.DANet(5, backbone=plain)


def test_a_preset_says_to_keras_what_it_is(saved):
    content = json.loads((saved / "new_preset/config.json").read_text())
    for each in (content, content["config"]["backbone"]):
        name = each["class_name"]
        assert each["registered_name"] == f"keras_danet>{name}"
        assert each["module"].startswith("keras_danet")


@one_backend
def test_a_folder_that_keras_saved_with_another_backbone(tmp_path):
    backbone = keras.applications.MobileNetV2(
        alpha=0.35, weights=None, include_top=False
    )
    model = keras_danet.DANet(3, backbone=keras_danet.dilate(backbone))
    model.save(tmp_path / "model", zipped=False)
    again = keras_danet.DANet.from_preset(tmp_path / "model")
    np.testing.assert_array_equal(
        again.get_layer("fusion_classifier").kernel,
        model.get_layer("fusion_classifier").kernel,
    )


@one_backend
def test_every_verb_takes_every_form(saved, tmp_path, capsys):
    data = write_scenes(tmp_path / "scenes", {"val": 2}, size=(32, 48))
    image = str(next((data / "val").glob("*.png")))
    reports, labels = [], []
    for number, form in enumerate(("run", "new.keras", "new_preset")):
        source, out = str(saved / form), tmp_path / str(number)
        options = ["--output", str(out), "--size", "image"]
        assert main(["predict", source, image, *options]) == 0
        said = capsys.readouterr().out
        assert any(name in said for name in get_dataset("scenes").class_names)
        labels.append(next(out.glob("*_label.png")).read_bytes())
        options = ["--data", str(data), "--size", "image", "--json"]
        if form != "run":
            options += ["--dataset", "scenes"]
        assert main(["evaluate", source, *options]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1] == reports[2]
    assert labels[0] == labels[1] == labels[2]
    new = str(saved / "new.keras")
    for arguments, said in (
        (["evaluate", new, "--data", str(data)], "Give --dataset"),
        (["evaluate", new, "--dataset", "camvid"], "Give --data"),
        (
            ["evaluate", new, "--dataset", "camvid", "--data", str(data)],
            "The model has 8 classes",
        ),
        (["export", new, "--format", "tflite"], "Give --output"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err


@one_backend
def test_convert_writes_what_it_reads(saved, tmp_path, capsys):
    run, preset = str(saved / "run"), tmp_path / "preset"
    file = tmp_path / "again.keras"
    assert main(["convert", run, "-o", str(preset)]) == 0
    assert main(["convert", str(preset), "-o", str(file)]) == 0
    prints = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("logits of a ramp")
    ]
    assert len(prints) == 2 and prints[0] == prints[1]
    again = keras_danet.DANet.from_model(file)
    assert again.class_names == get_dataset("scenes").class_names


@one_backend
def test_a_recipe_starts_from_every_form(saved):
    for form in ("run", "new.keras", "new_preset"):
        config = keras_danet.TrainConfig(
            dataset="scenes",
            epochs=1,
            batch_size=1,
            model={"depth": 18, "filters": 4, "start_from": str(saved / form)},
            augmentation={"crop_size": (32, 32)},
        )
        model = build_model(config, 8)
        expected = keras_danet.DANet.from_preset(saved / form)
        np.testing.assert_array_equal(
            model.get_weights()[0], expected.get_weights()[0]
        )
        config = config.replace(
            {"start_from": None, "backbone_weights": str(saved / form)}
        )
        if form != "new_preset":
            backbone = build_backbone(config.model, config.dtype)
            np.testing.assert_array_equal(
                backbone.get_weights()[0],
                expected.get_layer("resnet18").get_weights()[0],
            )
