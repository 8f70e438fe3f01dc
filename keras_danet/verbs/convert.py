"""`keras-danet convert`: from a PyTorch checkpoint to a .keras file."""

import argparse
import json
import pathlib
import sys


def add(verbs):
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
    verb.add_argument(
        "--json", action="store_true", help="print what was found as JSON"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
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
    say(
        f"tensors: {len(tensors) - len(ignored)} taken, {len(ignored)} "
        "ignored" + (f" ({_kinds(ignored)})" if ignored else "")
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, output)
    say(f"logits of a ramp of 65x97 pixels: {fingerprint(model)}")
    say(f"written: {output}")
    if arguments.json:
        report = {
            "written": str(output),
            "recognised": str(found),
            "num_taken": len(tensors) - len(ignored),
            "ignored": sorted(ignored),
            "fingerprint": fingerprint(model),
        }
        print(json.dumps(report, indent=1))
    return 0


def _kinds(names):
    """The names, but of batch counters, of which there are hundreds."""
    counters = [n for n in names if n.endswith(".num_batches_tracked")]
    kinds = sorted(set(names) - set(counters))
    if counters:
        kinds.append(f"{len(counters)} num_batches_tracked")
    return ", ".join(kinds)


def fingerprint(model):
    """Figures by which two conversions of one checkpoint are compared."""
    import numpy as np

    rows, columns = np.mgrid[0:65, 0:97]
    ramp = np.stack([rows * 3, columns * 2, rows + columns], axis=-1)
    logits = model.predict_on_batch(ramp[np.newaxis].astype("float32"))
    return (
        f"mean {logits.mean():.4f}, deviation {logits.std():.4f}, from "
        f"{logits.min():.4f} to {logits.max():.4f}"
    )
