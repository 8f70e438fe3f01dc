"""`keras-danet export`: a file for other runtimes, and its check."""

import argparse
import json
import pathlib
import sys

from keras_danet.cli.arguments import add_model
from keras_danet.cli.arguments import positive
from keras_danet.cli.streams import held_standard_error
from keras_danet.export.contract import FORMATS
from keras_danet.export.contract import LARGER_FILES
from keras_danet.export.contract import MAX_PIXELS
from keras_danet.export.contract import OUTPUTS
from keras_danet.files import check_folder

NUM_IMAGES = 8
NUM_CALIBRATION = 32

KINDS = """\
formats, and what they can be quantised to:
  saved_model  for TensorFlow Serving: OUTPUT/NAME/VERSION, with signatures for
               pixels, probabilities, image files to label PNGs and to overlays
  tflite       float16, dynamic, int8, int16x8; builtin operators only
  onnx         opset 18
  openvino     float16, int8
  pt2          a program of torch.export

Each is compared with the model when it is written. If too many pixels get
another class, or too much mean IoU is lost, nothing is kept, an older export
stays, and the exit code is 1."""


def add(verbs):
    verb = verbs.add_parser(
        "export",
        help="write a model for other runtimes and check it",
        description="Writes a model for use without Keras, compares it with "
        "the model on images, and keeps it only if the two agree.",
        epilog=KINDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(verb)
    verb.add_argument("--format", required=True, choices=FORMATS)
    verb.add_argument(
        "--quantize",
        default="none",
        choices=sorted({q for kinds in FORMATS.values() for q in kinds}),
        help="precision of the weights, or of all numbers (default: none)",
    )
    add_export_size(
        verb,
        "the one image size of the file; 'any' for every size (default: any; "
        "of TFLite that of the first validation image)",
    )
    verb.add_argument(
        "--outputs",
        default="labels",
        choices=OUTPUTS,
        help="uint8 class indices, or float logits (default: labels; a "
        "SavedModel has probabilities besides)",
    )
    verb.add_argument(
        "--input-dtype",
        default="uint8",
        choices=("uint8", "float32"),
        help="dtype of the pixels, 0-255 in both (default: uint8)",
    )
    verb.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="pixels of the largest image that a SavedModel computes; files "
        f"may have {LARGER_FILES} times more if they are resized (default: "
        f"{MAX_PIXELS}, or fewer if logits would take more than 1 GiB)",
    )
    verb.add_argument(
        "--name",
        default="danet",
        help="what a server calls a SavedModel (default: danet)",
    )
    verb.add_argument(
        "--version",
        type=int,
        metavar="N",
        help="version of a SavedModel, a new one (default: the next)",
    )
    add_samples(verb)
    verb.add_argument(
        "--calibration",
        type=positive,
        default=NUM_CALIBRATION,
        metavar="N",
        help="how many training images int8 is calibrated with (default: "
        f"{NUM_CALIBRATION})",
    )
    verb.add_argument(
        "--json", action="store_true", help="print the report as JSON"
    )
    verb.add_argument(
        "--output",
        metavar="DIR",
        help="folder to write to (default: RUN/exports)",
    )
    verb.set_defaults(run_verb=run)


def add_export_size(verb, text):
    verb.add_argument("--size", type=_size, metavar="HxW", help=text)


def add_samples(verb):
    """The images that an export is compared on."""
    verb.add_argument(
        "--data",
        nargs=2,
        metavar=("NAME", "ROOT"),
        help="data set and its folder, for images to compare on (default: "
        "those of the run)",
    )
    verb.add_argument(
        "--images",
        type=positive,
        default=NUM_IMAGES,
        metavar="N",
        help="how many validation images are compared on, spread over the "
        f"split; more give a surer mean IoU (default: {NUM_IMAGES})",
    )


def run(arguments):
    from keras_danet import runs
    from keras_danet.export.exporting import export_model

    if arguments.output:
        check_folder(arguments.output)
    model, config = runs.open_model(arguments.model)
    if config is None and not arguments.output:
        raise ValueError(
            f"{arguments.model} is not a run folder, so there is no default "
            "place for the export. Give --output DIR."
        )
    if config:
        _warn_if_unfinished(arguments.model, config)
    samples = samples_of(arguments, model, config)
    size = arguments.size
    if size is None and arguments.format == "tflite" and samples:
        size = samples[0].image.shape[:2]
    calibration = ()
    if arguments.quantize in ("int8", "int16x8"):
        calibration = [
            sample.image
            for sample in samples_of(
                arguments, model, config, "train", arguments.calibration
            )
        ]
    # Converters have much to say, of use only if they fail.
    with held_standard_error():
        report = export_model(
            model,
            arguments.output or pathlib.Path(arguments.model) / "exports",
            arguments.format,
            quantization=arguments.quantize,
            size=None if size == "any" else size,
            outputs=arguments.outputs,
            input_dtype=arguments.input_dtype,
            max_pixels=arguments.max_pixels,
            name=arguments.name,
            version=arguments.version,
            samples=samples,
            calibration=calibration,
            test_sides=config.test_sides if config else None,
        )
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        print(report.summary())
    return 0 if report.passed else 1


def _warn_if_unfinished(run, config):
    from keras_danet.runs import is_finished
    from keras_danet.runs import read_history

    history = read_history(pathlib.Path(run) / "history.csv")
    if history and not is_finished(history, config):
        print(
            f"keras-danet: {run} is not finished ({len(history)} of "
            f"{config.epochs} epochs): the best model so far is exported.",
            file=sys.stderr,
        )


def samples_of(arguments, model, config, split=None, count=None):
    """Images of a run's data set, or of the one that is given, if any."""
    from keras_danet import runs
    from keras_danet.export.samples import read_samples

    if arguments.data:
        dataset, root = runs.find_data_for(model, *arguments.data)
    else:
        try:
            if config is None:
                raise ValueError(
                    f"{arguments.model} is no run, and knows no data set. "
                    "Give --data NAME ROOT."
                )
            dataset, root = runs.find_data(config, arguments.model)
        except (OSError, ValueError) as error:
            if split:
                raise
            # The data may be elsewhere by now.
            print(
                "keras-danet: compared on noise and on the street of the "
                f"package only: {error}",
                file=sys.stderr,
            )
            return []
    if split is None:
        split = config.val_split if config else "val"
    elif config:
        split = config.train_split
    count = arguments.images if count is None else count
    return read_samples(dataset, root, split, count)


def _size(text):
    if text == "any":
        return text
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(
            f"expected HEIGHTxWIDTH such as 360x480, received {text!r}"
        )
    return height, width
