"""`keras-danet class-weights`: weights of classes for the loss."""

import json
import sys

from keras_danet.cli.arguments import add_data
from keras_danet.waiting import Countdown

METHODS = ("median-frequency", "enet", "inverse")


def add(verbs):
    verb = verbs.add_parser(
        "class-weights",
        help="weights of classes for the loss, from how often they occur",
        description="Counts the pixels of every class in the labels of a "
        "split and prints a weight for each.",
    )
    add_data(verb)
    verb.add_argument(
        "--split", default="train", help="split to count (default: train)"
    )
    verb.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="median-frequency (Eigen and Fergus; the default), enet (1 / "
        "ln(1.02 + share)) or inverse (every class counts the same)",
    )
    verb.add_argument(
        "--json", action="store_true", help="print {class: weight} as JSON"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet.data import class_weights
    from keras_danet.data.folder import open_dataset
    from keras_danet.data.inspection import inspect_split
    from keras_danet.text_tables import harmless
    from keras_danet.text_tables import table_lines

    dataset = open_dataset(arguments.name, arguments.root)
    with Countdown("labels") as countdown:
        report = inspect_split(
            dataset,
            arguments.root,
            arguments.split,
            workers=arguments.workers,
            labels_only=True,
            progress=countdown,
        )
    broken = [
        p.message for p in report.problems if p.kind in ("file", "values")
    ]
    if broken or not report.num_pairs:
        raise ValueError(
            f"{(broken or [report.problems[0].message])[0]} Weights from part "
            "of a data set would be wrong; `keras-danet check-data` reports "
            "all problems."
        )
    for problem in report.problems:
        print(f"keras-danet: {harmless(problem.message)}", file=sys.stderr)
    if not report.class_pixels.any():
        raise ValueError(
            f"The labels of {arguments.split!r} in {arguments.root} have no "
            "labelled pixel. Expected a split with labels."
        )
    weights = class_weights.METHODS[arguments.method](report)
    named = {
        name: float(f"{weight:.6g}")
        for name, weight in zip(dataset.class_names, weights, strict=True)
    }
    if report.never_seen:
        print(
            "keras-danet: never seen, so the data give no weight: "
            f"{harmless(', '.join(report.never_seen))}",
            file=sys.stderr,
        )
    if arguments.json:
        print(json.dumps(named, indent=1))
    else:
        rows = [(name, f"{weight:.4f}") for name, weight in named.items()]
        print("\n".join(table_lines(rows)))
    return 0
