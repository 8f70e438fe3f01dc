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
    sides = _sides(text)
    if not sides:
        raise argparse.ArgumentTypeError(
            "expected the pixels of the longer side, such as 640; LONGxSHORT, "
            f"such as 2048x512; or image. Received: {text!r}"
        )
    return sides[0] if len(sides) == 1 else tuple(sides)


def _sides(text):
    """One or two positive integers, `x` between them; empty for others."""
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        return []
    return sides if len(sides) <= 2 and min(sides) > 0 else []


def add_protocol(verb):
    """How images go through the network, beside `add_size`."""
    verb.add_argument(
        "--protocol",
        metavar="NAME",
        help="settings of a published figure: authors, authors_multiscale, "
        "mmsegmentation, mmsegmentation_slide, paddleseg, ...; --size and each "
        "option below replace one of them",
    )
    verb.add_argument(
        "--window",
        type=_pair,
        metavar="HxW",
        help="cut images into windows of so many pixels, such as 769x769",
    )
    verb.add_argument(
        "--stride",
        type=_pair,
        metavar="HxW",
        help="step from one window to the next (default: two thirds of one)",
    )
    add_scales(verb)
    verb.add_argument(
        "--average",
        metavar="WHAT",
        help="what is averaged: softmax, logits, exponentials, or "
        "logits,softmax (over windows, over scales); default: softmax",
    )
    verb.add_argument(
        "--blend",
        metavar="WEIGHTS",
        help="weights of a window's pixels: uniform, gaussian or cosine "
        "(default: uniform)",
    )


def add_scales(verb, of=""):
    verb.add_argument(
        "--scales",
        type=_numbers,
        metavar="S,S,...",
        help=f"sizes that the image is seen at, such as 0.5,1,1.5{of}",
    )
    verb.add_argument(
        "--mirror",
        action="store_true",
        help=f"see the mirror image as well{of}",
    )


def positive(text):
    """An integer of 1 or more, for `type=`."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"expected an integer of 1 or more, received {text!r}"
        )
    return number


def _pair(text):
    sides = _sides(text)
    if not sides:
        raise argparse.ArgumentTypeError(
            f"expected HEIGHTxWIDTH in pixels, such as 512x1024. Received: "
            f"{text!r}"
        )
    return (sides[0], sides[-1])


def _numbers(text):
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers, such as 0.5,1,1.5. Received: {text!r}"
        ) from None


def size_of(arguments):
    """The `size` of a `Predictor` that `add_size` was given."""
    return {None: "auto", "image": None}.get(arguments.size, arguments.size)


def open_predictor(arguments):
    """The `Predictor` of the model that a verb was given."""
    from keras_danet.inference.predictor import Predictor
    from keras_danet.inference.protocols import replace_settings

    given = size_of(arguments)
    protocol = getattr(arguments, "protocol", None)
    settings = {
        name: getattr(arguments, name, None)
        for name in ("window", "stride", "scales", "blend")
    }
    average = getattr(arguments, "average", None)
    if average and "," in average:
        average = tuple(average.split(","))
    settings["average"] = average
    settings = {k: v for k, v in settings.items() if v is not None}
    if getattr(arguments, "mirror", False):
        settings["mirror"] = True
    if protocol is not None:
        # What is typed counts, even if it is what a `Predictor` does anyway.
        protocol = replace_settings(protocol, **settings)
        settings = {}
    return Predictor(arguments.model, size=given, protocol=protocol, **settings)


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


def add_measured(verb):
    """Which labelled images a model is measured on, for `open_measured`."""
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
        "--data",
        nargs="+",
        action=_Data,
        metavar="ROOT",
        help="root folder of the data set; or NAME ROOT, its name as well",
    )


class _Data(argparse.Action):
    """`--data ROOT` or `--data NAME ROOT`."""

    def __call__(self, parser, arguments, values, option_string=None):
        if len(values) > 2:
            parser.error(
                "--data takes ROOT, or NAME and ROOT, and comes after MODEL. "
                f"Received: {' '.join(values)}"
            )
        arguments.data = values[-1]
        if len(values) == 2:
            arguments.dataset = values[0]


def open_measured(arguments):
    """The labelled images that are meant, and the model.

    Returns:
        `(dataset, root, split, predictor, is_own)`; `is_own` says whether the
        data set is the one of the run that the model is.
    """
    from keras_danet import runs

    config = runs.config_of(arguments.model)
    # A run's own data set may also be named.
    if config is None or arguments.dataset not in (None, config.dataset):
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
        return dataset, root, arguments.split or "val", predictor, False
    if arguments.data:
        config = config.replace({"data_root": arguments.data})
    dataset, root = runs.find_data(config, arguments.model)
    split = arguments.split or config.val_split
    return dataset, root, split, open_predictor(arguments), True
