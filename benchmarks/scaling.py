"""What several devices gain here, and arithmetic for 8, 64 and 512 of them.

    python benchmarks/scaling.py measure      # minutes; TensorFlow and JAX
    python benchmarks/scaling.py input        # the input pipeline, one core
    python benchmarks/scaling.py arithmetic   # seconds, nothing is run

`measure` splits the CPU into two logical devices and trains the same network
on the same global batch as with one: each contestant a process of its own,
one at a time, in turn. Two devices on the cores of one cannot be faster; the
ratio tells what distributing costs, and the other rows where it goes.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time

BACKENDS = ("tensorflow", "jax")
MODEL = {"depth": 18, "filters": 32, "size": 128, "batch": 8}
# Name -> devices, share of the batch, whether batch norms are synchronised.
CONTESTANTS = {
    "one device": (1, 1, True),
    "one device, half the batch, twice": (1, 2, True),
    "two devices, batch norms apart": (2, 1, False),
    "two devices": (2, 1, True),
}
ROUNDS, STEPS = 3, 8

DEVICES = (8, 64, 512)
# Bytes a second that a device sends while it receives as many.
LINKS = {
    "NVLink, 300 GB/s": 300e9,
    "400 Gbit/s": 50e9,
    "100 Gbit/s": 12.5e9,
    "10 Gbit/s": 1.25e9,
}
# Assumed of one exchange between two neighbours of a ring.
LATENCY = 10e-6
# Assumed images a second that a device trains on, of the crop below.
RATE, CROP = 10, (768, 768)
# An image and its label of Cityscapes: 5,000 are archives of 11 and 0.24 GB.
FILE_BYTES = 2.25e6


def measure():
    for backend in BACKENDS:
        times = {name: [] for name in CONTESTANTS}
        for _ in range(ROUNDS):
            for name, contestant in CONTESTANTS.items():
                if backend == "jax" and not contestant[2]:
                    continue  # they cannot be taken apart there
                times[name].append(run(backend, contestant))
        print(f"\n{backend}, {MODEL}, {os.cpu_count()} cores")
        # The fastest: what else runs on the machine can only slow it.
        one = min(times["one device"])
        for name, found in times.items():
            if found:
                seconds = min(found)
                print(
                    f"{name:36}{seconds:8.3f} s a batch "
                    f"{MODEL['batch'] / seconds:7.1f} images/s "
                    f"{one / seconds:6.2f}   "
                    f"(slowest {max(found):.3f})"
                )


def run(backend, contestant):
    command = [sys.executable, __file__, "child", json.dumps(contestant)]
    done = subprocess.run(
        command,
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def child(devices, parts, synchronised):
    """Prints the seconds that one global batch takes."""
    import keras
    import numpy as np

    from keras_danet import DANet
    from keras_danet import DilatedResNet
    from keras_danet import PixelCrossentropy
    from keras_danet.distribution import engines as distribution
    from keras_danet.layers import normalization

    if not synchronised:
        normalization._replicas = lambda: 1
    jax = keras.backend.backend() == "jax"
    engine = "data_parallel" if jax else "mirrored"
    with distribution.scope(engine if devices > 1 else "none", devices):
        model = DANet(
            19, DilatedResNet(MODEL["depth"], filters=MODEL["filters"])
        )
        model.compile(
            loss=PixelCrossentropy(),
            jit_compile=jax,
        )
        batch, size = MODEL["batch"] // parts, MODEL["size"]
        steps = STEPS * parts
        images = np.zeros((batch * steps, size, size, 3), "float32")
        labels = np.zeros((batch * steps, size, size), "uint8")
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            model.fit(images, labels, batch, verbose=0, shuffle=False)
            seconds.append((time.perf_counter() - start) / STEPS)
    # The first epoch is compiled.
    print(min(seconds[1:]))


def measure_input():
    """Images a second of the input pipeline, decoding and all, on one core."""
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np
    from PIL import Image

    from keras_danet.data import tensorflow_batches
    from keras_danet.data.datasets import get_dataset
    from keras_danet.data.files import Pair
    from keras_danet.data.plan import Augmentation

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for number in range(8):
            small = rng.integers(0, 256, (256, 512, 3)).astype("uint8")
            image = Image.fromarray(small).resize((2048, 1024))
            label = rng.integers(0, 11, (8, 16)).astype("uint8")
            label = Image.fromarray(label).resize((2048, 1024), 0)
            paths = [f"{folder}/{number}{kind}.png" for kind in "il"]
            image.save(paths[0])
            label.save(paths[1])
            pairs.append(Pair(*paths))
        size = sum(os.path.getsize(path) for pair in pairs for path in pair)
        batches = iter(
            tensorflow_batches.training_dataset(
                pairs,
                get_dataset("camvid"),
                Augmentation(CROP, max_class_share=0.75),
                batch_size=4,
            )
        )
        for _ in range(3):
            next(batches)
        start = time.process_time()
        for _ in range(8):
            next(batches)
        seconds = (time.process_time() - start) / 32
    print(
        f"1024x2048 PNG of {size / len(pairs) / 1e6:.1f} MB, scaled and cut "
        f"to {CROP[0]}x{CROP[1]}: {seconds:.3f} core-seconds, "
        f"{1 / seconds:.1f} images/s and core"
    )


def arithmetic():
    networks = {f"DANet-ResNet{d}": network(d) for d in (50, 101)}
    print("| network | parameters | gradients | batch norms |")
    print("|---|---|---|---|")
    for name, (count, norms) in networks.items():
        print(
            f"| {name} | {count / 1e6:.1f} M | {4 * count / 1e6:.0f} MB "
            f"| {norms} |"
        )
    print("\nSeconds to sum the gradients in a ring, float32:\n")
    print("| network | link |", *(f"{n} devices |" for n in DEVICES))
    print("|---|---|" + "---|" * len(DEVICES))
    for name, (count, _) in networks.items():
        for link, rate in LINKS.items():
            cells = (f"{ring(4 * count, n, rate):.3f}" for n in DEVICES)
            print(f"| {name} | {link} |", " | ".join(cells), "|")
    print("\nSeconds to synchronise the batch norms, 6 exchanges each:\n")
    print("| network |", *(f"{n} devices |" for n in DEVICES))
    print("|---|" + "---|" * len(DEVICES))
    for name, (_, norms) in networks.items():
        cells = (f"{6 * norms * tree(n):.3f}" for n in DEVICES)
        print(f"| {name} |", " | ".join(cells), "|")
    crop = CROP[0] * CROP[1] * 13
    print(f"\nInput at {RATE} images/s and device:\n")
    print("| devices | images/s | files, MB/s | crops, MB/s |")
    print("|---|---|---|---|")
    for n in DEVICES:
        print(
            f"| {n} | {RATE * n} | {RATE * n * FILE_BYTES / 1e6:.0f} "
            f"| {RATE * n * crop / 1e6:.0f} |"
        )


def ring(size, devices, rate):
    """Each device sends 2 (n - 1) pieces of an n-th to its neighbour."""
    exchanges = 2 * (devices - 1)
    return exchanges * (size / devices / rate + LATENCY)


def tree(devices):
    """Of what is small only the latency counts: up a tree and down again."""
    return 2 * (devices - 1).bit_length() * LATENCY


def network(depth):
    """Trainable parameters and batch norms of a network."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    from keras_danet import DANet

    model = DANet(19, f"resnet{depth}")
    count = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    return count, len(norms)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("measure", "input", "arithmetic"))
    if sys.argv[1:2] == ["child"]:
        return child(*json.loads(sys.argv[2]))
    what = parser.parse_args().what
    jobs = {"measure": measure, "input": measure_input}
    return jobs.get(what, arithmetic)()


if __name__ == "__main__":
    main()
