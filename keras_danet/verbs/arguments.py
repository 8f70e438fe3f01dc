"""What several verbs take."""

import argparse


def add_run(verb):
    verb.add_argument("run", metavar="RUN", help="folder of a training run")


def add_size(verb):
    verb.add_argument(
        "--size",
        type=_size,
        metavar="SIZE",
        help="what images are resized to for the network: pixels of the "
        "longer side, such as 640; LONGxSHORT, which neither side exceeds; or "
        "'image', their own size (default: the run's `test_size`)",
    )


def _size(text):
    if text == "image":
        return text
    sides = text.lower().split("x")
    try:
        sides = [int(side) for side in sides]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(
            "expected the pixels of the longer side, such as 640; LONGxSHORT, "
            f"such as 2048x512; or image. Received: {text!r}"
        )
    return sides[0] if len(sides) == 1 else tuple(sides)


def read_config(arguments):
    """The run's settings, changed by what the verb was given."""
    from keras_danet import runs

    config = runs.read_run_config(arguments.run)
    settings = {
        "data_root": getattr(arguments, "data", None),
        "test_size": arguments.size,
    }
    return config.replace({k: v for k, v in settings.items() if v})


def add_data(verb):
    verb.add_argument(
        "name",
        metavar="NAME",
        help="of the data set, such as cityscapes; 'folder' for your own",
    )
    verb.add_argument("root", metavar="ROOT", help="folder where it lies")
    verb.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="files to read at the same time (default: one for each core)",
    )
