"""From a model to the files of one format."""

import dataclasses
import os
import pathlib
import tempfile

import numpy as np

from keras_danet.export.graphs import write_graph
from keras_danet.export.runtimes import FILES
from keras_danet.export.runtimes import open_file

# Relative to the deviation of a layer's features: what rounding explains.
ROUNDING = {
    "none": 1e-3,
    "float16": 2e-2,
    "dynamic": 0.2,
    "int8": 0.5,
    "int16x8": 0.2,
}
# Images that a server is warmed up with.
NUM_WARM = 2


def write(model, folder, contract, calibration, reference, name):
    """Writes the files of an export.

    Args:
        model: `DANet`.
        folder: `pathlib.Path` of the folder to make.
        contract: `Contract`.
        calibration: list of arrays `(1, height, width, 3)`.
        reference: `verification.Reference`, for what is chosen by its loss.
        name: string, what a server calls the model.

    Returns:
        Dict of what an `ExportReport` says about them.
    """
    if contract.format == "pt2":
        write_graph(model, folder, contract)
        return {}
    if contract.format == "saved_model":
        from keras_danet.export.tensorflow_graphs import warm_up_requests

        write_graph(model, folder, contract)
        images = [sample.image for sample in reference.samples[:NUM_WARM]]
        warm_up_requests(folder, name, images, contract.input_dtype)
        return {}
    folder.mkdir()
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        plain = pathlib.Path(place, "plain")
        write_graph(model, plain, contract)
        found = convert(plain, folder, contract, calibration, reference)
    if contract.format == "tflite":
        from keras_danet.export import tflite_metadata

        path = folder / FILES[contract.format]
        path.write_bytes(
            tflite_metadata.with_metadata(path.read_bytes(), contract, name)
        )
        labels = tflite_metadata.labels_text(contract)
        (folder / tflite_metadata.LABELS).write_text(labels, encoding="utf-8")
    return found


def convert(plain, folder, contract, calibration, reference=None):
    """Converts what `write_graph` wrote; returns as `write` does."""
    path = folder / FILES[contract.format]
    if contract.format == "onnx":
        from keras_danet.export.onnx_files import OPSET
        from keras_danet.export.onnx_files import write_onnx

        write_onnx(plain, path)
        return {"opset": OPSET}

    def compare(run):
        return reference.compare(
            lambda images: run(images.astype(contract.input_dtype)),
            contract.quantization,
        )

    how = contract.quantization, calibration, reference and compare
    if contract.format == "openvino":
        from keras_danet.export.openvino_files import write_openvino

        return {"float_layers": len(write_openvino(plain, path, *how))}
    from keras_danet.export.tflite import write_tflite

    return {"float_layers": len(write_tflite(plain, path, *how))}


def first_difference(model, contract, calibration, sample):
    """The first features that an export computes otherwise.

    The network is cut off after one stage after another, exported in the same
    way, and compared.

    Args:
        model, contract, calibration: as `write` has them.
        sample: `verification.Sample`.

    Returns:
        String, a key of `model.features`; `None` if all are alike.
    """
    import keras

    batch = sample.image[np.newaxis].astype(contract.input_dtype)
    # A SavedModel has a signature for labels only.
    kind = dataclasses.replace(contract, outputs="logits")
    for feature, tensor in model.features.items():
        expected = keras.Model(model.input, tensor)
        expected = np.asarray(expected.predict_on_batch(batch))
        with tempfile.TemporaryDirectory() as place:
            plain, folder = pathlib.Path(place, "plain"), pathlib.Path(place)
            write_graph(model, plain, kind, feature)
            if kind.format in ("saved_model", "pt2"):
                os.rename(plain, folder / "graph")
                path = folder / "graph" / FILES[kind.format]
            else:
                path = folder / FILES[kind.format]
                convert(plain, folder, kind, calibration)
            received = open_file(kind, path)(batch)
        error = np.abs(received - expected).max() / expected.std()
        # A NaN is a difference.
        if not error <= ROUNDING[contract.quantization]:
            return feature
    return None
