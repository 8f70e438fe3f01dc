"""`keras-danet evaluate`: the scores of a model."""

import contextlib
import json
import os
import pathlib
import sys

from keras_danet.cli.arguments import add_measured
from keras_danet.cli.arguments import add_model
from keras_danet.cli.arguments import add_protocol
from keras_danet.cli.arguments import add_size
from keras_danet.cli.arguments import open_measured
from keras_danet.files import make_folder
from keras_danet.text_tables import harmless

NUM_WORST = 6


def add(verbs):
    verb = verbs.add_parser(
        "evaluate",
        help="measure a model on whole images and write its report.json",
        description="Measures a model on whole images, prints the IoU and "
        "other scores of every class, and writes them into a JSON file (see "
        "--output), with a line for each image in FILE.images.jsonl beside "
        "it. Stopped at any moment, it resumes from there when it is started "
        "again.",
    )
    add_model(verb)
    add_measured(verb)
    verb.add_argument(
        "--output",
        metavar="FILE.json",
        help="report to write; another file of that name is not replaced "
        "(default: report.json in the run's folder if a run is measured on "
        "its own data set, whether or not that is named; otherwise none)",
    )
    verb.add_argument(
        "--html",
        action="store_true",
        help="write a page beside the JSON file as well, with the confusion "
        f"matrix, the calibration and the {NUM_WORST} worst images",
    )
    verb.add_argument(
        "--submission",
        metavar="FOLDER",
        help="measure nothing, and write the label files that the servers of "
        "Cityscapes and ADE20K want, for splits without labels too",
    )
    add_size(verb)
    add_protocol(verb)
    verb.add_argument(
        "--json", action="store_true", help="print the report as JSON"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet.data.files import find_pairs

    dataset, root, split, predictor, is_own = open_measured(arguments)
    output = arguments.output
    if is_own and not output:
        output = os.path.join(arguments.model, "report.json")
    if arguments.submission:
        return _submit(arguments, predictor, dataset, root, split)
    pairs = find_pairs(dataset, root, split)
    output = output and pathlib.Path(output)
    if arguments.html and not output:
        raise ValueError(
            "--html writes a page beside the JSON file. Give --output FILE, "
            "such as report.json."
        )
    if output:
        # So that hours of measuring are not lost to a wrong name.
        _check_file(output)
        if arguments.html:
            _check_page(output.with_suffix(".html"))
    report = _measure(predictor, pairs, dataset, split, output)
    try:
        if output:
            with _kept(output):
                report.save(output)
    # The result is printed even if writing the file fails.
    finally:
        print(report.as_json() if arguments.json else report.table())
    if arguments.html:
        with _kept(output):
            _save_page(report, output, predictor, pairs, dataset)
    return 0


def _measure(predictor, pairs, dataset, split, output):
    from keras_danet.cli.output import warnings_as_notes
    from keras_danet.inference.evaluation import evaluate
    from keras_danet.inference.image_records import records_path
    from keras_danet.waiting import Countdown

    records = records_path(output) if output else None
    with warnings_as_notes(), Countdown(unit="images") as countdown:
        return evaluate(
            predictor, pairs, dataset, split, countdown, records=records
        )


@contextlib.contextmanager
def _kept(output):
    """Keeps what was measured where it cannot be written down."""
    from keras_danet.inference.image_records import partial_path
    from keras_danet.inference.image_records import records_path

    try:
        yield
    except BaseException:
        # Started again, nothing needs to be measured.
        records = records_path(output)
        if records.exists():
            os.replace(records, partial_path(records))
        raise


def _save_page(report, output, predictor, pairs, dataset):
    from keras_danet.cli.output import warnings_as_notes
    from keras_danet.inference.image_records import read_records
    from keras_danet.inference.image_records import records_path
    from keras_danet.inference.image_records import worst_images
    from keras_danet.inference.report_pictures import draw_sample

    _, read = read_records(records_path(output))
    worst = worst_images(read(), NUM_WORST)
    page = output.with_suffix(".html")
    with warnings_as_notes():
        samples = [
            draw_sample(predictor, pairs[record.index], dataset, record, iou)
            for iou, record in worst
        ]
        report.save_html(page, samples, dataset.palette)
    print(f"keras-danet: wrote {harmless(str(page))}", file=sys.stderr)


def _submit(arguments, predictor, dataset, root, split):
    from keras_danet.data.files import find_images
    from keras_danet.inference.submission import write_submission
    from keras_danet.waiting import Countdown

    images = find_images(dataset, root, split)
    folder = pathlib.Path(arguments.submission)
    with Countdown(unit="images") as countdown:
        written = write_submission(
            predictor, images, dataset, folder, split, countdown
        )
    if arguments.json:
        print(json.dumps({"folder": str(folder), "files": written}, indent=1))
    else:
        text = f"{folder}: {len(written)} files for {dataset.title} {split}"
        print(harmless(text))
    return 0


def _check_file(path):
    from keras_danet.inference.image_records import read_records
    from keras_danet.inference.image_records import records_path
    from keras_danet.inference.report import Report

    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder. Expected a file to write, such as "
            f"{path / 'report.json'}. Choose another --output."
        )
    # The files beside it are named by what is before the last dot: scale-1.0
    # and scale-1.5 would share them.
    if path.suffix != ".json":
        raise ValueError(
            "--output must end in .json. Received: "
            f"{path}. Expected a name such as {path.name}.json."
        )
    if path.exists():
        try:
            Report.load(path)
        except (ValueError, FileNotFoundError) as error:
            raise _foreign(path, "a report") from error
    elif records_path(path).exists():
        try:
            read_records(records_path(path))
        except (ValueError, OSError) as error:
            raise _foreign(records_path(path), "of a report") from error
    make_folder(path.parent)


def _check_page(path):
    from keras_danet.inference.html_pages import POLICY

    if path.exists():
        with open(path, "rb") as file:
            # In the head of every page of ours.
            if POLICY.encode() not in file.read(500):
                raise _foreign(path, "the page of a report")


def _foreign(path, expected):
    return FileExistsError(
        f"{path} exists and is not {expected}, so it is not replaced. Expected "
        "a file that `keras-danet evaluate` wrote, or none. Move it away, or "
        "choose another --output."
    )
