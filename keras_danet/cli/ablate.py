"""`keras-danet ablate`: a grid of trainings, and what each part brings."""

import ctypes
import os
import signal
import subprocess
import sys

from keras_danet.cli.output import say_last
from keras_danet.cli.train import add_devices

# Of Linux's prctl.
SET_PARENT_DEATH_SIGNAL = 1
# How a child says that it was stopped, and did not fail.
STOPPED = (130, 141, 143)


def add(verbs):
    verb = verbs.add_parser(
        "ablate",
        help="train a grid of variants and seeds, and tabulate what each part "
        "brings",
        description="Trains every variant of a recipe with every seed, one "
        "after the other, evaluates each and writes ablation.json, "
        "ablation.md and ablation.png: mean IoU with its deviation over "
        "seeds, the gain over the first variant, and the gain of each class. "
        "Called again it resumes; values and seeds may be "
        "added. A variant that fails is named, and the others go on: exit "
        "code 1.",
    )
    _add_grid(verb)
    verb.add_argument(
        "--data", metavar="FOLDER", help="root folder of the data set"
    )
    verb.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder of the runs and tables (default: "
        "saved_models/RECIPE's name-ablation)",
    )
    verb.add_argument(
        "--table",
        metavar="FOLDER",
        help="train nothing: make the tables of an ablation's folder again, "
        "from its runs alone",
    )
    verb.add_argument(
        "--pictures",
        action="store_true",
        help="draw each variant beside the first one, too: the images with "
        "the largest gain, the median and the largest loss. Needs the runs' "
        "models, and the data",
    )
    verb.add_argument(
        "--checkpoint-every",
        type=int,
        default=1000,
        metavar="STEPS",
        help="as for train (default: 1000)",
    )
    add_devices(verb)
    verb.set_defaults(run_verb=run)


def _add_grid(verb):
    """What is trained."""
    verb.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="path or name of a recipe, as `train` takes it",
    )
    verb.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="a key of the recipe and its values, such as "
        "attention=none,position,channel,both or "
        "multi_grid=None,'(4,8,16)': each is written as for --set, and "
        "commas in brackets or quotes belong to it. With several --vary all "
        "combinations are trained. The first is what gains are over",
    )
    verb.add_argument(
        "--seeds",
        default="0,1,2",
        metavar="N,N",
        help="seeds that each variant is trained with (default: 0,1,2)",
    )
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change a key of the recipe for all variants; can be repeated",
    )


def run(arguments):
    if bool(arguments.recipe) == bool(arguments.table):
        raise ValueError(
            "Expected either a RECIPE, to train its variants, or --table "
            "FOLDER, to tabulate what was trained. Received: "
            f"{'both' if arguments.table else 'neither'}."
        )
    if arguments.table:
        from keras_danet.ablation.grid import open_grid

        return _tabulate(open_grid(arguments.table), {}, arguments)
    from keras_danet.ablation import grid as grids
    from keras_danet.recipe import find_recipe
    from keras_danet.recipe.settings import parse_setting

    name = find_recipe(arguments.recipe).stem
    grid = grids.make_grid(
        arguments.output or os.path.join("saved_models", f"{name}-ablation"),
        arguments.recipe,
        dict(map(parse_setting, arguments.settings)),
        arguments.vary,
        arguments.seeds,
    )
    whole = grids.merge(grid)
    whole.save()
    options = _options(arguments, grid)
    failed = {}
    for number, (variant, seed) in enumerate(grid.cells, 1):
        title = f"{variant.label}, seed {seed}"
        place = grid.run(variant, seed)
        if _is_finished(place, grid.config_of(variant, seed).epochs):
            print(f"[{number}/{len(grid.cells)}] {title}: finished", flush=True)
            continue
        print(f"[{number}/{len(grid.cells)}] {title}", flush=True)
        verb = _train_and_evaluate(grid, variant, seed, options)
        if verb:
            failed[title] = verb
            print(
                f"keras-danet: {title}: `{verb}` failed; the others go on.",
                file=sys.stderr,
            )
    return _tabulate(whole, failed, arguments)


def _options(arguments, grid):
    """What every child is told about data, and `train` about devices."""
    data = arguments.data
    if grid.config.dataset == "scenes" and not (data or grid.config.data_root):
        from keras_danet.data.scenes import write_scenes

        # Drawn once for all.
        data = grid.folder / "scenes"
        if not data.exists():
            write_scenes(data)
    train = ["--distribute", arguments.distribute]
    train += ["--model-devices", arguments.model_devices]
    if arguments.devices is not None:
        train += ["--devices", arguments.devices]
    train += ["--checkpoint-every", arguments.checkpoint_every, "--keep", 1]
    return ["--data", data] if data else [], train


def _train_and_evaluate(grid, variant, seed, options):
    """Runs both in processes of their own; gives the verb that failed."""
    data, train = options
    settings = [*grid.settings]
    settings += [f"{key}={text}" for key, text in variant.settings.items()]
    place = grid.run(variant, seed)
    told = ["train", grid.recipe, "--output", place, "--resume", *train, *data]
    for setting in (*settings, f"seed={seed}"):
        told += ["--set", setting]
    if _call(told):
        return "train"
    return "evaluate" if _call(["evaluate", place, *data]) else None


def _call(arguments):
    """The exit code of a `keras-danet` in a process of its own."""
    command = [sys.executable, "-m", "keras_danet", *map(str, arguments)]
    child = subprocess.Popen(command, preexec_fn=_die_with_parent())
    try:
        code = child.wait()
    except BaseException:
        # It saves a checkpoint; whoever asks twice does not wait for that.
        child.terminate()
        try:
            child.wait()
        finally:
            child.kill()
        raise
    if code == -signal.SIGTERM:
        code = 143
    if code in STOPPED:
        raise SystemExit(code)
    return code


def _die_with_parent():
    """What makes a child stop where this process is killed; None if nothing.

    Otherwise it would go on alone, and hold its run folder.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _is_finished(run, epochs):
    """Whether a run was trained to its end and evaluated after that.

    The model may be gone: its record can be kept without it.
    """
    from keras_danet.runs import epochs_done

    report, model = run / "report.json", run / "model.keras"
    try:
        evaluated = report.stat().st_mtime
        if model.exists() and evaluated < model.stat().st_mtime:
            return False
    except OSError:
        return False
    return (epochs_done(run) or 0) >= epochs


def _tabulate(grid, failed, arguments):
    from keras_danet.ablation import pictures
    from keras_danet.ablation import table

    ablation = table.read_ablation(grid)
    ablation.save()
    if arguments.pictures:
        pictures.draw_pictures(ablation, arguments.data)
        # The page shows them.
        ablation.save()
    say_last(ablation.text())
    missing = [name for name in ablation.missing if name not in failed]
    for title, verb in failed.items():
        print(f"keras-danet: failed: {title} ({verb})", file=sys.stderr)
    for title in missing:
        print(f"keras-danet: not measured yet: {title}", file=sys.stderr)
    return 1 if ablation.missing else 0
