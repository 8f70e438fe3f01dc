"""`keras-danet check-data`: what is wrong with a data set, before training."""

import json
import pathlib
import sys

from keras_danet.cli.arguments import add_data
from keras_danet.text_tables import harmless
from keras_danet.waiting import Countdown

NUM_SAMPLES = 12


def add(verbs):
    verb = verbs.add_parser(
        "check-data",
        help="read a whole data set and report what is wrong with it",
        description="Reads every image and label of a data set, as training "
        "does. Counts pairs, sizes and pixels of every class, and names "
        "files that are missing, unreadable, of the wrong size or with label "
        "values that the data set does not have. Exits with 1 if something "
        "is wrong.",
    )
    add_data(verb)
    verb.add_argument(
        "--split",
        action="append",
        help="split to check, can be repeated (default: all that exist)",
    )
    verb.add_argument(
        "--json", action="store_true", help="print the report as JSON"
    )
    verb.add_argument(
        "--sheet",
        metavar="FILE.png",
        help=f"draw {NUM_SAMPLES} samples overlaid with their labels",
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet.data.files import find_splits
    from keras_danet.data.folder import open_dataset
    from keras_danet.data.inspection import inspect_split

    if arguments.sheet:
        _check_sheet(pathlib.Path(arguments.sheet))
    dataset = open_dataset(arguments.name, arguments.root)
    splits = find_splits(dataset, arguments.root, arguments.split)
    reports = []
    for split in splits:
        with Countdown(f"pairs of {harmless(split)}") as countdown:
            report = inspect_split(
                dataset,
                arguments.root,
                split,
                workers=arguments.workers,
                progress=countdown,
            )
        reports.append(report)
        if not arguments.json:
            print(report.table(), end="\n\n", flush=True)
    if arguments.json:
        print(json.dumps([report.to_json() for report in reports], indent=1))
    if arguments.sheet:
        _draw_samples(reports, arguments.root, arguments.sheet)
    return int(any(report.problems for report in reports))


def _check_sheet(path):
    # Reported before hours of reading, not after.
    if path.suffix != ".png":
        raise ValueError(
            f"--sheet expects a name that ends in '.png'. Received: {path}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {path.parent} for --sheet. Make it, or choose "
            "another."
        )
    if path.exists():
        raise FileExistsError(
            f"{path} exists. Choose another name for --sheet, or remove it."
        )


def _draw_samples(reports, root, path):
    from keras_danet.cli.output import warnings_as_notes
    from keras_danet.data.decoding import read_pair
    from keras_danet.data.files import search_pairs
    from keras_danet.inference import visualization

    dataset = reports[0].dataset
    titled = []
    for report in reports:
        if not report.sizes:
            continue
        bad = {
            problem.label
            for problem in report.problems
            if problem.kind != "orientation"
        }
        titled += [
            (f"{report.split}: {pathlib.Path(pair.image).stem[-30:]}", pair)
            for pair in search_pairs(dataset, root, report.split)[0]
            if pair.label not in bad
        ]
    # Evenly spaced over all pairs.
    count = min(NUM_SAMPLES, len(titled))
    chosen = [titled[index * len(titled) // count] for index in range(count)]
    if not chosen:
        print(
            f"keras-danet: no pair to draw in {harmless(str(path))}",
            file=sys.stderr,
        )
        return
    with warnings_as_notes():
        sheet = visualization.gallery(
            ((title, *read_pair(pair, dataset)) for title, pair in chosen),
            visualization.display_palette(dataset.palette),
            dataset.class_names,
        )
    visualization.save_png(path, sheet)
