"""Frames of a video in a second, beside the network alone in the same run.

    KERAS_BACKEND=torch python benchmarks/video.py
    KERAS_BACKEND=torch python benchmarks/video.py --small

A drawn video is predicted by `predict_files`, which decodes it, draws and
encodes the overlay and writes a label map of each frame; and its frames, held
in memory, by the `Predictor` alone. Both take turns.
"""

import argparse
import os
import pathlib
import platform
import statistics
import tempfile
import time

import av
import keras
import numpy as np

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import Predictor
from keras_danet.data.scenes import draw_scene
from keras_danet.inference import predict_files


def write_video(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="to try it out")
    args = parser.parse_args()
    if args.small:
        args.depth, args.frames, args.runs = 18, 6, 2
    network = {"filters": 8} if args.small else {}
    model = DANet(19, DilatedResNet(args.depth, **network))
    predictor = Predictor(model)
    scene, _ = draw_scene(0, 0, (args.height, args.width))
    frames = [np.roll(scene, 4 * k, axis=1) for k in range(args.frames)]
    # Compiles, and sets up threads.
    predictor(frames[0])
    seconds = {"network": [], "video": []}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "drawn.mp4")
        write_video(path, frames)
        for run in range(args.runs):
            started = time.perf_counter()
            for image in frames:
                predictor(image)
            seconds["network"].append(time.perf_counter() - started)
            started = time.perf_counter()
            predict_files(predictor, [path], f"{folder}/{run}")
            seconds["video"].append(time.perf_counter() - started)
    rates = {
        name: args.frames / statistics.median(values)
        for name, values in seconds.items()
    }
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, keras "
        f"{keras.__version__}, {keras.backend.backend()}\n"
        f"DANet-ResNet{args.depth}{' of 8 filters' * args.small}, "
        f"{args.frames} frames of {args.height}x{args.width}, median of "
        f"{args.runs} runs in turn\n"
        f"network alone  {rates['network']:8.3f} images/s\n"
        f"whole video    {rates['video']:8.3f} images/s\n"
        f"ratio          {statistics.median(ratios):8.3f}  "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
