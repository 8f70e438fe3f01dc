"""`keras-danet evaluate`: the IoU of a model."""

import os
import pathlib

from keras_danet.cli.arguments import add_model
from keras_danet.cli.arguments import add_size
from keras_danet.cli.arguments import open_predictor
from keras_danet.files import make_folder


def add(verbs):
    verb = verbs.add_parser(
        "evaluate",
        help="measure a model on whole images and write its report.json",
        description="Measures a model on whole images, prints the IoU of "
        "every class and writes report.json into the folder of its run.",
    )
    add_model(verb)
    verb.add_argument(
        "--dataset",
        metavar="NAME",
        help="data set to measure on (default: the run's, or the preset's)",
    )
    verb.add_argument(
        "--split",
        default=None,
        help="split to measure on (default: the recipe's validation split, "
        "or val)",
    )
    verb.add_argument(
        "--data", metavar="FOLDER", help="root folder of the data set"
    )
    verb.add_argument(
        "--output",
        metavar="FILE",
        help="JSON file to write (default: report.json of the run; none for "
        "another model or --dataset)",
    )
    add_size(verb)
    verb.add_argument(
        "--json", action="store_true", help="print the report as JSON"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet import runs
    from keras_danet.data.files import find_pairs
    from keras_danet.inference.evaluation import evaluate
    from keras_danet.waiting import Countdown

    output = arguments.output
    config = runs.config_of(arguments.model)
    if arguments.dataset or config is None:
        name = arguments.dataset or runs.dataset_of_preset(arguments.model)
        if name is None:
            raise ValueError(
                f"{arguments.model} has no data set recorded. Give "
                "--dataset NAME and --data FOLDER."
            )
        predictor = open_predictor(arguments)
        dataset, root = runs.find_data_for(
            predictor.model, name, arguments.data
        )
        split = arguments.split or "val"
        pairs = find_pairs(dataset, root, split)
    else:
        if arguments.data:
            config = config.replace({"data_root": arguments.data})
        split = arguments.split or config.val_split
        dataset, root = runs.find_data(config, arguments.model)
        pairs = find_pairs(dataset, root, split)
        predictor = open_predictor(arguments)
        output = output or os.path.join(arguments.model, "report.json")
    if output:
        # So that hours of measuring are not lost to a wrong name.
        _check_file(pathlib.Path(output))
    with Countdown() as countdown:
        report = evaluate(predictor, pairs, dataset, split, countdown)
    try:
        if output:
            report.save(output)
    # The result is printed even if writing the file fails.
    finally:
        print(report.as_json() if arguments.json else report.table())
    return 0


def _check_file(path):
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder. Expected a file to write, such as "
            f"{path / 'report.json'}. Choose another --output."
        )
    make_folder(path.parent)
