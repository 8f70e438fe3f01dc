"""OpenVINO's IR, converted from a SavedModel of one function."""

from keras_danet.export.runtimes import open_openvino
from keras_danet.waiting import answering

# What has weights or multiplies: the layers that int8 is about.
_LAYERS = ("Convolution", "GroupConvolution", "MatMul")


def write_openvino(plain, path, quantization, calibration, compare=None):
    """Converts a SavedModel.

    int8 that loses too much is quantised again with NNCF's accuracy control:
    the layers that cost the most agreement go back to float, one after the
    other, until the rest is good enough.

    Args:
        plain: path of what `write_plain` wrote.
        path: path of the .xml file to write; the .bin lies beside it.
        quantization: string, one of the format's.
        calibration: list of arrays as the function takes them.
        compare: function of a function of images to a `Verification`.
            Defaults to `None`: whatever int8 loses, it stays.

    Returns:
        List of the names of layers that went back to float.
    """
    import openvino

    model = openvino.convert_model(str(plain))
    kept = []
    if quantization == "int8":
        # Not in the main thread, where NNCF's many `Core`s would leave a
        # stack for signals that is gone: the next signal kills the process.
        model, kept = answering(_quantized, model, calibration, compare)
    openvino.save_model(
        model, str(path), compress_to_fp16=quantization == "float16"
    )
    return kept


def _quantized(model, calibration, compare):
    import nncf

    options = {
        "subset_size": len(calibration),
        # Activations of attentions have both signs.
        "preset": nncf.QuantizationPreset.MIXED,
    }
    images = nncf.Dataset(calibration)
    quantized = nncf.quantize(model, images, **options)
    if compare is None:
        return quantized, []

    if compare(open_openvino(quantized)).passed:
        return quantized, []
    floating = compare(open_openvino(model))
    controlled = nncf.quantize_with_accuracy_control(
        model,
        images,
        # What is compared on are the samples that `compare` knows.
        nncf.Dataset([None]),
        lambda compiled, _: (compare(lambda x: compiled(x)[0]).margin, None),
        # Down to what is required.
        max_drop=floating.margin,
        **options,
    )
    before = set(_float_layers(quantized))
    return controlled, [
        name for name in _float_layers(controlled) if name not in before
    ]


def _float_layers(model):
    return [
        node.friendly_name
        for node in model.get_ops()
        if node.get_type_name() in _LAYERS
        and node.input_value(0).get_node().get_type_name() != "FakeQuantize"
    ]
