"""TFLite files, in the precisions that phones compute in."""

import csv
import io
import warnings

import numpy as np

from keras_danet.export.runtimes import open_tflite

# Softmax and products of two activations: the attentions, and upsampling. In
# int8 the softmax has a fixed step of 1/256, under which the weights of
# thousands of positions vanish; and both are slower than in float.
_FLOAT_OPERATORS = ["BATCH_MATMUL", "SOFTMAX"]
# int8 that loses too much: as many more layers stay float at a time.
_STEPS = (0.05, 0.1, 0.2, 0.35, 0.5)


def write_tflite(plain, path, quantization, calibration, compare=None):
    """Converts a SavedModel of one function.

    int8 is of the convolutions, and of all that is between them. If it loses
    too much, its most sensitive layers stay in float: those whose outputs
    differ most from the float network's on the calibration images, more and
    more of them until it is good enough.

    Args:
        plain: path of what `write_plain` wrote.
        path: path of the file to write.
        quantization: string, one of the format's.
        calibration: list of arrays `(1, height, width, 3)` as the function
            takes them.
        compare: function of a function of images to a `Verification`.
            Defaults to `None`: whatever int8 loses, it stays.

    Returns:
        List of the names of layers that stayed float.
    """
    if quantization == "int8":
        with warnings.catch_warnings():
            # The debugger runs on tf.lite's own interpreter.
            warnings.filterwarnings(
                "ignore", ".*tf.lite.Interpreter is deprecated", UserWarning
            )
            return _write_int8(plain, path, calibration, compare)
    converter = _converter(plain, quantization, calibration)
    path.write_bytes(converter.convert())
    return []


def _converter(plain, quantization, calibration):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(plain))
    builtin, whole = tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.Optimize.DEFAULT
    if quantization != "none":
        converter.optimizations = [whole]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    # No SELECT_TF_OPS: an operator that phones lack must be an error.
    converter.target_spec.supported_ops = {
        "int16x8": [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            builtin,
        ],
    }.get(quantization, [builtin])
    if quantization in ("int8", "int16x8"):
        converter.representative_dataset = lambda: (
            [image] for image in calibration
        )
    return converter


def _write_int8(plain, path, calibration, compare):
    import tensorflow as tf

    debug = tf.lite.experimental

    def images():
        return ([image] for image in calibration)

    def is_good():
        path.write_bytes(debugger.get_nondebug_quantized_model())
        return compare is None or compare(open_tflite(path)).passed

    options = debug.QuantizationDebugOptions(
        layer_debug_metrics={"error": lambda diff: float(np.abs(diff).mean())},
        denylisted_ops=_FLOAT_OPERATORS,
    )
    debugger = debug.QuantizationDebugger(
        converter=_converter(plain, "int8", calibration),
        debug_dataset=images,
        debug_options=options,
    )
    if is_good():
        return []
    debugger.run()
    text = io.StringIO()
    debugger.layer_statistics_dump(text)
    rows = csv.DictReader(io.StringIO(text.getvalue()))
    # The error in units of the layer's own quantisation step.
    errors = {
        row["tensor_name"]: float(row["error"]) / max(float(row["scale"]), 1e-9)
        for row in rows
    }
    worst = sorted(errors, key=errors.get, reverse=True)
    for share in _STEPS:
        kept = worst[: max(1, round(share * len(worst)))]
        options.denylisted_nodes = kept
        debugger.options = options
        if is_good():
            break
    return kept
