"""Time and memory of converting a DANet-ResNet50 checkpoint of 200 MB.

    KERAS_BACKEND=torch python benchmarks/conversion.py

The checkpoint is made here, as PyTorch writes it, of random weights. Memory is
the process's peak beyond what importing everything takes.
"""

import os
import pathlib
import platform
import subprocess
import sys
import tempfile

CHILD = """
import resource, sys, time
import torch
import keras
from keras_danet import DANet
from keras_danet.checkpointing import save_model
from keras_danet.models import checkpoints, weight_files

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

keras.ops.zeros(1)
before, start = peak(), time.perf_counter()
model = DANet.from_checkpoint(sys.argv[1], (), False)
loaded, read = peak(), time.perf_counter()
save_model(model, sys.argv[2])
print(
    f"read {read - start:.1f} s, {loaded - before:.0f} MiB; read and written "
    f"{time.perf_counter() - start:.1f} s, {peak() - before:.0f} MiB; "
    f"imports {before:.0f} MiB"
)
"""


def main():
    import keras
    import torch

    from keras_danet import DANet

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "danet.pth"
        model = DANet(19, "resnet50", stem_filters=(32, 32, 64), auxiliary=True)
        tensors = model.to_state_dict("mmseg")
        content = {name: torch.tensor(value) for name, value in tensors.items()}
        torch.save({"state_dict": content, "meta": {}}, path)
        size = path.stat().st_size / 2**20
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, keras "
            f"{keras.__version__}, {keras.backend.backend()}; a file of "
            f"{size:.0f} MiB",
            flush=True,
        )
        for _ in range(3):
            target = pathlib.Path(folder) / "danet.keras"
            subprocess.run(
                [sys.executable, "-c", CHILD, str(path), str(target)],
                check=True,
            )


if __name__ == "__main__":
    main()
