"""`keras-danet evaluate`: the IoU of a run."""

import os

from keras_danet.verbs.arguments import add_run
from keras_danet.verbs.arguments import add_size
from keras_danet.verbs.arguments import read_config


def add(verbs):
    verb = verbs.add_parser(
        "evaluate",
        help="measure a run on whole images and write its report.json",
        description="Measures the model of a run on whole images, prints the "
        "IoU of every class and writes report.json into the run folder.",
    )
    add_run(verb)
    verb.add_argument(
        "--split",
        default=None,
        help="split to measure on (default: the recipe's validation split)",
    )
    verb.add_argument(
        "--data", metavar="FOLDER", help="root folder of the data set"
    )
    add_size(verb)
    verb.add_argument(
        "--json", action="store_true", help="print the report as JSON"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet import runs
    from keras_danet.data.files import find_pairs
    from keras_danet.evaluation import evaluate
    from keras_danet.inference import Predictor
    from keras_danet.waiting import Countdown

    config = read_config(arguments)
    split = arguments.split or config.val_split
    dataset, root = runs.find_data(config, arguments.run)
    pairs = find_pairs(dataset, root, split)
    predictor = Predictor(runs.load_run_model(arguments.run), config.test_sides)
    with Countdown() as countdown:
        report = evaluate(predictor, pairs, dataset, split, countdown)
    path = os.path.join(arguments.run, "report.json")
    report.save(path)
    if arguments.json:
        with open(path, encoding="utf-8") as file:
            print(file.read(), end="")
    else:
        print(report.table())
    return 0
