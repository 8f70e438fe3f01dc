"""The page as an application, and how it is served."""

import os
import shutil
import threading

import fastapi
import gradio as gr
import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from keras_danet.explain.page import Page

# The page takes nothing from other machines, and no other page frames it.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'self'"
)
# Seconds that a stop may take.
GRACE_SECONDS = 5
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
STYLE = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
h1 { font-size: 1.5rem; margin: 0; }
#status:not(:has(p)) { display: none; }
#overlay img { cursor: crosshair; }
.kd-picture .image-frame { width: 100%; }
.kd-picture img { width: 100%; height: auto; max-height: 40rem;
  object-fit: scale-down; }
.kd-sliders > .form { display: grid; flex: 1;
  background: var(--block-background-fill);
  grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); }
.kd-sliders .block { padding: .5rem .75rem; }
.kd-note { margin: .35rem 0; }
.kd-error { margin: .35rem 0; padding: .5rem .75rem; border-radius: .4rem;
  border-left: 4px solid #c2410c; background: #fff1e8; color: #5b1d05; }
.kd-scale { display: grid; grid-template-columns: 1fr 1fr 1fr;
  font-size: .85rem; gap: .15rem 0; }
.kd-scale div { grid-column: 1 / -1; height: .7rem; border-radius: .2rem; }
.kd-scale span:nth-of-type(2) { text-align: center; }
.kd-scale span:nth-of-type(3) { text-align: right; }
.kd-swatch { display: inline-block; width: .85rem; height: .85rem;
  margin-right: .45rem; border: 1px solid #8888; border-radius: .15rem;
  vertical-align: -.1rem; }
.kd-bars { width: 100%; border-collapse: collapse; font-size: .92rem;
  margin: .6rem 0; font-variant-numeric: tabular-nums; }
.kd-bars * { border-color: transparent !important; }
.kd-bars th, .kd-bars td { padding: .15rem .5rem .15rem 0 !important;
  text-align: left; font-weight: normal; border: 0 !important; }
.kd-bars thead th { opacity: .75; }
.kd-bars th { width: 35%; overflow-wrap: anywhere; }
.kd-bars td:last-child { width: 35%; }
.kd-bars meter { width: 100%; height: .8rem; }
"""


def make_app(page: Page, max_file_size: int, hosts: list[str]):
    """The page's application.

    Args:
        page: `Page`.
        max_file_size: integer, the most bytes of an upload.
        hosts: list of strings, the names that the page may be called by, so
            that no other site's name leads to it; `["*"]` for any.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)

    @app.middleware("http")
    async def guard(request, call_next):
        # Gradio would fetch either, and show it as its own.
        if "://" in request.url.path or (
            request.method == "POST" and names_address(await _json_of(request))
        ):
            response = fastapi.Response(
                "Files are uploaded; addresses are not fetched.", 400
            )
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    swatches = "".join(
        f"#class-{index} label span::before {{ content: ''; display: "
        "inline-block; width: .85rem; height: .85rem; margin-right: .4rem; "
        "border: 1px solid #8888; border-radius: .15rem; vertical-align: "
        f"-.1rem; background: rgb({red}, {green}, {blue}); }}\n"
        for index, (red, green, blue) in enumerate(page.palette)
    )
    blocks = page.blocks()
    # Only then does Gradio check that a path is an upload's: it is mounted,
    # not launched.
    blocks.has_launched = True
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        show_error=False,
        max_file_size=max_file_size,
        ssr_mode=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
        css=STYLE + swatches,
    )


async def _json_of(request):
    """The JSON of a request, `None` for another one."""
    # Without a type, it counts as JSON. Uploads have this one.
    if request.headers.get("content-type", "").startswith("multipart/"):
        return None
    try:
        return await request.json()
    except (ValueError, RecursionError):
        # Gradio says what is wrong with it.
        return None


def names_address(value) -> bool:
    """Whether a file in some JSON is the address of one elsewhere.

    Gradio would fetch it.

    >>> from keras_danet.explain.page_server import names_address
    >>> names_address({"data": [{"path": "/tmp/a.png", "url": "http://b"}]})
    False
    >>> names_address({"data": [{"path": "http://b/a.png"}]})
    True
    """
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += value.values()
            path = value.get("path")
            if isinstance(path, str) and "://" in path:
                return True
    return False


class _Server(uvicorn.Server):
    """Ends in time, also if its network computes for long."""

    def __init__(self, config, folder):
        super().__init__(config)
        self.folder = folder

    def handle_exit(self, sig, frame):
        super().handle_exit(sig, frame)
        # A network cannot be interrupted, and Python would wait for it.
        timer = threading.Timer(GRACE_SECONDS, self._end, [128 + sig])
        timer.daemon = True
        timer.start()

    def _end(self, code):
        shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(code)


def serve(app, listener, folder):
    """Serves until the process is told to stop.

    Args:
        app: what `make_app` returned.
        listener: a socket that listens.
        folder: path of the folder of temporary files, which goes at the end.
    """
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    print(f"http://{host}:{port}/; stop with Ctrl-C", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        # Open pages keep a connection, which is not waited for.
        timeout_graceful_shutdown=1,
    )
    _Server(config, folder).run(sockets=[listener])
