"""How long the command line takes to answer, and the package to be imported.

Medians over fresh processes, in seconds, and their ratio to `import keras`:

    KERAS_BACKEND=torch python benchmarks/imports.py [RUNS]
"""

import operator
import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "keras-danet --help": ["-m", "keras_danet", "--help"],
    "keras-danet --version": ["-m", "keras_danet", "--version"],
    "keras-danet train --help": ["-m", "keras_danet", "train", "--help"],
    "import keras_danet": ["-c", "import keras_danet"],
    "import keras, keras_danet": ["-c", "import keras, keras_danet"],
    "import keras": ["-c", "import keras"],
}


def seconds(arguments):
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"KERAS_BACKEND={os.environ.get('KERAS_BACKEND', '')}, {runs} runs")
    # In turns, so that what else the machine does falls on all of them.
    times = [[seconds(c) for c in COMMANDS.values()] for _ in range(runs)]
    columns = dict(zip(COMMANDS, zip(*times, strict=True), strict=True))
    for name, found in columns.items():
        ratios = map(operator.truediv, found, columns["import keras"])
        print(
            f"{name:<28} {statistics.median(found):6.2f} s "
            f"{statistics.median(ratios):6.3f}"
        )


if __name__ == "__main__":
    main()
