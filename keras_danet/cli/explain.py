"""`keras-danet explain`: why a model sees what it sees, as pictures."""

import argparse
import json
import pathlib
import sys

from keras_danet.cli.arguments import add_measured
from keras_danet.cli.arguments import add_model
from keras_danet.cli.arguments import add_size
from keras_danet.cli.arguments import open_measured
from keras_danet.cli.arguments import open_predictor
from keras_danet.cli.arguments import positive
from keras_danet.files import check_folder
from keras_danet.text_tables import harmless

FORMATS = ("png", "pdf", "svg")
PAGE, NUMBERS = "index.html", "explanation.json"
# What a page can hold, and a figure.
MOST_IMAGES, MOST_PANELS = 20, 31

DESCRIPTION = """\
Shows why a model sees what it sees in images: what each attention changes,
where points look, which classes channels answer to, which class gathers from
which, and how far to trust it; as the paper's figures 4 to 6 do. Writes
NAME_position.png, NAME_points.png and so on for each image, one page with all
of them (index.html), and the numbers (explanation.json)."""

DETAILS = """\
figures:
  position, channel  the image's classes without and with an attention
  points             where points look
  channels           channels of channel attention's output, by class
  classes            which class gathers from which
  uncertainty        1 - probability of the class, and entropy

Where no --point is given, seven are chosen: one where position attention
changes most, and one for each of the largest classes. Channels are named by the
class that they answer to most. --measure finds it on labelled images and keeps
it beside the model, in channels.json; without it, the image itself has to do.

exit codes:
  0  done    1  an image could not be read, the rest was done    2  failed
  130  interrupted from the keyboard        143  stopped by SIGTERM"""


def add(verbs):
    verb = verbs.add_parser(
        "explain",
        help="show what attention does with images, and why",
        description=DESCRIPTION,
        epilog=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(verb)
    verb.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="an image, a folder of images, or a pattern such as "
        f"'photos/*.jpg'; up to {MOST_IMAGES}",
    )
    verb.add_argument(
        "--output", required=True, metavar="DIR", help="folder to write to"
    )
    verb.add_argument(
        "--point",
        action="append",
        type=_point,
        dest="points",
        metavar="X,Y",
        help="pixels from the left and from the top of a point that position "
        "attention is shown of; can be repeated (default: chosen by a rule)",
    )
    verb.add_argument(
        "--channels",
        type=_channels,
        metavar="auto|N,N,...",
        help="channels to show (default: auto, the one that answers most to "
        "each class in the image)",
    )
    verb.add_argument(
        "--format",
        type=_formats,
        default=("png",),
        metavar="WORDS",
        dest="formats",
        help="files of the figures: png, pdf, svg, with commas between them "
        "(default: png)",
    )
    verb.add_argument(
        "--measure",
        type=positive,
        metavar="N",
        help="measure on N labelled images, spread over the split, which "
        "classes channels answer to and what each attention adds",
    )
    add_measured(verb)
    add_size(verb)
    verb.add_argument(
        "--overwrite", action="store_true", help="replace existing results"
    )
    verb.add_argument(
        "--json", action="store_true", help="print the numbers as JSON"
    )
    verb.set_defaults(run_verb=run)


def _point(text):
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            "expected X,Y: pixels from the left and from the top, such as "
            f"120,45. Received: {text!r}"
        ) from None
    return y, x


def _channels(text):
    if text == "auto":
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            "expected auto, or numbers of channels, such as 11,4. Received: "
            f"{text!r}"
        ) from None


def _formats(text):
    formats = tuple(dict.fromkeys(text.replace(" ", "").lower().split(",")))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"expected words of {', '.join(FORMATS)}, with commas between "
            f"them. Received: {unknown[0]!r}"
        )
    return formats


def run(arguments):
    from keras_danet.cli.output import warnings_as_notes
    from keras_danet.files import make_folder

    output = pathlib.Path(arguments.output)
    check_folder(output)
    _check_matplotlib()
    items = _find_inputs(arguments, output)
    with warnings_as_notes():
        explainer, measured = _open(arguments, items, output)
        found = _explain(arguments, explainer, items)
        explained = {name: e for name, e in found.items() if e is not None}
        if not explained:
            return 2
        make_folder(output)
        pictures = _save_figures(arguments, output, explained)
    _save_pages(arguments, output, explained, pictures, measured)
    return 0 if len(explained) == len(found) else 1


def _check_matplotlib():
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "Figures are drawn by matplotlib, which is not installed",
            name="matplotlib",
        )


def _find_inputs(arguments, output):
    from keras_danet.inference.inputs import IMAGE
    from keras_danet.inference.inputs import find_inputs

    items = find_inputs(arguments.inputs, output, _note)
    for item in items:
        if item.kind != IMAGE:
            raise ValueError(f"{item.path} is a video. Expected images.")
    if len(items) > MOST_IMAGES:
        raise ValueError(
            f"{len(items)} images were found. Expected at most {MOST_IMAGES} "
            "for one page: name those that matter."
        )
    for name in ("points", "channels"):
        count = len(vars(arguments)[name] or ())
        if count > MOST_PANELS:
            raise ValueError(
                f"{count} {name} were given. Expected at most {MOST_PANELS}, "
                "which a page can hold."
            )
    return items


def _open(arguments, items, output):
    """The `Explainer`, and what was measured on labelled images."""
    from keras_danet import runs
    from keras_danet.data.files import find_pairs
    from keras_danet.explain.explanation import Explainer
    from keras_danet.explain.kept_channels import read_channels

    if not arguments.measure:
        given = [n for n in ("dataset", "split", "data") if vars(arguments)[n]]
        if given:
            raise ValueError(
                f"--{given[0]} says where labelled images are, and none are "
                "used. Give --measure N as well, or leave it out."
            )
        # A wrong model is reported before it is loaded.
        runs.config_of(arguments.model)
        predictor = open_predictor(arguments)
        _check(arguments, predictor, items, output)
        place = pathlib.Path(arguments.model)
        classes = None
        if place.is_dir() and "channel" in getattr(
            predictor.model, "attention", ()
        ):
            classes = read_channels(place, predictor)
        return Explainer(predictor.model, predictor.size, classes), None
    dataset, root, split, predictor, _ = open_measured(arguments)
    pairs = find_pairs(dataset, root, split)
    _check(arguments, predictor, items, output)
    return _measure(arguments, predictor, pairs, dataset)


def _measure(arguments, predictor, pairs, dataset):
    from keras_danet.explain.explanation import Explainer
    from keras_danet.explain.measuring import measure
    from keras_danet.explain.measuring import spread_evenly
    from keras_danet.waiting import Countdown

    # What cannot be explained is refused first.
    explainer = Explainer(predictor.model, predictor.size)
    chosen = spread_evenly(pairs, arguments.measure)
    with Countdown(unit="images") as countdown:
        found, classes = measure(predictor, chosen, dataset, countdown)
    if classes is not None:
        _keep(arguments, classes, predictor)
        explainer = Explainer(predictor.model, predictor.size, classes)
    return explainer, (found, len(chosen))


def _keep(arguments, classes, predictor):
    """Keeps the channels' classes beside the model, if it is a folder."""
    from keras_danet.explain.kept_channels import save_channels

    place = pathlib.Path(arguments.model)
    if not place.is_dir():
        _note("note: the channels' classes are kept in a model's folder only")
        return
    try:
        path = save_channels(classes, predictor, place)
    except OSError as error:
        # What was measured is shown all the same.
        _note(f"note: {error}")
    else:
        _note(f"wrote {path}")


def _check(arguments, predictor, items, output):
    """Refuses what would be refused after minutes of measuring."""
    from keras_danet.explain.observing import Observer

    kinds = Observer(predictor.model).model.attention
    _check_kinds(arguments, kinds)
    _check_free(arguments, output, items, kinds)


def _check_kinds(arguments, kinds):
    """Refuses what was asked of an attention that there is not."""
    for name, kind in (("points", "position"), ("channels", "channel")):
        if vars(arguments)[name] and kind not in kinds:
            has = " and ".join(kinds) or "none"
            raise ValueError(
                f"{arguments.model} has no {kind} attention (it has: {has}), "
                f"so there are no {name} to show."
            )


def _check_free(arguments, output, items, attention):
    """Refuses to replace a file, unless it was asked for."""
    kinds = (*attention, "points", "channels", "classes", "uncertainty")
    targets = [output / PAGE, output / NUMBERS] + [
        output / f"{item.name}_{kind}.{ending}"
        for item in items
        for kind in kinds
        for ending in arguments.formats
    ]
    inputs = {item.path.resolve() for item in items}
    for path in targets:
        if path.resolve() in inputs:
            raise ValueError(
                f"A result would replace an input, {path}. Choose another "
                "--output."
            )
        if path.exists() and not arguments.overwrite:
            raise FileExistsError(
                f"{path} exists. Choose another --output, or replace results "
                "with --overwrite."
            )


def _explain(arguments, explainer, items):
    """An `Explanation` of each image, `None` of those that cannot be read."""
    from keras_danet.data.decoding import read_image
    from keras_danet.waiting import Countdown

    found = {}
    with Countdown(unit="images") as countdown:
        for done, item in enumerate(items, 1):
            try:
                image = read_image(item.path)
                found[item.name] = explainer(
                    image, arguments.points, arguments.channels
                )
            except (OSError, ValueError) as error:
                found[item.name] = None
                countdown.clear()
                text = str(error)
                if str(item.path) not in text:
                    text = f"{item.path}: {text}"
                _note(f"error: {text}")
            countdown(done, len(items))
    return found


def _save_figures(arguments, output, explained):
    """Writes all figures; the PNG files of each image, for the page."""
    from keras_danet.explain.figures import figure_file
    from keras_danet.explain.figures import makers
    from keras_danet.files import save_bytes

    pictures = {}
    for name, explanation in explained.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        pictures[name] = {}
        for kind, make in makers(explanation).items():
            figure = make(explanation)
            for ending in dict.fromkeys((*arguments.formats, "png")):
                content = figure_file(figure, ending)
                if ending in arguments.formats:
                    save_bytes(content, output / f"{name}_{kind}.{ending}")
                if ending == "png":
                    pictures[name][kind] = content
    return pictures


def _save_pages(arguments, output, explained, pictures, measured):
    from keras_danet.explain.explanation_page import explanation_page
    from keras_danet.files import save_text

    contributions, num_images = measured or ((), 0)
    numbers = {
        "model": str(arguments.model),
        "contributions": [found.as_dict() for found in contributions],
        "labelled_images": num_images,
        "images": {name: e.as_dict() for name, e in explained.items()},
    }
    text = json.dumps(numbers, indent=1)
    save_text(text + "\n", output / NUMBERS)
    name = pathlib.Path(arguments.model).resolve().name
    title = f"What {name} sees, and why"
    page = explanation_page(
        title,
        {name: (e, pictures[name]) for name, e in explained.items()},
        contributions,
        num_images,
    )
    save_text(page, output / PAGE)
    print(text if arguments.json else harmless(f"{output / PAGE}"))


def _note(text):
    print(f"keras-danet: {harmless(text)}", file=sys.stderr)
