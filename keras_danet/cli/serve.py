"""`keras-danet serve`: a small server for an export."""


def add(verbs):
    verb = verbs.add_parser(
        "serve",
        help="serve an export over HTTP, for trying it out",
        description="Serves a SavedModel with TensorFlow Serving's REST "
        "protocol, from this machine only unless --host says otherwise. It is "
        "for trying an export out and for machines without Docker; TensorFlow "
        "Serving is for production (see serve-files).",
    )
    verb.add_argument(
        "export",
        metavar="EXPORT",
        help="folder NAME that `export --format saved_model` made, or one of "
        "its versions",
    )
    verb.add_argument(
        "--host", default="127.0.0.1", help="address (default: 127.0.0.1)"
    )
    verb.add_argument(
        "--port", type=int, default=8501, help="port (default: 8501)"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet.serving.served_model import ServedModel
    from keras_danet.serving.server import listen
    from keras_danet.serving.server import serve

    if not 0 <= arguments.port < 2**16:
        raise ValueError(
            f"--port must be from 0 to 65535. Received: {arguments.port}"
        )
    # Before the model is loaded, which takes a while.
    with listen(arguments.host, arguments.port) as listener:
        serve(ServedModel(arguments.export), listener)
    return 0
