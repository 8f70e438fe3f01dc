import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_danet import export

BACKEND = keras.backend.backend()
needs_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="TFLite is written from TensorFlow only"
)
needs_saved_model = pytest.mark.skipif(
    BACKEND == "torch", reason="torch writes no SavedModel"
)


def images(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (*shape, 3)).astype("float32")


@pytest.fixture(scope="module")
def model(model):
    """Attention that is no choice between near ties, which rounding flips.

    With untrained queries it was: some processors came to 1e-4.
    """
    query = model.get_layer("position_attention").query.kernel
    query.assign(query * 0.05)
    return model


@needs_saved_model
def test_saved_model_runs_without_keras(model, tmp_path):
    check = export.export_model(
        model, tmp_path, "saved_model", images=[images(33, 49)]
    )
    assert check.passed
    assert check.relative_error < 1e-4
    written = json.loads((tmp_path / "saved_model.check.json").read_text())
    assert written["passed"]
    assert written["relative_error"] == check.relative_error
    batch = images(2, 40, 33)
    np.save(tmp_path / "batch.npy", batch)
    script = f"""
import sys
sys.modules["keras"] = sys.modules["keras_danet"] = None
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(r"{tmp_path / "saved_model"}")
logits = model.serve(tf.constant(np.load(r"{tmp_path / "batch.npy"}")))
np.save(r"{tmp_path / "logits.npy"}", logits)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    logits = np.load(tmp_path / "logits.npy")
    expected = model.predict(batch, verbose=0)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * expected.std())
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


@pytest.mark.skipif(BACKEND != "torch", reason="ONNX is written from torch")
# torch's exporters warn of their own ways, and of every size they meet.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("free", [False, True])
def test_onnx_from_torch_has_the_numbers(model, tmp_path, free):
    import onnxruntime

    attention = model.get_layer("position_attention")
    # Maps of 5 x 7 are larger: slices, or with free sizes the whole map.
    attention.block_size = 8
    size = (None, None) if free else (33, 49)
    path = str(tmp_path / "model.onnx")
    try:
        model.inference_model.export(
            path,
            format="onnx",
            input_signature=[
                keras.InputSpec(
                    shape=(1, *size, 3), dtype="float32", name="images"
                )
            ],
            verbose=False,
        )
    finally:
        attention.block_size = None
    session = onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    for shape in [(33, 49), (40, 65)] if free else [(33, 49)]:
        batch = images(1, *shape)
        (logits,) = session.run(None, {name: batch})
        expected = model.predict(batch, verbose=0)
        np.testing.assert_allclose(logits, expected, atol=1e-4 * expected.std())
        np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


@needs_tensorflow
def test_tflite_has_the_numbers_and_only_builtin_operators(model, tmp_path):
    check = export.export_model(model, tmp_path, "tflite", size=(40, 56))
    assert check.passed
    assert check.sizes == ((40, 56),)
    from ai_edge_litert.interpreter import Interpreter

    path = str(tmp_path / "model.tflite")
    interpreter = Interpreter(model_path=path)
    interpreter.allocate_tensors()
    names = {op["op_name"] for op in interpreter._get_ops_details()}
    assert not {n for n in names if n.startswith(("Flex", "CUSTOM", "Custom"))}
    # Dilated convolutions, not a detour over batches; and true attention.
    assert {"CONV_2D", "BATCH_MATMUL", "SOFTMAX"} <= names
    assert "SPACE_TO_BATCH_ND" not in names
    batch = images(1, 40, 56, seed=3)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], batch)
    interpreter.invoke()
    [output] = interpreter.get_output_details()
    logits = interpreter.get_tensor(output["index"])
    expected = model.predict(batch, verbose=0)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * expected.std())
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


def test_a_wrong_export_is_found(model, tmp_path):
    def wrong(batch):
        logits = np.array(model.predict_on_batch(batch))
        logits[:, :3, :3, 0] += 10
        return logits

    image = images(32, 32)
    check = export.check_export(model, wrong, [image], tmp_path / "x")
    assert not check.passed
    assert "DIFFERS" in check.summary()
    nan = export.check_export(
        model, lambda b: np.full((1, 32, 32, 5), np.nan), [image], "x"
    )
    assert not nan.passed
    with pytest.raises(ValueError, match="gives shape"):
        export.check_export(model, lambda b: np.zeros(3), [image], "x")


def test_a_failed_export_leaves_what_was_there(model, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    if BACKEND == "torch":
        with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
            export.export_model(model, tmp_path, "saved_model")
        assert list(tmp_path.iterdir()) == []
        return
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "old").write_text("")
    monkeypatch.setattr(export, "_write_saved_model", fail)
    with pytest.raises(OSError, match="disk full"):
        export.export_model(model, tmp_path, "saved_model")
    assert [p.name for p in tmp_path.rglob("*")] == ["saved_model", "old"]


@needs_tensorflow
def test_unknown_kinds_and_sizes_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="`kind` must be one of"):
        export.export_model(model, tmp_path, "caffe")
    with pytest.raises(ValueError, match="--size"):
        export.export_model(model, tmp_path, "tflite")
    with pytest.raises(ValueError, match="any size"):
        export.export_model(model, tmp_path, "saved_model", size=(32, 32))
