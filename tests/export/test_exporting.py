"""Every format computes what the model does, and says so truthfully."""

import ctypes
import json
import os
import sys
import zipfile

import flatbuffers
import greys
import keras
import numpy as np
import pytest
from conftest import one_backend
from greys import CLASSES
from greys import SIZE
from greys import picture

from keras_danet.export import Export
from keras_danet.export import export_model
from keras_danet.export import exporting
from keras_danet.export import measuring
from keras_danet.export import verify_export
from keras_danet.export import writing
from keras_danet.export.contract import FORMATS
from keras_danet.export.contract import Contract
from keras_danet.export.contract import default_max_pixels
from keras_danet.export.verification import LEAST_AGREEMENT
from keras_danet.export.verification import noise

BACKEND = keras.backend.backend()
needs_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow",
    reason="written by TensorFlow, of any backend's weights",
)
slow_on_jax = pytest.mark.slow if BACKEND == "jax" else lambda test: test
# What needs neither a long conversion nor a process of TensorFlow's.
HERE = "pt2" if BACKEND == "torch" else "saved_model"
# What has no versions.
REPLACED = "pt2" if BACKEND == "torch" else "tflite"
FIXED = [
    (format, quantization)
    for format, kinds in FORMATS.items()
    for quantization in kinds
    if format not in ("saved_model", "pt2")
]


@pytest.fixture(scope="module")
def trained():
    return greys.trained_model()


@pytest.fixture(scope="module")
def samples():
    return greys.samples()


@pytest.fixture(scope="module")
def calibration():
    return greys.calibration()


def export(model, folder, *arguments, **options):
    return export_model(
        model, folder, *arguments, **{"measure": False, **options}
    )


@needs_tensorflow
@pytest.mark.parametrize("format, quantization", FIXED)
def test_files_for_one_size(
    trained, samples, calibration, tmp_path, format, quantization
):
    report = export(
        trained,
        tmp_path,
        format,
        quantization,
        SIZE,
        samples=samples,
        calibration=calibration,
    )
    assert report.passed, report.summary()
    found = Export(report.folder)
    assert found.contract.class_names == CLASSES
    # Of an image that it was not compared on.
    image, label = picture(7)
    received = found(image[None])
    assert received.shape == (1, *SIZE) and received.dtype == "uint8"
    expected = trained.predict_on_batch(image[None].astype("float32"))
    assert (received == expected.argmax(-1)).mean() >= 0.99
    assert (received[0] == label).mean() > 0.9
    names = set(report.operators)
    assert names & {"CONV_2D", "Conv", "Convolution", "Conv2D"}
    if format == "tflite":
        assert {"CONV_2D", "BATCH_MATMUL", "SOFTMAX"} <= names
        assert not any(
            n.startswith(("Flex", "CUSTOM", "Custom")) for n in names
        )
        # Dilated convolutions, not a detour over batches.
        assert "SPACE_TO_BATCH_ND" not in names
        text = (tmp_path / report.folder / "labels.txt").read_text()
        assert text.split() == list(CLASSES)
    if (format, quantization) == ("tflite", "int8"):
        dtypes = dtypes_by_operator(found.folder / "model.tflite")
        # Attentions' weights are too small for the step of int8's softmax.
        assert dtypes["CONV_2D"] == {"int8"}
        assert dtypes["SOFTMAX"] == dtypes["BATCH_MATMUL"] == {"float32"}


def dtypes_by_operator(path):
    """The dtypes of operators' results."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.interpreter import OpResolverType

    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
    )
    tensors = {t["index"]: t for t in interpreter.get_tensor_details()}
    found = {}
    for operator in interpreter._get_ops_details():
        names = {tensors[i]["dtype"].__name__ for i in operator["outputs"]}
        found.setdefault(operator["op_name"], set()).update(names)
    return found


@needs_tensorflow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_files_for_any_size_hold_no_map_of_all_pairs(
    trained, samples, tmp_path, monkeypatch, format
):
    # Several tiles at these sizes, and one of another length.
    monkeypatch.setattr("keras_danet.layers.tiled_attention.BLOCK_SIZE", 16)
    report = export(trained, tmp_path, format, samples=samples)
    assert report.passed, report.summary()
    found = Export(report.folder)
    for size in ((33, 49), (72, 40), (8, 8)):
        image, _ = picture(3, size)
        expected = trained.predict_on_batch(image[None].astype("float32"))
        same = found(image[None]) == expected.argmax(-1)
        assert same.mean() >= 0.999
    if format == "onnx":
        import onnx

        file = onnx.load(found.folder / "model.onnx")
        assert "Loop" in {node.op_type for node in file.graph.node}
        # What only the loop's body has is listed, too.
        assert {"Loop", "Softmax"} <= set(report.operators)
        assert [o.version for o in file.opset_import if not o.domain] == [
            report.opset
        ]
        assert f"opset {report.opset}" in report.summary()


def signal_stack():
    """Where the main thread handles signals; Linux only."""
    fields = (ctypes.c_void_p * 3)()
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(None, fields)
    return fields[0]


@needs_tensorflow
@pytest.mark.parametrize("format", ["tflite", "openvino"])
def test_layers_stay_float_where_int8_loses_too_much(
    calibration, tmp_path, monkeypatch, format
):
    # A network that has learned little is unsure.
    arguments = greys.trained_model(epochs=4), tmp_path, format, "int8", SIZE
    given = {"calibration": calibration, "samples": [noise(SIZE)]}
    monkeypatch.setitem(LEAST_AGREEMENT, "int8", 0.2)
    plain = export(*arguments, **given)
    assert plain.passed and plain.float_layers == 0
    lost = 1 - plain.verification.agreement
    assert lost > 0.001
    # How much less is lost differs from CPU to CPU: the network does, too.
    allowed = 0.8 * lost
    monkeypatch.setitem(LEAST_AGREEMENT, "int8", 1 - allowed)
    stack = signal_stack()
    better = export(*arguments, **given)
    assert signal_stack() == stack
    assert better.passed, better.summary()
    assert 1 - better.verification.agreement <= allowed
    assert better.float_layers > 0
    assert f"{better.float_layers} layers in float" in better.summary()


@needs_tensorflow
def test_int8_takes_float_pixels(trained, samples, calibration, tmp_path):
    report = export(
        trained,
        tmp_path,
        "tflite",
        "int8",
        SIZE,
        samples=samples,
        calibration=calibration,
        input_dtype="float32",
    )
    assert report.passed, report.summary()
    image, label = picture(7)
    received = Export(report.folder)(image[None].astype("float32"))
    assert (received[0] == label).mean() > 0.9


@needs_tensorflow
def test_logits_are_the_models(trained, logits_file):
    image, _ = picture(5)
    received = Export(logits_file.parent)(image[None])
    expected = trained.predict_on_batch(image[None].astype("float32"))
    np.testing.assert_allclose(received, expected, atol=1e-4 * expected.std())


@pytest.fixture(scope="module")
def logits_file(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logits")
    export(trained, folder, "tflite", "none", SIZE, "logits", name="greys")
    return folder / "tflite_logits_40x64" / "model.tflite"


def field(table, number):
    """The table or vector in a field of a FlatBuffer's table."""
    return table.Indirect(table.Pos + table.Offset(4 + 2 * number))


def table_at(table, position):
    return flatbuffers.table.Table(table.Bytes, position)


@needs_tensorflow
def test_a_tflite_file_names_its_classes(logits_file):
    """Fields are numbered as in tflite-support's metadata_schema.fbs."""
    from ai_edge_litert import schema_py_generated as schema

    with zipfile.ZipFile(logits_file) as files:
        assert files.read("labels.txt").decode().split() == list(CLASSES)
    model = schema.Model.GetRootAs(logits_file.read_bytes())
    [entry] = [
        model.Metadata(index)
        for index in range(model.MetadataLength())
        if model.Metadata(index).Name() == b"TFLITE_METADATA"
    ]
    content = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert content[4:8] == b"M001"
    root = flatbuffers.table.Table(
        content, int.from_bytes(content[:4], "little")
    )
    assert root.String(root.Pos + root.Offset(4)) == b"greys"
    graph = table_at(root, root.Indirect(root.Vector(root.Offset(10))))
    image = table_at(graph, graph.Indirect(graph.Vector(graph.Offset(8))))
    properties = table_at(image, field(table_at(image, field(image, 3)), 1))
    size = table_at(properties, field(properties, 1))
    assert [
        size.Get(
            flatbuffers.number_types.Uint32Flags, size.Pos + size.Offset(o)
        )
        for o in (4, 6)
    ] == [SIZE[1], SIZE[0]]
    logits = table_at(graph, graph.Indirect(graph.Vector(graph.Offset(10))))
    labels = table_at(logits, logits.Indirect(logits.Vector(logits.Offset(16))))
    assert labels.String(labels.Pos + labels.Offset(4)) == b"labels.txt"
    kind = flatbuffers.number_types.Int8Flags
    assert labels.Get(kind, labels.Pos + labels.Offset(8)) == 2


@needs_tensorflow
def test_mediapipe_segments_with_a_tflite_file(trained, logits_file):
    mediapipe = pytest.importorskip("mediapipe")
    from mediapipe.tasks.python import BaseOptions
    from mediapipe.tasks.python import vision

    options = vision.ImageSegmenterOptions(
        BaseOptions(model_asset_path=str(logits_file)),
        output_category_mask=True,
    )
    image, _ = picture(7)
    logits = trained.predict_on_batch(image[None].astype("float32"))[0]
    with vision.ImageSegmenter.create_from_options(options) as segmenter:
        assert segmenter.labels == list(CLASSES)
        found = segmenter.segment(
            mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
        )
        received = found.category_mask.numpy_view()[..., 0]
        confidence = np.stack(
            [mask.numpy_view()[..., 0] for mask in found.confidence_masks], -1
        )
    np.testing.assert_array_equal(received, logits.argmax(-1))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(confidence, expected, atol=1e-3)


def test_it_is_written_from_every_backend(trained, samples, tmp_path):
    report = export(
        trained, tmp_path, HERE, size=SIZE, samples=samples, measure=True
    )
    assert report.passed, report.summary()
    assert report.verification.mean_iou == pytest.approx(
        report.verification.model_mean_iou, abs=1e-3
    )
    assert report.verification.mean_iou > 0.9
    assert report.cost.seconds > 0 and report.cost.peak_bytes > 2**20
    written = json.loads((tmp_path / report.folder / "export.json").read_text())
    assert written["verification"]["passed"]
    assert written["contract"]["class_names"] == list(CLASSES)
    assert written["cost"]["repeats"] == 20
    # Nothing else is left there.
    top = tmp_path / ("danet" if HERE == "saved_model" else "pt2_40x64")
    assert list(tmp_path.iterdir()) == [top]
    again = verify_export(report.folder, trained, samples)
    assert again.agreement == report.verification.agreement


@pytest.mark.skipif(BACKEND != "torch", reason="a process of TensorFlow's")
@pytest.mark.slow
def test_torch_weights_become_tensorflows_graph(trained, samples, tmp_path):
    report = export(trained, tmp_path, "onnx", samples=samples)
    assert report.passed, report.summary()
    assert Export(report.folder)(picture(3)[0][None]).shape == (1, *SIZE)


def other(model):
    """The same network with other weights in one branch."""
    copy = type(model).from_model(model)
    layer = copy.get_layer("channel_out")
    layer.kernel.assign(-2 * layer.kernel)
    return copy


# On JAX each part is written in a process of TensorFlow's.
@slow_on_jax
def test_a_wrong_export_is_not_kept(trained, samples, tmp_path, monkeypatch):
    kept = export(trained, tmp_path, REPLACED, size=SIZE, samples=samples)
    write = writing.write_graph
    wrong = other(trained)
    monkeypatch.setattr(
        writing,
        "write_graph",
        lambda model, *rest: write(wrong, *rest),
    )
    report = export(trained, tmp_path, REPLACED, size=SIZE, samples=samples)
    assert not report.passed and report.folder == kept.folder
    assert f"{kept.folder} is as it was" in report.summary()
    # Both branches are alike before it.
    assert report.verification.parts_at == "fusion_logits"
    assert verify_export(kept.folder, trained, samples).passed
    assert not verify_export(kept.folder, wrong, samples).passed


def test_a_failed_export_leaves_what_was_there(trained, tmp_path, monkeypatch):
    export(trained, tmp_path, REPLACED, size=SIZE)

    def contents():
        return {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}

    before = contents()
    for error, expected, words in (
        (OSError("disk full"), OSError, "disk full"),
        (RuntimeError("no\nspace"), ValueError, "RuntimeError: no space"),
    ):

        def fail(*given, error=error):
            (given[1] / "half").parent.mkdir()
            (given[1] / "half").write_text("written")
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(exporting.writing, "write", fail)
            with pytest.raises(expected, match=words):
                export(trained, tmp_path, REPLACED, size=SIZE)
        assert contents() == before
    # Stopped between moving the old one away and the new one there.
    rename = os.rename

    def stop(source, target):
        if os.path.basename(source) == "export":
            raise SystemExit(143)
        rename(source, target)

    monkeypatch.setattr(os, "rename", stop)
    with pytest.raises(SystemExit):
        export(trained, tmp_path, REPLACED, size=SIZE)
    assert contents() == before


@one_backend
def test_what_came_meanwhile_is_not_replaced(trained, tmp_path, monkeypatch):
    replace = exporting._replace

    def late(folder, place, contract):
        place.mkdir(parents=True)
        (place / "thesis.txt").write_text("mine")
        replace(folder, place, contract)

    monkeypatch.setattr(exporting, "_replace", late)
    with pytest.raises(FileExistsError, match="not an export"):
        export(trained, tmp_path, "pt2", size=SIZE)
    [left] = tmp_path.rglob("*.txt")
    assert left.read_text() == "mine"
    with pytest.raises(FileExistsError, match="another process"):
        replace(tmp_path / "export", left.parent, Served())


class Served:
    format = "saved_model"


@one_backend
def test_an_export_is_kept_if_only_its_measurement_fails(
    trained, tmp_path, monkeypatch
):
    folder = export(trained, tmp_path, "pt2", size=SIZE).folder
    with pytest.raises(ChildProcessError, match="cannot be measured"):
        measuring.measure(folder, (0, 0))

    def fail(*_):
        raise ChildProcessError("ended with code -9")

    monkeypatch.setattr(measuring, "measure", fail)
    report = export(trained, tmp_path, "pt2", size=SIZE, measure=True)
    assert report.passed and report.cost is None
    assert "ended with code -9" in report.summary()
    assert verify_export(folder, trained).passed


@needs_tensorflow
def test_a_disk_that_fills_up_meanwhile(trained, tmp_path, monkeypatch):
    import tensorflow as tf

    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="could not write.*No space left"):
        export(trained, tmp_path, "tflite", size=SIZE)
    assert list(tmp_path.iterdir()) == []


@one_backend
def test_what_cannot_be_written_is_refused(trained, calibration, tmp_path):
    for match, arguments in (
        ("`format` must be one of", ("caffe",)),
        ("`quantization` must be one of", ("onnx", "int8")),
        ("for one image size", ("tflite", "float16")),
        ("for one image size", ("pt2",)),
        ("needs 4 or more images", ("tflite", "int8", SIZE)),
        ("`outputs` must be one of", ("tflite", "none", SIZE, "pixels")),
        ("and no logits", ("saved_model", "none", None, "logits")),
        ("`size` must be", ("tflite", "none", 513)),
        ("`size` must be", ("tflite", "none", (0, 0))),
        ("`size` must be", ("tflite", "none", (2**17, 64))),
    ):
        with pytest.raises(ValueError, match=match):
            export(trained, tmp_path, *arguments)
    with pytest.raises(ValueError, match="Expected a DANet. Received a Seq"):
        export(keras.Sequential(), tmp_path)
    for name in ("../escape", "a/b", "", ".hidden", "2024"):
        with pytest.raises(ValueError, match="must consist of letters"):
            export(trained, tmp_path, name=name)
    for version in (0, 2**63):
        with pytest.raises(ValueError, match="must be 1 or more"):
            export(trained, tmp_path, version=version)
    with pytest.raises(ValueError, match="Only a SavedModel has versions"):
        export(trained, tmp_path, "pt2", size=SIZE, version=7)
    with pytest.raises(ValueError, match="pixels, which is more than"):
        export(trained, tmp_path / "none", max_pixels=100)
    assert not (tmp_path / "none").exists()
    (tmp_path / "pt2_40x64").mkdir()
    (tmp_path / "pt2_40x64" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an export"):
        export(trained, tmp_path, "pt2", size=SIZE)
    assert (tmp_path / "pt2_40x64" / "thesis.txt").read_text() == "mine"
    (tmp_path / "danet" / "3").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="Give a version above 3"):
        export(trained, tmp_path, version=3)


@one_backend
def test_a_full_disk_is_told_before_it_is_filled(
    trained, tmp_path, monkeypatch
):
    usage = exporting.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        exporting.shutil,
        "disk_usage",
        lambda path: usage._replace(free=1_000_000),
    )
    with pytest.raises(OSError, match="has 1 MB left, and this export needs"):
        export(trained, tmp_path / "new", "pt2", size=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(BACKEND == "torch", reason="torch is where it is written")
def test_pt2_is_written_on_torch(trained, tmp_path):
    with pytest.raises(ValueError, match="set KERAS_BACKEND=torch"):
        export(trained, tmp_path, "pt2", size=SIZE)
    assert list(tmp_path.iterdir()) == []


@one_backend
def test_damaged_exports_are_told(trained, tmp_path):
    report = export(trained, tmp_path, "pt2", size=SIZE)
    folder = tmp_path / "pt2_40x64"
    assert str(folder) == report.folder
    with pytest.raises(FileNotFoundError, match="is not an export"):
        Export(tmp_path)
    content = (folder / "model.pt2").read_bytes()
    (folder / "model.pt2").write_bytes(content[:1000])
    with pytest.raises(ValueError, match="cannot be opened"):
        Export(folder)
    os.unlink(folder / "model.pt2")
    with pytest.raises(FileNotFoundError, match="not whole"):
        Export(folder)
    good = (folder / "export.json").read_text()
    for damaged in ("{", "[]", '{"contract": 3}', '{"contract": {}}'):
        (folder / "export.json").write_text(damaged)
        with pytest.raises(ValueError, match="damaged|does not describe"):
            Export(folder)
    changed = json.loads(good)
    for key, value in (
        ("size", [10**9, 10**9]),
        ("size", [40]),
        ("size", ["40", "64"]),
        ("size", 40),
        ("class_names", None),
        ("class_names", [1, 2, 3]),
    ):
        wrong = {**changed["contract"], key: value}
        text = json.dumps({**changed, "contract": wrong})
        (folder / "export.json").write_text(text)
        with pytest.raises(ValueError, match="does not describe"):
            Export(folder)
    changed["contract"]["format"] = "pickle"
    (folder / "export.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="does not describe"):
        Export(folder)


@one_backend
@pytest.mark.parametrize(
    "change",
    [
        {"size": [40.5, 64]},
        {"size": [40]},
        {"size": [40, 2**17]},
        {"input_dtype": "foo"},
        {"input_dtype": "object"},
        {"outputs": "x"},
        {"palette": 3},
        {"palette": [[0, 0, 0]]},
        {"palette": 3 * [[0, 0, 256]]},
        {"test_sides": ["a", 5]},
        {"test_sides": None},
        {"class_names": []},
        {"class_names": "abc"},
        {"quantization": {}},
        {"format": "tflite3"},
        {"max_pixels": 0.5},
    ],
)
def test_a_contract_that_is_none_is_told(change):
    names, palette = ("a", "b", "c"), 3 * ((0, 0, 0),)
    contract = Contract("onnx", "none", "labels", names, palette, (40, 64))
    content = json.loads(json.dumps(contract.as_dict()))
    assert Contract.from_dict(content) == contract
    with pytest.raises(ValueError, match="does not describe an export"):
        Contract.from_dict({**content, **change})


@one_backend
def test_many_classes_leave_room_for_fewer_pixels():
    assert default_max_pixels(3) == default_max_pixels(32) == 2**23
    assert default_max_pixels(150) * 150 * 4 <= 2**30


@one_backend
def test_exports_do_not_replace_one_another(trained, tmp_path):
    labels = export(trained, tmp_path, "pt2", size=SIZE)
    logits = export(trained, tmp_path, "pt2", size=SIZE, outputs="logits")
    floats = export(trained, tmp_path, "pt2", size=SIZE, input_dtype="float32")
    folders = {labels.folder, logits.folder, floats.folder}
    assert {os.path.basename(folder) for folder in folders} == {
        "pt2_40x64",
        "pt2_logits_40x64",
        "pt2_float32_40x64",
    }
    # Whatever lies in an export's folder and is not its own stays.
    (tmp_path / "pt2_40x64" / "1").mkdir()
    with pytest.raises(FileExistsError, match="also '1'"):
        export(trained, tmp_path, "pt2", size=SIZE)
    with pytest.raises(FileExistsError, match="export of another format"):
        export(trained, tmp_path, "saved_model", name="pt2_logits_40x64")


@one_backend
def test_images_that_an_export_does_not_take(trained, tmp_path):
    found = Export(export(trained, tmp_path, "pt2", size=SIZE).folder)
    image, _ = picture(7)
    for wrong in (
        image,
        image[None, :-1],
        image[None, ..., :1],
        image[None][:0],
        image[None, :, :0],
    ):
        with pytest.raises(
            ValueError, match=r"takes images \(batch, 40, 64, 3"
        ):
            found(wrong)
    with pytest.raises(ValueError, match="takes uint8 pixels in 0-255"):
        found(image[None] / 255)
    # The file is for one image; a batch is taken all the same.
    both = found(np.stack([image, image[:, ::-1]]))
    assert both.shape == (2, *SIZE)
    np.testing.assert_array_equal(both[:1], found(image[None]))


@one_backend
def test_an_export_of_other_classes_is_refused(trained, tmp_path):
    report = export(trained, tmp_path, "pt2", size=SIZE)
    renamed = type(trained).from_model(trained)
    renamed.class_names = CLASSES[::-1]
    with pytest.raises(ValueError, match="has the classes dark, middle"):
        verify_export(report.folder, renamed)


@one_backend
def test_memory_is_not_that_of_the_process_that_measures(trained, tmp_path):
    folder = export(trained, tmp_path, "pt2", size=SIZE).folder
    plain = measuring.measure(folder, SIZE, repeats=1).peak_bytes
    held = np.ones(2**31, "uint8")
    again = measuring.measure(folder, SIZE, repeats=1).peak_bytes
    assert held.nbytes == 2**31 and again < 1.2 * plain
