"""Arguments that several verbs share."""

import argparse


def add_model(verb):
    verb.add_argument(
        "model",
        metavar="MODEL",
        help="folder of a training run, a .keras file, or a preset: its name, "
        "its folder, or hf://user/repo",
    )


def add_size(verb):
    verb.add_argument(
        "--size",
        type=_size,
        metavar="SIZE",
        help="size that images are resized to for the network: pixels of the "
        "longer side, such as 640; LONGxSHORT, which neither side exceeds; or "
        "'image', their own size (default: the model's `test_size` from "
        "training)",
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


def open_predictor(arguments):
    """The `Predictor` of the model that a verb was given."""
    from keras_danet.inference.predictor import Predictor

    given = {None: "auto", "image": None}.get(arguments.size, arguments.size)
    return Predictor(arguments.model, given)


def add_data(verb):
    verb.add_argument(
        "name",
        metavar="NAME",
        help="data set, such as cityscapes; 'folder' for your own",
    )
    verb.add_argument("root", metavar="ROOT", help="folder of the data set")
    verb.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="files to read at the same time (default: one for each core)",
    )
