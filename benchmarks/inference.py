"""What windows, scales, sizes and evaluation cost beside the network itself.

    python benchmarks/inference.py sizes     # JAX against torch, many sizes
    KERAS_BACKEND=torch python benchmarks/inference.py scales
    KERAS_BACKEND=torch python benchmarks/inference.py windows
    KERAS_BACKEND=torch python benchmarks/inference.py evaluation

Each compares in one process and in turn, except `sizes`, which starts one for
each backend. `--small` is a quick check with a small network.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

SCALES = (0.5, 0.75, 1.0, 1.25)
# Names of the sizes' contestants, in the order in which they run.
BACKENDS = ("torch", "jax")


def network(small, num_classes=19):
    import keras

    from keras_danet import DANet
    from keras_danet import DilatedResNet

    keras.utils.set_random_seed(0)
    backbone = DilatedResNet(18, filters=8) if small else DilatedResNet(50)
    model = DANet(num_classes, backbone)
    for kind in model.attention:
        model.get_layer(f"{kind}_attention").gamma.assign(0.5)
    return model


def photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3)).astype("uint8")


# `Predictor._compute` is a forward pass from the thread that a `Predictor`
# uses: torch has threads of its own for each thread that calls it, and they
# disturb each other.


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def ratios(name, bases, others):
    """One row: medians and the ratio of the same round."""
    found = [b / a for a, b in zip(bases, others, strict=True)]
    print(
        f"| {name} | {statistics.median(bases):.2f} | "
        f"{statistics.median(others):.2f} | {statistics.median(found):.3f} "
        f"({min(found):.3f} to {max(found):.3f}) |"
    )


def heading(first, second):
    print(f"| | {first}, s | {second}, s | ratio |\n|---|---|---|---|")


def list_of_sizes(count, longer):
    """Three images of each size, as in VOC: a side of 500, mostly the width."""
    rng = np.random.default_rng(0)
    found = set()
    while len(found) < count:
        other = int(rng.integers(longer // 2, longer + 1))
        pair = (longer, other)
        found.add(pair if rng.random() < 0.3 else pair[::-1])
    return [size for size in sorted(found) for _ in range(3)]


def predict_sizes(arguments):
    """In a process of its own: all images, from the first on."""
    from keras_danet import Predictor

    predictor = Predictor(network(arguments.small, 21))
    request = (4, 60) if arguments.small else (arguments.sizes, 500)
    images = [photo(*size) for size in list_of_sizes(*request)]
    start = time.perf_counter()
    for image in images:
        predictor(image)
    print(json.dumps(time.perf_counter() - start))


def sizes(arguments):
    heading("torch", "JAX, compiling included")
    found = {name: [] for name in BACKENDS}
    for _ in range(arguments.rounds):
        for name in BACKENDS:
            command = [sys.executable, __file__, "--one", "sizes"]
            command += ["--sizes", str(arguments.sizes)]
            command += ["--small"] if arguments.small else []
            output = subprocess.run(
                command,
                env={**os.environ, "KERAS_BACKEND": name},
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            found[name].append(float(output.splitlines()[-1]))
    ratios(f"{arguments.sizes} sizes", found["torch"], found["jax"])


def scales(arguments):
    from keras_danet import Predictor

    model = network(arguments.small)
    image = photo(*((64, 128) if arguments.small else (512, 1024)))
    predictor = Predictor(model, scales=SCALES, mirror=True)
    largest = Predictor(model, scales=max(SCALES))
    batches = [
        np.zeros((1, *size, 3), "uint8")
        for size in predictor.protocol.network_sizes(*image.shape[:2])
    ]

    def forward_passes():
        for batch in batches:
            for _ in range(2):
                predictor._compute(batch)

    heading("forward passes", "all scales")
    # Compiles, and says how much memory the largest alone takes.
    largest.probabilities(image)
    alone = peak()
    predictor.probabilities(image)
    together = peak()
    bare, whole = [], []
    for _ in range(arguments.rounds):
        bare.append(seconds(forward_passes))
        whole.append(seconds(predictor.probabilities, image))
    ratios(f"{len(SCALES)} scales with mirror images", bare, whole)
    print(
        f"\nPeak memory of the process: {alone:.0f} MiB with the largest "
        f"scale alone, {together:.0f} MiB with all."
    )


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def slide_in_torch(forward, image, crop, stride, num_classes):
    """MMSegmentation's way: a sum of padded logits and a count, in torch."""
    import torch

    x = torch.from_numpy(image[np.newaxis])
    height, width = image.shape[:2]
    total = torch.zeros(1, height, width, num_classes)
    count = torch.zeros(1, height, width, 1)
    for row in range(max(height - crop + stride - 1, 0) // stride + 1):
        for column in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom = min(row * stride + crop, height)
            right = min(column * stride + crop, width)
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            window = x[:, top:bottom, left:right].numpy()
            logits = torch.from_numpy(np.array(forward(window)))
            total += torch.nn.functional.pad(
                logits, (0, 0, left, width - right, top, height - bottom)
            )
            count[:, top:bottom, left:right] += 1
    return (total / count).argmax(-1)[0].numpy()


def windows(arguments):
    from keras_danet import Predictor
    from keras_danet.inference.windows import Windows

    model = network(arguments.small)
    shape, crop, stride = (1024, 2048), 769, 513
    if arguments.small:
        shape, crop, stride = (128, 256), 97, 65
    image = photo(*shape)
    predictor = Predictor(model, window=crop, stride=stride, average="logits")
    count = Windows(shape, predictor.protocol).count
    batch = np.zeros((1, crop, crop, 3), "uint8")

    def forward_passes():
        for _ in range(count):
            predictor._compute(batch)

    peer = [predictor._compute, image, crop, stride, 19]
    agreement = (predictor(image) == slide_in_torch(*peer)).mean()
    bare, ours, theirs = [], [], []
    for _ in range(arguments.rounds):
        bare.append(seconds(forward_passes))
        ours.append(seconds(predictor, image))
        theirs.append(seconds(slide_in_torch, *peer))
    heading("forward passes", "labels")
    ratios(f"keras_danet, {count} windows of {crop}", bare, ours)
    ratios("the same in torch, as MMSegmentation", bare, theirs)
    print(f"\nThe same label at {agreement:.4%} of the pixels.")


def evaluation(arguments):
    from PIL import Image

    from keras_danet import Predictor
    from keras_danet.data.datasets import get_dataset
    from keras_danet.data.files import Pair
    from keras_danet.inference.evaluation import evaluate

    model = network(arguments.small)
    predictor = Predictor(model)
    shape = (128, 256) if arguments.small else (1024, 2048)
    dataset = get_dataset("cityscapes")
    batch = np.zeros((1, *shape, 3), "uint8")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        paths = folder / "image.png", folder / "label.png"
        Image.fromarray(photo(*shape)).save(paths[0])
        Image.fromarray(photo(*shape)[..., 0] % 34).save(paths[1])
        pairs = [Pair(*paths)] * 3
        predictor(photo(*shape))
        compute = predictor._compute
        bare, inside, whole = [], [], []

        def timed(batch):
            start = time.perf_counter()
            logits = compute(batch)
            inside[-1] += time.perf_counter() - start
            return logits

        for _ in range(arguments.rounds):
            start = time.perf_counter()
            for _ in pairs:
                compute(batch)
            bare.append(time.perf_counter() - start)
            predictor._compute = timed
            inside.append(0.0)
            whole.append(seconds(evaluate, predictor, pairs, dataset, "val"))
    heading("forward passes", "evaluation")
    name = f"{shape[0]} x {shape[1]}, 19 classes"
    ratios(f"{name}, beside the network alone", bare, whole)
    ratios(f"{name}, beside its own forward passes", inside, whole)


PARTS = {
    "sizes": sizes,
    "scales": scales,
    "windows": windows,
    "evaluation": evaluation,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--sizes", type=int, default=100, help="three images of each"
    )
    parser.add_argument("--small", action="store_true", help="a quick check")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        predict_sizes(arguments)
    else:
        PARTS[arguments.part](arguments)


if __name__ == "__main__":
    main()
