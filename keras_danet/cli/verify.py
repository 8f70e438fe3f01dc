"""`keras-danet verify`: compares an export with its model again."""

import json

from keras_danet.cli.arguments import add_model
from keras_danet.cli.export import add_samples


def add(verbs):
    verb = verbs.add_parser(
        "verify",
        help="compare an export with its model again",
        description="Compares an export with a model on validation images and "
        "noise, as `export` did. Exit code 1 if they differ.",
    )
    verb.add_argument(
        "export", metavar="EXPORT", help="folder that `export` wrote"
    )
    add_model(verb)
    add_samples(verb)
    verb.add_argument(
        "--json", action="store_true", help="print the comparison as JSON"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet import runs
    from keras_danet.cli.export import samples_of
    from keras_danet.export.exporting import verify_export
    from keras_danet.text_tables import harmless

    model, config = runs.open_model(arguments.model)
    found = verify_export(
        arguments.export, model, samples_of(arguments, model, config)
    )
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        verdict = "agrees with" if found.passed else "DIFFERS FROM"
        print(
            f"{harmless(arguments.export)} {verdict} the model.\n"
            f"{found.summary()}"
        )
    return 0 if found.passed else 1
