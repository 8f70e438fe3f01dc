"""`keras-danet predict`: label maps and overlays."""

import os
import pathlib

from keras_danet.verbs.arguments import add_run
from keras_danet.verbs.arguments import add_size
from keras_danet.verbs.arguments import read_config


def add(verbs):
    verb = verbs.add_parser(
        "predict",
        help="segment images: label maps and colour overlays",
        description="Segments images of any size. Writes NAME_label.png (class "
        "indices, which viewers show in colours) and NAME_overlay.png (the "
        "image at its own size under the colours of the classes) for each.",
    )
    add_run(verb)
    verb.add_argument(
        "images", nargs="+", metavar="IMAGE", help="PNG, JPEG and others"
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
        help="write NAME_sheet.png as well: image and overlay beside each "
        "other, with the names of the classes, at the size of a screen",
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
    verb.set_defaults(run_verb=run)


def run(arguments):
    import numpy as np

    from keras_danet import runs
    from keras_danet import visualization
    from keras_danet.data.decoding import read_image
    from keras_danet.inference import Predictor
    from keras_danet.text_tables import harmless
    from keras_danet.verbs.output import warnings_as_notes

    config = read_config(arguments)
    dataset = runs.read_dataset(config, arguments.run)
    names = [pathlib.Path(image).stem for image in arguments.images]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Two images are called {name}, so that one's results would "
                "replace the other's. Predict them into different folders."
            )
    output = pathlib.Path(arguments.output)
    kinds = ["label", "overlay"]
    kinds += [kind for kind in ("sheet", "attention") if vars(arguments)[kind]]
    written = [
        output / f"{name}_{kind}.png" for name in names for kind in kinds
    ]
    present = [str(path) for path in written if path.exists()]
    if present and not arguments.overwrite:
        raise FileExistsError(
            f"{present[0]} exists. Choose another --output, or replace it with "
            "--overwrite."
        )
    inputs = {os.path.realpath(image) for image in arguments.images}
    if any(os.path.realpath(path) in inputs for path in written):
        raise ValueError(
            f"A result would replace an image that is read, in {output}. "
            "Choose another --output."
        )
    # Every image is read before the first result is written, because a bad
    # one must leave no half of the work behind; none is kept, because
    # together they may not fit into memory.
    sizes = [read_image(image).shape[:2] for image in arguments.images]
    predictor = Predictor(runs.load_run_model(arguments.run), config.test_sides)
    if arguments.attention and not predictor.model.attention:
        raise ValueError(
            f"The network of {arguments.run} has no attention module. Leave "
            "out --attention, or give a run whose network has one."
        )
    colors = visualization.display_palette(dataset.palette)
    for size in sizes:
        predictor.check_size(*size)
    for name, path in zip(names, arguments.images, strict=True):
        image = read_image(path)
        label = predictor(image)
        visualization.save_png(
            output / f"{name}_label.png", label, dataset.palette
        )
        visualization.save_png(
            output / f"{name}_overlay.png",
            visualization.overlay(image, label, colors),
        )
        if arguments.sheet:
            with warnings_as_notes():
                sheet = visualization.compare(
                    image, None, label, colors, dataset.class_names
                )
            visualization.save_png(output / f"{name}_sheet.png", sheet)
        present = np.unique(label)
        print(
            harmless(f"{output / name}_label.png: ")
            + ", ".join(
                harmless(dataset.class_names[index]) for index in present
            )
        )
        if arguments.attention:
            visualization.save_png(
                output / f"{name}_attention.png",
                _attention_picture(predictor, image),
            )
    return 0


def _attention_picture(predictor, image):
    from keras_danet import visualization
    from keras_danet.inference import attention_maps

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
