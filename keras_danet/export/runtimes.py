"""Runs an export with the library that will run it, without Keras."""

import functools
import os
import pathlib

import numpy as np

from keras_danet.export.contract import FILE
from keras_danet.export.contract import Contract
from keras_danet.files import read_json

FILES = {
    "saved_model": "saved_model.pb",
    "tflite": "model.tflite",
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "pt2": "model.pt2",
}


class Export:
    """An export that runs.

    Args:
        folder: path of the folder that `export_model` wrote.
        threads: integer, how many threads it may use. Defaults to `None`,
            the runtime's choice.

    Call arguments:
        images: array `(batch, height, width, 3)` in the contract's dtype.

    Attributes:
        contract: `Contract`.

    Returns:
        uint8 labels `(batch, height, width)`, or float32 logits with the
        classes as their last axis.

    Raises:
        FileNotFoundError: if the folder is not an export's.
        ValueError: if it is damaged, or for images that it does not take.
    """

    def __init__(
        self, folder: str | os.PathLike[str], threads: int | None = None
    ):
        self.folder = pathlib.Path(folder)
        self.report = read_export(folder)
        self.contract = Contract.from_dict(self.report["contract"])
        path = self.folder / FILES[self.contract.format]
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {path.name}: the export is not whole. "
                "Export it again."
            )
        self._run = open_file(self.contract, path, threads)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        images = self._checked(images)
        contract = self.contract
        if contract.format == "saved_model" or contract.size is None:
            return self._run(images)
        # A file for one size is for one image at a time.
        return np.concatenate([self._run(image[None]) for image in images])

    def _checked(self, images):
        images, dtype = np.asarray(images), self.contract.input_dtype
        height, width = self.contract.size or ("height", "width")
        size = self.contract.size or images.shape[1:3]
        if 0 in images.shape or images.shape[1:] != (*size, 3):
            raise ValueError(
                f"This export takes images (batch, {height}, {width}, 3). "
                f"Received: an array {images.shape}"
            )
        if dtype == "uint8" and images.dtype != "uint8":
            raise ValueError(
                "This export takes uint8 pixels in 0-255. Received: "
                f"{images.dtype}. Round them, and convert them with "
                "`.astype('uint8')`."
            )
        return np.ascontiguousarray(images, dtype)

    def from_files(self, images: np.ndarray) -> np.ndarray:
        """What a SavedModel gives for images that it gets as PNG files.

        Raises:
            ValueError: if it refuses one.
        """
        import tensorflow as tf

        files = [tf.io.encode_png(image) for image in images]
        encoded = self._run.signatures["encoded"]
        answers = _ask(encoded, self.folder, image_bytes=files)
        labels = [tf.io.decode_png(answer) for answer in answers]
        return tf.stack(labels).numpy()[..., 0]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """What a SavedModel gives for images as each class's probability.

        Raises:
            ValueError: if it refuses them.
        """
        signature = self._run.signatures["probabilities"]
        images = self._checked(images)
        return _ask(signature, self.folder, images=images).numpy()


def open_file(contract, path, threads=None):
    """A function of a batch of images to what the file gives for them.

    Raises:
        ImportError: if its library is not installed.
        ValueError: if the library does not read it.
    """
    try:
        return _OPENERS[contract.format](path, threads)
    except ImportError:
        raise
    # Each library has errors of its own.
    except Exception as error:
        # OpenVINO's are of many lines.
        words = " ".join(str(error).split())
        raise ValueError(
            f"{path} cannot be opened: {words}. Expected the file that "
            "`keras-danet export` wrote. Export it again."
        ) from error


def read_export(folder):
    """What the `export.json` of an export holds."""
    path = pathlib.Path(folder, FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is not an export: it has no {FILE}. Expected the "
            "folder that `keras-danet export` wrote."
        )
    try:
        content = read_json(path)
        if not isinstance(content["contract"], dict):
            raise ValueError("its contract is not an object")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}). Export the model again."
        ) from error
    return content


def plain_words(error):
    """What an error of TensorFlow's says, without the places in the graph."""
    text = str(getattr(error, "message", None) or error)
    marks = ("assertion failed: [", "stack traces unavailable>")
    for mark in marks:
        if mark in text:
            text = text.rpartition(mark)[2]
    text = text.partition("[[{{")[0].strip(" \n\t[]").replace("\n", " ")
    if "Invalid JPEG" in text or "Invalid PNG" in text:
        text += " Is the file whole?"
    return text.replace("] [", " ")


def _ask(signature, folder, **inputs):
    """The one output of a SavedModel's signature."""
    import tensorflow as tf

    try:
        tensors = {k: tf.convert_to_tensor(v) for k, v in inputs.items()}
        [output] = signature(**tensors).values()
    except tf.errors.OpError as error:
        raise ValueError(
            f"{folder} refuses the images: {plain_words(error)}"
        ) from error
    return output


def _open_saved_model(path, threads):
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    loaded = tf.saved_model.load(str(path.parent))
    function = loaded.signatures["serving_default"]

    def run(images):
        return _ask(function, path.parent, images=images).numpy()

    # The functions do not keep what their variables belong to.
    run.signatures, run.loaded = loaded.signatures, loaded
    return run


def open_tflite(path, threads=None):
    """A function of a batch of images to what a TFLite file gives."""
    # tf.lite's own interpreter is deprecated in favour of this one.
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    [source] = interpreter.get_input_details()
    [target] = interpreter.get_output_details()
    interpreter.allocate_tensors()

    def run(images):
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return run


def _open_onnx(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def open_openvino(model, threads=None):
    """A function of a batch of images to what a file or model of it gives."""
    # In bfloat16, its default where there is one, it would not agree.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino_core().compile_model(model, "CPU", options)
    return lambda images: compiled(images)[0].copy()


@functools.cache
def openvino_core():
    """One for the process: each sets the stack that signals are handled on.

    On its end it sets the one that it found, which may be gone by then.
    """
    import openvino

    return openvino.Core()


def _open_pt2(path, threads):
    import torch

    if threads:
        torch.set_num_threads(threads)
    program = torch.export.load(str(path)).module()

    def run(images):
        with torch.inference_mode():
            return program(torch.from_numpy(images)).cpu().numpy()

    return run


_OPENERS = {
    "saved_model": _open_saved_model,
    "tflite": open_tflite,
    "onnx": _open_onnx,
    "openvino": open_openvino,
    "pt2": _open_pt2,
}
