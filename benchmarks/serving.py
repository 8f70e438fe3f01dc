"""Eight clients for five minutes, one request in ten malformed.

    KERAS_BACKEND=tensorflow python benchmarks/serving.py EXPORT IMAGE...

starts `keras-danet serve` and a gRPC server that speaks TensorFlow Serving's
protocol buffers, one after the other, and loads each. Every answer is compared
with the export's own. Printed are images per second, beside those of the export
without a server in the same run, the errors that malformed requests got, and
the server's memory in the second and in the last fifth of the time. The exit
code is 1 if an answer was wrong, a malformed request was taken or told a fault
of the server, or memory grew by more than 5 %.
"""

import argparse
import io
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import psutil
from PIL import Image

from keras_danet.serving import Client
from keras_danet.serving.served_model import ServedModel

NUM_CLIENTS = 8
MALFORMED = 0.1
MOST_GROWTH = 0.05
# How a server calls a mistake of the client's.
REFUSALS = ("(400)", "(INVALID_ARGUMENT)")
ROOT = pathlib.Path(__file__).resolve().parents[1]
SERVERS = {
    "keras-danet serve": [
        *(sys.executable, "-m", "keras_danet", "serve"),
        *("{export}", "--port", "0"),
    ],
    "gRPC": [sys.executable, str(ROOT / "tests/grpc_server.py"), "{export}"],
}


def malformed(rng, contents):
    """What clients send by mistake, or to do harm."""
    kinds = (
        lambda: contents[: len(contents) // 2],
        lambda: b"no image",
        lambda: b"",
        lambda: rng.randbytes(1000),
        # A header of 100 megapixels.
        lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0'\x10\0\0'\x10\1\0\0\0\0",
    )
    return rng.choice(kinds)()


class Load:
    """What the clients saw."""

    def __init__(self, address, name, files, expected, seconds):
        self.address, self.name = address, name
        self.files, self.expected = files, expected
        self.seconds = seconds
        self.right = self.wrong = self.refused = self.accepted = 0
        self.errors = []
        self.lock = threading.Lock()

    def run(self):
        ends = time.monotonic() + self.seconds
        threads = [
            threading.Thread(target=self._client, args=(seed, ends))
            for seed in range(NUM_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, seed, ends):
        rng = random.Random(seed)
        with Client(self.address, self.name, retries=8) as client:
            while time.monotonic() < ends:
                index = rng.randrange(len(self.files))
                if rng.random() < MALFORMED:
                    self._malformed(client, rng, self.files[index])
                else:
                    self._good(client, index)

    def _good(self, client, index):
        try:
            found = client(self.files[index])
        except Exception as error:
            with self.lock:
                self.errors.append(repr(error))
            return
        same = np.array_equal(found, self.expected[index])
        with self.lock:
            self.right += same
            self.wrong += not same

    def _malformed(self, client, rng, contents):
        if self.address.startswith("http") and rng.random() < 0.3:
            self._no_json(rng)
            return
        try:
            client(malformed(rng, contents))
        except Exception as error:
            if any(words in str(error) for words in REFUSALS):
                with self.lock:
                    self.refused += 1
                return
            with self.lock:
                self.errors.append(repr(error))
        else:
            with self.lock:
                self.accepted += 1

    def _no_json(self, rng):
        body = rng.choice((b"", b"{", b"[" * 100_000, rng.randbytes(1000)))
        answer = httpx.post(
            f"{self.address}/v1/models/{self.name}:predict",
            content=body,
            timeout=120,
        )
        # A busy server may send it away unread.
        with self.lock:
            if answer.status_code in (400, 503):
                self.refused += 1
            else:
                self.errors.append(f"{answer.status_code} {answer.text[:99]}")


def watch(process, seconds, samples):
    """Notes the memory of a server every second."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        samples.append(psutil.Process(process.pid).memory_info().rss)
        time.sleep(1)


def own_rate(model, files, seconds):
    """Images a second of the export alone, asked one after the other."""
    count, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        contents = [files[count % len(files)]]
        model.run("encoded", {"image_bytes": np.array(contents, object)})
        count += 1
    return count / (time.monotonic() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=pathlib.Path)
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=300)
    given = parser.parse_args()
    files = [path.read_bytes() for path in given.images]
    model = ServedModel(given.export)
    expected = []
    for contents in files:
        answer = model.run(
            "encoded", {"image_bytes": np.array([contents], object)}
        )
        [png] = answer["label_png_bytes"]
        expected.append(_labels(png))
    good = True
    for title, command in SERVERS.items():
        alone = [own_rate(model, files, 20)]
        command = [part.format(export=given.export) for part in command]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True
        ) as server:
            try:
                address = server.stdout.readline().split("/v1")[0].strip()
                load = Load(address, model.name, files, expected, given.seconds)
                samples = []
                watcher = threading.Thread(
                    target=watch, args=(server, given.seconds, samples)
                )
                watcher.start()
                load.run()
                watcher.join()
            finally:
                server.terminate()
        alone.append(own_rate(model, files, 20))
        good = report(title, load, samples, statistics.mean(alone)) and good
    return 0 if good else 1


def _labels(png):
    return np.array(Image.open(io.BytesIO(png)))


def report(title, load, samples, alone):
    fifth = len(samples) // 5
    # The first fifth warms up.
    first, last = (
        statistics.median(part) / 2**20
        for part in (samples[fifth : 2 * fifth], samples[-fifth:])
    )
    rate = (load.right + load.wrong) / load.seconds
    print(
        f"{title}: {NUM_CLIENTS} clients, {load.seconds:.0f} s\n"
        f"  {rate:.2f} images/s, {rate / alone:.2f} of the export's own "
        f"{alone:.2f}\n"
        f"  {load.right} right, {load.wrong} wrong, {load.refused} malformed "
        f"ones refused, {load.accepted} accepted, {len(load.errors)} other "
        f"errors {load.errors[:1]}\n"
        f"  memory {first:.0f} MiB, at the end {last:.0f} MiB "
        f"({last / first - 1:+.1%})",
        flush=True,
    )
    faults = load.wrong + load.accepted + len(load.errors)
    return not faults and last / first - 1 <= MOST_GROWTH


if __name__ == "__main__":
    sys.exit(main())
