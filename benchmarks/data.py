"""Reading training data, beside a torch DataLoader with albumentations.

    python benchmarks/data.py
    python benchmarks/data.py --parts speed,memory --rounds 3
    python benchmarks/data.py --camvid CamVid     # photos, not drawn scenes

Prints tables. Every reader is a process of its own in each round; they are
asked in turn, one at a time. Images of Cityscapes' size are drawn, with the
grain that makes their files as large as Cityscapes' are (2.3 MB); those of
CamVid's size are CamVid itself where it is given (or named by
KERAS_DANET_CAMVID), else drawn as well.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image
from PIL import ImageFilter

from keras_danet.data.datasets import get_dataset
from keras_danet.data.files import Pair
from keras_danet.data.files import find_pairs
from keras_danet.data.scenes import draw_scene
from keras_danet.data.scenes import write_scenes

FOLDER = pathlib.Path(__file__).parent
COLOURS = {"brightness": 32, "contrast": 0.5, "saturation": 0.5, "hue": 36}
# Of drawn classes and of the hood, Cityscapes' labelIds.
CITYSCAPES_IDS = (23, 11, 7, 8, 21, 17, 26, 24)
EGO_VEHICLE = 1
COCO_IMAGES = 118_287

START = """
import json, os, sys, time
from keras_danet.data.datasets import get_dataset
from keras_danet.data.files import find_pairs
from keras_danet.data.plan import Augmentation
module, name = sys.argv[2].split(":")
make = getattr(__import__(module, fromlist=[name]), name)
dataset = get_dataset("coco_stuff164k")
start = time.perf_counter()
pairs = find_pairs(dataset, sys.argv[1], "train")
found = time.perf_counter()
batches = make(pairs, dataset, Augmentation((512, 512)), batch_size=8)
made = time.perf_counter()
print(json.dumps([len(pairs), found - start, made - found]))
"""


def draw_cityscapes(root, count):
    """Writes drawn scenes in Cityscapes' layout, size and size of files."""
    names = [f"drawn/drawn_000000_{number:06d}" for number in range(count)]
    for kind in ("leftImg8bit", "gtFine"):
        (root / kind / "train" / "drawn").mkdir(parents=True)
    table = np.full(256, EGO_VEHICLE, np.uint8)
    table[: len(CITYSCAPES_IDS)] = CITYSCAPES_IDS
    for number, name in enumerate(names):
        image, label = draw_scene(0, number, (1024, 2048))
        # The drawings' own grain, as they are, makes files of 3.8 MB.
        image = Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.9))
        image.save(root / f"leftImg8bit/train/{name}_leftImg8bit.png")
        label = Image.fromarray(table[label])
        label.save(root / f"gtFine/train/{name}_gtFine_labelIds.png")


def run(command):
    """A process's answer: its last line, of JSON."""
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "KERAS_BACKEND": "torch",
            "CUDA_VISIBLE_DEVICES": "",
        },
    )
    if done.returncode:
        raise SystemExit(f"{command[:2]} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ask(task):
    return run([FOLDER / "data_contestants.py", json.dumps(task)])


def measure_speed(title, rounds, workers, **task):
    """Images per second of each reader, and its ratio to the peer's best."""
    readers = [
        ("tf.data", 0),
        ("PyDataset", os.cpu_count()),
        *(("albumentations", number) for number in workers),
    ]
    rates = {reader: [] for reader in readers}
    for _ in range(rounds):
        for reader, number in readers:
            warm, end = ask({**task, "reader": reader, "workers": number})
            rates[reader, number].append(
                (end["examples"] - warm["examples"])
                / (end["seconds"] - warm["seconds"])
            )
    medians = {reader: statistics.median(of) for reader, of in rates.items()}
    best = max(
        (reader for reader in readers if reader[0] == "albumentations"),
        key=medians.get,
    )
    print(f"\n**{title}**, {rounds} rounds\n")
    print("| | images/s | / the peer's best |\n|---|---|---|")
    for reader, number in readers:
        of = rates[reader, number]
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(of, rates[best], strict=True)
        )
        print(
            f"| {describe(reader, number)} | {statistics.median(of):.1f} "
            f"({min(of):.1f} to {max(of):.1f}) | {ratio:.2f} |",
            flush=True,
        )


def describe(reader, workers):
    if reader == "albumentations":
        return f"DataLoader, albumentations, {workers} worker(s)"
    threads = f", {workers} thread(s)" if workers else ""
    return f"**keras_danet, {reader}{threads}**"


def measure_speeds(places, rounds, workers):
    for name, crop_size, batch_size, marks in (
        ("cityscapes", (768, 768), 4, (16, 112)),
        ("camvid", (360, 360), 8, (160, 1440)),
    ):
        dataset, root = places[name]
        for colours, title in (({}, ""), (COLOURS, ", photometric distortion")):
            measure_speed(
                f"{name}: crops of {crop_size[0]}x{crop_size[1]}{title}",
                rounds,
                workers,
                dataset=dataset,
                root=str(root),
                batch_size=batch_size,
                marks=marks,
                augmentation={
                    "crop_size": crop_size,
                    "max_class_share": 0.75,
                    **colours,
                },
            )


def measure_memory(folder):
    marks = (1_000, 4_000, 7_000, 10_000)
    root = write_scenes(folder / "small", {"train": 200})
    print("\n**Memory of the process, MiB, after so many examples**\n")
    print("|", *(f"| {mark:,}" for mark in marks), "| peak |")
    print("|---" * (len(marks) + 2) + "|")
    for reader, workers in (("tf.data", 0), ("PyDataset", 2)):
        answers = ask(
            {
                "reader": reader,
                "workers": workers,
                "dataset": "scenes",
                "root": str(root),
                "batch_size": 8,
                "marks": marks,
                "augmentation": {
                    "crop_size": (96, 96),
                    "max_class_share": 0.75,
                    "blur": 1,
                    **COLOURS,
                },
            }
        )
        sizes = [answer["memory"] for answer in answers]
        sizes.append(answers[-1]["peak"])
        print(
            f"| {describe(reader, workers)}",
            *(f"| {size / 2**20:.0f}" for size in sizes),
            "|",
            flush=True,
        )


def forget_files():
    """Empties the system's cache of folders, where that is allowed."""
    try:
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def measure_start(folder, rounds):
    root = folder / "coco"
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        (root / kind / "train2017").mkdir(parents=True)
        for number in range(COCO_IMAGES):
            name = f"{kind}/train2017/{number:012d}.{suffix}"
            os.close(os.open(root / name, os.O_CREAT))
    cold = forget_files()
    print(
        f"\n**Start on a folder of {COCO_IMAGES:,} images and as many labels**"
        f", the system's cache {'emptied' if cold else 'not emptied'} before\n"
    )
    print("| | find the pairs, s | make the training data, s |\n|---|---|---|")
    for title, make in (
        ("tf.data", "keras_danet.data.tensorflow_batches:training_dataset"),
        ("PyDataset", "keras_danet.data.numpy_batches:TrainingBatches"),
    ):
        answers = []
        for _ in range(rounds):
            forget_files()
            answers.append(run(["-c", START, str(root), make]))
        count, *seconds = map(statistics.median, zip(*answers, strict=True))
        if count != COCO_IMAGES:
            raise SystemExit(f"{count} pairs were found")
        cells = " | ".join(f"{value:.2f}" for value in seconds)
        print(f"| **keras_danet, {title}** | {cells} |", flush=True)


def as_jpegs(pairs, folder):
    folder.mkdir()
    found = []
    for number, pair in enumerate(pairs):
        path = folder / f"{number}.jpg"
        Image.open(pair.image).convert("RGB").save(path, quality=90)
        found.append(Pair(str(path), pair.label))
    return found


def measure_agreement(places, folder):
    from keras_danet.data.numpy_batches import TrainingBatches
    from keras_danet.data.plan import Augmentation
    from keras_danet.data.tensorflow_batches import training_dataset

    name, root = places["camvid"]
    dataset = get_dataset(name)
    pairs = find_pairs(dataset, root, "train")[:64]
    print("\n**One plan, applied by tf.data and by PyDataset**\n")
    print("| | differing labels | pixels within a level, % | most |")
    print("|---|---|---|---|")
    for kind, found in (
        ("PNG", pairs),
        ("JPEG", as_jpegs(pairs, folder / "j")),
    ):
        for title, colours in (("", {}), (", colours", {**COLOURS, "blur": 1})):
            augmentation = Augmentation(
                (360, 360), max_class_share=0.75, **colours
            )
            options = (found, dataset, augmentation)
            stream = training_dataset(*options, batch_size=8)
            batches = TrainingBatches(*options, batch_size=8)
            labels, differences = 0, []
            for number, theirs in enumerate(stream.take(8)):
                ours = batches[number]
                labels += np.count_nonzero(ours[1] != theirs[1].numpy())
                difference = np.abs(ours[0] - theirs[0].numpy())
                differences.append(difference.max(axis=-1))
            close = np.mean(np.array(differences) <= 1)
            print(
                f"| {kind}{title} | {labels} | {100 * close:.3f} | "
                f"{np.max(differences):.2f} |",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="speed,memory,start,agreement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--camvid", default=os.environ.get("KERAS_DANET_CAMVID")
    )
    parser.add_argument(
        "--workers",
        default="1,2,3",
        help="of the peer, of which the best counts",
    )
    args = parser.parse_args()
    workers = [int(number) for number in args.workers.split(",")]
    parts = args.parts.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        places = {"camvid": ("camvid", args.camvid)}
        if not args.camvid and {"speed", "agreement"} & {*parts}:
            drawn = write_scenes(
                folder / "scenes", {"train": 100}, size=(360, 480)
            )
            places["camvid"] = ("scenes", drawn)
        if "speed" in parts:
            draw_cityscapes(folder / "cityscapes", 32)
            places["cityscapes"] = ("cityscapes", folder / "cityscapes")
            measure_speeds(places, args.rounds, workers)
        if "memory" in parts:
            measure_memory(folder)
        if "start" in parts:
            measure_start(folder, args.rounds)
        if "agreement" in parts:
            measure_agreement(places, folder)


if __name__ == "__main__":
    main()
