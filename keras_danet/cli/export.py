"""`keras-danet export`: a file for other runtimes, and its check."""

import argparse
import pathlib

from keras_danet.cli.arguments import add_model
from keras_danet.cli.streams import held_standard_error
from keras_danet.files import check_folder

# What the runtime prints when it starts.
RUNTIME_NOISE = "INFO: Created TensorFlow Lite XNNPACK delegate"


def add(verbs):
    verb = verbs.add_parser(
        "export",
        help="write a SavedModel or TFLite file and check it",
        description="Exports the fused logits of a model to RUN/exports, "
        "compares the export with the model on images, and writes the "
        "comparison beside it. Exit code 1 if they differ.",
    )
    add_model(verb)
    verb.add_argument(
        "--format",
        required=True,
        choices=("saved_model", "tflite"),
        help="saved_model takes any image size, tflite only one",
    )
    verb.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="image size of a tflite file (default: that of the first "
        "validation image as the run is evaluated)",
    )
    verb.add_argument(
        "--json", action="store_true", help="print the comparison as JSON"
    )
    verb.add_argument(
        "--output",
        metavar="DIR",
        help="folder to write to (default: RUN/exports)",
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet import export
    from keras_danet import runs

    if arguments.output:
        check_folder(arguments.output)
    model, config = runs.open_model(arguments.model)
    if config is None and not arguments.output:
        raise ValueError(
            f"{arguments.model} is not a run folder, so there is no default "
            "place for the export. Give --output DIR."
        )
    images = runs.sample_images(config, arguments.model) if config else ()
    with held_standard_error(RUNTIME_NOISE):
        check = export.export_model(
            model,
            arguments.output or pathlib.Path(arguments.model) / "exports",
            arguments.format,
            images=images,
            size=arguments.size,
            test_sides=config.test_sides if config else None,
        )
    if arguments.json:
        print(pathlib.Path(f"{check.path}.check.json").read_text(), end="")
    else:
        print(check.summary())
    return 0 if check.passed else 1


def _size(text):
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(
            f"expected HEIGHTxWIDTH such as 360x480, received {text!r}"
        )
    return height, width
