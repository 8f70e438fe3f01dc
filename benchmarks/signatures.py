"""What the signatures of a SavedModel answer, and how fast.

    KERAS_BACKEND=tensorflow python benchmarks/signatures.py EXPORT IMAGE

prints for each signature the median time, the paired difference to
`serving_default`, and how long its request and its answer are, over gRPC and
as JSON. The image is resized to `--size` first. A second table is of the same
signatures around a stand-in for the network that takes hardly any time, so that
what decoding and encoding cost is not lost in a network's noise.
"""

import argparse
import io
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from keras_danet.export.contract import Contract
from keras_danet.export.tensorflow_graphs import write_served
from keras_danet.layers import BilinearResize
from keras_danet.serving.served_model import DEFAULT_SIGNATURE
from keras_danet.serving.served_model import ServedModel
from keras_danet.serving.served_model import format_outputs

# JSON of more numbers than this takes Python gigabytes.
MOST_NUMBERS = 2**24
CAPTIONS = ("signature", "ms", "above", "request", "answer", "answer as JSON")


def stand_in(folder, contract):
    """A network that answers colours with smooth classes, nearly for nothing.

    Labels like a network's: classes of features of eight pixels, upsampled.
    """
    import keras

    images = keras.Input((None, None, 3))
    features = keras.layers.AveragePooling2D(8)(images)
    kernel = np.random.default_rng(0).normal(size=(1, 1, 3, 19))
    conv = keras.layers.Conv2D(19, 1)
    features = conv(features)
    conv.set_weights([kernel, np.zeros(19)])
    logits = BilinearResize()(features, images)
    place = folder / "stand_in" / "1"
    write_served(keras.Model(images, logits), place, contract)
    (place / "export.json").write_text(
        json.dumps({"contract": contract.as_dict()})
    )
    return ServedModel(place)


def measure(model, inputs, repeats):
    """Dict of signature to (seconds, outputs); all in each round."""
    seconds = {signature: [] for signature in inputs}
    outputs = {s: model.run(s, given) for s, given in inputs.items()}
    for _ in range(repeats):
        for signature, given in inputs.items():
            started = time.perf_counter()
            model.run(signature, given)
            seconds[signature].append(time.perf_counter() - started)
    return {s: (np.array(seconds[s]), outputs[s]) for s in inputs}


def length(arrays):
    """Bytes of arrays as TensorFlow's protocol buffers."""
    import tensorflow as tf

    return sum(tf.make_tensor_proto(a).ByteSize() for a in arrays.values())


def length_as_json(outputs):
    if sum(array.size for array in outputs.values()) > MOST_NUMBERS:
        return None
    return len(format_outputs(outputs, True))


def kilobytes(count):
    return "-" if count is None else f"{count / 1000:,.1f} kB"


def report(title, inputs, measured):
    print(f"\n{title}\n\n| {' | '.join(CAPTIONS)} |")
    print(f"|{'---|' * len(CAPTIONS)}")
    plain = measured[DEFAULT_SIGNATURE][0]
    for signature, (seconds, outputs) in measured.items():
        cells = (
            f"`{signature}`",
            f"{1000 * statistics.median(seconds):,.0f}",
            f"{1000 * statistics.median(seconds - plain):+,.0f}",
            kilobytes(length(inputs[signature])),
            kilobytes(length(outputs)),
            kilobytes(length_as_json(outputs)),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=pathlib.Path)
    parser.add_argument("image", type=pathlib.Path)
    parser.add_argument("--size", default="1024x2048")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    height, width = map(int, given.size.split("x"))
    image = Image.open(given.image).convert("RGB").resize((width, height))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    files = {"image_bytes": np.array([file.getvalue()], object)}
    pixels = {"images": np.asarray(image)[np.newaxis]}
    inputs = {
        DEFAULT_SIGNATURE: pixels,
        "encoded": files,
        "colored": files,
        "probabilities": pixels,
    }
    model = ServedModel(given.export)
    title = f"{model.name}, one image of {given.size}"
    report(title, inputs, measure(model, inputs, given.repeats))
    names = tuple(f"class {index}" for index in range(19))
    palette = tuple((13 * index, 7 * index, index) for index in range(19))
    contract = Contract("saved_model", "none", "labels", names, palette)
    with tempfile.TemporaryDirectory() as place:
        model = stand_in(pathlib.Path(place), contract)
        report(
            f"No network, 19 classes, one image of {given.size}",
            inputs,
            measure(model, inputs, 3 * given.repeats),
        )


if __name__ == "__main__":
    main()
