"""A small HTTP server with TensorFlow Serving's REST protocol.

For trying an export out, and for machines without Docker. TensorFlow Serving
is for production: it batches, loads new versions and is written for load.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import socket
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from keras_danet.serving.served_model import DEFAULT_SIGNATURE
from keras_danet.serving.served_model import format_outputs
from keras_danet.serving.served_model import parse_inputs

# 2 images of 8.4 megapixels as float JSON are more, and should be refused.
MAX_BODY_BYTES = 2**25
# Requests that wait for the network; more are sent away. So are those that
# arrive while as many are being read.
MAX_WAITING, MAX_READING = 16, 64
# Seconds that a request may take to arrive.
READ_SECONDS = 30
MAX_CONNECTIONS = 1024
# Seconds that requests under way get when the server is stopped.
GRACE_SECONDS = 30


class _Refused(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def make_app(
    model,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_waiting: int = MAX_WAITING,
    read_seconds: float = READ_SECONDS,
) -> Starlette:
    """The server's application; `state.computing` says if its network runs.

    Args:
        model: `ServedModel`.
        max_body_bytes: integer; a larger request is refused (413).
        max_waiting: integer, how many requests may wait; others are refused
            (503) and can be sent again.
        read_seconds: float; a request that takes longer to arrive is refused
            (408).
    """
    # The network uses all cores for one request.
    pool = concurrent.futures.ThreadPoolExecutor(1)
    state = State({"waiting": 0, "reading": 0, "computing": False})

    def check(request):
        given = request.path_params
        if given["name"] != model.name:
            raise _Refused(
                404,
                f"Servable not found for request: {given['name']}. Expected "
                f"{model.name}.",
            )
        version = given.get("version", model.version)
        if version != model.version:
            raise _Refused(
                404, f"Version {version} is not served, {model.version} is."
            )

    @contextlib.contextmanager
    def counted(name, most):
        if getattr(state, name) >= most:
            raise _Refused(503, "The server is busy. Ask again later.")
        setattr(state, name, getattr(state, name) + 1)
        try:
            yield
        finally:
            setattr(state, name, getattr(state, name) - 1)

    def compute(body, gone):
        if gone.is_set():
            raise ValueError("The client has gone.")
        state.computing = True
        try:
            return _answer(model, body)
        finally:
            state.computing = False

    async def predict(request):
        check(request)
        with counted("reading", MAX_READING):
            try:
                async with asyncio.timeout(read_seconds):
                    body = await _read(request, max_body_bytes)
            except TimeoutError:
                raise _Refused(
                    408, f"The request took more than {read_seconds} s."
                ) from None
        with counted("waiting", max_waiting):
            gone = threading.Event()
            watch = asyncio.create_task(_watch(request, gone))
            run = asyncio.get_running_loop().run_in_executor
            try:
                answer = await run(pool, compute, body, gone)
            finally:
                watch.cancel()
        return Response(answer, media_type="application/json")

    async def status(request):
        check(request)
        return JSONResponse(model.status())

    async def metadata(request):
        check(request)
        return JSONResponse(model.metadata())

    def refused(request, error):
        headers = {"Retry-After": "1"} if error.code == 503 else None
        return JSONResponse(
            {"error": str(error)}, status_code=error.code, headers=headers
        )

    routes = []
    for base in (
        "/v1/models/{name}",
        "/v1/models/{name}/versions/{version:int}",
    ):
        routes += [
            Route(f"{base}:predict", predict, methods=["POST"]),
            Route(f"{base}/metadata", metadata),
            Route(base, status),
        ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            _Refused: refused,
            ValueError: lambda request, error: refused(
                request, _Refused(400, str(error))
            ),
            ClientDisconnect: lambda request, error: refused(
                request, _Refused(400, "The request broke off.")
            ),
            404: lambda request, error: refused(
                request, _Refused(404, f"There is no {request.url.path}.")
            ),
            405: lambda request, error: refused(
                request, _Refused(405, f"No {request.method} here.")
            ),
            # Too little memory, say.
            500: lambda request, error: refused(
                request, _Refused(500, f"{type(error).__name__}: {error}")
            ),
        },
    )
    app.state = state
    return app


async def _read(request, most):
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise _Refused(
                413,
                f"The request has more than {most} bytes. Send the image's "
                "file to the signature 'encoded' instead of its pixels, or a "
                "smaller one.",
            )
    return body


async def _watch(request, gone):
    """Notes that the client has gone: nobody needs the answer."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _answer(model, body):
    """The bytes of an answer. It runs beside the loop, which stays free."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            "The request is not JSON, or has numbers of thousands of digits or "
            f"lists in thousands of lists ({type(error).__name__})."
        ) from None
    signature = DEFAULT_SIGNATURE
    if isinstance(content, dict):
        signature = content.get("signature_name") or DEFAULT_SIGNATURE
    if not isinstance(signature, str):
        raise ValueError("'signature_name' must be a string.")
    inputs, by_rows = parse_inputs(content, model.inputs_of(signature))
    model.check_answer(signature, inputs)
    return format_outputs(model.run(signature, inputs), by_rows)


def listen(host, port):
    """A socket that listens.

    Args:
        host: string, an address of this machine.
        port: integer; 0 takes a free one.

    Raises:
        OSError: if the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # Python adds the address to some.
        reason = str(error.strerror).partition(" (while")[0]
        raise OSError(
            f"Port {port} of {host} cannot be used: {reason}. Choose another "
            "--port or --host."
        ) from error


class ImpatientProtocol(H11Protocol):
    """Closes connections that send no request; else they stay for ever."""

    _timer = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self):
        super().on_response_complete()
        self._wait()

    def _wait(self):
        # An older one would end a connection that has just been used.
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(READ_SECONDS, self._end_if_idle)

    def _end_if_idle(self):
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def make_config(app):
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        http=ImpatientProtocol,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=MAX_CONNECTIONS,
    )


def serve(model, listener, **limits):
    """Serves until it is told to stop; requests under way are finished.

    Args:
        model: `ServedModel`.
        listener: what `listen` returned.
        **limits: `make_app`'s.
    """
    app = make_app(model, **limits)
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    print(
        f"http://{host}:{port}/v1/models/{model.name} (version "
        f"{model.version}); stop with Ctrl-C",
        flush=True,
    )
    try:
        uvicorn.Server(make_config(app)).run(sockets=[listener])
    finally:
        if app.state.computing:
            # A network cannot be interrupted, and Python would wait for it.
            os._exit(143)
