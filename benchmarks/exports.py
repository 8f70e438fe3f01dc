"""Our exports in their runtimes: a function that returns a call to be timed.

    KERAS_BACKEND=tensorflow python exports.py FOLDER FORMAT QUANTIZATION \
        DEPTH HEIGHT WIDTH

writes the file that it reads. It starts that as a process of its own, so that
the contestant's holds the runtime alone.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from keras_danet.export.contract import Contract
from keras_danet.export.runtimes import FILES
from keras_danet.export.runtimes import open_file

NUM_CALIBRATION = 4


def contract_of(format, quantization, height, width):
    # From image to logits, as the peers.
    names = tuple(f"class {index}" for index in range(19))
    return Contract(
        *(format, quantization, "logits", names, ((0, 0, 0),) * 19),
        size=(height, width),
        input_dtype="float32",
    )


def images_of(height, width, count=1):
    shape = (count, 1, height, width, 3)
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def write(folder, format, quantization, depth, height, width):
    from ours import SETTINGS

    from keras_danet import DANet
    from keras_danet.export.graphs import write_graph
    from keras_danet.export.writing import convert

    model = DANet(backbone=f"resnet{depth}", **SETTINGS)
    contract = contract_of(format, quantization, height, width)
    folder = pathlib.Path(folder)
    plain = folder / "plain"
    # Of a SavedModel, too, the function with the one output is timed.
    write_graph(model, plain, contract, "whole")
    if format == "saved_model":
        plain.rename(folder / "export")
        return
    (folder / "export").mkdir()
    calibration = list(images_of(height, width, NUM_CALIBRATION))
    convert(plain, folder / "export", contract, calibration)


def forward(depth, height, width, format, quantization="none"):
    """A network in the runtime of a format, from an image to its logits."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, folder, format, quantization]
        command += map(str, (depth, height, width))
        subprocess.run(command, check=True)
        contract = contract_of(format, quantization, height, width)
        path = pathlib.Path(folder, "export", FILES[format])
        # OpenVINO computes in float32 unless it is told otherwise.
        run = open_file(contract, path)
    [image] = images_of(height, width)
    return lambda: run(image)


if __name__ == "__main__":
    write(*sys.argv[1:4], *map(int, sys.argv[4:]))
