"""`keras-danet predict`: label maps and overlays."""

import json
import os
import pathlib
import sys

from keras_danet.cli.arguments import add_model
from keras_danet.cli.arguments import add_size
from keras_danet.cli.arguments import open_predictor
from keras_danet.files import check_folder
from keras_danet.files import make_folder
from keras_danet.text_tables import harmless

# How many names of skipped files fit in a line.
MAX_SKIPPED_NAMES = 3
RESULTS = ("_label", "_overlay", "_sheet", "_attention")


def add(verbs):
    verb = verbs.add_parser(
        "predict",
        help="segment images: label maps and colour overlays",
        description="Segments images of any size. Writes NAME_label.png (class "
        "indices, which viewers show in colours) and NAME_overlay.png (the "
        "image at its own size under the colours of the classes) for each.",
    )
    add_model(verb)
    verb.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="PNG, JPEG and others, or a folder: all images in it and its "
        "subfolders, with results in subfolders of the same names",
    )
    verb.add_argument(
        "--output", required=True, metavar="DIR", help="folder to write to"
    )
    verb.add_argument(
        "--overwrite", action="store_true", help="replace existing files"
    )
    verb.add_argument(
        "--sheet",
        action="store_true",
        help="write NAME_sheet.png as well: image and overlay side by side, "
        "with the names of the classes, at the size of a screen",
    )
    verb.add_argument(
        "--attention",
        action="store_true",
        help="write NAME_attention.png as well: what three points attend to "
        "(a quarter down in the middle, half down at a quarter from the left, "
        "three quarters down in the middle), and the three channels of "
        "channel attention's output that vary most",
    )
    add_size(verb)
    verb.add_argument(
        "--json",
        action="store_true",
        help="print a list of what was written, and of the classes found",
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet import runs
    from keras_danet.data.decoding import read_image
    from keras_danet.waiting import answering

    # A wrong model is reported before images are read.
    runs.config_of(arguments.model)
    output = pathlib.Path(arguments.output)
    check_folder(output)
    images = _find_images(arguments.images, output)
    kinds = ["label", "overlay"]
    kinds += [kind for kind in ("sheet", "attention") if vars(arguments)[kind]]
    _check_results(images, output, kinds, arguments.overwrite)
    # Every image is read before the first result is written, so that a bad
    # one does not leave the work half done; none is kept, because together
    # they may not fit into memory.
    sizes = [answering(read_image, path).shape[:2] for path, _ in images]
    predictor = open_predictor(arguments)
    if arguments.attention and not getattr(predictor.model, "attention", ()):
        raise ValueError(
            f"The network of {arguments.model} has no attention module. Leave "
            "out --attention, or give a model whose network has one."
        )
    for size in sizes:
        predictor.check_size(*size)
    make_folder(output)
    rows = []
    for path, name in images:
        classes = _write_results(predictor, path, output / name, kinds)
        results = {kind: f"{output / name}_{kind}.png" for kind in kinds}
        rows.append({"image": str(path), **results, "classes": classes})
        if not arguments.json:
            files = ", ".join(f"_{kind}.png" for kind in kinds)
            print(harmless(f"{output / name}{files}: {', '.join(classes)}"))
    if arguments.json:
        print(json.dumps(rows, indent=1))
    return 0


def _check_results(images, output, kinds, overwrite):
    """Refuses results that would replace an image, or each other."""
    names = [name for _, name in images]
    for name in names:
        if names.count(name) > 1:
            both = [str(path) for path, other in images if other == name][:2]
            raise ValueError(
                f"Two images are called {name}, so the results of one would "
                f"replace the other's: {' and '.join(both)}. Rename one of "
                "them."
            )
    written = [
        output / f"{name}_{kind}.png" for name in names for kind in kinds
    ]
    present = [str(path) for path in written if path.exists()]
    if present and not overwrite:
        raise FileExistsError(
            f"{present[0]} exists. Choose another --output, or replace it with "
            "--overwrite."
        )
    inputs = {os.path.realpath(image) for image, _ in images}
    if any(os.path.realpath(path) in inputs for path in written):
        raise ValueError(
            f"A result would replace an input image in {output}. "
            "Choose another --output."
        )


def _write_results(predictor, path, stem, kinds):
    """Writes an image's pictures, `{stem}_{kind}.png`; returns its classes."""
    import numpy as np

    from keras_danet.cli.output import warnings_as_notes
    from keras_danet.data.decoding import read_image
    from keras_danet.inference import visualization
    from keras_danet.waiting import answering

    class_names = predictor.class_names
    colors = visualization.display_palette(predictor.palette)
    image = answering(read_image, path)
    label = _predict(predictor, image, path)
    visualization.save_png(f"{stem}_label.png", label, predictor.palette)
    overlay = answering(visualization.overlay, image, label, colors)
    visualization.save_png(f"{stem}_overlay.png", overlay)
    if "sheet" in kinds:
        with warnings_as_notes():
            sheet = answering(
                visualization.compare, image, None, label, colors, class_names
            )
        visualization.save_png(f"{stem}_sheet.png", sheet)
    if "attention" in kinds:
        picture = _attention_picture(predictor, image)
        visualization.save_png(f"{stem}_attention.png", picture)
    present = np.flatnonzero(answering(np.bincount, label.ravel()))
    return [class_names[index] for index in present]


def _predict(predictor, image, path):
    """The label map; says beforehand if it will take long."""
    from keras_danet.waiting import LOG_SECONDS
    from keras_danet.waiting import Countdown
    from keras_danet.waiting import clock

    height, width = image.shape[:2]
    what = harmless(f"{path}, {height} x {width} pixels")
    expected = predictor.expected_seconds(height, width)
    if expected > LOG_SECONDS:
        print(
            f"keras-danet: {what}, will take about {clock(expected)}; a "
            "smaller --size is faster",
            file=sys.stderr,
        )
    with Countdown(what, expected=expected):
        return predictor(image)


def _find_images(given, output):
    """(path, name of its results) of every image, folders in order."""
    from keras_danet.data.decoding import PHOTO_ENDINGS

    found = []
    for path in map(pathlib.Path, given):
        if not path.is_dir():
            found.append((path, path.stem))
            continue
        within, skipped = [], []
        # Earlier results, if they were written among the images.
        results = RESULTS if path.resolve() == output.resolve() else ()
        for folder, folders, files in os.walk(path):
            folder = pathlib.Path(folder)
            # Skips an output folder inside, and hidden folders.
            folders[:] = sorted(
                name
                for name in folders
                if name[0] != "."
                and (folder / name).resolve() != output.resolve()
            )
            for name in sorted(files):
                image = folder / name
                if name[0] == "." or image.stem.endswith(results):
                    continue
                if image.suffix.lower() in PHOTO_ENDINGS:
                    relative = image.relative_to(path).with_suffix("")
                    within.append((image, relative.as_posix()))
                else:
                    skipped.append(name)
        if not within:
            raise FileNotFoundError(
                f"{path} holds no image. Expected files that end in "
                f"{', '.join(PHOTO_ENDINGS)}, in it or its subfolders."
            )
        if skipped:
            print(harmless(_skipped(skipped, path)), file=sys.stderr)
        found += within
    return found


def _skipped(names, folder):
    are = "is not an image" if len(names) == 1 else "are not images"
    shown = ", ".join(names[:MAX_SKIPPED_NAMES])
    more = len(names) - MAX_SKIPPED_NAMES
    return (
        f"keras-danet: skipped {len(names)} file{'s' * (len(names) > 1)} in "
        f"{folder} that {are}: {shown}{f' and {more} more' * (more > 0)}"
    )


def _attention_picture(predictor, image):
    from keras_danet.inference import visualization
    from keras_danet.inference.attention import attention_maps

    height, width = image.shape[:2]
    # Where a street has sky, buildings and road; the same in every image, so
    # that sheets can be compared.
    points = [
        (height // 4, width // 2),
        (height // 2, width // 4),
        (height * 3 // 4, width // 2),
    ]
    point_maps, channel_maps, channels = attention_maps(
        predictor.model, image, points, size=predictor.size
    )
    return visualization.attention_picture(
        image, point_maps, points[: len(point_maps)], channel_maps, channels
    )
