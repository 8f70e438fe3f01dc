"""Latency and memory of an export, in a process of its own.

python -m keras_danet.export.measuring EXPORT --size 360x480
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

REPEATS = 20


@dataclasses.dataclass(frozen=True)
class Cost:
    """What an export costs for one image.

    Args:
        size: (height, width) of the image.
        first_seconds: float, from opening the file to the first result.
        seconds: float, the median of later results.
        peak_bytes: integer, the most memory that its process held.
        repeats: integer, how many results the median is over.
    """

    size: tuple[int, int]
    first_seconds: float
    seconds: float
    peak_bytes: int
    repeats: int = REPEATS


def measure(folder, size, threads=None, repeats=REPEATS) -> Cost:
    """Runs an export in a new process, where nothing else takes memory.

    Args:
        folder: path of an export.
        size: (height, width) of the image.
        threads: integer. Defaults to `None`, the runtime's choice.
        repeats: integer.

    Raises:
        ChildProcessError: if the process fails; with its last words.
    """
    command = [
        *(sys.executable, "-m", "keras_danet.export.measuring", str(folder)),
        *("--size", f"{size[0]}x{size[1]}", "--repeats", str(repeats)),
    ]
    if threads:
        command += ["--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ["no words"]
        raise ChildProcessError(
            f"{folder} cannot be measured: its process ended with code "
            f"{done.returncode} ({words[0]})."
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Cost(**{**found, "size": tuple(found["size"])})


def _measure_here(folder, size, threads, repeats):
    from keras_danet.export.runtimes import Export

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, *size, 3), dtype="uint8")
    started = time.perf_counter()
    export = Export(folder, threads)
    export(image)
    first = time.perf_counter() - started
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        export(image)
        times.append(time.perf_counter() - started)
    median = statistics.median(times) if times else first
    return Cost(size, first, median, _peak_bytes(), repeats)


def _peak_bytes():
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        # On Linux a child's `ru_maxrss` begins at its parent's.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import psutil

    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return memory.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--size", required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args()
    size = tuple(map(int, given.size.split("x")))
    cost = _measure_here(given.folder, size, given.threads, given.repeats)
    print(json.dumps(dataclasses.asdict(cost)))


if __name__ == "__main__":
    main()
