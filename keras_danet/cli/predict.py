"""`keras-danet predict`: label maps and overlays."""

import argparse
import json
import pathlib
import sys

from keras_danet.cli.arguments import add_model
from keras_danet.cli.arguments import add_protocol
from keras_danet.cli.arguments import add_size
from keras_danet.cli.arguments import open_predictor
from keras_danet.files import check_folder
from keras_danet.text_tables import harmless

KINDS = (
    *("label", "overlay", "probabilities", "confidence", "entropy", "spread"),
    "sheet",
)
DEFAULT_KINDS = ("label", "overlay")

DESCRIPTION = """\
Segments images and videos of any size. Writes NAME_label.png (class indices,
which viewers show in colours) and NAME_overlay.png (the image at its own size
under the colours of the classes) for each image, and the folder NAME_labels
and NAME_overlay.mp4 for each video. What has results is skipped."""

SAVED = """\
--save takes words, with commas between them:
  label          class indices, a palette PNG
  overlay        the image under the colours of the classes
  probabilities  of each class, (height, width, classes) float16, .npy
  confidence     probability of the predicted class, a grey PNG of 16 bits
  entropy        of the class probabilities, a grey PNG of 16 bits
  spread         of the probabilities over scales and mirror images, likewise
  sheet          image and overlay side by side, with the names of the classes

A video has a folder NAME_confidence with 000001.png for its first frame, and so
on for the other kinds; its overlay is a video.

exit codes:
  0  done    1  a file could not be read, the rest was done    2  failed
  130  interrupted from the keyboard        143  stopped by SIGTERM"""


def add(verbs):
    verb = verbs.add_parser(
        "predict",
        help="segment images and videos: label maps and colour overlays",
        description=DESCRIPTION,
        epilog=SAVED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(verb)
    verb.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="an image (PNG, JPEG and others); a video; a folder: all in it "
        "and its subfolders, with results in subfolders of the same names; a "
        "pattern such as 'photos/*.jpg'; or numbered frames, such as "
        "frames/%%05d.png, as one video",
    )
    verb.add_argument(
        "--output", required=True, metavar="DIR", help="folder to write to"
    )
    verb.add_argument(
        "--save",
        type=_kinds,
        default=DEFAULT_KINDS,
        metavar="WORDS",
        help="what to write, see below (default: label,overlay)",
    )
    verb.add_argument(
        "--overwrite", action="store_true", help="replace existing results"
    )
    verb.add_argument(
        "--sheet",
        action="store_true",
        help="write NAME_sheet.png as well, as --save sheet does",
    )
    verb.add_argument(
        "--attention", action=_Moved, nargs=0, help=argparse.SUPPRESS
    )
    verb.add_argument(
        "--fps",
        type=_rate,
        default=25,
        metavar="RATE",
        help="numbered frames in a second of their video (default: 25)",
    )
    add_size(verb)
    add_protocol(verb)
    verb.add_argument(
        "--json",
        action="store_true",
        help="print a list of what was written, and of the classes found",
    )
    verb.set_defaults(run_verb=run)


class _Moved(argparse.Action):
    """Says where the picture of attention is made now."""

    def __call__(self, parser, arguments, values, option_string=None):
        parser.error(
            "`predict` does not show attention any more. Expected `keras-danet "
            "explain MODEL INPUT --output DIR`, which shows more of it."
        )


def _kinds(text):
    kinds = tuple(dict.fromkeys(text.replace(" ", "").split(",")))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"expected words of {', '.join(KINDS)}, with commas between them. "
            f"Received: {unknown[0]!r}"
        )
    return kinds


def _rate(text):
    try:
        rate = float(text)
    except ValueError:
        rate = 0
    if not 0.01 <= rate <= 1000:
        raise argparse.ArgumentTypeError(
            f"expected a number from 0.01 to 1000. Received: {text!r}"
        )
    return rate


def run(arguments):
    from keras_danet import runs
    from keras_danet.cli.output import warnings_as_notes
    from keras_danet.inference.prediction import predict_files

    # A wrong model is reported before images are read.
    runs.config_of(arguments.model)
    output = pathlib.Path(arguments.output)
    check_folder(output)
    kinds = list(arguments.save)
    kinds += ["sheet"] * arguments.sheet
    teller = _Teller(arguments.json)
    with warnings_as_notes():
        outcomes = predict_files(
            open_predictor(arguments),
            arguments.inputs,
            output,
            kinds,
            overwrite=arguments.overwrite,
            frame_rate=arguments.fps,
            report=teller.report,
            note=_note,
        )
    failed = [outcome for outcome in outcomes if outcome.error]
    teller.summarize(outcomes, output)
    if all(outcome.status == "failed" for outcome in outcomes):
        return 2
    return 1 if failed else 0


def _note(text):
    print(f"keras-danet: {harmless(text)}", file=sys.stderr)


class _Teller:
    """Prints what becomes of each input."""

    def __init__(self, as_json):
        self.as_json = as_json

    def report(self, outcome):
        if outcome.error:
            _note(f"error: {outcome.error}")
        if self.as_json or outcome.status in ("present", "failed"):
            return
        paths = [str(path) for path in outcome.files.values()]
        stem = paths[0][: paths[0].rindex("_")]
        shown = [paths[0], *(path.removeprefix(stem) for path in paths[1:])]
        classes = ", ".join(outcome.classes)
        print(harmless(f"{', '.join(shown)}: {classes}"))

    def summarize(self, outcomes, output):
        present = [o for o in outcomes if o.status == "present"]
        failed = [o for o in outcomes if o.error]
        if present:
            _note(
                f"skipped {len(present)} of {len(outcomes)}, whose results are "
                f"in {output}; --overwrite makes them again"
            )
        if failed and len(outcomes) > 1:
            _note(f"{len(failed)} of {len(outcomes)} inputs have errors, above")
        if self.as_json:
            rows = [_row(outcome) for outcome in outcomes]
            print(json.dumps(rows, indent=1))


def _row(outcome):
    row = {
        "image": str(outcome.input.path),
        **{
            kind: str(path)
            for kind, path in outcome.files.items()
            if outcome.status != "failed"
        },
        "status": outcome.status,
        "classes": outcome.classes and list(outcome.classes),
    }
    if outcome.error:
        row["error"] = outcome.error
    return row
