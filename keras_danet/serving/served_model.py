"""A SavedModel's signatures, asked in the words of TensorFlow Serving."""

import base64
import binascii
import json
import math
import os
import pathlib

import numpy as np

from keras_danet.export.contract import FILE
from keras_danet.export.runtimes import plain_words
from keras_danet.export.runtimes import read_export

DEFAULT_SIGNATURE = "serving_default"
_SUFFIX = "_bytes"
# Of an answer in JSON, about: 3 million probabilities.
MAX_ANSWER_BYTES = 2**26
_JSON_BYTES = {"float32": 20, "uint8": 4}


class ServedModel:
    """The newest version of an export, loaded.

    Args:
        folder: path of `NAME`, which holds versions, or of one of them.

    Attributes:
        name: string, the model's.
        version: integer.

    Raises:
        FileNotFoundError: if it is not an export for servers.
        ValueError: if it is of another format.
    """

    def __init__(self, folder):
        import tensorflow as tf

        # Links are what they are called: a version may lie elsewhere.
        folder = pathlib.Path(os.path.abspath(folder))
        if not folder.name.isdecimal():
            folder = newest_version(folder)
        check_served(folder)
        self.folder = folder
        self.name, self.version = folder.parent.name, int(folder.name)
        try:
            self._loaded = tf.saved_model.load(str(folder))
            self._signatures = dict(self._loaded.signatures)
        # TensorFlow has no common error for broken files.
        except Exception as error:
            raise ValueError(
                f"{folder} cannot be loaded: {error}. Export the model again."
            ) from error
        self._tf = tf

    def run(self, signature, inputs):
        """Runs a signature.

        Args:
            signature: string.
            inputs: dict of name to array.

        Returns:
            Dict of name to array.

        Raises:
            ValueError: if the network, or what is before it, refuses them.
        """
        tf, function = self._tf, self._signatures[signature]
        try:
            outputs = function(**{k: tf.constant(v) for k, v in inputs.items()})
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            raise ValueError(plain_words(error)) from None
        return {name: value.numpy() for name, value in outputs.items()}

    def inputs_of(self, signature):
        """The `tf.TensorSpec` of each input, by name.

        Raises:
            ValueError: if there is no such signature.
        """
        if signature not in self._signatures:
            raise ValueError(
                f"There is no signature {signature!r}. Expected one of "
                f"{sorted(self._signatures)}."
            )
        return self._signatures[signature].structured_input_signature[1]

    def outputs_of(self, signature):
        return self._signatures[signature].structured_outputs

    def check_answer(self, signature, inputs):
        """Refuses pixels whose answer in JSON would take gigabytes.

        Args:
            signature, inputs: as for `run`.

        Raises:
            ValueError: if it would.
        """
        for spec in self.outputs_of(signature).values():
            if "images" not in inputs or spec.dtype.name not in _JSON_BYTES:
                continue
            numbers = math.prod(inputs["images"].shape[:3])
            numbers *= spec.shape[3] if len(spec.shape) == 4 else 1
            size = _JSON_BYTES[spec.dtype.name] * numbers
            if size > MAX_ANSWER_BYTES:
                raise ValueError(
                    f"The answer of {signature!r} would be {numbers} numbers, "
                    f"about {size} bytes of JSON, and may have "
                    f"{MAX_ANSWER_BYTES}. Send fewer or smaller images, or a "
                    "file to 'encoded'."
                )

    def metadata(self):
        """What `GET /v1/models/NAME/metadata` answers."""
        signatures = {
            name: {
                "inputs": _described(self.inputs_of(name)),
                "outputs": _described(self.outputs_of(name)),
                "method_name": "tensorflow/serving/predict",
            }
            for name in self._signatures
        }
        return {
            "model_spec": {
                "name": self.name,
                "signature_name": "",
                "version": str(self.version),
            },
            "metadata": {"signature_def": {"signature_def": signatures}},
        }

    def status(self):
        """What `GET /v1/models/NAME` answers."""
        return {
            "model_version_status": [
                {
                    "version": str(self.version),
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }


def check_served(folder):
    """Refuses what is not an export for servers.

    Raises:
        FileNotFoundError: if it is no export.
        ValueError: if it is of another format.
    """
    kind = read_export(folder)["contract"].get("format")
    if kind != "saved_model":
        raise ValueError(
            f"{folder} is an export of the format {kind}. Expected a "
            "SavedModel: keras-danet export MODEL --format saved_model."
        )


def newest_version(folder):
    """The newest version of the model in a folder NAME.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the folder is an export of another format.
    """
    if (folder / FILE).is_file():
        check_served(folder)
    versions = [
        path
        for path in folder.glob("*")
        if path.name.isdecimal() and path.is_dir()
    ]
    if not versions:
        raise FileNotFoundError(
            f"{folder} has no version of a model. Expected the folder NAME "
            "that `keras-danet export --format saved_model` made, in which "
            "versions are called 1, 2, ..."
        )
    return max(versions, key=lambda path: int(path.name))


def _described(tensors):
    return {
        name: {
            "dtype": f"DT_{spec.dtype.name.upper()}".replace(
                "FLOAT32", "FLOAT"
            ),
            "tensor_shape": {
                "dim": [
                    {"size": str(-1 if side is None else side), "name": ""}
                    for side in spec.shape
                ],
                "unknown_rank": False,
            },
            "name": f"{name}:0",
        }
        for name, spec in tensors.items()
    }


def parse_inputs(body, specs):
    """Arrays from the JSON of a request.

    Args:
        body: what the JSON holds: `instances`, a list with one entry for
            each, or `inputs`, a batch.
        specs: what `ServedModel.inputs_of` returned.

    Returns:
        (dict of name to array, whether it came as `instances`).

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(body, dict) or ("instances" in body) == (
        "inputs" in body
    ):
        raise ValueError(
            "Expected a JSON object with either 'instances' or 'inputs'."
        )
    by_rows = "instances" in body
    given = body["instances"] if by_rows else body["inputs"]
    if by_rows:
        given = _columns(given, specs)
    elif len(specs) == 1 and not (
        isinstance(given, dict) and set(given) == set(specs)
    ):
        given = {next(iter(specs)): given}
    if not isinstance(given, dict) or set(given) != set(specs):
        raise ValueError(f"Expected inputs named {sorted(specs)}.")
    return {
        name: _as_array(name, given[name], spec) for name, spec in specs.items()
    }, by_rows


def _columns(rows, specs):
    if not isinstance(rows, list) or not rows:
        raise ValueError("'instances' must be a list that is not empty.")
    named = [isinstance(row, dict) and set(row) == set(specs) for row in rows]
    if all(named):
        return {name: [row[name] for row in rows] for name in specs}
    if len(specs) == 1 and not any(named):
        return {next(iter(specs)): rows}
    raise ValueError(f"Each of 'instances' must have {sorted(specs)}.")


def _as_array(name, values, spec):
    if spec.dtype.name == "string":
        if not isinstance(values, list):
            raise ValueError(f"{name!r} must be a list.")
        array = np.array([_decoded(name, value) for value in values], object)
    else:
        array = _numbers(name, values, spec)
    if not spec.shape.is_compatible_with(array.shape):
        raise ValueError(
            f"{name!r} must have the shape {tuple(spec.shape)}. Received: "
            f"{array.shape}"
        )
    return array


def _numbers(name, values, spec):
    try:
        array = np.array(values)
        # Strings are no pixels, whatever NumPy makes of them.
        if array.dtype.kind not in "iuf":
            raise TypeError(array.dtype)
        array = array.astype("float64")
    except (ValueError, TypeError, OverflowError):
        raise ValueError(
            f"{name!r} must be nested lists of numbers, all of one length."
        ) from None
    dtype = spec.dtype.as_numpy_dtype
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        inside = (array >= limits.min) & (array <= limits.max)
        if not (inside & (array == np.floor(array))).all():
            raise ValueError(
                f"{name!r} must be integers from {limits.min} to {limits.max}."
            )
    return array.astype(dtype)


def _decoded(name, value):
    text = value.get("b64") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'{name!r} must be {{"b64": "..."}}, bytes in base64.')
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name!r} is not valid base64.") from None


def format_outputs(outputs, by_rows):
    """The JSON of an answer, as bytes."""
    return _json(_answer(outputs, by_rows)).encode()


def _answer(outputs, by_rows):
    values = {name: _plain_values(name, v) for name, v in outputs.items()}
    if not by_rows:
        only = next(iter(values.values())) if len(values) == 1 else values
        return {"outputs": only}
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    rows = zip(*values.values(), strict=True)
    return {
        "predictions": [dict(zip(values, row, strict=True)) for row in rows]
    }


def _json(value):
    """JSON text, in pieces: threads that answer others get their turn."""
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_json(v)}" for key, v in value.items()]
        return f"{{{', '.join(parts)}}}"
    is_large = isinstance(value, np.ndarray) and value.ndim > 2
    if is_large or isinstance(value, list):
        return f"[{', '.join(map(_json, value))}]"
    is_array = isinstance(value, (np.ndarray, np.generic))
    return json.dumps(value.tolist() if is_array else value)


def _plain_values(name, array):
    if array.dtype != object:
        return array
    if not name.endswith(_SUFFIX):
        return [value.decode() for value in array]
    # As TensorFlow Serving does to outputs that are called so.
    return [{"b64": base64.b64encode(v).decode("ascii")} for v in array]
