"""A small HTTP server with TensorFlow Serving's REST protocol.

For trying an export out, and for machines without Docker. TensorFlow Serving
is for production: it batches, loads new versions and is written for load.
"""

import asyncio
import concurrent.futures
import functools
import json
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Route

from keras_danet.serving.served_model import DEFAULT_SIGNATURE
from keras_danet.serving.served_model import format_outputs
from keras_danet.serving.served_model import parse_inputs

# 2 images of 8.4 megapixels as float JSON are more, and should be refused.
MAX_BODY_BYTES = 2**25
# Requests that wait for the network; more are sent away.
MAX_WAITING = 16
# Seconds that requests under way get when the server is stopped.
GRACE_SECONDS = 30


class _Refused(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def make_app(
    model, max_body_bytes: int = MAX_BODY_BYTES, max_waiting: int = MAX_WAITING
) -> Starlette:
    """The server's application.

    Args:
        model: `ServedModel`.
        max_body_bytes: integer; a larger request is refused (413).
        max_waiting: integer, how many requests may wait; others are refused
            (503) and can be sent again.
    """
    # The network uses all cores for one request.
    pool = concurrent.futures.ThreadPoolExecutor(1)
    waiting = 0

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

    async def predict(request):
        nonlocal waiting
        check(request)
        if waiting >= max_waiting:
            raise _Refused(503, "The server is busy. Ask again later.")
        waiting += 1
        try:
            body = await _read(request, max_body_bytes)
            run = asyncio.get_running_loop().run_in_executor
            answer = await run(pool, functools.partial(_answer, model, body))
        finally:
            waiting -= 1
        return JSONResponse(answer)

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
    return Starlette(
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
        },
    )


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


def _answer(model, body):
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("The request is not JSON.") from None
    signature = DEFAULT_SIGNATURE
    if isinstance(content, dict):
        signature = content.get("signature_name") or DEFAULT_SIGNATURE
    if not isinstance(signature, str):
        raise ValueError("'signature_name' must be a string.")
    inputs, by_rows = parse_inputs(content, model.inputs_of(signature))
    return format_outputs(model.run(signature, inputs), by_rows)


def serve(model, host, port, **limits):
    """Serves until it is told to stop; requests under way are finished.

    Args:
        model: `ServedModel`.
        host: string, the address to listen at.
        port: integer; 0 takes a free one.
        **limits: `make_app`'s.

    Raises:
        OSError: if the port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    config = uvicorn.Config(
        make_app(model, **limits),
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
        # Whoever sends headers for minutes holds a connection, no more.
        timeout_keep_alive=5,
    )
    host, port = listener.getsockname()[:2]
    print(
        f"http://{host}:{port}/v1/models/{model.name} (version "
        f"{model.version}); stop with Ctrl-C",
        flush=True,
    )
    uvicorn.Server(config).run(sockets=[listener])
