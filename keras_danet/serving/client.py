"""`Client`: label maps from a server, over REST or gRPC."""

import base64
import collections
import concurrent.futures
import io
import json
import os
import pathlib
import random
import time
import urllib.parse
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from PIL import ImageOps

from keras_danet.arguments import choice
from keras_danet.arguments import integer
from keras_danet.arguments import number

# The largest answer, a label map as PNG bytes: more than any has.
MAX_ANSWER_BYTES = 2**28
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
SIGNATURES = {"encoded": "label_png_bytes", "colored": "overlay_png_bytes"}
# What may be different a second later.
_RETRIED_HTTP = (429, 502, 503)
_RETRIED_GRPC = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
# How gRPC calls a connection that was there and ended.
_BROKE_OFF = ("Socket closed", "reset by peer", "recvmsg", "Broken pipe")


class Client:
    """Sends images to a server of an exported model.

    The server is TensorFlow Serving, or `keras-danet serve`. Images travel as
    the bytes of their files and answers as PNG bytes, some kilobytes each.
    Threads may share a client.

    Args:
        address: string, `"http://host:8501"` or `"https://..."` for REST,
            `"grpc://host:8500"` for gRPC (which needs
            `tensorflow-serving-api`).
        model: string, the model's name on the server. Defaults to `"danet"`.
        version: integer. Defaults to `None`, the server's latest.
        timeout: float, seconds that an answer may take; over REST, connecting
            and sending may each take as long, too. Defaults to `60`.
        retries: integer, how often a request is sent again if the server
            cannot be reached or is overloaded, each time after twice as long
            a pause, or after the one that the server asks for. Where the
            connection breaks off meanwhile it is sent again once, and one
            that is refused is not. Defaults to `3`.

    Call arguments:
        image: a path, the bytes of a JPEG or PNG file, an array `(height,
            width, 3)` of uint8, or a Pillow image. The last two are sent as
            PNG.

    Returns:
        `(height, width)` uint8 array of class indices, of the image's size
        once it is upright.

    Raises:
        ConnectionError: if the server cannot be reached, or is overloaded.
        TimeoutError: if it takes longer than `timeout`.
        ValueError: if it refuses the request; with its words.
    """

    def __init__(
        self,
        address: str,
        model: str = "danet",
        version: int | None = None,
        timeout: float = 60,
        retries: int = 3,
    ):
        parts = urllib.parse.urlsplit(address)
        choice("address", parts.scheme, ("http", "https", "grpc"))
        # A gRPC channel without a port would ask port 443.
        if not (parts.hostname and _has_port(parts)) or (
            parts.scheme == "grpc" and not parts.port
        ):
            raise ValueError(
                "`address` must have a host and a port, as in "
                "'http://localhost:8501' or 'grpc://localhost:8500'. "
                f"Received: {address!r}"
            )
        if not isinstance(model, str) or not model:
            raise ValueError(
                f"`model` must be a model's name. Received: {model!r}"
            )
        if version is not None:
            must = "must be None or 1 or more"
            version = integer("version", version, must, least=1)
        self.address = address
        self.retries = integer("retries", retries, "must be 0 or more", least=0)
        timeout = number("timeout", timeout, "must be above 0", above=0)
        kind = _Grpc if parts.scheme == "grpc" else _Rest
        self._transport = kind(parts, model, version, timeout)

    def __call__(self, image: Any) -> np.ndarray:
        return _as_labels(self._ask("encoded", image))

    def overlay(self, image: Any) -> np.ndarray:
        """The image under the colours of its classes, uint8 RGB."""
        return _as_array(self._ask("colored", image), "RGB")

    def map(self, images: Iterable, in_flight: int = 4) -> Iterator[np.ndarray]:
        """Label maps of many images, in their order.

        Args:
            images: iterable of what a call takes. It is read as answers come.
            in_flight: integer, how many requests are on their way at a time.
                Defaults to `4`.

        Yields:
            Label maps. An image that the server refuses raises its error in
            its turn.
        """
        in_flight = integer(
            "in_flight", in_flight, "must be 1 or more", least=1
        )
        waiting: collections.deque = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(in_flight) as pool:
            try:
                for image in images:
                    waiting.append(pool.submit(self, image))
                    if len(waiting) >= in_flight:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def status(self) -> str:
        """The state of the model, such as `"AVAILABLE"`."""
        return self._again(self._transport.status)

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ask(self, signature, image):
        contents = _as_bytes(image)
        return self._again(lambda: self._transport.ask(signature, contents))

    def _again(self, send):
        pause = FIRST_PAUSE
        for attempt in range(self.retries + 1):
            try:
                return send()
            except _Busy as error:
                last = min(self.retries, 1 if error.broke_off else self.retries)
                if attempt >= last:
                    raise ConnectionError(
                        f"{self.address} does not answer: {error} (asked "
                        f"{attempt + 1} times). Start it, or ask less often."
                    ) from error
                # Many clients should not come back all at once.
                wait = pause * random.uniform(0.5, 1)
                time.sleep(min(max(wait, error.pause), LONGEST_PAUSE))
                pause = min(2 * pause, LONGEST_PAUSE)


class _Busy(Exception):
    """What may be different a second later.

    Args:
        text: string.
        pause: float, seconds that the server asks for.
        broke_off: boolean, whether the server had the request already: it may
            be what it dies of.
    """

    def __init__(self, text, pause=0.0, broke_off=False):
        super().__init__(text)
        self.pause, self.broke_off = pause, broke_off


class _Rest:
    """TensorFlow Serving's REST protocol."""

    def __init__(self, parts, model, version, timeout):
        import httpx

        self._errors, self._timeout = httpx, timeout
        which = f"/versions/{version}" if version is not None else ""
        path = f"/v1/models/{urllib.parse.quote(model, safe='')}{which}"
        self._path = parts.path.rstrip("/") + path
        self._client = httpx.Client(
            base_url=f"{parts.scheme}://{parts.netloc}", timeout=timeout
        )

    def ask(self, signature, contents):
        encoded = base64.b64encode(contents).decode("ascii")
        answer = self._send(
            "POST",
            f"{self._path}:predict",
            json={
                "signature_name": signature,
                "instances": [{"image_bytes": {"b64": encoded}}],
            },
        )
        try:
            [found] = answer["predictions"]
            # With one output its name is left out.
            found = found.get(SIGNATURES[signature], found)
            return base64.b64decode(found["b64"], validate=True)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                "The server's answer is not that of TensorFlow Serving to the "
                f"signature {signature!r} ({error!r})."
            ) from error

    def status(self):
        answer = self._send("GET", self._path)
        try:
            found = answer["model_version_status"]
            return _state_of([version["state"] for version in found])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"The server's answer is not a model's status ({error!r})."
            ) from error

    def close(self):
        self._client.close()

    def _send(self, method, path, **given):
        try:
            with self._client.stream(method, path, **given) as answer:
                body = _read(answer, time.monotonic() + self._timeout)
        except (self._errors.TimeoutException, TimeoutError) as error:
            raise self._late(error) from error
        except self._errors.TransportError as error:
            raise _Busy(
                str(error) or repr(error),
                broke_off=not isinstance(error, self._errors.ConnectError),
            ) from error
        except self._errors.DecodingError as error:
            raise ValueError(
                f"The server's answer cannot be unpacked: {error}."
            ) from error
        content = _as_json(body)
        if answer.status_code == 504:
            raise self._late(_error_of(content))
        if answer.status_code in _RETRIED_HTTP:
            raise _Busy(
                f"{answer.status_code} {_error_of(content)}",
                _seconds(answer.headers.get("retry-after")),
            )
        if answer.status_code != 200:
            raise ValueError(
                f"The server refuses the request ({answer.status_code}): "
                f"{_error_of(content)}"
            )
        return content

    def _late(self, error):
        return TimeoutError(
            f"{self._client.base_url} took too long ({error!r}). Give more "
            "`timeout`, or send smaller images."
        )


def _has_port(parts):
    """Whether the port is one, or left out."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def _seconds(text):
    """A `Retry-After`; 0 where it is a date, or is missing."""
    return float(text) if text and text.isdecimal() else 0.0


def _state_of(states):
    """Of a model's versions, one that serves if there is one."""
    return "AVAILABLE" if "AVAILABLE" in states else states[0]


def _read(answer, deadline):
    """A body, no larger than an answer can be, and in time."""
    body = bytearray()
    for part in answer.iter_bytes():
        body += part
        if time.monotonic() > deadline:
            raise TimeoutError("the answer drips")
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(
                f"The server's answer has more than {MAX_ANSWER_BYTES} bytes."
            )
    return bytes(body)


def _as_json(body):
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _error_of(content):
    if isinstance(content, dict):
        return content.get("error") or content
    return "it says nothing"


class _Grpc:
    """TensorFlow Serving's gRPC protocol."""

    def __init__(self, parts, model, version, timeout):
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._grpc = grpc
        self.model, self.version, self.timeout = model, version, timeout
        self._channel = grpc.insecure_channel(
            parts.netloc,
            options=[
                ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
                ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
            ],
        )
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        ).Predict

    def ask(self, signature, contents):
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        self._fill(request.model_spec)
        request.model_spec.signature_name = signature
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([contents]))
        answer = self._send(self._predict, request)
        name = SIGNATURES[signature]
        if name not in answer.outputs:
            raise ValueError(
                f"The server's answer has no {name!r}. Received: "
                f"{sorted(answer.outputs)}"
            )
        found = answer.outputs[name].string_val
        if len(found) != 1:
            raise ValueError(
                f"The server's answer has {len(found)} images. Expected one."
            )
        return found[0]

    def status(self):
        from tensorflow_serving.apis import get_model_status_pb2
        from tensorflow_serving.apis import model_service_pb2_grpc

        request = get_model_status_pb2.GetModelStatusRequest()
        self._fill(request.model_spec)
        stub = model_service_pb2_grpc.ModelServiceStub(self._channel)
        answer = self._send(stub.GetModelStatus, request)
        kinds = get_model_status_pb2.ModelVersionStatus.State
        states = [kinds.Name(v.state) for v in answer.model_version_status]
        if not states:
            raise ValueError("The server's answer has no version of the model.")
        return _state_of(states)

    def close(self):
        self._channel.close()

    def _fill(self, spec):
        spec.name = self.model
        if self.version is not None:
            spec.version.value = self.version

    def _send(self, call, request):
        try:
            return call(request, timeout=self.timeout)
        except self._grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
            # A message that is too large will be so the next time, too.
            if code in _RETRIED_GRPC and "larger than max" not in details:
                raise _Busy(
                    f"{code}: {details}",
                    # The channel says no more than that.
                    broke_off=any(words in details for words in _BROKE_OFF),
                ) from error
            if code == "DEADLINE_EXCEEDED":
                raise TimeoutError(
                    f"The server took longer than {self.timeout} s. Give more "
                    "`timeout`, or send smaller images."
                ) from error
            raise ValueError(
                f"The server refuses the request ({code}): {details}"
            ) from error


def _as_bytes(image):
    """A file's bytes as they are; anything else as PNG."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return pathlib.Path(image).read_bytes()
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.dtype != "uint8" or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(
                "`image` must be a path, the bytes of a file, a Pillow image, "
                "or a uint8 array (height, width, 3). Received: "
                f"{array.dtype} array of shape {array.shape}"
            )
        image = Image.fromarray(array)
    file = io.BytesIO()
    # Upright, as the server makes a file's image.
    image = ImageOps.exif_transpose(image)
    image.convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


def _as_labels(contents):
    return _as_array(contents, "L")


def _as_array(contents, mode):
    try:
        with Image.open(io.BytesIO(contents), formats=("PNG",)) as image:
            if image.mode != mode:
                raise ValueError(f"its mode is {image.mode}, not {mode}")
            return np.array(image)
    # Pillow has no common error for broken files.
    except Exception as error:
        raise ValueError(
            f"The server's answer is not the PNG that it should be: {error}."
        ) from error
