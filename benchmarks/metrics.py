"""Time one update of `SegmentationMetrics` beside argmax of the same logits.

    KERAS_BACKEND=jax python benchmarks/metrics.py
    KERAS_BACKEND=tensorflow python benchmarks/metrics.py --no-jit

TensorFlow runs with XLA, as `fit` does by default on a GPU; `--no-jit` runs it
as a plain graph, as on a CPU and under tf.distribute. torch runs eagerly.
"""

import argparse
import importlib
import os
import platform
import statistics
import time

import keras
import numpy as np
from keras import ops

from keras_danet.metrics import SegmentationMetrics

BACKEND = keras.backend.backend()
# `argmax` here is the library's own; `keras.ops.argmax` does more work.
LIBRARY = {"jax": "jax.numpy", "tensorflow": "tensorflow", "torch": "torch"}


def compiled(function, jit):
    if BACKEND == "tensorflow":
        tf = importlib.import_module("tensorflow")
        return tf.function(function, jit_compile=jit)
    if BACKEND == "jax":
        return importlib.import_module("jax").jit(function)
    return function


def updater(metric, jit):
    """A call that adds a batch to `metric`, compiled as in `fit`."""
    if BACKEND != "jax":
        return compiled(metric.update_state, jit)
    update = compiled(metric.stateless_update_state, jit)
    state = [variable.value for variable in metric.variables]
    return lambda label, logits: update(state, label, logits)


def seconds(function, *args):
    start = time.perf_counter()
    result = function(*args)
    if BACKEND == "jax":
        importlib.import_module("jax").block_until_ready(result)
    elif BACKEND == "torch" and args[0].is_cuda:
        importlib.import_module("torch").cuda.synchronize()
    return time.perf_counter() - start


def medians(functions, label, logits, runs):
    """Median seconds of each function; the first round (compiling) is lost."""
    times = {name: [] for name in functions}
    for _ in range(runs + 1):
        for name, function in functions.items():
            args = (logits,) if "argmax" in name else (label, logits)
            times[name].append(seconds(function, *args))
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--no-jit", action="store_true")
    args = parser.parse_args()
    shape, jit = (1, args.height, args.width), not args.no_jit

    rng = np.random.default_rng(0)
    label = rng.integers(0, args.classes, shape, "uint8")
    label[rng.random(shape) < 0.1] = 255
    logits = rng.standard_normal((*shape, args.classes), "float32")
    label, logits = ops.convert_to_tensor(label), ops.convert_to_tensor(logits)

    library = importlib.import_module(LIBRARY[BACKEND])
    keras_metric = keras.metrics.MeanIoU(
        args.classes, ignore_class=255, sparse_y_pred=False
    )
    result = medians(
        {
            f"{LIBRARY[BACKEND]}.argmax": compiled(
                lambda x: library.argmax(x, axis=-1), jit
            ),
            "keras.ops.argmax": compiled(lambda x: ops.argmax(x, axis=-1), jit),
            "SegmentationMetrics": updater(
                SegmentationMetrics(args.classes), jit
            ),
        },
        label,
        logits,
        args.runs,
    )
    # A minute a run on torch.
    result |= medians(
        {"keras.metrics.MeanIoU": updater(keras_metric, jit)}, label, logits, 1
    )

    print(
        f"{platform.machine()}, {os.cpu_count()} cores, keras "
        f"{keras.__version__}, {BACKEND} "
        f"{importlib.import_module(BACKEND).__version__}"
        f"{', graph without XLA' if args.no_jit else ''}\n"
        f"{args.height}x{args.width}x{args.classes} float32, median of "
        f"{args.runs} alternated runs\n"
        f"{'':24}{'seconds':>9}{'/ library':>11}{'/ keras.ops':>13}"
    )
    own, theirs = list(result.values())[:2]
    for name, value in result.items():
        print(f"{name:24}{value:9.4f}{value / own:11.2f}{value / theirs:13.2f}")


if __name__ == "__main__":
    main()
