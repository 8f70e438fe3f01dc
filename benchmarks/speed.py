"""Time and memory of keras_danet beside its peers, on this machine.

    python benchmarks/speed.py                        # everything: hours
    python benchmarks/speed.py --rows attention,training --runs 3
    python benchmarks/speed.py --rows forward-r50-512x1024-float32
    python benchmarks/speed.py --list                 # the keys of the rows
    python benchmarks/speed.py --smoke                # tiny: does it work?

Every contestant of a row is a process of its own (`contestant.py`); this one
asks them in turn, one at a time, as many rounds as `--runs`. What was measured
is kept by row in `speed.json`, so that a part can be measured again, and
rendered into `RESULTS.md` and `growth.png`. Threads and other settings of the
libraries are left alone.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import report
from rows import GIB
from rows import all_rows

FOLDER = pathlib.Path(__file__).parent
LIBRARIES = (
    "keras",
    "tensorflow",
    "jax",
    "torch",
    "numpy",
    "mmsegmentation",
    "mmcv-lite",
    "onnxruntime",
    "openvino",
    "keras-hub",
)
# Of the CPU, what decides how fast products of matrices are.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
# What a user may have set of the libraries' threads and kernels.
SETTINGS = (
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "ONEDNN_",
    "DNNL_",
    "TF_NUM_",
    "TF_ENABLE_",
    "TF_XLA_",
    "XLA_",
    "TORCHINDUCTOR_",
)
MAX_SHARE_OF_FREE_MEMORY = 0.6
# Threads that still spin after a call must not disturb the next contestant.
PAUSE = 0.3

FIND_ACCELERATOR = """
import jax, torch
if torch.cuda.is_available():
    print(torch.cuda.get_device_name())
elif jax.default_backend() != "cpu":
    print(jax.devices()[0].device_kind)
"""


class Child:
    """A contestant's process, which answers in lines of JSON."""

    def __init__(self, contestant, gpu):
        task = {"build": contestant.build, "arguments": contestant.arguments}
        environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
        if contestant.backend:
            environment["KERAS_BACKEND"] = contestant.backend
        if gpu:
            # Or the first JAX takes three quarters of the memory for good.
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        else:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
        self.errors = tempfile.TemporaryFile("w+", errors="replace")
        self.process = subprocess.Popen(
            [sys.executable, FOLDER / "contestant.py", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            text=True,
        )

    def answer(self):
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        last = (self.errors.read().strip().splitlines() or [""])[-1]
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return {"error": f"the process died ({how}): {last}"[:200]}

    def ask(self):
        time.sleep(PAUSE)
        try:
            print("run", file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # The answer says how it died.
        return self.answer()

    def end(self):
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            file.close()


def race(contestants, runs, gpu):
    """Warms each contestant up, then times them in turn; results by name."""
    results, children = {}, {}
    try:
        for contestant in contestants:
            name, refusal = contestant.name, too_large(contestant)
            if refusal:
                results[name] = refusal
            else:
                children[name] = Child(contestant, gpu)
                results[name] = children[name].answer() | {"seconds": []}
            say(name, results[name])
        for _ in range(runs):
            for name, child in children.items():
                if "error" not in results[name]:
                    answer = child.ask()
                    if "error" in answer:
                        results[name] |= answer
                        say(name, answer)
                    else:
                        results[name]["seconds"].append(answer["seconds"])
    finally:
        for child in children.values():
            child.end()
    return results


def too_large(contestant):
    free = available_memory()
    if contestant.needs <= MAX_SHARE_OF_FREE_MEMORY * free:
        return None
    return {
        "error": f"not run: takes {contestant.needs / GIB:.0f} GiB, and "
        f"{free / GIB:.0f} GiB are free"
    }


def say(name, answer):
    text = answer.get("error")
    if text is None:
        text = f"ready after {answer['first_seconds']:.1f} s"
    print(f"  {name}: {text}", flush=True)


def measure(row, runs):
    """The row's results by contestant, in the row's order."""
    results = {}
    for contestant in row.contestants:
        if contestant.alone:
            results |= race([contestant], runs, row.gpu)
            results[contestant.name]["alone"] = True
    together = [c for c in row.contestants if not c.alone]
    results |= race(together, runs, row.gpu)
    return {c.name: results[c.name] for c in row.contestants}


def available_memory():
    with open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    raise OSError("/proc/meminfo has no MemAvailable")


def describe_cpu():
    fields = {}
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    model = fields.get("model name", platform.machine())
    flags = [f for f in FLAGS if f in fields.get("flags", "").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores "
        f"({', '.join(flags)}), {memory:.0f} GiB"
    )


def find_accelerator():
    found = subprocess.run(
        [sys.executable, "-c", FIND_ACCELERATOR],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return found.stdout.strip()


def installed_versions():
    """Rows for a GPU need no library of the others' peers."""
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def circumstances(runs):
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(SETTINGS)
    }
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return {
        "date": datetime.date.today().isoformat(),
        "runs": runs,
        "commit": commit.stdout.strip(),
        "settings": settings,
        "versions": dict(installed_versions()),
    }


def chosen(rows, prefixes):
    for prefix in prefixes:
        if not any(row.key.startswith(prefix) for row in rows):
            raise SystemExit(f"no row begins with {prefix!r}; see --list")
    return [row for row in rows if row.key.startswith(tuple(prefixes))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help="keys of rows, or how they begin")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="folder of speed.json, RESULTS.md and growth.png; this script's, "
        "or with --smoke build/smoke",
    )
    args = parser.parse_args()
    rows = all_rows(args.smoke)
    keys = [row.key for row in rows]
    if args.rows:
        rows = chosen(rows, args.rows.split(","))
    if args.list:
        print(*(row.key for row in rows), sep="\n")
        return
    folder = args.output or (
        FOLDER.parent / "build" / "smoke" if args.smoke else FOLDER
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "speed.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    gpu = find_accelerator()
    if not gpu and any(row.gpu for row in rows):
        print("JAX and torch find no GPU: its rows are left out.")
    for row in rows:
        if row.gpu and not gpu:
            continue
        print(f"{row.key}: {row.title}", flush=True)
        results[row.key] = {
            "title": row.title,
            "note": row.note,
            "references": row.references,
            "machine": f"{gpu}; {describe_cpu()}"
            if row.gpu
            else describe_cpu(),
            **circumstances(args.runs),
            "contestants": measure(row, args.runs),
        }
        results = {row: results[row] for row in keys if row in results}
        # After every row: what hours have measured is not to be lost.
        path.write_text(json.dumps(results, indent=1) + "\n")
        report.write(results, folder)
    print(f"See {folder / 'RESULTS.md'}.")


if __name__ == "__main__":
    main()
