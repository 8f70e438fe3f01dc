"""Runtimes of our exports: each function returns a call to be timed.

    KERAS_BACKEND=torch python exports.py model.onnx DEPTH HEIGHT WIDTH

writes the ONNX file that they read. They start that as a process of its own,
so that theirs holds the runtime alone.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np


def export(path, depth, height, width):
    import keras
    from ours import inference_model

    signature = keras.InputSpec(
        shape=(1, height, width, 3), dtype="float32", name="images"
    )
    inference_model(depth, optimized=True).export(
        path, format="onnx", input_signature=[signature], verbose=False
    )


def exported(load, depth, height, width):
    """What `load` makes of the path of an export, which is then removed."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "model.onnx")
        command = [sys.executable, __file__, path, depth, height, width]
        subprocess.run(list(map(str, command)), check=True)
        return load(path)


def image(height, width):
    images = np.random.default_rng(0).uniform(0, 255, (1, height, width, 3))
    return images.astype("float32")


def onnx_runtime(depth, height, width):
    import onnxruntime

    session = exported(
        lambda path: onnxruntime.InferenceSession(
            path, providers=["CPUExecutionProvider"]
        ),
        depth,
        height,
        width,
    )
    images = {session.get_inputs()[0].name: image(height, width)}
    return lambda: session.run(None, images)


def openvino(depth, height, width, precision):
    """`precision` is `"f32"` or `"bf16"`; untold, it takes what is fastest."""
    import openvino

    model = exported(
        lambda path: openvino.Core().compile_model(
            path, "CPU", {"INFERENCE_PRECISION_HINT": precision}
        ),
        depth,
        height,
        width,
    )
    images = image(height, width)
    return lambda: model(images)


if __name__ == "__main__":
    export(sys.argv[1], *map(int, sys.argv[2:]))
