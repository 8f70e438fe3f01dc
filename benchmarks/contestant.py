"""One contestant in a process of its own: built, warmed up, timed on request.

    python contestant.py '{"build": "peers:attention", "arguments": {...}}'

`speed.py` starts it. It builds what is named, calls it twice, and answers with
a line of JSON: how much memory a call takes. Then it waits, and answers every
line "run" with the seconds of one more call.

The memory of a call is the peak of the *second* call beyond what was resident
just before it, plus what the first call left allocated for good (compiled
code, packed weights, arenas), once the C library has given freed memory back.
The first call itself, which compiles, is not the measure, nor are pages of the
libraries' own code that it touches.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import sys
import time


def resident(field):
    """Bytes of this process: `RssAnon`, `VmRSS`, or `VmHWM`, the peak."""
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def give_back():
    """Gives freed memory to the system, lest a call reuse it uncounted."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def forget_peak():
    """Lets the next peak be that of the next call; JAX cannot forget one."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def accelerator():
    """(bytes in use, peak) of torch's or JAX's accelerator, or None."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and torch.cuda.is_available():
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    if jax and jax.default_backend() != "cpu":
        stats = jax.devices()[0].memory_stats()
        return stats["bytes_in_use"], stats["peak_bytes_in_use"]
    return None


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def warm_up(call):
    """Calls twice; the seconds of the first, and bytes of memory."""
    give_back()
    anonymous, on_device = resident("RssAnon"), accelerator()
    first = seconds(call)
    give_back()
    kept = max(0, resident("RssAnon") - anonymous)
    compiling = resident("VmHWM")
    forget_peak()
    before = resident("VmRSS")
    call()
    peak = resident("VmHWM")
    memory = kept + peak - before
    if on_device:
        memory = accelerator()[1] - on_device[0]
    return {
        "first_seconds": first,
        "memory": memory,
        "kept": kept,
        "process": max(peak, compiling),
    }


def main():
    # Libraries print; the answers go where nothing else is written.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    task = json.loads(sys.argv[1])
    module, function = task["build"].split(":")
    try:
        call = getattr(importlib.import_module(module), function)(
            **task["arguments"]
        )
        print(json.dumps(warm_up(call)), file=answers)
        for _ in sys.stdin:
            print(json.dumps({"seconds": seconds(call)}), file=answers)
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        answer = {"error": f"{type(error).__name__}: {text}"[:200]}
        print(json.dumps(answer), file=answers)
        raise


if __name__ == "__main__":
    main()
