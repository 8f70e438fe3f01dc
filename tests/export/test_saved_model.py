"""The folder for TensorFlow Serving, read by everything but our own code."""

import io
import json
import pathlib
import struct
import subprocess
import sys
import zlib

import greys
import keras
import numpy as np
import pytest
from greys import CLASSES
from greys import picture
from PIL import Image

from keras_danet import DANet
from keras_danet import Predictor
from keras_danet.data.resampling import resize_logits
from keras_danet.export import export_model

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="a SavedModel is TensorFlow's",
)
SIZE = (33, 49)
# Kernels of tensorflow/core, which TensorFlow Serving links: no XLA, no Python.
ALLOWED = set(
    """
    Abs AddV2 All Any ArgMax Assert AssignVariableOp BatchMatMulV2
    BatchToSpaceND BiasAdd Cast Ceil ConcatV2 Const Conv2D Cumsum DecodeJpeg
    DecodePng DecodeRaw DenseBincount DisableCopyOnRead EncodePng
    EnsureShape Equal Exp ExpandDims ExtractJpegShape Fill Floor FloorDiv
    FloorMod GatherV2 Greater GreaterEqual Identity IdentityN If Less
    LessEqual LogicalAnd LogicalOr Max MaxPool Maximum MergeV2Checkpoints
    Min Minimum Mul Neg NoOp Pack Pad PadV2 Placeholder Prod Range Rank
    ReadVariableOp RealDiv Relu Reshape ResizeBilinear RestoreV2 ReverseV2
    Round SaveV2 ScaleAndTranslate Select SelectV2 Shape ShardedFilename
    Size Softmax SpaceToBatchND Squeeze StatefulPartitionedCall StatelessIf
    StatelessWhile StaticRegexFullMatch StridedSlice StringJoin StringLength
    StringSplitV2 Sub Substr Sum TensorListFromTensor TensorListGetItem
    TensorListReserve TensorListSetItem TensorListStack Transpose
    VarHandleOp VarIsInitializedOp While ZerosLike
    """.split()
)


@pytest.fixture(scope="module")
def model():
    return greys.trained_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    output = tmp_path_factory.mktemp("exports")
    report = export_model(model, output, samples=greys.samples(), measure=False)
    assert report.passed
    return pathlib.Path(report.folder)


@pytest.fixture(scope="module")
def signatures(folder):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    yield loaded.signatures


def file_of(image, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def asked(signatures, name, *files):
    import tensorflow as tf

    [answer] = signatures[name](image_bytes=tf.constant(files)).values()
    return [np.array(Image.open(io.BytesIO(a))) for a in answer.numpy()]


def test_the_folder_is_as_servers_want_it(folder):
    assert folder.name == "1" and folder.parent.name == "danet"
    assert {p.name for p in folder.iterdir()} == {
        "assets",
        "assets.extra",
        "export.json",
        "fingerprint.pb",
        "saved_model.pb",
        "variables",
    }
    contract = json.loads((folder / "assets" / "contract.json").read_text())
    assert contract["class_names"] == list(CLASSES)
    assert contract["palette"][2] == [0, 255, 0]


def test_the_next_version_is_beside_it(model, folder):
    again = export_model(model, folder.parents[1], measure=False)
    assert again.folder == str(folder.with_name("2"))


def test_signatures_have_the_types_that_they_promise(folder):
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    [graph] = content.meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]
    found = {}
    for name, signature in graph.signature_def.items():
        if name.startswith("__"):
            continue
        assert signature.method_name == "tensorflow/serving/predict"
        found[name] = [
            (key, tensor.dtype, [d.size for d in tensor.tensor_shape.dim])
            for tensors in (signature.inputs, signature.outputs)
            for key, tensor in tensors.items()
        ]
    # DT_FLOAT is 1, DT_UINT8 is 4, DT_STRING is 7.
    images = ("images", 4, [-1, -1, -1, 3])
    files = ("image_bytes", 7, [-1])
    assert found == {
        "serving_default": [images, ("labels", 4, [-1, -1, -1])],
        "probabilities": [images, ("probabilities", 1, [-1, -1, -1, 3])],
        "encoded": [files, ("label_png_bytes", 7, [-1])],
        "colored": [files, ("overlay_png_bytes", 7, [-1])],
    }
    operators = {node.op for node in graph.graph_def.node}
    for function in graph.graph_def.library.function:
        operators |= {node.op for node in function.node_def}
    assert operators <= ALLOWED, operators - ALLOWED
    report = json.loads((folder / "export.json").read_text())
    assert report["operators"] == sorted(operators)
    found = report["verification"]
    assert found["outputs"] == "probabilities"
    assert 0 < found["largest_difference"] < 1e-4


def test_pixels_to_labels_and_probabilities(model, signatures):
    import tensorflow as tf

    batch = np.stack([picture(seed, SIZE)[0] for seed in (1, 2, 3)])
    logits = model.predict_on_batch(batch.astype("float32"))
    labels = signatures["serving_default"](images=tf.constant(batch))["labels"]
    np.testing.assert_array_equal(labels, logits.argmax(-1))
    found = signatures["probabilities"](images=tf.constant(batch))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)


def test_files_of_any_kind_and_size_in_one_request(model, signatures):
    image, _ = picture(4, SIZE)
    exif = Image.Exif()
    grey = np.asarray(Image.fromarray(image).convert("L"))
    palette = Image.fromarray(image).convert("P", palette=Image.ADAPTIVE)
    file = io.BytesIO()
    palette.save(file, "PNG")
    files = [
        file_of(image),
        file_of(picture(5, (20, 64))[0], "JPEG"),
        file_of(grey, "JPEG"),
        file_of(grey),
        file.getvalue(),
        file_of(image, "JPEG", progressive=True),
        file_of(np.dstack([image, np.full(SIZE, 9, "uint8")])),
    ]
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        files.append(file_of(image, "JPEG", exif=exif.tobytes()))
    predictor = Predictor(model)
    for file, found in zip(
        files, asked(signatures, "encoded", *files), strict=True
    ):
        np.testing.assert_array_equal(found, predictor(file))


def test_the_overlay_is_half_image_half_colour(model, signatures):
    image, _ = picture(4, SIZE)
    [found] = asked(signatures, "colored", file_of(image))
    colors = np.array(model.palette)[Predictor(model)(image)]
    np.testing.assert_allclose(found, (image + colors) / 2, atol=0.51)


def test_images_are_resized_as_the_predictor_does(model, tmp_path):
    import tensorflow as tf

    report = export_model(model, tmp_path, test_sides=(64, 40), measure=False)
    assert report.passed
    loaded = tf.saved_model.load(report.folder)
    predictor = Predictor(model, size=(64, 40))
    for size in ((33, 49), (90, 121), (121, 90)):
        image, _ = picture(6, size)
        [found] = asked(loaded.signatures, "encoded", file_of(image))
        assert found.shape == size
        assert (found == predictor(image)).mean() > 0.999


def test_what_becomes_too_large_is_refused(model, tmp_path):
    import tensorflow as tf

    # A model that is unsure of noise, which is resized, too.
    unsure = greys.trained_model(epochs=4)
    report = export_model(
        unsure, tmp_path, test_sides=(None, 40), max_pixels=4000, measure=False
    )
    assert report.passed
    signatures = tf.saved_model.load(report.folder).signatures
    for size, words in (
        ((1, 120), "image of more than 4000 pixels"),
        ((120, 140), "larger than 16000 pixels"),
    ):
        image = np.zeros((*size, 3), "uint8")
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            asked(signatures, "encoded", file_of(image))
    # Larger than is computed, and resized.
    [found] = asked(signatures, "encoded", file_of(picture(1, (90, 100))[0]))
    assert found.shape == (90, 100)
    with pytest.raises(tf.errors.InvalidArgumentError, match="together"):
        signatures["serving_default"](images=np.zeros((2, 50, 50, 3), "uint8"))


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def test_what_unpacks_to_more_than_pixels_is_refused(signatures):
    import tensorflow as tf

    whole = file_of(picture(1, SIZE)[0])
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**6)))
    after_header = 8 + 25

    def with_texts(count):
        return whole[:after_header] + count * text + whole[after_header:]

    [expected] = asked(signatures, "encoded", whole)
    [found] = asked(signatures, "encoded", with_texts(3))
    np.testing.assert_array_equal(found, expected)
    deep = io.BytesIO()
    Image.fromarray(np.zeros(SIZE, "uint16")).save(deep, "PNG")
    progressive = file_of(picture(1, SIZE)[0], "JPEG", progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    scans = progressive[:-2] + 300 * progressive[scan:-2] + b"\xff\xd9"
    for contents in (with_texts(100), deep.getvalue(), scans):
        with pytest.raises(tf.errors.InvalidArgumentError, match="16 bits"):
            asked(signatures, "encoded", contents)


@pytest.mark.parametrize(
    "contents, words",
    [
        (b"", "not a JPEG or PNG"),
        (b"hello", "not a JPEG or PNG"),
        (b"GIF89a" + 100 * b"x", "not a JPEG or PNG"),
        (b"\xff\xd8\xff" + 100 * b"\0", "Invalid JPEG"),
        (file_of(picture(1, SIZE)[0], "JPEG")[:-300], "Invalid JPEG"),
        (file_of(picture(1, SIZE)[0])[:-300], "Invalid PNG"),
        (file_of(picture(1, SIZE)[0])[:20], "empty, or larger"),
    ],
)
def test_bad_bytes_fail_the_request_and_nothing_else(
    model, signatures, contents, words
):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        asked(signatures, "encoded", contents)
    image, _ = picture(1, SIZE)
    [found] = asked(signatures, "encoded", file_of(image))
    np.testing.assert_array_equal(found, Predictor(model)(image))


def test_a_bomb_is_refused_by_its_header(signatures):
    import tensorflow as tf

    # 100 megapixels in some kilobytes.
    for kind in ("PNG", "JPEG"):
        file = io.BytesIO()
        Image.new("L", (10_000, 10_000)).save(file, kind)
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="larger than 33554432"
        ):
            asked(signatures, "encoded", file.getvalue())
        # So are 16 of them, before one is decoded.
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="33554432 pixels together"
        ):
            asked(signatures, "encoded", *2 * [file.getvalue()])


def test_a_header_that_lies_is_refused(signatures):
    """The decoder skips what it does not know, and finds another header."""
    import tensorflow as tf

    file = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(file, "PNG")
    whole = file.getvalue()
    small = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    for kind in (b"prVt", b"IHDr"):
        lying = whole[:8] + chunk(kind, small) + whole[8:]
        with pytest.raises(tf.errors.InvalidArgumentError, match="not a JPEG"):
            asked(signatures, "encoded", lying)


def test_files_of_a_request_share_the_limit(model, tmp_path):
    import tensorflow as tf

    report = export_model(
        model, tmp_path, size=SIZE, max_pixels=10_000, measure=False
    )
    signatures = tf.saved_model.load(report.folder).signatures
    files = [file_of(picture(seed, (100, 100))[0]) for seed in range(5)]
    assert len(asked(signatures, "colored", *files[:4])) == 4
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="40000 pixels together"
    ):
        asked(signatures, "colored", *files)
    wide = file_of(np.zeros((1, 60_000, 3), "uint8"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="together"):
        asked(signatures, "encoded", wide, files[0])


@pytest.mark.parametrize("size", [(7, 9), (33, 50), (3, 5), (64, 81), (1, 1)])
def test_label_maps_are_those_of_resized_logits(size):
    import tensorflow as tf

    from keras_danet.export.tensorflow_graphs import _labels_at

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(7, 9, 4)).astype("float32")
    found = tf.function(_labels_at)(
        tf.constant(logits), tf.constant(size, tf.int64)
    )
    # PyTorch's interpolation, in NumPy.
    expected = resize_logits(logits, size).argmax(-1)
    np.testing.assert_array_equal(found, expected)


def test_the_warm_up_file_replays(folder, signatures):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    replayed = set()
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "danet"
        name = request.model_spec.signature_name
        inputs = {
            key: tf.constant(tf.make_ndarray(value))
            for key, value in request.inputs.items()
        }
        assert signatures[name](**inputs)
        replayed.add(name)
    assert replayed == {"serving_default", "encoded"}


def test_float_pixels_are_warmed_up_as_such(model, tmp_path):
    import tensorflow as tf

    report = export_model(model, tmp_path, input_dtype="float32", measure=False)
    assert report.passed
    loaded = tf.saved_model.load(report.folder)
    test_the_warm_up_file_replays(
        pathlib.Path(report.folder), loaded.signatures
    )


def test_others_read_it_without_keras(model, folder, tmp_path):
    image, _ = picture(8, SIZE)
    np.save(tmp_path / "images.npy", image[None])
    script = f"""
import sys
sys.modules["keras"] = sys.modules["keras_danet"] = None
import numpy as np
import tensorflow as tf
images = np.load(r"{tmp_path / "images.npy"}")
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    found = tf.compat.v1.saved_model.load(session, ["serve"], r"{folder}")
    signature = found.signature_def["serving_default"]
    labels = session.run(
        signature.outputs["labels"].name,
        {{signature.inputs["images"].name: images}})
np.save(r"{tmp_path / "labels.npy"}", labels)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = model.predict_on_batch(image[None].astype("float32"))
    found = np.load(tmp_path / "labels.npy")
    np.testing.assert_array_equal(found, expected.argmax(-1))
    # TensorFlow's own tool.
    tool = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    done = subprocess.run(
        [*tool, "run", "--overwrite", "--dir", folder, "--tag_set", "serve"]
        + ["--signature_def", "serving_default", "--outdir", tmp_path]
        + ["--inputs", f"images={tmp_path / 'images.npy'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), found)


def test_openvino_reads_the_same_folder(model, folder):
    import openvino

    network = openvino.convert_model(str(folder), example_input=None)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(network, "CPU", options)
    image, _ = picture(8, SIZE)
    expected = model.predict_on_batch(image[None].astype("float32"))
    found = compiled({"images": image[None]})[0]
    np.testing.assert_array_equal(found, expected.argmax(-1))


def test_it_holds_no_map_of_all_pairs(folder):
    """Attention in tiles; `encoded` has another loop, over its files."""
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    graph = content.meta_graphs[0].graph_def
    nodes = [*graph.node]
    for function in graph.library.function:
        nodes += function.node_def
    loops = [n for n in nodes if n.op in ("While", "StatelessWhile")]
    assert any("position_attention" in node.name for node in loops)


def test_a_model_that_was_loaded_is_exported(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, DANet)
    assert export_model(loaded, tmp_path, measure=False).passed
