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
        "the Hugging Face Hub, from what `keras-danet evaluate` measured and "
        "from the run that trained the model.",
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
    report = Report.load(arguments.report or folder / "report.json")
    model, config = runs.open_model(arguments.model)
    if not isinstance(model, DANet):
        raise ValueError(
            f"{arguments.model} holds a {type(model).__name__}. Expected a "
            "DANet."
        )
    trained = arguments.run or (arguments.model if config else None)
    if trained:
        # Says what is wrong with a folder that is not a run's.
        runs.read_run_config(trained)
    dataset = DATASETS.get(report.dataset)
    card = model_card(
        arguments.name or folder.resolve().stem,
        model,
        report,
        dataset.licence if dataset else "not recorded",
        runs.read_run_file(trained) if trained else None,
    )
    if output:
        save_text(card, output)
        print(f"written: {harmless(str(output))}")
    else:
        print(card, end="")
    return 0
