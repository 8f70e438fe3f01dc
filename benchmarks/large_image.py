"""Memory of the prediction of an image of 20,000 x 20,000 pixels.

    KERAS_BACKEND=torch python benchmarks/large_image.py
    KERAS_BACKEND=torch python benchmarks/large_image.py --height 2000

Streets are drawn into the tiles of a TIFF. `predict_large` reads it tile by
tile, in windows of 512 every 384 with Gaussian weights, and writes labels.
The network is a small DANet: memory for the windows' logits and the result
depends on the image and the number of classes, 19.

With a run, its network labels a wall of streets as a whole (top right) and in
windows without (below) and with weights:

    KERAS_BACKEND=torch python benchmarks/large_image.py \\
        --run saved_models/scenes_demo --picture docs/large_image.png
"""

import argparse
import pathlib
import platform
import resource
import tempfile
import time

import keras
import numpy as np
import tifffile
from PIL import Image

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import Predictor
from keras_danet.data.scenes import draw_scene
from keras_danet.inference import predict_large
from keras_danet.inference import visualization

TILE, WINDOW, STRIDE = 512, 512, 384
# The picture's streets, of the size that the demo learns, and its windows.
STREETS, SMALL_WINDOW = (3, 4), 128


def write_tiff(path, height, width):
    """Streets, one for each tile; the file is never held in memory."""
    count = (-(-height // TILE)) * (-(-width // TILE))
    streets = [draw_scene(0, index, (TILE, TILE))[0] for index in range(16)]
    tifffile.imwrite(
        path,
        (streets[index % 16] for index in range(count)),
        shape=(height, width, 3),
        dtype="uint8",
        tile=(TILE, TILE),
        photometric="rgb",
    )


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(height, width):
    keras.utils.set_random_seed(0)
    model = DANet(19, DilatedResNet(18, filters=8))
    predictor = Predictor(
        model, window=WINDOW, stride=STRIDE, blend="gaussian", size=None
    )
    predictor(np.zeros((WINDOW, WINDOW, 3), "uint8"))
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "streets.tif")
        write_tiff(path, height, width)
        started = time.perf_counter()
        found = predict_large(predictor, path, f"{folder}/labels.npy")
        seconds = time.perf_counter() - started
        classes = len(np.unique(found.label[::97, ::97]))
    print(
        f"{platform.machine()}, keras {keras.__version__}, "
        f"{keras.backend.backend()}\n"
        f"{height} x {width} pixels, windows of {WINDOW} every {STRIDE}, "
        f"19 classes ({classes} found): {seconds:.0f} s\n"
        f"peak memory of the process: {peak():.0f} MiB, before the image "
        f"{before:.0f} MiB"
    )


def draw(run, path):
    """An image, and its labels as a whole and in both kinds of windows."""
    rows, columns = STREETS
    streets = [draw_scene(1, k)[0] for k in range(rows * columns)]
    lines = [streets[columns * k : columns * (k + 1)] for k in range(rows)]
    image = np.concatenate([np.concatenate(x, axis=1) for x in lines])
    whole = Predictor(run, size=None)
    labels = {"whole": whole(image)}
    for blend in ("uniform", "gaussian"):
        predictor = Predictor(
            run, SMALL_WINDOW, SMALL_WINDOW * 3 // 4, blend=blend, size=None
        )
        labels[blend] = predictor(image)
    colors = visualization.display_palette(whole.palette)
    parts = [visualization.overlay(image, x, colors) for x in labels.values()]
    top, bottom = (image, parts[0]), parts[1:]
    rows = [np.concatenate(row, axis=1) for row in (top, bottom)]
    # A quarter of the bytes.
    picture = Image.fromarray(np.concatenate(rows)).quantize(96)
    picture.save(path, optimize=True)
    for blend in ("uniform", "gaussian"):
        differing = (labels[blend] != labels["whole"]).mean()
        print(f"{blend} windows: {differing:.2%} of the labels differ")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--run", help="a run whose network is to draw")
    parser.add_argument("--picture", help="PNG to write")
    arguments = parser.parse_args()
    if arguments.picture:
        draw(arguments.run, pathlib.Path(arguments.picture))
    else:
        measure(arguments.height, arguments.width)


if __name__ == "__main__":
    main()
