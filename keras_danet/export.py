"""Exports models, and checks each export against its model."""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile

import keras
import numpy as np

from keras_danet.arguments import choice
from keras_danet.files import make_folder
from keras_danet.files import save_text
from keras_danet.layers.tiled_attention import unrolled_blocks
from keras_danet.models import optimize_for_inference
from keras_danet.waiting import answering

# A float32 graph rounds differently from the model, but not more: 1e-4 of the
# logits' deviation is about a hundred times what is measured.
MAX_RELATIVE_ERROR = 1e-4
MIN_ARGMAX_AGREEMENT = 0.999

FILE_NAMES = {"saved_model": "saved_model", "tflite": "model.tflite"}


@dataclasses.dataclass(frozen=True)
class ExportCheck:
    """How far an exported model is from the model it was made from.

    Args:
        path: string, the exported file or folder.
        sizes: (height, width) of the images that both were given.
        relative_error: float, the largest difference of the logits, divided
            by their standard deviation.
        argmax_agreement: float, the share of pixels of the same class.
    """

    path: str
    sizes: tuple[tuple[int, int], ...]
    relative_error: float
    argmax_agreement: float

    @property
    def passed(self):
        return (
            self.relative_error <= MAX_RELATIVE_ERROR
            and self.argmax_agreement >= MIN_ARGMAX_AGREEMENT
        )

    def summary(self):
        verdict = "agrees with" if self.passed else "DIFFERS FROM"
        return (
            f"{self.path} {verdict} the model: largest error "
            f"{self.relative_error:.1e} of the logits' deviation (allowed "
            f"{MAX_RELATIVE_ERROR:.0e}), same class at "
            f"{self.argmax_agreement:.3%} of pixels (needed "
            f"{MIN_ARGMAX_AGREEMENT:.1%}), image sizes {list(self.sizes)}"
        )


def export_model(model, folder, kind, images=(), size=None, test_sides=None):
    """Writes `model` for use without Keras, and checks what was written.

    The export maps `images` (batch, height, width, 3), RGB floats in 0-255,
    to the fused logits (batch, height, width, num_classes): batch and size
    are free in a SavedModel, and 1 and `size` in a TFLite file. The check is
    written beside it, `{name}.check.json`.

    Args:
        model: `DANet`.
        folder: path of the folder to write to.
        kind: `"saved_model"` or `"tflite"`.
        images: arrays `(height, width, 3)` in 0-255 to check with, besides
            noise. Defaults to `()`.
        size: (height, width) of a TFLite file. Defaults to the first image's.
        test_sides: (long, short) side that images should have, each `None`
            for their own, recorded for users in the file beside the export.
            Defaults to `None`, the model's `test_size`.

    Returns:
        An `ExportCheck`; look at `passed`.

    Raises:
        ValueError: for an unknown kind, no size for a TFLite file, or a
            backend that cannot export.
    """
    choice("kind", kind, FILE_NAMES)
    backends = (
        ("tensorflow", "jax") if kind == "saved_model" else ("tensorflow",)
    )
    if keras.backend.backend() not in backends:
        raise ValueError(
            f"Exporting to {kind} needs the {' or '.join(backends)} backend; "
            f"this is {keras.backend.backend()}. A run can be exported from "
            "any backend: set KERAS_BACKEND=tensorflow."
        )
    if test_sides is None:
        test_sides = getattr(model, "test_size", None) or (None, None)
    if kind == "saved_model" and size is not None:
        raise ValueError(
            "A SavedModel takes images of any size; `size` (--size) is for "
            f"TFLite. Received: size={size!r}"
        )
    if kind == "tflite" and size is None:
        if not len(images):
            raise ValueError(
                "A TFLite file has one image size, which is not known here. "
                "Give `size` (--size HEIGHTxWIDTH)."
            )
        size = images[0].shape[:2]
    folder = pathlib.Path(folder)
    make_folder(folder)
    path = folder / FILE_NAMES[kind]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        written = pathlib.Path(partial) / path.name
        if kind == "saved_model":
            answering(_write_saved_model, model, written, (None, None))
            images = [*images, *_noise((64, 48), (97, 65))]
            run = _saved_model_runner(written)
        else:
            answering(_write_tflite, model, written, size)
            images = [_cut_or_pad(image, size) for image in images]
            images = [*images, *_noise(size)]
            run = _tflite_runner(written)
        check = check_export(model, run, images, path)
        _replace(written, path)
    report = {
        **dataclasses.asdict(check),
        "passed": check.passed,
        "test_sides": dict(zip(("long", "short"), test_sides, strict=True)),
    }
    beside = folder / f"{path.name}.check.json"
    save_text(json.dumps(report, indent=1) + "\n", beside)
    return check


def check_export(model, run, images, path):
    """Compares `run`, a function of an image batch, with `model`."""
    error, same, pixels = 0.0, 0, 0
    for image in images:
        batch = np.asarray(image, "float32")[np.newaxis]
        expected = model.predict_on_batch(batch)
        received = np.asarray(run(batch))
        if received.shape != expected.shape:
            raise ValueError(
                f"{path} gives shape {received.shape}, but the model gives "
                f"{expected.shape}; it was not kept."
            )
        difference = np.abs(received - expected).max() / expected.std()
        # A NaN must not pass as "no larger than".
        error = max(error, float(np.nan_to_num(difference, nan=np.inf)))
        same += int((received.argmax(-1) == expected.argmax(-1)).sum())
        pixels += int(np.prod(expected.shape[:-1]))
    return ExportCheck(
        path=str(path),
        sizes=tuple(tuple(map(int, image.shape[:2])) for image in images),
        relative_error=error,
        argmax_agreement=same / pixels,
    )


def _write_saved_model(model, path, size):
    batch = None if size == (None, None) else 1
    signature = keras.InputSpec(
        shape=(batch, *size, 3), dtype="float32", name="images"
    )
    options = {}
    if keras.backend.backend() == "jax":
        options["jax2tf_kwargs"] = {
            "with_gradient": False,
            "polymorphic_shapes": ["(b,h,w,3)"],
        }
    optimize_for_inference(model).export(
        path,
        format="tf_saved_model",
        input_signature=[signature],
        verbose=False,
        **options,
    )


def _write_tflite(model, path, size):
    import tensorflow as tf

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # Loops crash the runtime if they are quantised to int8.
        with unrolled_blocks():
            _write_saved_model(model, folder, tuple(size))
        # No SELECT_TF_OPS: an operator that phones lack must be an error.
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        path.write_bytes(converter.convert())


def _saved_model_runner(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda batch: loaded.serve(tf.constant(batch)).numpy()


def _tflite_runner(path):
    # tf.lite's own interpreter is deprecated in favour of this one.
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def run(batch):
        interpreter.set_tensor(source, batch)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run


def _noise(*sizes):
    rng = np.random.default_rng(0)
    return [rng.uniform(0, 255, (*size, 3)).astype("float32") for size in sizes]


def _cut_or_pad(image, size):
    """The top left of `image` at `size`, black where it has no pixels."""
    fitted = np.zeros((*size, 3), image.dtype)
    part = image[: size[0], : size[1]]
    fitted[: part.shape[0], : part.shape[1]] = part
    return fitted


def _replace(source, target):
    """Moves a file or folder over an older one."""
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)
