"""`keras-danet explore`: a page on which a network can be looked into."""

import importlib.util
import ipaddress
import os
import pathlib
import tempfile

from keras_danet.cli.arguments import add_model
from keras_danet.cli.arguments import add_size
from keras_danet.cli.arguments import positive
from keras_danet.cli.arguments import size_of
from keras_danet.cli.output import warnings_as_notes


def add(verbs):
    verb = verbs.add_parser(
        "explore",
        help="look into a network in a browser: click a pixel, see where it "
        "looks",
        description="Starts a page on this machine: an image and its classes, "
        "where the attention of a clicked pixel goes, channels by class, what "
        "changes without an attention, a second image. Whoever can open the "
        "page can use it: --host 0.0.0.0 lets the whole network in, without a "
        'password. It needs gradio: pip install "keras-danet[explore]".',
    )
    add_model(verb)
    verb.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="image files to choose from (default: a drawn street); others "
        "can be uploaded",
    )
    add_size(verb)
    verb.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="images with more pixels are refused before they are decoded "
        "(default: 33554432)",
    )
    verb.add_argument(
        "--host", default="127.0.0.1", help="address (default: 127.0.0.1)"
    )
    verb.add_argument(
        "--port", type=int, default=7860, help="port (default: 7860)"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    if not importlib.util.find_spec("gradio"):
        raise ImportError(
            "The page needs gradio, which is not installed: "
            'pip install "keras-danet[explore]"'
        )
    from keras_danet.serving.server import MAX_BODY_BYTES
    from keras_danet.serving.server import listen

    if not 0 <= arguments.port < 2**16:
        raise ValueError(
            f"--port must be from 0 to 65535. Received: {arguments.port}"
        )
    images = _images(arguments.images)
    # Before the model is loaded, which takes a while.
    with (
        listen(arguments.host, arguments.port) as listener,
        tempfile.TemporaryDirectory(prefix="keras-danet-") as folder,
    ):
        # Where gradio puts uploads and pictures; read as it is imported.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from keras_danet.explain import kept_views
        from keras_danet.explain.page import Page
        from keras_danet.explain.page_server import make_app
        from keras_danet.explain.page_server import serve
        from keras_danet.explain.view import Explorer

        explorer = Explorer(arguments.model, size_of(arguments))
        most = arguments.max_pixels or kept_views.MAX_PIXELS
        page = Page(
            kept_views.KeptViews(explorer, most),
            images,
            pathlib.Path(folder) / "downloads",
            pathlib.Path(arguments.model).resolve().name,
            kept_classes(arguments.model, explorer),
        )
        app = make_app(page, MAX_BODY_BYTES, _hosts(arguments.host))
        with warnings_as_notes():
            serve(app, listener, folder)
    return 0


def _images(given):
    """The paths of the images to choose from.

    Raises:
        ValueError, FileNotFoundError: for what is no image file.
    """
    from keras_danet.data.decoding import PHOTO_FORMATS
    from keras_danet.data.decoding import read_size

    if not given:
        return [pathlib.Path(__file__).parents[1] / "street.jpg"]
    paths = [pathlib.Path(image) for image in given]
    for path in paths:
        read_size(path, PHOTO_FORMATS)
    return paths


def kept_classes(source, explorer):
    """What `keras-danet explain --measure` kept, or `None`."""
    from keras_danet.explain.kept_channels import read_channels

    if "channel" not in explorer.attention:
        return None
    return read_channels(source, explorer.observer.predictor)


def _hosts(host):
    """The names that a page on this address may be called by."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    # Starlette cannot tell an IPv6 address from a port.
    if not local or ":" in host:
        return ["*"]
    return ["localhost", "127.0.0.1", host]
