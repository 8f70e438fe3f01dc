"""What the trainer adds to a bare `model.fit`, and what a checkpoint costs.

    KERAS_BACKEND=torch python benchmarks/training.py
    KERAS_BACKEND=jax python benchmarks/training.py --network resnet50

The second is for an accelerator: crops of 768x768 in bfloat16. Both fit the
same compiled model on the same batches of drawn scenes, in turn, in one
process: with nothing, and with all that `keras-danet train` watches by
(progress, divergence, history, checkpoints; no validation). A checkpoint is
one of DANet-ResNet50.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import tempfile
import time

import keras

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import TrainConfig
from keras_danet.data.scenes import write_scenes
from keras_danet.distribution.engines import Placement
from keras_danet.trainer.callbacks.checkpoints import Checkpoints
from keras_danet.trainer.callbacks.checkpoints import training_state
from keras_danet.trainer.checkpoints import save_checkpoint
from keras_danet.trainer.training import Training

WARM_STEPS = 3
# Name -> how many images of which size are drawn, and the recipe.
NETWORKS = {
    "resnet18": (
        64,
        (128, 128),
        {
            "batch_size": 4,
            "augmentation": {"crop_size": (96, 96)},
            "model": {"depth": 18, "filters": 32},
        },
    ),
    "resnet50": (
        16,
        (1024, 2048),
        {
            "batch_size": 8,
            "augmentation": {"crop_size": (768, 768)},
            "model": {"depth": 50},
            "dtype": "mixed_bfloat16",
        },
    ),
}


class Steps(keras.callbacks.Callback):
    """When each step ended."""

    def on_train_begin(self, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())


def fit(training, watchers, steps):
    """Seconds per step, after the first ones."""
    clock = Steps()
    # Progress is written, and not among the tables.
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        training._crops(0, 0) as crops,
    ):
        training.model.fit(
            crops,
            steps_per_epoch=steps,
            callbacks=[*watchers, clock],
            shuffle=False,
            verbose=0,
        )
    first, last = clock.ends[WARM_STEPS - 1], clock.ends[-1]
    return (last - first) / (steps - WARM_STEPS)


def measure_overhead(folder, network, rounds, steps):
    images, size, recipe = NETWORKS[network]
    root = write_scenes(folder / "scenes", {"train": images, "val": 2}, size)
    config = TrainConfig(
        dataset="scenes",
        data_root=str(root),
        # More than are done: no validation.
        epochs=100,
        val_every=100,
        jit_compile=keras.backend.backend() == "jax",
        **recipe,
    )
    run = folder / "run"
    run.mkdir()
    training = Training(config, run, Placement(), None)
    bare, watched = [], []
    for _ in range(rounds + 1):
        place = Checkpoints(run / "checkpoints", steps, every=10**9)
        watchers = training.watchers(place, [], verbose=2)
        # The checkpoint at the end of a `fit` is measured apart.
        place.on_epoch_end = lambda *arguments, **options: None
        bare.append(fit(training, [], steps))
        watched.append(fit(training, watchers, steps))
    # In the first round all is compiled.
    ratios = [b / a for a, b in zip(bare[1:], watched[1:], strict=True)]
    print(
        f"| {keras.backend.backend()} | {statistics.median(bare[1:]):.4f} | "
        f"{statistics.median(watched[1:]):.4f} | "
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to "
        f"{max(ratios):.3f}) |"
    )


def measure_checkpoint(folder, rounds):
    model = DANet(19, DilatedResNet(50))
    model.compile(total_steps=1000)
    model.build_optimizer()
    times = []
    for number in range(rounds):
        start = time.perf_counter()
        path = folder / f"{number}.ckpt"
        save_checkpoint(path, training_state(model), {})
        times.append(time.perf_counter() - start)
    size = path.stat().st_size / 2**20
    seconds = statistics.median(times)
    print(
        f"\nA checkpoint of DANet-ResNet50, {size:.0f} MiB: {seconds:.2f} s "
        f"({min(times):.2f} to {max(times):.2f}). One in 1,000 steps takes 1 % "
        f"of the time where a step takes {seconds * 100:.0f} ms, and less where"
        " it takes longer."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        print("| | bare fit, s / step | train, s / step | ratio |")
        print("|---|---|---|---|")
        measure_overhead(
            folder, arguments.network, arguments.rounds, arguments.steps
        )
        measure_checkpoint(folder, arguments.rounds)


if __name__ == "__main__":
    main()
