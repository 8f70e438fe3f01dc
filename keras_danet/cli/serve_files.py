"""`keras-danet serve-files`: what TensorFlow Serving is run with."""

from keras_danet.cli.arguments import positive
from keras_danet.text_tables import harmless


def add(verbs):
    verb = verbs.add_parser(
        "serve-files",
        help="write what TensorFlow Serving needs to serve an export",
        description="Writes models.config, batching.config, run.sh (Docker), "
        "kubernetes.yaml with probes, and examples of clients.",
    )
    verb.add_argument(
        "export",
        metavar="EXPORT",
        help="folder NAME that `export --format saved_model` made",
    )
    verb.add_argument(
        "--output",
        metavar="DIR",
        required=True,
        help="folder to write to",
    )
    verb.add_argument(
        "--threads",
        type=positive,
        default=2,
        metavar="N",
        help="batches that the server computes at a time (default: 2)",
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet.serving.files import write_files

    for path in write_files(
        arguments.export, arguments.output, arguments.threads
    ):
        print(harmless(str(path)))
    return 0
