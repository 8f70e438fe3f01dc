"""`keras-danet train`: from a recipe to a run folder."""

import os
import pathlib
import shutil
import sys
import textwrap

from keras_danet.cli.output import say_last


def add(verbs):
    verb = verbs.add_parser(
        "train",
        help="train the model of a recipe and write a run folder",
        description="Trains the model that a recipe (a Python file with "
        "`config = TrainConfig(...)`) describes, and writes a run folder with "
        "config.json, history.csv and model.keras, the best of its epochs.",
    )
    verb.add_argument(
        "recipe",
        metavar="RECIPE",
        help="path of a recipe, or the name of one that `keras-danet recipes` "
        "lists, such as scenes",
    )
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change a key of the recipe, one of those below, such as "
        "model.depth=101; can be repeated",
    )
    verb.add_argument(
        "--data", metavar="FOLDER", help="root folder of the data set"
    )
    _add_run(verb)
    add_devices(verb)
    verb.set_defaults(run_verb=run)
    usage = verb.format_help
    # Only when help is asked for: reading the keys imports NumPy.
    verb.format_help = lambda: f"{usage()}\n{_keys()}"


def _add_run(verb):
    verb.add_argument(
        "--output",
        metavar="RUN",
        help="run folder to make (default: saved_models/RECIPE's name)",
    )
    verb.add_argument(
        "--overwrite",
        action="store_true",
        help="begin a new run; an existing one is renamed to RUN.old-1",
    )
    verb.add_argument(
        "--resume",
        action="store_true",
        help="resume the run from its newest checkpoint if it exists; start "
        "it if it does not",
    )
    verb.add_argument(
        "--checkpoint-every",
        type=int,
        default=1000,
        metavar="STEPS",
        help="steps from one checkpoint to the next; there is also one after "
        "every validation (default: 1000)",
    )
    verb.add_argument(
        "--keep",
        type=int,
        default=2,
        metavar="N",
        help="checkpoints to keep (default: 2)",
    )
    verb.add_argument(
        "--background",
        action="store_true",
        help="write checkpoints while training continues, from a copy in "
        "memory",
    )
    verb.add_argument(
        "--track",
        action="append",
        default=[],
        choices=("tensorboard", "wandb", "mlflow"),
        metavar="WHERE",
        help="send figures to tensorboard (RUN/tensorboard), wandb or mlflow "
        "as well; can be repeated",
    )


def add_devices(verb):
    verb.add_argument(
        "--distribute",
        default="auto",
        metavar="ENGINE",
        help="none; mirrored, multiworker or tpu (TensorFlow); data_parallel "
        "or model_parallel (JAX); or auto, the default: the processes that "
        "the environment names, else all accelerators, else one device",
    )
    verb.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="devices to use; a CPU is split (default: all there are)",
    )
    verb.add_argument(
        "--model-devices",
        type=int,
        default=2,
        metavar="N",
        help="devices that share the widest kernels with model_parallel "
        "(default: 2)",
    )


def _keys():
    """What `--set` takes, a paragraph for each key."""
    from keras_danet.recipe.config import describe_keys

    width = max(shutil.get_terminal_size().columns - 2, 20)
    lines = ["keys of a recipe, for --set KEY=VALUE:"]
    for name, kind, default, meaning in describe_keys():
        given = "required" if default is None else f"default: {default}"
        lines.append(f"  {name} ({kind}; {given})")
        lines += textwrap.wrap(
            meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines) + "\n"


def run(arguments):
    from keras_danet.recipe import find_recipe
    from keras_danet.recipe import load_recipe
    from keras_danet.recipe.settings import parse_setting

    settings = {}
    for key, value in map(parse_setting, arguments.settings):
        # The last one counts, however the key is spelled.
        settings.pop(key, None)
        settings[key] = value
    if arguments.data:
        settings["data_root"] = arguments.data
    recipe = find_recipe(arguments.recipe)
    config = load_recipe(recipe).replace(settings)
    run = arguments.output or os.path.join("saved_models", recipe.stem)
    # Errors in a recipe are reported before Keras is imported.
    from keras_danet.trainer import loop
    from keras_danet.trainer.training import validation_epochs

    try:
        history = loop.train(
            config,
            run,
            distribute=arguments.distribute,
            num_devices=arguments.devices,
            model_devices=arguments.model_devices,
            recipe=recipe,
            overwrite=arguments.overwrite,
            resume=arguments.resume,
            checkpoint_every=arguments.checkpoint_every,
            keep_checkpoints=arguments.keep,
            background=arguments.background,
            track=arguments.track,
        )
    except SystemExit as stop:
        if stop.code in (130, 143):
            _say_how_to_go_on(run)
        raise
    best = max(history["val_mean_iou"])
    epoch = validation_epochs(config)[history["val_mean_iou"].index(best)]
    say_last(
        f"Best mean IoU on whole validation images {best:.2%}, epoch {epoch} "
        f"of {config.epochs}. Run saved in {run}"
    )
    return 0


def _say_how_to_go_on(run):
    if any(pathlib.Path(run, "checkpoints").glob("*.ckpt")):
        print(
            f"keras-danet: stopped; checkpoint saved in {run}. Run the same "
            "command with --resume to continue.",
            file=sys.stderr,
        )
