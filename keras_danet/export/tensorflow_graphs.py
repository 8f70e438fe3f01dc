"""A network as TensorFlow functions, and SavedModels of them."""

import json
import tempfile
from pathlib import Path

import tensorflow as tf

from keras_danet.data.tensorflow_images import resample
from keras_danet.export.image_bytes import decode_upright
from keras_danet.export.image_bytes import size_of

CONTRACT_FILE = "contract.json"
MAX_FILES = 16
# Of the class's colour in `colored`.
OVERLAY = 0.5
# zlib's level for photographs, which its default makes little smaller in much
# more time; label maps are worth it.
FAST_COMPRESSION = 2
# Of a photograph of 8192 pixels' width and 150 classes 80 MB of logits.
BAND_ROWS = 16


def write_plain(network, folder, contract):
    """A SavedModel with one function, for the converters of other formats.

    Args:
        network: functional model of images to logits, on TensorFlow.
        folder: path to write to.
        contract: `Contract`.
    """
    size = contract.size or (None, None)
    batch = None if contract.size is None else 1
    images = tf.TensorSpec((batch, *size, 3), contract.input_dtype, "images")

    @tf.function(input_signature=[images])
    def run(images):
        logits = network(tf.cast(images, tf.float32), training=False)
        if contract.outputs == "logits":
            return {"logits": tf.cast(logits, tf.float32)}
        return {"labels": _largest(logits)}

    _save(network, folder, {"serving_default": run})


def write_served(network, folder, contract):
    """A SavedModel for TensorFlow Serving, with all its signatures.

    Args: as `write_plain`.
    """
    size = contract.size or (None, None)
    images = tf.TensorSpec((None, *size, 3), contract.input_dtype, "images")
    files = tf.TensorSpec((None,), tf.string, "image_bytes")
    most = contract.max_file_pixels
    segment = _segment_function(network, contract)

    def logits_of(images):
        with tf.control_dependencies([_not_too_large(images, contract)]):
            pixels = tf.cast(images, tf.float32)
        return network(pixels, training=False)

    @tf.function(input_signature=[images])
    def labels(images):
        return {"labels": _largest(logits_of(images))}

    @tf.function(input_signature=[images])
    def probabilities(images):
        logits = tf.cast(logits_of(images), tf.float32)
        return {"probabilities": tf.nn.softmax(logits)}

    @tf.function(input_signature=[files])
    def encoded(image_bytes):
        def answer(contents):
            _, label = segment(contents)
            return tf.io.encode_png(label[..., tf.newaxis])

        return {"label_png_bytes": _each(answer, image_bytes, most)}

    @tf.function(input_signature=[files])
    def colored(image_bytes):
        def answer(contents):
            image, label = segment(contents)
            overlay = _overlay(image, label, contract.palette)
            return tf.io.encode_png(overlay, compression=FAST_COMPRESSION)

        return {"overlay_png_bytes": _each(answer, image_bytes, most)}

    with tempfile.TemporaryDirectory() as place:
        asset = Path(place, CONTRACT_FILE)
        asset.write_text(
            json.dumps(contract.as_dict(), indent=1) + "\n", encoding="utf-8"
        )
        _save(
            network,
            folder,
            {
                "serving_default": labels,
                "probabilities": probabilities,
                "encoded": encoded,
                "colored": colored,
            },
            tf.saved_model.Asset(str(asset)),
        )


def _save(network, folder, functions, asset=None):
    module = tf.Module()
    # What the functions refer to must hang on what is saved.
    module.variables_of_network = [v.value for v in network.variables]
    if asset is not None:
        module.contract = asset
    signatures = {
        name: function.get_concrete_function()
        for name, function in functions.items()
    }
    # A server needs no gradients, and may lack their operators (XLA's).
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        tf.saved_model.save(module, str(folder), signatures, options)
    except tf.errors.OpError as error:
        # A disk that fills up meanwhile is TensorFlow's own kind of error.
        raise OSError(
            f"TensorFlow could not write {folder}: {error.message}"
        ) from error


def _largest(logits):
    # int32: int64 would need operators that phones lack.
    return tf.cast(tf.argmax(logits, -1, tf.int32), tf.uint8)


def _not_too_large(images, contract):
    """An assertion about the pixels of a batch together.

    Of an image smaller than a feature's eight pixels a whole feature is
    computed.
    """
    shape = tf.shape(images, tf.int64)
    pixels = shape[0] * tf.reduce_prod(tf.maximum(shape[1:3], 8))
    return tf.debugging.Assert(
        pixels <= contract.max_pixels,
        [
            f"These images have more than {contract.max_pixels} pixels "
            "together. Send fewer or smaller ones. Received the shape:",
            shape,
        ],
        name="size",
    )


def _each(answer, image_bytes, max_pixels):
    """Answers for the files of a batch, which may differ in size."""
    few = tf.debugging.Assert(
        tf.size(image_bytes) <= MAX_FILES,
        [
            f"More than {MAX_FILES} files in a request. Received:",
            tf.size(image_bytes),
        ],
        name="files",
    )
    with tf.control_dependencies([few]):
        image_bytes = tf.identity(image_bytes)

    def pixels_of(contents):
        height, width = size_of(contents)
        # Sides of 2**32 would overflow.
        sane = tf.maximum(height, width) <= max_pixels
        return tf.where(sane, height * width, max_pixels + 1)

    pixels = tf.map_fn(pixels_of, image_bytes, fn_output_signature=tf.int64)
    # A single file has words of its own.
    small = tf.debugging.Assert(
        (tf.size(pixels) == 1) | (tf.reduce_sum(pixels) <= max_pixels),
        [
            f"These images have more than {max_pixels} pixels together. Send "
            "fewer in a request, or smaller ones. Received:",
            pixels,
        ],
        name="together",
    )
    with tf.control_dependencies([small]):
        image_bytes = tf.identity(image_bytes)
    return tf.map_fn(
        answer,
        image_bytes,
        # The network uses all cores for one image.
        parallel_iterations=1,
        fn_output_signature=tf.TensorSpec((), tf.string),
    )


def _segment_function(network, contract):
    """A function of a file's bytes to its image and label map."""
    long_side, short_side = contract.test_sides

    def segment(contents):
        image = decode_upright(contents, contract.max_file_pixels)
        size = tf.shape(image, tf.int64)[:2]
        target = tf.constant(contract.size or (0, 0), tf.int64)
        if contract.size is None:
            target = _scaled(size, long_side, short_side)
        small = tf.debugging.Assert(
            tf.reduce_prod(target) <= contract.max_pixels,
            [
                "The network would get an image of more than "
                f"{contract.max_pixels} pixels. Send a smaller one, or one "
                "less long. Received (height, width), and what it becomes:",
                size,
                target,
            ],
            name="target",
        )
        with tf.control_dependencies([small]):
            target = tf.identity(target)
        pixels = tf.cond(
            tf.reduce_all(target == size),
            lambda: tf.cast(image, tf.float32),
            lambda: resample(
                image, tf.zeros(2, tf.int64), target, size, target
            ),
        )
        if contract.size:
            pixels = tf.ensure_shape(pixels, (*contract.size, 3))
        logits = network(pixels[tf.newaxis], training=False)[0]
        label = tf.cond(
            tf.reduce_all(target == size),
            lambda: _largest(logits),
            lambda: _labels_at(logits, size),
        )
        return image, label

    return segment


def _labels_at(logits, size):
    """The classes of logits that are resized (bilinear), in bands of rows.

    The resized logits of a photograph would take gigabytes.
    """
    tops, bottoms, y = _neighbours(tf.shape(logits)[0], size[0])
    lefts, rights, x = _neighbours(tf.shape(logits)[1], size[1])

    def band(rows):
        first, last = tops[rows[0]], bottoms[rows[-1]]
        part = logits[first : last + 1]
        left, right = (tf.gather(part, at, axis=1) for at in (lefts, rights))
        wide = left + (right - left) * x[:, tf.newaxis]
        top, bottom = (
            tf.gather(wide, tf.gather(at, rows) - first)
            for at in (tops, bottoms)
        )
        share = tf.gather(y, rows)[:, tf.newaxis, tf.newaxis]
        return _largest(top + (bottom - top) * share)

    height = tf.cast(size[0], tf.int32)
    count = (height + BAND_ROWS - 1) // BAND_ROWS
    rows = tf.minimum(tf.range(count * BAND_ROWS), height - 1)
    labels = tf.map_fn(
        band,
        tf.reshape(rows, [-1, BAND_ROWS]),
        parallel_iterations=1,
        fn_output_signature=tf.uint8,
    )
    return tf.reshape(labels, [-1, size[1]])[:height]


def _neighbours(old, new):
    """What `tf.image.resize` interpolates between along an axis.

    Returns:
        For each new pixel the old ones before and after it, and its place
        between them.
    """
    scale = tf.cast(old, tf.float32) / tf.cast(new, tf.float32)
    places = (tf.range(tf.cast(new, tf.float32)) + 0.5) * scale - 0.5
    before = tf.floor(places)
    share = places - before
    before, after = (
        tf.clip_by_value(tf.cast(at, tf.int32), 0, old - 1)
        for at in (before, tf.math.ceil(places))
    )
    return before, after, share


def _scaled(size, long_side, short_side):
    """`data.resampling.scaled_size` of a size that is not known yet."""
    extremes = (
        (long_side, tf.reduce_max(size)),
        (short_side, tf.reduce_min(size)),
    )
    limits = [
        side / tf.cast(extreme, tf.float64)
        for side, extreme in extremes
        if side is not None
    ]
    if not limits:
        return size
    factor = tf.reduce_min(tf.stack(limits))
    scaled = tf.floor(tf.cast(size, tf.float64) * factor + 0.5)
    return tf.maximum(tf.cast(scaled, tf.int64), 1)


def _overlay(image, label, palette):
    # Labels beyond the palette cannot be: the network has as many classes.
    colors = tf.gather(
        tf.constant(palette, tf.float32), tf.cast(label, "int32")
    )
    mixed = (1 - OVERLAY) * tf.cast(image, tf.float32) + OVERLAY * colors
    return tf.cast(tf.round(mixed), tf.uint8)


def warm_up_requests(folder, name, images, dtype):
    """Writes what TensorFlow Serving runs before the first request.

    Args:
        folder: path of the SavedModel.
        name: string, the model's.
        images: list of uint8 arrays (height, width, 3).
        dtype: string, that of the signatures' pixels.

    Raises:
        ImportError: without `tensorflow-serving-api`.
    """
    from tensorflow_serving.apis import predict_pb2
    from tensorflow_serving.apis import prediction_log_pb2

    extra = Path(folder, "assets.extra")
    extra.mkdir(exist_ok=True)
    path = extra / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in images:
            contents = tf.io.encode_jpeg(image).numpy()
            for signature, key, value in (
                ("serving_default", "images", image[None].astype(dtype)),
                ("encoded", "image_bytes", [contents]),
            ):
                request = predict_pb2.PredictRequest()
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                tensor = tf.make_tensor_proto(value)
                request.inputs[key].CopyFrom(tensor)
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(request=request)
                )
                writer.write(log.SerializeToString())
