"""`keras-danet convert`: from a PyTorch checkpoint to a .keras file."""

import argparse
import json
import pathlib
import sys

from keras_danet.files import check_folder
from keras_danet.files import make_folder
from keras_danet.text_tables import harmless


def add(verbs):
    verb = verbs.add_parser(
        "convert",
        help="turn a PyTorch checkpoint into a .keras file",
        description="Reads a DANet in the authors' or MMSegmentation's naming "
        "without running code, reports what it is, and writes it as a model "
        "that keras.saving.load_model reads on every backend.",
    )
    verb.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help=".pth, .pth.tar, .safetensors or .npz; or any model that predict "
        "accepts",
    )
    verb.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="MODEL",
        help="file to write, ending in .keras, or, without an ending, folder "
        "of a preset; it must not exist",
    )
    verb.add_argument(
        "--multi-grid",
        type=int,
        nargs="*",
        metavar="RATE",
        help="dilation rates of the last stage (the authors' released model: "
        "4 8 16; no multi-grid: no numbers)",
    )
    verb.add_argument(
        "--align-corners",
        action=argparse.BooleanOptionalAction,
        help="how logits are upsampled (default: depends on the naming)",
    )
    verb.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="replace the classifiers by untrained ones for N classes",
    )
    verb.add_argument(
        "--dataset",
        metavar="NAME",
        help="data set whose class names and colors the model takes",
    )
    verb.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression for names of tensors that may be left over; "
        "can be repeated",
    )
    verb.add_argument(
        "--kernel-dtype",
        choices=("float16",),
        help="round the kernels of a preset to half the bytes",
    )
    verb.add_argument(
        "--json", action="store_true", help="print what was found as JSON"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    import warnings

    from keras_danet import runs
    from keras_danet.models import DANet
    from keras_danet.waiting import answering
    from keras_danet.weights import files
    from keras_danet.weights import torch_names
    from keras_danet.weights import torch_networks

    output = pathlib.Path(arguments.output)
    if output.suffix not in (".keras", "") or output.exists():
        raise ValueError(
            "--output must be a new file that ends in .keras, or a new folder. "
            f"Received: {output}{' (it exists)' if output.exists() else ''}"
        )
    if output.suffix and arguments.kernel_dtype:
        raise ValueError(
            "--kernel-dtype is for the folder of a preset. Received: "
            f"--output {output}. Leave out the ending, or --kernel-dtype."
        )
    check_folder(output.parent)
    if _is_model(arguments.checkpoint):
        model, _ = runs.open_model(arguments.checkpoint)
        if arguments.num_classes:
            model = DANet.from_model(model, arguments.num_classes)
        return _write(model, output, {}, arguments)
    tensors, meta = answering(files.read_weights, arguments.checkpoint)
    tensors = torch_networks.normalize(tensors)
    found = torch_networks.describe(tensors)
    say = print if not arguments.json else lambda text: None
    say(f"recognised: {found}")
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
        print(f"note: {harmless(str(warning.message))}", file=sys.stderr)
    is_new_head = model.num_classes != found.num_classes
    anew = torch_names.CLASSIFIERS if is_new_head else ()
    ignored = set(tensors) - {
        torch_names.their_name(
            weight.path, found.naming, bool(found.stem_filters)
        )
        for weight in model.weights
        if weight.path.partition("/")[0] not in anew
    }
    say(
        f"tensors: {len(tensors) - len(ignored)} taken, {len(ignored)} "
        "ignored" + (f" ({harmless(_kinds(ignored))})" if ignored else "")
    )
    said = {
        "recognised": str(found),
        "num_taken": len(tensors) - len(ignored),
        "ignored": sorted(ignored),
    }
    return _write(model, output, said, arguments)


def _is_model(source):
    """Whether it is what `open_model` reads, and no file of tensors."""
    path = pathlib.Path(source)
    return (
        # The name on the Hub may have a dot in it.
        source.startswith("hf://")
        or path.suffix.lower() == ".keras"
        or path.is_dir()
        or not path.suffix
    )


def _write(model, output, said, arguments):
    from keras_danet.data.datasets import get_dataset
    from keras_danet.files import save_model
    from keras_danet.waiting import answering

    if arguments.dataset:
        dataset = get_dataset(arguments.dataset)
        model.class_names = dataset.class_names
        model.palette = dataset.palette
    make_folder(output.parent)
    if output.suffix:
        save_model(model, output)
    else:
        model.save_to_preset(output, arguments.kernel_dtype)
    figures = answering(fingerprint, model)
    report = {"written": str(output), **said, "fingerprint": figures}
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(f"logits of a ramp of 65x97 pixels: {figures}")
        print(f"written: {harmless(str(output))}")
    return 0


def _kinds(names):
    """The names, with the hundreds of batch counters as one number."""
    counters = [n for n in names if n.endswith(".num_batches_tracked")]
    kinds = sorted(set(names) - set(counters))
    if counters:
        kinds.append(f"{len(counters)} num_batches_tracked")
    return ", ".join(kinds)


def fingerprint(model):
    """Figures to compare two conversions of one checkpoint by."""
    import numpy as np

    rows, columns = np.mgrid[0:65, 0:97]
    ramp = np.stack([rows * 3, columns * 2, rows + columns], axis=-1)
    logits = model.predict_on_batch(ramp[np.newaxis].astype("float32"))
    return (
        f"mean {logits.mean():.4f}, deviation {logits.std():.4f}, from "
        f"{logits.min():.4f} to {logits.max():.4f}"
    )
