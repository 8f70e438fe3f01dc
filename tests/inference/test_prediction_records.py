"""`predict.json`: results that are mistaken for nothing else."""

import json
import os

import pytest
from conftest import one_backend
from predicted import Counting
from predicted import statuses

from keras_danet import Predictor
from keras_danet.files import locked
from keras_danet.inference import results
from keras_danet.inference.digests import digest_of
from keras_danet.inference.prediction import predict_files

pytestmark = one_backend


def test_results_of_something_else_are_not_mistaken(
    predictor, photos, tmp_path
):
    output = tmp_path / "out"
    image = photos / "a.png"
    predict_files(predictor, [image], output)

    def refused(predictor=predictor, given=image):
        with pytest.raises(FileExistsError) as error:
            predict_files(predictor, [given], output)
        assert "--overwrite" in str(error.value)
        return str(error.value)

    # Also where the other model has no result of that name yet.
    for given in (image, photos / "b.png"):
        mirrored = Predictor(predictor.model, mirror=True)
        said = refused(mirrored, given)
        assert "by another protocol (mirror was False and is True)" in said
        gamma = predictor.model.get_layer("position_attention").gamma
        gamma.assign(gamma + 0.1)
        assert "another model" in refused(given=given)
        gamma.assign(gamma - 0.1)
    # Another image of the same name, or the same one once it is changed.
    assert "of another file" in refused(given=photos / "deep" / "a.png")
    os.utime(image, ns=(0, 0))
    assert "before it was changed" in refused()
    (output / "predict.json").unlink()
    assert "no predict.json says" in refused()
    (output / "predict.json").write_text("{}")
    with pytest.raises(ValueError, match="is not what `keras-danet predict`"):
        predict_files(predictor, [image], output)
    (output / "predict.json").unlink()
    (output / "predict.json").mkdir()
    with pytest.raises(ValueError, match="is not what `keras-danet predict`"):
        predict_files(predictor, [image], output)


def test_results_of_each_kind_are_known(predictor, photos, tmp_path):
    """What one kind was made of says nothing of another."""
    output, image = tmp_path / "out", photos / "a.png"
    mirrored = Predictor(predictor.model, mirror=True)

    def predict(predictor, *kinds, **options):
        (outcome,) = predict_files(predictor, [image], output, kinds, **options)
        return outcome.status

    predict(predictor, "label", "overlay")
    predict(mirrored, "confidence", overwrite=True)
    with pytest.raises(FileExistsError, match=r"a_label\.png.*another model"):
        predict(mirrored, "label")
    assert predict(mirrored, "confidence") == "present"
    assert predict(mirrored, "label", "overlay", overwrite=True) == "done"
    os.utime(image, ns=(0, 0))
    with pytest.raises(FileExistsError, match="before it was changed"):
        predict(mirrored, "confidence")
    assert predict(mirrored, "entropy") == "done"
    with pytest.raises(FileExistsError, match="before it was changed"):
        predict(mirrored, "label", "overlay")
    assert predict(mirrored, "entropy") == "present"
    record = json.loads((output / "predict.json").read_text())
    entry = record["inputs"]["a"]
    assert entry["kinds"] == ["entropy"]
    assert entry["old"] == ["confidence", "label", "overlay"]


@pytest.mark.parametrize(
    "change",
    [
        {"unfinished": [1]},
        {"inputs": {"a": {"stamp": None}}},
        {"inputs": {"a": []}},
        {"inputs": ["a"]},
        {"inputs": {"a": {"stamp": 0, "kinds": [[]], "old": []}}},
    ],
)
def test_a_record_that_was_edited(predictor, photos, tmp_path, change):
    output = tmp_path / "out"
    predict_files(predictor, [photos / "a.png"], output)
    record = json.loads((output / "predict.json").read_text())
    (output / "predict.json").write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match="is not what `keras-danet predict`"):
        predict_files(predictor, [photos], output)


def test_one_process_at_a_time(predictor, photos, tmp_path):
    output = tmp_path / "out"
    predict_files(predictor, [photos / "a.png"], output)
    with locked(output / "predict.json", "taken"):
        with pytest.raises(BlockingIOError, match="else is predicting into"):
            predict_files(predictor, [photos], output)
        # What is done needs no lock.
        found = predict_files(predictor, [photos / "a.png"], output)
        assert statuses(found) == ["present"]
    predict_files(predictor, [photos], output)
    assert not (output / ".predict.json.lock").exists()


def test_a_folder_that_changes_meanwhile(predictor, photos, tmp_path):
    output = tmp_path / "out"

    class Meanwhile(Counting):
        def __call__(self, image):
            if not output.exists():
                predict_files(predictor, [photos / "b.png"], output)
            return predictor(image)

    with pytest.raises(BlockingIOError, match="has changed"):
        predict_files(Meanwhile(predictor), [photos / "a.png"], output)


def test_the_dtype_counts(predictor):
    model = predictor.model
    layer = model.get_layer("fusion_classifier")
    before, policy = digest_of(predictor), layer.dtype_policy
    layer.dtype_policy = "mixed_bfloat16"
    try:
        assert digest_of(predictor) != before
    finally:
        layer.dtype_policy = policy


def test_a_model_that_is_loaded_again_is_the_same(predictor, tmp_path):
    predictor.model.save(tmp_path / "model.keras")
    found = [digest_of(Predictor(tmp_path / "model.keras")) for _ in range(2)]
    assert found == [digest_of(predictor)] * 2


def test_overwriting_that_is_stopped_goes_on(
    predictor, photos, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    predict_files(predictor, [photos], output)
    other = Counting(Predictor(predictor.model, mirror=True))
    real = results.save

    def stopping(path, *arguments):
        if path.name == "b_label.png":
            raise KeyboardInterrupt
        real(path, *arguments)

    monkeypatch.setattr(results, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict_files(other, [photos], output, overwrite=True)
    record = json.loads((output / "predict.json").read_text())
    assert {"b", "deep/a"} <= set(record["unfinished"])
    monkeypatch.setattr(results, "save", real)
    # Not the first model's results.
    outcomes = predict_files(other, [photos], output)
    assert statuses(outcomes)[1:] == ["done", "done"]
    assert statuses(predict_files(other, [photos], output)) == ["present"] * 3
