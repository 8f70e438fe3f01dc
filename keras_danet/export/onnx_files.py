"""ONNX files, converted from a SavedModel of one function.

TensorFlow's loops become ONNX's, so that a file for images of any size
computes position attention in tiles, too.
"""

OPSET = 18


def write_onnx(plain, path):
    """Converts a SavedModel.

    Args:
        plain: path of what `write_plain` wrote.
        path: path of the file to write.
    """
    import tensorflow as tf
    import tf2onnx

    # The function does not keep what its variables belong to.
    loaded = tf.saved_model.load(str(plain))
    function = loaded.signatures["serving_default"]
    [images] = function.structured_input_signature[1].values()
    [name] = function.structured_outputs

    def call(images):
        return function(images=images)[name]

    wrapped = tf.function(call, input_signature=[images])
    tf2onnx.convert.from_function(
        wrapped,
        input_signature=[images],
        opset=OPSET,
        output_path=str(path),
    )
