"""Time and memory of converting DANet checkpoints, in full and half precision.

    KERAS_BACKEND=torch python benchmarks/conversion.py

The checkpoints are made here, as PyTorch and safetensors write them, of random
weights. Memory is the process's peak while it converts beyond what it held
after converting a small network: everything is imported then, TensorFlow by
Keras's own saving included, and nothing of the checkpoint is there. Reads
Linux's /proc; a child's `ru_maxrss` would begin at its parent's.
"""

import os
import pathlib
import platform
import subprocess
import sys
import tempfile

# ResNet-50 in float32 has 190 MiB, ResNet-152 in bfloat16 162 MiB.
FILES = (
    (50, "float32", "pth"),
    (50, "float32", "safetensors"),
    (50, "bfloat16", "pth"),
    (50, "bfloat16", "safetensors"),
    (152, "bfloat16", "pth"),
    (152, "bfloat16", "safetensors"),
)
CHILD = """
import gc, sys, time
import torch
import safetensors
from keras_danet import DANet, DilatedResNet
from keras_danet.cli import convert as verb
from keras_danet.files import save_model

def memory(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) / 1024

def convert(source, target):
    start = time.perf_counter()
    model = DANet.from_checkpoint(source, (), False)
    yield time.perf_counter() - start
    save_model(model, target)
    yield time.perf_counter() - start
    verb.fingerprint(model)
    yield time.perf_counter() - start

small = DANet(3, DilatedResNet(18, filters=8)).to_state_dict("mmseg")
list(convert(small, sys.argv[2]))
gc.collect()
# The peak starts again.
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS:")
figures = [
    f"{seconds:.1f} s {memory('VmHWM:') - before:.0f} MiB"
    for seconds in convert(sys.argv[1], sys.argv[2])
]
print(
    f"read {figures[0]}; and written {figures[1]}; and fingerprint "
    f"{figures[2]}; before {before:.0f} MiB"
)
"""


def write(path, depth, dtype):
    """A checkpoint of MMSegmentation's DANet."""
    import torch
    from safetensors.torch import save_file

    from keras_danet import DANet

    model = DANet(
        19, f"resnet{depth}", stem_filters=(32, 32, 64), auxiliary=True
    )
    tensors = {
        name: torch.tensor(value).to(getattr(torch, dtype))
        for name, value in model.to_state_dict("mmseg").items()
    }
    if path.suffix == ".pth":
        torch.save({"state_dict": tensors, "meta": {}}, path)
    else:
        save_file(tensors, path)


def main():
    import keras

    print(
        f"{platform.machine()}, {os.cpu_count()} cores, keras "
        f"{keras.__version__}, {keras.backend.backend()}",
        flush=True,
    )
    for depth, dtype, ending in FILES:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, f"danet.{ending}")
            write(path, depth, dtype)
            size = path.stat().st_size / 2**20
            print(f"ResNet-{depth} {dtype} .{ending}: {size:.0f} MiB")
            for _ in range(2):
                target = pathlib.Path(folder, "danet.keras")
                target.unlink(missing_ok=True)
                print("  ", end="", flush=True)
                subprocess.run(
                    [sys.executable, "-c", CHILD, str(path), str(target)],
                    check=True,
                )


if __name__ == "__main__":
    main()
