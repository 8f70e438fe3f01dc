"""The estimate of memory beside the peak that was measured.

    python benchmarks/memory.py

Every measurement is a fresh process: its peak, beyond what it held when the
model was made. A step with 8 GiB takes a machine that has them.
"""

import json
import os
import platform
import subprocess
import sys

BACKENDS = ("tensorflow", "jax", "torch")
# Backbone, classes, batch size, height, width.
TRAINING = [
    ("resnet18", 19, 1, 256, 256),
    ("resnet18", 150, 2, 256, 256),
    ("resnet18", 19, 1, 512, 512),
    ("resnet50", 19, 1, 256, 256),
    ("resnet50", 19, 2, 256, 256),
    ("resnet50", 19, 4, 256, 256),
]
PREDICTING = [
    ("resnet18", 19, 1, 512, 512),
    ("resnet18", 150, 1, 512, 1024),
    ("resnet50", 19, 1, 512, 512),
    ("resnet50", 19, 1, 512, 1024),
    ("resnet101", 19, 1, 512, 1024),
]
CHILD = """
import json, sys
import keras
import numpy as np
from keras_danet import DANet
from keras_danet.models.memory import estimate_memory

def held(name):
    with open("/proc/self/status") as file:
        rows = dict(line.split(":") for line in file)
    return int(rows[name].split()[0]) * 1024

backbone, classes, batch, height, width, training = json.loads(sys.argv[1])
model = DANet(classes, backbone)
model.compile()
estimate = estimate_memory(model, batch, height, width, training)
images = np.zeros((batch, height, width, 3), "uint8")
# JAX may not have made the weights yet.
for weight in model.weights:
    keras.ops.convert_to_numpy(weight)
before = held("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # VmHWM begins anew
if training:
    labels = np.zeros((batch, height, width), "uint8")
    twice = [np.concatenate([x, x]) for x in (images, labels)]
    model.fit(*twice, batch_size=batch, verbose=0)
else:
    model.predict_on_batch(images)
print(json.dumps([estimate, held("VmHWM") - before]))
"""


def measure(backend, case, training):
    """(estimate, measured) in bytes."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    arguments = json.dumps([*case, training])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    import keras

    backends = sys.argv[1:] or BACKENDS
    print(f"{platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(f"keras {keras.__version__}\n")
    titles = "".join(f" {backend} |" for backend in backends)
    print(f"| step | classes |{titles}")
    print("|---" * (2 + len(backends)) + "|", flush=True)
    for training, cases in ((True, TRAINING), (False, PREDICTING)):
        for case in cases:
            backbone, classes, batch, height, width = case
            step = "training" if training else "prediction"
            print(
                f"| {step}, {backbone}, {batch} x {height}x{width} "
                f"| {classes} |",
                end="",
                flush=True,
            )
            for backend in backends:
                estimate, peak = measure(backend, case, training)
                print(
                    f" {estimate >> 20} / {peak >> 20} = "
                    f"{estimate / peak:.2f} |",
                    end="",
                    flush=True,
                )
            print()


if __name__ == "__main__":
    main()
