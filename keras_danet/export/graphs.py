"""Writes a network as its backend's own graph; also a process of its own.

    KERAS_BACKEND=tensorflow python -m keras_danet.export.graphs FOLDER

FOLDER has `model.keras` and `request.json`, and gets `graph/`.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras

from keras_danet.export.contract import Contract
from keras_danet.export.runtimes import FILES
from keras_danet.files import read_json
from keras_danet.files import save_model
from keras_danet.files import save_text
from keras_danet.layers import unrolled_blocks
from keras_danet.models import optimize_for_inference
from keras_danet.weights.keras_files import load_keras_model


def write_graph(model, folder, contract, feature=None):
    """Writes a graph that needs no Keras, on the backend that can.

    Args:
        model: `DANet`, on any backend.
        folder: `pathlib.Path` of the folder to make: a SavedModel, or what
            holds a program of torch.
        contract: `Contract`.
        feature: string, a key of `model.features`: the network ends there,
            and its output is called logits; or `"whole"`, for a function of
            the whole network alone. Defaults to `None`.

    Raises:
        ImportError: if TensorFlow is not installed.
        ChildProcessError: if its process fails; with its last words.
        ValueError: for a program of torch on another backend.
    """
    backend = keras.backend.backend()
    if contract.format == "pt2" and backend != "torch":
        raise ValueError(
            f"A pt2 file is written on torch, and this is {backend}. A run can "
            "be exported on any backend: set KERAS_BACKEND=torch."
        )
    if contract.format == "pt2" or backend == "tensorflow":
        _write_here(model, folder, contract, feature)
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        save_model(model, pathlib.Path(place, "model.keras"))
        request = {"contract": contract.as_dict(), "feature": feature}
        save_text(json.dumps(request), pathlib.Path(place, "request.json"))
        _run_on_tensorflow(place)
        os.rename(pathlib.Path(place, "graph"), folder)


def _write_here(model, folder, contract, feature):
    network = model
    if feature not in (None, "whole"):
        network = keras.Model(model.input, model.features[feature])
    network = optimize_for_inference(network)
    if contract.format == "pt2":
        from keras_danet.export.torch_programs import write_program

        folder.mkdir()
        write_program(network, folder / FILES["pt2"], contract)
        return
    from keras_danet.export import tensorflow_graphs

    served = contract.format == "saved_model" and feature is None
    write = getattr(
        tensorflow_graphs, "write_served" if served else "write_plain"
    )
    # Loops crash TFLite's runtime if they are quantised to int8, and slow
    # others down; of an image's size that is not known they are needed.
    fixed = contract.size is not None and not served
    with unrolled_blocks() if fixed else contextlib.nullcontext():
        write(network, folder, contract)


def _run_on_tensorflow(place):
    done = subprocess.run(
        [sys.executable, "-m", "keras_danet.export.graphs", place],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return
    words = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    if "ModuleNotFoundError" in words[0] or "ImportError" in words[0]:
        raise ImportError(
            "This format is written with TensorFlow, which cannot be imported "
            f"({words[0]}). Install it: pip install tensorflow."
        )
    raise ChildProcessError(
        "The process that writes the graph with TensorFlow ended with code "
        f"{done.returncode}: {words[0]}"
    )


def main():
    place = pathlib.Path(sys.argv[1])
    request = read_json(place / "request.json")
    _write_here(
        load_keras_model(place / "model.keras"),
        place / "graph",
        Contract.from_dict(request["contract"]),
        request["feature"],
    )


if __name__ == "__main__":
    main()
