"""Client and servers, against the protocol and against one another."""

import base64
import concurrent.futures
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import greys
import httpx
import keras
import numpy as np
import pytest
from greys import picture
from PIL import Image

from keras_danet.cli import main
from keras_danet.export import export_model
from keras_danet.serving import Client
from keras_danet.serving import client as client_module
from keras_danet.serving import files
from keras_danet.serving import served_model
from keras_danet.serving import server as server_module
from keras_danet.serving.files import write_files
from keras_danet.serving.served_model import ServedModel
from keras_danet.serving.server import make_app

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="a SavedModel is TensorFlow's",
)
SIZE = (33, 49)
PREDICT = "/v1/models/danet:predict"


@pytest.fixture(scope="module")
def model():
    return greys.trained_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    output = tmp_path_factory.mktemp("exports")
    assert export_model(model, output, measure=False).passed
    return output / "danet"


@pytest.fixture(scope="module")
def served(folder):
    return ServedModel(folder)


def labels_of(model, image):
    return model.predict_on_batch(image[None].astype("float32")).argmax(-1)[0]


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


# The server.


@contextlib.contextmanager
def running(served, **limits):
    """The application behind a real server, in a thread; its address."""
    import uvicorn

    config = server_module.make_config(make_app(served, **limits))
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}
        )
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield "http://{}:{}".format(*listener.getsockname())
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(served):
    with running(served) as address:
        yield address


def post(address, content, path=PREDICT):
    answer = httpx.post(f"{address}{path}", json=content, timeout=60)
    return answer.status_code, answer.json()


def test_rows_and_columns_of_pixels(model, address):
    batch = [picture(seed, SIZE)[0] for seed in (1, 2)]
    expected = [labels_of(model, image).tolist() for image in batch]
    pixels = [image.tolist() for image in batch]
    assert post(address, {"instances": pixels}) == (
        200,
        {"predictions": expected},
    )
    named = [{"images": image} for image in pixels]
    assert post(address, {"instances": named})[1]["predictions"] == expected
    assert post(address, {"inputs": pixels}) == (200, {"outputs": expected})
    assert post(address, {"inputs": {"images": pixels}})[1] == {
        "outputs": expected
    }
    code, answer = post(
        address,
        {"signature_name": "probabilities", "instances": pixels[:1]},
        "/v1/models/danet/versions/1:predict",
    )
    assert code == 200
    found = np.array(answer["predictions"][0])
    np.testing.assert_array_equal(found.argmax(-1), expected[0])


def test_a_version_may_lie_elsewhere(folder, tmp_path):
    """Links are what they are called, as for TensorFlow Serving."""
    store = tmp_path / "blob"
    shutil.copytree(folder / "1", store)
    (tmp_path / "street" / "4").parent.mkdir()
    (tmp_path / "street" / "4").symlink_to(store)
    found = ServedModel(tmp_path / "street")
    assert (found.name, found.version) == ("street", 4)


def test_status_and_metadata(address):
    status = httpx.get(f"{address}/v1/models/danet").json()
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    found = httpx.get(f"{address}/v1/models/danet/metadata").json()
    signatures = found["metadata"]["signature_def"]["signature_def"]
    image_bytes = signatures["encoded"]["inputs"]["image_bytes"]
    assert image_bytes["dtype"] == "DT_STRING"
    labels = signatures["serving_default"]["outputs"]["labels"]
    assert labels["dtype"] == "DT_UINT8"
    assert [d["size"] for d in labels["tensor_shape"]["dim"]] == ["-1"] * 3


def encoded(contents):
    return {
        "signature_name": "encoded",
        "instances": [{"b64": base64.b64encode(contents).decode()}],
    }


BOMB = io.BytesIO()
Image.new("1", (10_000, 10_000)).save(BOMB, "PNG")
BAD = [
    (b"{", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON"),
    ([], 400, "either 'instances' or 'inputs'"),
    ({"instances": [], "inputs": []}, 400, "either"),
    ({"instances": []}, 400, "not empty"),
    ({"instances": 3}, 400, "not empty"),
    ({"instances": [[[1, 2]]]}, 400, "must have the shape"),
    ({"instances": [[[[1, 2, 3]], [[1, 2]]]]}, 400, "nested lists"),
    ({"instances": [[[[1, 2, 256]]]]}, 400, "integers from 0 to 255"),
    ({"instances": [[[[1, 2, 0.5]]]]}, 400, "integers from 0 to 255"),
    ({"instances": [[[["a", 2, 3]]]]}, 400, "nested lists"),
    ({"instances": [[[["1", "2", "3"]]]]}, 400, "nested lists"),
    ({"instances": [[[[True, False, True]]]]}, 400, "nested lists"),
    ({"inputs": {"pixels": 1}}, 400, "nested lists"),
    ({"signature_name": "x", "instances": [1]}, 400, "no signature 'x'"),
    ({"signature_name": 3, "instances": [1]}, 400, "must be a string"),
    ({"signature_name": "encoded", "instances": ["a"]}, 400, "base64"),
    (
        {"signature_name": "encoded", "instances": [{"b64": "?"}]},
        400,
        "not valid base64",
    ),
    (encoded(b"hello"), 400, "This is not a JPEG or PNG"),
    (
        encoded(png(np.zeros((9, 9, 3), "uint8"))[:40]),
        400,
        "Is the file whole?",
    ),
    (encoded(BOMB.getvalue()), 400, "larger than 33554432 pixels"),
    (encoded(BOMB.getvalue()), 400, "(height, width): 10000 10000"),
    (
        {"signature_name": "encoded", "instances": 17 * [{"b64": ""}]},
        400,
        "More than 16 files",
    ),
    # Of each a whole feature is computed.
    (
        {"instances": [[[[0, 0, 0]]]] * (2**17 + 1)},
        400,
        "more than 8388608 pixels together",
    ),
    (b" " * (2**25 + 1), 413, "more than 33554432 bytes"),
]


@pytest.mark.parametrize("content, code, words", BAD)
def test_bad_requests_are_told_and_harm_nobody(
    model, address, content, code, words
):
    kind = "content" if isinstance(content, bytes) else "json"
    answer = httpx.post(f"{address}{PREDICT}", **{kind: content}, timeout=60)
    assert answer.status_code == code
    assert words in answer.json()["error"]
    # In words, without places in a graph.
    assert "{{" not in answer.text and "Traceback" not in answer.text
    image, _ = picture(3, SIZE)
    with Client(address) as client:
        found = client(image)
    np.testing.assert_array_equal(found, labels_of(model, image))


def test_answers_that_json_makes_too_large_are_refused(
    model, address, monkeypatch
):
    monkeypatch.setattr(served_model, "MAX_ANSWER_BYTES", 20 * 3 * 33 * 49)
    pixels = picture(3, SIZE)[0].tolist()
    wanted = {"signature_name": "probabilities", "instances": [pixels]}
    code, answer = post(address, wanted)
    assert code == 200 and np.shape(answer["predictions"]) == (1, *SIZE, 3)
    code, answer = post(address, {**wanted, "instances": 2 * [pixels]})
    assert code == 400
    assert f"would be {2 * 3 * 33 * 49} numbers" in answer["error"]
    # Labels are shorter.
    assert post(address, {"instances": 2 * [pixels]})[0] == 200


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 2), (3, 2), (4,)])
def test_json_of_an_answer(shape):
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    text = served_model.format_outputs({"x": values}, True)
    assert json.loads(text) == {"predictions": values.tolist()}
    text = served_model.format_outputs({"x": values, "y": values}, True)
    rows = json.loads(text)["predictions"]
    assert rows == [{"x": v, "y": v} for v in values.tolist()]
    text = served_model.format_outputs({"x": values}, False)
    assert json.loads(text) == {"outputs": values.tolist()}


def test_what_is_not_there(address):
    for path in ("/", "/v1/models/other", "/v1/models/danet/versions/7"):
        answer = httpx.get(f"{address}{path}")
        assert answer.status_code == 404 and answer.json()["error"]
    answer = httpx.post(f"{address}/v1/models/danet", json={})
    assert answer.status_code == 405 and "No POST" in answer.json()["error"]


class Slow:
    """A model that waits to be let go on."""

    name, version = "danet", 1

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()
        self.asked = []

    def inputs_of(self, signature):
        import tensorflow as tf

        return {"images": tf.TensorSpec((None,), tf.float32)}

    def check_answer(self, signature, inputs):
        """It is short."""

    def run(self, signature, inputs):
        self.begun.set()
        self.asked.append(inputs["images"].tolist())
        self.go.wait(30)
        if inputs["images"][0] < 0:
            raise MemoryError("all of it")
        return {"labels": inputs["images"]}


def test_more_than_can_wait_are_sent_away():
    slow = Slow()
    with (
        running(slow, max_waiting=1) as address,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        held = pool.submit(post, address, {"instances": [1]})
        assert slow.begun.wait(30)
        answer = httpx.post(f"{address}{PREDICT}", json={"instances": [2]})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        slow.go.set()
        assert held.result() == (200, {"predictions": [1.0]})
        assert post(address, {"instances": [3]})[1] == {"predictions": [3.0]}


def test_nothing_is_computed_for_those_who_have_gone():
    slow = Slow()
    with (
        running(slow) as address,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        held = pool.submit(post, address, {"instances": [1]})
        assert slow.begun.wait(30)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{address}{PREDICT}", json={"instances": [2]}, timeout=1
            )
        time.sleep(0.5)
        slow.go.set()
        assert held.result()[0] == 200
        assert post(address, {"instances": [3]})[0] == 200
    assert slow.asked == [[1], [3]]


def test_faults_of_the_network_are_errors_in_json():
    slow = Slow()
    slow.go.set()
    with running(slow) as address:
        code, answer = post(address, {"instances": [-1]})
        assert code == 500 and "MemoryError: all of it" in answer["error"]
        assert post(address, {"instances": [2]})[0] == 200


def test_slow_senders_take_no_place():
    slow = Slow()
    slow.go.set()
    with running(slow, max_waiting=1, read_seconds=0.5) as address:
        host, port = address.removeprefix("http://").split(":")
        senders = [socket.create_connection((host, port)) for _ in range(3)]
        for sender in senders:
            sender.sendall(
                b"POST /v1/models/danet:predict HTTP/1.1\r\nHost: x\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
        time.sleep(0.1)
        assert post(address, {"instances": [1]})[0] == 200
        for sender in senders:
            assert b" 408 " in sender.recv(100)
            sender.close()


def test_connections_without_a_request_are_closed(monkeypatch):
    monkeypatch.setattr(server_module, "READ_SECONDS", 0.5)
    slow = Slow()
    with running(slow) as address, concurrent.futures.ThreadPoolExecutor() as p:
        host, port = address.removeprefix("http://").split(":")
        asked = p.submit(post, address, {"instances": [1]})
        idle, dripping = (
            socket.create_connection((host, port), timeout=20) for _ in range(2)
        )
        dripping.sendall(b"GET / HTTP/1.1\r\nHo")
        for connection in (idle, dripping):
            assert connection.recv(1) == b""
            connection.close()
        # One that waits for its answer is not.
        time.sleep(0.7)
        slow.go.set()
        assert asked.result()[0] == 200


def test_a_busy_server_stops_in_time(tmp_path):
    """A network cannot be interrupted; Python would wait for it."""
    script = """
import signal, sys
sys.path[:0] = sys.argv[1:]
# As the command does.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
from keras_danet.serving import server
from test_serving import Slow
server.GRACE_SECONDS = 1
server.serve(Slow(), server.listen("127.0.0.1", 0))
"""
    tests = os.path.dirname(os.path.abspath(__file__))
    with subprocess.Popen(
        [sys.executable, "-c", script, tests, os.path.dirname(tests)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            address = process.stdout.readline().partition("/v1")[0]
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                asked = pool.submit(post, address, {"instances": [1]})
                time.sleep(2)
                process.send_signal(signal.SIGTERM)
                started = time.monotonic()
                assert process.wait(20) == 143
                assert time.monotonic() - started < 15
                with pytest.raises((httpx.HTTPError, ValueError)):
                    asked.result()
        finally:
            process.kill()


def test_the_command_serves_and_stops_gracefully(model, folder):
    image, _ = picture(3, SIZE)
    with subprocess.Popen(
        [sys.executable, "-m", "keras_danet", "serve", folder, "--port", "0"],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), process.stderr.read()
            with Client(line.partition("/v1")[0]) as client:
                found = client(image)
            np.testing.assert_array_equal(found, labels_of(model, image))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 143
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_mistakes_of_the_command(folder, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(folder), "--port", port]) == 2
    words = f"Port {port} of 127.0.0.1 cannot be used: Address already in use."
    assert words in capsys.readouterr().err
    # A documentation address, which is no machine's.
    command = ["serve", str(tmp_path), "--port", "0", "--host", "192.0.2.1"]
    assert main(command) == 2
    assert "of 192.0.2.1 cannot be used: " in capsys.readouterr().err
    assert main(["serve", str(folder), "--port", "70000"]) == 2
    assert "from 0 to 65535" in capsys.readouterr().err
    assert main(["serve", str(tmp_path)]) == 2
    assert "has no version of a model" in capsys.readouterr().err


# The client.


def test_every_kind_of_image(model, address, tmp_path):
    image, _ = picture(3, SIZE)
    path = tmp_path / "image.png"
    path.write_bytes(png(image))
    expected = labels_of(model, image)
    with Client(address) as client:
        for given in (
            path,
            str(path),
            png(image),
            image,
            Image.fromarray(image),
        ):
            np.testing.assert_array_equal(client(given), expected)
        assert client.status() == "AVAILABLE"
        overlay = client.overlay(image)
        colors = np.array(model.palette)[expected]
        np.testing.assert_allclose(overlay, (image + colors) / 2, atol=0.51)
        with pytest.raises(ValueError, match="Received: float64 array"):
            client(np.zeros((3, 3, 3)))


def test_many_images_keep_their_order(model, address):
    images = [picture(seed, (16 + seed, 24))[0] for seed in range(9)]
    with Client(address) as client:
        found = list(client.map(iter(images), in_flight=3))
        for image, labels in zip(images, found, strict=True):
            np.testing.assert_array_equal(labels, labels_of(model, image))
        with pytest.raises(ValueError, match="not a JPEG or PNG"):
            list(client.map([images[0], b"hello", images[1]]))


@contextlib.contextmanager
def answering_with(*answers):
    """A server that gives each of these answers once, then the last again.

    An answer is a code (`None` hangs up), a body, seconds to wait (below 0
    between bytes), and headers.
    """
    import http.server

    left = list(answers)
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(time.monotonic())
            code, body, pause, *headers = (
                left.pop(0) if len(left) > 1 else left[0]
            )
            if code is None:
                return
            if pause > 0:
                time.sleep(pause)
            self.send_response(code)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                for byte in body if pause < 0 else ():
                    self.wfile.write(bytes([byte]))
                    time.sleep(-pause)
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield "http://{}:{}".format(*server.server_address), asked
        finally:
            server.shutdown()
            thread.join()


def ask(address, **options):
    with Client(address, **options) as client:
        return client(b"x")


def good_answer(labels):
    text = base64.b64encode(png(labels)).decode()
    return json.dumps({"predictions": [{"b64": text}]}).encode()


def test_an_overloaded_server_is_asked_again(monkeypatch):
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)
    labels = np.arange(12, dtype="uint8").reshape(3, 4)
    busy = 503, b'{"error": "busy"}', 0
    good = 200, good_answer(labels), 0
    with answering_with(busy, busy, good) as (address, asked):
        np.testing.assert_array_equal(ask(address), labels)
    assert len(asked) == 3
    with answering_with(busy) as (address, asked):
        with pytest.raises(ConnectionError, match=r"503 busy.*asked 2 times"):
            ask(address, retries=1)
    # It says when to come back.
    later = 503, b"", 0, ("Retry-After", "1")
    with answering_with(later, good) as (address, asked):
        ask(address)
    assert asked[1] - asked[0] >= 1
    # What it may have died of is sent once more only.
    with answering_with((None, b"", 0)) as (address, asked):
        with pytest.raises(ConnectionError, match="asked 2 times"):
            ask(address, retries=5)
    refused = 400, b'{"error": "no JPEG"}', 0
    with answering_with(refused) as (address, asked):
        with pytest.raises(ValueError, match=r"refuses.*400.*no JPEG"):
            ask(address)
    assert len(asked) == 1


def test_what_a_server_may_answer_instead(monkeypatch):
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 10_000)
    deep = np.zeros((3, 4, 3), "uint8")
    for body, words in (
        (b"<html>", "not that of TensorFlow Serving"),
        (b'{"predictions": []}', "not that of TensorFlow Serving"),
        (b'{"predictions": [{"b64": "!"}]}', "not that of TensorFlow Serving"),
        (b'{"predictions": [{"b64": "aGVsbG8="}]}', "not the PNG"),
        (good_answer(deep), "its mode is RGB"),
        (b" " * 20_000, "more than 10000 bytes"),
        (b"[" * 9_000, "not that of TensorFlow Serving"),
    ):
        with answering_with((200, body, 0)) as (address, _):
            with pytest.raises(ValueError, match=words):
                ask(address)
    junk = 200, b"junk", 0, ("Content-Encoding", "gzip")
    with answering_with(junk) as (address, _):
        with pytest.raises(ValueError, match="cannot be unpacked"):
            ask(address)


def test_time_and_connections_run_out(monkeypatch):
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)
    with answering_with((200, b"", 1.0)) as (address, _):
        with pytest.raises(TimeoutError, match="took too long"):
            ask(address, timeout=0.1)
    with answering_with((200, 40 * b" ", -0.1)) as (address, _):
        with pytest.raises(TimeoutError, match="drips"):
            ask(address, timeout=1)
    with answering_with((504, b'{"error": "late"}', 0)) as (address, asked):
        with pytest.raises(TimeoutError, match="late"):
            ask(address)
    assert len(asked) == 1
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionError, match="does not answer"):
        ask(f"http://127.0.0.1:{port}", retries=1)
    for wrong in (
        *("localhost:8501", "ftp://x", "http://", "http://x:abc"),
        *("http://x:0", "grpc://x"),
    ):
        with pytest.raises(ValueError, match="`address` must"):
            Client(wrong)
    with Client("http://x") as client:
        with pytest.raises(ValueError, match="`in_flight` must be 1 or more"):
            next(client.map([b"x"], in_flight=0))
    for wrong in (
        {"retries": -1},
        {"timeout": 0},
        {"model": None},
        {"version": "x/../y"},
    ):
        with pytest.raises(ValueError, match="must be"):
            Client("http://x", **wrong)


# gRPC, in TensorFlow Serving's own words.


@pytest.fixture(scope="module")
def grpc_address(served):
    import grpc_server

    server, address = grpc_server.start(served)
    yield address
    server.stop(0).wait()


def test_the_same_answers_over_grpc(model, grpc_address, address):
    image, _ = picture(3, SIZE)
    with Client(grpc_address) as client, Client(address) as rest:
        np.testing.assert_array_equal(client(image), labels_of(model, image))
        np.testing.assert_array_equal(
            client.overlay(image), rest.overlay(image)
        )
        images = [picture(seed, (16 + seed, 24))[0] for seed in range(6)]
        for one, two in zip(client.map(images), rest.map(images), strict=True):
            np.testing.assert_array_equal(one, two)
        assert client.status() == "AVAILABLE"
        with pytest.raises(ValueError, match=r"INVALID_ARGUMENT.*not a JPEG"):
            client(b"hello")
        # Messages above gRPC's own limit of 4 MB, both ways.
        rng = np.random.default_rng(0)
        large = rng.integers(0, 256, (1200, 1200, 3), dtype="uint8")
        assert client.overlay(large).shape == large.shape
    with pytest.raises(ValueError, match="NOT_FOUND"):
        ask(grpc_address, model="other")


def test_grpc_that_is_not_there(monkeypatch):
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionError, match="UNAVAILABLE"):
        ask(f"grpc://127.0.0.1:{port}", retries=1)


def test_a_grpc_request_that_a_server_may_have_died_of(monkeypatch):
    """Sent once more, and no oftener."""
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)
    image = 20_000 * b"x"
    asked = []

    def die():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                # HTTP/2: settings, and their acknowledgement.
                connection.sendall(b"\0\0\0\4\0\0\0\0\0")
                read = 0
                while read < len(image):
                    part = connection.recv(2**16)
                    if not part:
                        break
                    read += len(part)
                asked.append(read >= len(image))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=die, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with Client(f"grpc://127.0.0.1:{port}", retries=5) as client:
            with pytest.raises(ConnectionError, match="asked 2 times"):
                client(image)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(30)
    assert asked.count(True) == 2


# Files for TensorFlow Serving.


def test_files_for_servers(folder, tmp_path):
    output = tmp_path / "serving"
    paths = write_files(folder, output)
    assert {p.name for p in paths} == {p.name for p in output.iterdir()}
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((output / "models.config").read_text(), config)
    [one] = config.model_config_list.config
    assert (one.name, one.base_path) == ("danet", "/models/danet")
    import yaml

    parts = list(yaml.safe_load_all((output / "kubernetes.yaml").read_text()))
    assert [part["kind"] for part in parts] == [
        "ConfigMap",
        "Deployment",
        "Service",
    ]
    written = (output / "models.config").read_text()
    assert parts[0]["data"] == {"models.config": written}
    [container] = parts[1]["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/danet"
    assert container["command"] == ["tensorflow_model_server"]
    # Written again they are the same; a changed one is not replaced.
    assert write_files(folder / "1", output) == paths
    (output / "run.sh").write_text("mine")
    with pytest.raises(FileExistsError, match=r"run\.sh exists"):
        write_files(folder, output)


def test_the_docker_command_has_the_folder_as_it_is_called(folder, tmp_path):
    odd = tmp_path / "it's $(touch broken) `here`" / "My.Net_2"
    shutil.copytree(folder, odd)
    write_files(odd, tmp_path / "out")
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for batching in ("0", "1"):
        done = subprocess.run(
            ["sh", tmp_path / "out" / "run.sh"],
            env={**os.environ, **path, "BATCHING": batching},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        words = done.stdout.splitlines()
        mount = f"type=bind,source={odd},target=/models/My.Net_2,readonly"
        assert mount in words
        assert ("--enable_batching" in words) == (batching == "1")
    assert not (tmp_path / "broken").exists()
    import yaml

    text = (tmp_path / "out" / "kubernetes.yaml").read_text()
    for part in yaml.safe_load_all(text):
        assert part["metadata"]["name"] in ("my-net-2", "my-net-2-config")
    # What YAML would take for a boolean.
    shutil.copytree(folder, tmp_path / "true")
    write_files(tmp_path / "true", tmp_path / "out3")
    text = (tmp_path / "out3" / "kubernetes.yaml").read_text()
    _, deployment, service = yaml.safe_load_all(text)
    assert deployment["metadata"]["name"] == "true"
    assert service["spec"]["selector"] == {"app": "true"}
    for name in ("1e3", "_", "DANet", 80 * "a"):
        assert re.fullmatch("[a-z][a-z0-9-]{0,52}[a-z0-9]", files._label(name))
    named = tmp_path / "$(touch broken)"
    shutil.copytree(folder, named)
    with pytest.raises(ValueError, match="name, which must consist of letters"):
        write_files(named, tmp_path / "out4")
    assert not (tmp_path / "out4").exists()
    done = subprocess.run(
        ["sh", tmp_path / "out" / "run.sh", "true"],
        env={**os.environ, **path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"source={tmp_path / 'true'}," in done.stdout
    with pytest.raises(ValueError, match="`threads` must be 1 or more"):
        write_files(odd, tmp_path / "out2", threads=0)
    # Docker's own mark between the parts of a mount.
    comma = tmp_path / "a,b" / "danet"
    shutil.copytree(folder, comma)
    with pytest.raises(ValueError, match="cannot be given to Docker"):
        write_files(comma, tmp_path / "out5")
    # A file that is no text, of somebody else.
    (tmp_path / "out" / "rest.py").write_bytes(b"\xff\xfe")
    with pytest.raises(FileExistsError, match=r"rest\.py exists"):
        write_files(odd, tmp_path / "out")


def test_curl_reads_what_tensorflow_serving_writes(folder, tmp_path):
    """It answers JSON of several lines; and errors are errors."""
    write_files(folder, tmp_path)
    labels = np.arange(12, dtype="uint8").reshape(3, 4)
    (tmp_path / "image.png").write_bytes(png(labels))
    pretty = json.dumps(json.loads(good_answer(labels)), indent=4).encode()
    for code, body in ((200, pretty), (400, b'{"error": "no JPEG"}')):
        with answering_with((code, body, 0)) as (address, _):
            done = subprocess.run(
                ["sh", "curl.sh", "image.png", address],
                cwd=tmp_path,
                capture_output=True,
            )
        if code == 200:
            assert done.returncode == 0, done.stderr
            assert Image.open(io.BytesIO(done.stdout)).tobytes() == bytes(
                labels
            )
        else:
            assert done.returncode == 1 and b"no JPEG" in done.stderr
            assert done.stdout == b""


def test_the_example_clients_work(model, folder, address, tmp_path):
    write_files(folder, tmp_path)
    image, _ = picture(3, SIZE)
    (tmp_path / "image.png").write_bytes(png(image))
    done = subprocess.run(
        ["sh", "curl.sh", "image.png", address],
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    found = np.array(Image.open(io.BytesIO(done.stdout)))
    np.testing.assert_array_equal(found, labels_of(model, image))
    done = subprocess.run(
        [sys.executable, "client.py", "image.png", address],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(33, 49) classes")
    # Python's own packages only.
    subprocess.run(
        [sys.executable, "-I", "rest.py", "image.png", "labels.png", address],
        cwd=tmp_path,
        check=True,
    )
    found = np.array(Image.open(tmp_path / "labels.png"))
    np.testing.assert_array_equal(found, labels_of(model, image))
