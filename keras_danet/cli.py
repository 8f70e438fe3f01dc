"""The command line: one verb per step of a model's life."""

import argparse
import ast
import contextlib
import os
import pathlib
import signal
import sys

DESCRIPTION = """\
Train, evaluate, use and export DANet, the Dual Attention Network for scene
segmentation.

The backend is Keras's: KERAS_BACKEND=tensorflow, jax or torch."""

EXAMPLES = """\
examples:
  keras-danet train training/scenes_danet_resnet18.py --output saved_models/run
  keras-danet train training/camvid_danet_resnet18.py --data CamVid \\
      --set epochs=10 --set batch_size=4
  keras-danet evaluate saved_models/run --split val
  keras-danet predict saved_models/run street.png --output pictures
  keras-danet export saved_models/run --format tflite --size 360x480
  keras-danet convert danet.pth -o danet.keras --multi-grid 4 8 16

exit codes:
  0  done    1  checked and found wrong    2  could not do it
  130  interrupted from the keyboard        143  stopped by SIGTERM"""


def main(argv=None):
    """Runs the command line.

    Args:
        argv: list of strings. Defaults to `None`, the process's arguments.

    Returns:
        Exit code: 0 done, 1 checked and found wrong, 2 could not do it, 130
        interrupted from the keyboard. SIGTERM exits with 143.
    """
    arguments = _parser().parse_args(argv)
    try:
        with _terminable():
            return arguments.run_verb(arguments)
    except (ValueError, OSError) as error:
        # The user's mistakes: our own errors, and the file system's.
        if arguments.traceback:
            raise
        print(f"keras-danet: error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        if arguments.traceback:
            raise
        print(
            f"keras-danet: error: {error}. Install what this step needs, for "
            "example: pip install 'keras-danet[tensorflow,export]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("keras-danet: interrupted", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _terminable():
    """Lets SIGTERM unwind as an error does: nothing half-done stays."""

    def stop(*_):
        sys.exit(143)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _parser():
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="keras-danet",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"keras-danet {_version()}"
    )
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="show where in the code an error arose",
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for add in (
        _add_train,
        _add_evaluate,
        _add_predict,
        _add_export,
        _add_convert,
    ):
        add(verbs)
    return parser


def _version():
    from keras_danet import __version__

    return __version__


def _add_train(verbs):
    verb = verbs.add_parser(
        "train",
        help="train the model of a recipe and leave a run folder",
        description="Trains the model that a recipe (a Python file with "
        "`config = TrainConfig(...)`) describes, and leaves a run folder with "
        "config.json, history.csv and model.keras, the best of its epochs.",
    )
    verb.add_argument("recipe", metavar="RECIPE", help="path of the recipe")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change a key of the recipe; may be given several times",
    )
    verb.add_argument(
        "--data", metavar="FOLDER", help="root folder of the data set"
    )
    verb.add_argument(
        "--output",
        metavar="RUN",
        help="run folder to make (default: saved_models/RECIPE's name)",
    )
    verb.add_argument(
        "--overwrite", action="store_true", help="replace an existing run"
    )
    verb.add_argument(
        "--distribute",
        default="none",
        metavar="ENGINE",
        help="none, mirrored (TensorFlow) or data_parallel (JAX); "
        "default: none",
    )
    verb.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="devices to use; a CPU is split (default: all there are)",
    )
    verb.set_defaults(run_verb=_train)


def _add_evaluate(verbs):
    verb = verbs.add_parser(
        "evaluate",
        help="measure a run on whole images and write its report.json",
        description="Measures the model of a run on whole images, prints the "
        "IoU of every class and writes report.json into the run folder.",
    )
    _add_run(verb)
    verb.add_argument(
        "--split",
        default=None,
        help="split to measure on (default: the recipe's validation split)",
    )
    verb.add_argument(
        "--data", metavar="FOLDER", help="root folder of the data set"
    )
    verb.set_defaults(run_verb=_evaluate)


def _add_predict(verbs):
    verb = verbs.add_parser(
        "predict",
        help="segment images: label maps and colour overlays",
        description="Segments images of any size. Writes NAME_label.png (class "
        "indices) and NAME_overlay.png (colours and legend) for each.",
    )
    _add_run(verb)
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
        "--attention",
        action="store_true",
        help="write NAME_attention.png as well: what three points of the "
        "image attend to, and three maps of channel attention",
    )
    verb.set_defaults(run_verb=_predict)


def _add_export(verbs):
    verb = verbs.add_parser(
        "export",
        help="write a SavedModel or TFLite file and check it",
        description="Exports the fused logits of a run's model to RUN/exports, "
        "compares the export with the model on images, and writes the "
        "comparison beside it. Exit code 1 if they differ.",
    )
    _add_run(verb)
    verb.add_argument(
        "--format",
        required=True,
        choices=("saved_model", "tflite"),
        help="saved_model takes any image size, tflite one",
    )
    verb.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="image size of a tflite file (default: the validation images')",
    )
    verb.set_defaults(run_verb=_export)


def _add_convert(verbs):
    verb = verbs.add_parser(
        "convert",
        help="turn a PyTorch checkpoint into a .keras file",
        description="Reads a DANet in the authors' or MMSegmentation's naming "
        "without running code, says what it is, and writes it as a model "
        "that keras.saving.load_model reads on every backend.",
    )
    verb.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help=".pth, .pth.tar, .safetensors or .npz",
    )
    verb.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="MODEL.keras",
        help="file to write; it must not exist",
    )
    verb.add_argument(
        "--multi-grid",
        type=int,
        nargs="*",
        metavar="RATE",
        help="dilation rates of the last stage (the authors' released model: "
        "4 8 16; none: no numbers)",
    )
    verb.add_argument(
        "--align-corners",
        action=argparse.BooleanOptionalAction,
        help="how logits are upsampled (default: by the naming)",
    )
    verb.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="start the classifiers anew for N classes",
    )
    verb.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression of names of tensors that may be left over; "
        "may be given several times",
    )
    verb.set_defaults(run_verb=_convert)


def _add_run(verb):
    verb.add_argument("run", metavar="RUN", help="folder of a training run")


def _train(arguments):
    from keras_danet import trainer
    from keras_danet.recipes import load_recipe

    settings = dict(map(_setting, arguments.settings))
    if arguments.data:
        settings["data_root"] = arguments.data
    config = load_recipe(arguments.recipe).replace(settings)
    name = pathlib.Path(arguments.recipe).stem
    run = arguments.output or os.path.join("saved_models", name)
    history = trainer.train(
        config,
        run,
        distribute=arguments.distribute,
        num_devices=arguments.devices,
        recipe=arguments.recipe,
        overwrite=arguments.overwrite,
        # A bar that redraws itself fills a log file.
        verbose=1 if sys.stdout.isatty() else 2,
    )
    best = max(history["val_mean_iou"])
    epoch = trainer.validation_epochs(config)[
        history["val_mean_iou"].index(best)
    ]
    print(
        f"Best mean IoU on whole validation images {best:.2%}, epoch {epoch} "
        f"of {config.epochs}. The run lies in {run}"
    )
    return 0


def _evaluate(arguments):
    from keras_danet import runs
    from keras_danet.data.files import find_pairs
    from keras_danet.evaluation import evaluate
    from keras_danet.inference import Predictor

    config = _run_config(arguments)
    split = arguments.split or config.val_split
    dataset, root = runs.find_data(config, arguments.run)
    pairs = find_pairs(dataset, root, split)
    predictor = Predictor(runs.load_run_model(arguments.run))
    report = evaluate(predictor, pairs, dataset, split, _progress)
    report.save(os.path.join(arguments.run, "report.json"))
    print(report.table())
    return 0


def _predict(arguments):
    import numpy as np

    from keras_danet import runs
    from keras_danet import visualization
    from keras_danet.data.datasets import get_dataset
    from keras_danet.data.files import read_image
    from keras_danet.inference import Predictor

    dataset = get_dataset(runs.read_run_config(arguments.run).dataset)
    names = [pathlib.Path(image).stem for image in arguments.images]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Two images are called {name}, so that one's results would "
                "replace the other's. Predict them into different folders."
            )
    output = pathlib.Path(arguments.output)
    kinds = ["label", "overlay"] + ["attention"] * arguments.attention
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
    predictor = Predictor(runs.load_run_model(arguments.run))
    for size in sizes:
        predictor.check_size(*size)
    for name, path in zip(names, arguments.images, strict=True):
        image = read_image(path)
        label = predictor(image)
        visualization.save_png(output / f"{name}_label.png", label)
        picture = visualization.compare(
            image, None, label, dataset.palette, dataset.class_names
        )
        visualization.save_png(output / f"{name}_overlay.png", picture)
        present = np.unique(label)
        print(
            f"{output / name}_label.png: "
            + ", ".join(dataset.class_names[index] for index in present)
        )
        if arguments.attention:
            visualization.save_png(
                output / f"{name}_attention.png",
                _attention_picture(predictor.model, image),
            )
    return 0


def _attention_picture(model, image):
    from keras_danet import visualization
    from keras_danet.inference import attention_maps

    height, width = image.shape[:2]
    points = [
        (height // 4, width // 2),
        (height // 2, width // 4),
        (height * 3 // 4, width // 2),
    ]
    point_maps, channel_maps, channels = attention_maps(model, image, points)
    return visualization.attention_picture(
        image, point_maps, points[: len(point_maps)], channel_maps, channels
    )


def _export(arguments):
    from keras_danet import export
    from keras_danet import runs

    config = runs.read_run_config(arguments.run)
    images = runs.sample_images(config, arguments.run)
    check = export.export_model(
        runs.load_run_model(arguments.run),
        pathlib.Path(arguments.run) / "exports",
        arguments.format,
        images=images,
        size=arguments.size,
    )
    print(check.summary())
    return 0 if check.passed else 1


def _convert(arguments):
    import warnings

    from keras_danet.checkpointing import save_model
    from keras_danet.models import DANet
    from keras_danet.models import checkpoints
    from keras_danet.models import weight_files

    output = pathlib.Path(arguments.output)
    if output.suffix != ".keras" or output.exists():
        raise ValueError(
            "--output must be a new file that ends in .keras. Received: "
            f"{output}{' (it exists)' if output.exists() else ''}"
        )
    tensors, meta = weight_files.read_weights(arguments.checkpoint)
    tensors = checkpoints.normalize(tensors)
    found = checkpoints.describe(tensors)
    print(f"recognised: {found}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = DANet.from_checkpoint(
            {"state_dict": tensors, "meta": meta},
            multi_grid=arguments.multi_grid,
            align_corners=arguments.align_corners,
            num_classes=arguments.num_classes,
            ignore=arguments.ignore,
        )
    for warning in caught:
        print(f"note: {warning.message}", file=sys.stderr)
    anew = (
        checkpoints.CLASSIFIERS
        if model.num_classes != found.num_classes
        else ()
    )
    ignored = set(tensors) - {
        checkpoints.their_name(
            weight.path, found.naming, bool(found.stem_filters)
        )
        for weight in model.weights
        if weight.path.partition("/")[0] not in anew
    }
    print(
        f"tensors: {len(tensors) - len(ignored)} taken, {len(ignored)} "
        "ignored" + (f" ({_kinds(ignored)})" if ignored else "")
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, output)
    print(f"logits of a ramp of 65x97 pixels: {_fingerprint(model)}")
    print(f"written: {output}")
    return 0


def _kinds(names):
    """The names, but of batch counters, of which there are hundreds."""
    counters = [n for n in names if n.endswith(".num_batches_tracked")]
    kinds = sorted(set(names) - set(counters))
    if counters:
        kinds.append(f"{len(counters)} num_batches_tracked")
    return ", ".join(kinds)


def _fingerprint(model):
    """Figures by which two conversions of one checkpoint are compared."""
    import numpy as np

    rows, columns = np.mgrid[0:65, 0:97]
    ramp = np.stack([rows * 3, columns * 2, rows + columns], axis=-1)
    logits = model.predict_on_batch(ramp[np.newaxis].astype("float32"))
    return (
        f"mean {logits.mean():.4f}, deviation {logits.std():.4f}, from "
        f"{logits.min():.4f} to {logits.max():.4f}"
    )


def _run_config(arguments):
    from keras_danet import runs

    config = runs.read_run_config(arguments.run)
    if arguments.data:
        config = config.replace({"data_root": arguments.data})
    return config


def _progress(done, count):
    if sys.stderr.isatty():
        end = "\n" if done == count else ""
        print(f"\r{done}/{count} images", end=end, file=sys.stderr, flush=True)


def _setting(text):
    """`key=value` as a pair; values are Python literals or plain words."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(
            f"--set expects KEY=VALUE, such as batch_size=4. Received: {text!r}"
        )
    try:
        return key.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key.strip(), value


def _size(text):
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(
            f"expected HEIGHTxWIDTH such as 360x480, received {text!r}"
        )
    return height, width
