"""`keras-danet card`: the page that goes with a model."""

import pathlib

from keras_danet.cli.arguments import add_model
from keras_danet.files import check_folder
from keras_danet.text_tables import harmless


def add(verbs):
    verb = verbs.add_parser(
        "card",
        help="write a model's card: use, scores, limits, licence",
        description="Makes a model card in Markdown, with the front matter of "
        "the Hugging Face Hub, from what `keras-danet evaluate` measured (and "
        "in report_multi_scale.json beside it, if that is there), and from the "
        "run that trained the model.",
    )
    add_model(verb)
    verb.add_argument(
        "--name",
        metavar="NAME",
        help="what the model is loaded by (default: the name of its folder)",
    )
    verb.add_argument(
        "--report",
        metavar="FILE.json",
        help="what was measured (default: report.json in the model's folder)",
    )
    verb.add_argument(
        "--run",
        metavar="RUN",
        help="folder of the run that trained it (default: MODEL, if it is one)",
    )
    verb.add_argument(
        "--output",
        metavar="FILE",
        help="Markdown file to write, such as README.md; a model card there "
        "is replaced, anything else is not (default: print it)",
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet import runs
    from keras_danet.ablation import reading
    from keras_danet.data.datasets import DATASETS
    from keras_danet.files import save_text
    from keras_danet.inference.model_card import is_card
    from keras_danet.inference.model_card import model_card
    from keras_danet.inference.report import Report
    from keras_danet.models import DANet

    output = arguments.output and pathlib.Path(arguments.output)
    if output:
        check_folder(output.parent)
        if output.exists() and not is_card(output):
            raise FileExistsError(
                f"{output} exists and is not a model card, so it is not "
                "replaced. Move it away, or choose another --output."
            )
    folder = pathlib.Path(arguments.model)
    path = pathlib.Path(arguments.report or folder / "report.json")
    report, several = Report.load(path), path.with_name(reading.MULTI_SCALE)
    multi_scale = Report.load(several) if several.is_file() else None
    if multi_scale:
        reading.refuse_differences(
            {path: report, several: multi_scale}, (*reading.SAME, "weights")
        )
    model, config = runs.open_model(arguments.model)
    if not isinstance(model, DANet):
        raise ValueError(
            f"{arguments.model} holds a {type(model).__name__}. Expected a "
            "DANet."
        )
    trained = arguments.run or (arguments.model if config else None)
    dataset = DATASETS.get(report.dataset)
    card = model_card(
        arguments.name or folder.resolve().stem,
        model,
        report,
        dataset.licence if dataset else "not recorded",
        _read_training(trained) if trained else None,
        multi_scale,
    )
    if output:
        save_text(card, output)
        print(f"written: {harmless(str(output))}")
    else:
        print(card, end="")
    return 0


def _read_training(run):
    """What a run's folder says, and that of the run that it started from."""
    from keras_danet import runs
    from keras_danet.inference.model_card import Trained

    config = runs.read_run_config(run)
    history = runs.read_history(pathlib.Path(run) / "history.csv")
    start = config.model.start_from
    if start and (pathlib.Path(start) / "config.json").is_file():
        start = runs.read_run_config(start)
    else:
        start = None
    return Trained(config, runs.read_run_file(run), history, start)
