"""OpenVINO's IR, converted from a SavedModel of one function."""


def write_openvino(plain, path, quantization, calibration):
    """Converts a SavedModel.

    Args:
        plain: path of what `write_plain` wrote.
        path: path of the .xml file to write; the .bin lies beside it.
        quantization: string, one of the format's.
        calibration: list of arrays as the function takes them.
    """
    import openvino

    model = openvino.convert_model(str(plain))
    if quantization == "int8":
        import nncf

        model = nncf.quantize(
            model,
            nncf.Dataset(calibration),
            subset_size=len(calibration),
            # Activations of attentions have both signs.
            preset=nncf.QuantizationPreset.MIXED,
        )
    openvino.save_model(
        model, str(path), compress_to_fp16=quantization == "float16"
    )
