"""`keras-danet ablate`: a grid of trainings, and what each part brings."""

import ctypes
import functools
import os
import signal
import subprocess
import sys

from keras_danet.cli.arguments import add_scales
from keras_danet.cli.arguments import positive
from keras_danet.cli.output import say_last
from keras_danet.cli.train import add_devices
from keras_danet.text_tables import harmless

# Of Linux's prctl.
SET_PARENT_DEATH_SIGNAL = 1
# How a child says that it was stopped, and did not fail.
STOPPED = (130, 141, 143)
# What --table does not look at.
OF_TRAININGS = (
    *("vary", "seeds", "settings", "output", "scales", "mirror"),
    *("checkpoint_every", "distribute", "devices", "model_devices"),
)


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
        "from its runs alone; goes with --pictures and its --data only",
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
        type=positive,
        default=1000,
        metavar="STEPS",
        help="as for train (default: 1000)",
    )
    add_scales(
        verb,
        "; each run whose model is there is measured in this way, too, into "
        "report_multi_scale.json",
    )
    add_devices(verb)
    verb.set_defaults(run_verb=functools.partial(run, verb))


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


def run(verb, arguments):
    if bool(arguments.recipe) == bool(arguments.table):
        raise ValueError(
            "Expected either a RECIPE, to train its variants, or --table "
            "FOLDER, to tabulate what was trained. Received: "
            f"{'both' if arguments.table else 'neither'}."
        )
    from keras_danet.ablation import grid_file

    if arguments.table:
        _check_alone(verb, arguments)
        return _tabulate(grid_file.open_grid(arguments.table), {}, arguments)
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
    whole = grid_file.merge(grid)
    # Errors in what is typed are reported before Keras is imported.
    from keras_danet.ablation import steps as checks

    several = arguments.scales, arguments.mirror
    checks.check_scales(*several)
    steps = [checks.steps_of(grid, *cell, *several) for cell in grid.cells]
    if any(steps):
        checks.check_data(grid, arguments.data)
        checks.check_devices(
            grid,
            arguments.distribute,
            arguments.devices,
            arguments.model_devices,
        )
    grid_file.save_grid(whole)
    return _tabulate(whole, _run_steps(grid, steps, arguments), arguments)


def _check_alone(verb, arguments):
    """Refuses what --table would not look at."""
    given = [
        f"--{'set' if name == 'settings' else name.replace('_', '-')}"
        for name in OF_TRAININGS
        if getattr(arguments, name) != verb.get_default(name)
    ]
    if arguments.data and not arguments.pictures:
        given.append("--data")
    if given:
        raise ValueError(
            "--table makes the tables of a folder as it is, and goes with "
            "--pictures and their --data only. Received also: "
            f"{', '.join(given)}. Leave it out, or give the RECIPE in place "
            "of --table."
        )


def _run_steps(grid, steps, arguments):
    """Trains and measures; gives a dict of what failed to its verb."""
    from keras_danet.ablation.reading import title_of

    options = _options(arguments, grid) if any(steps) else {}
    failed = {}
    for number, (cell, told) in enumerate(
        zip(grid.cells, steps, strict=True), 1
    ):
        title = harmless(title_of(*cell))
        end = "" if told else ": finished"
        print(f"[{number}/{len(steps)}] {title}{end}", flush=True)
        verb = next(
            (step[0] for step in told if _call([*step, *options[step[0]]])),
            None,
        )
        if verb:
            failed[title_of(*cell)] = verb
            _complain(f"{title}: `{verb}` failed; the others go on.")
    return failed


def _options(arguments, grid):
    """What every child is told about data, and `train` about devices."""
    data = arguments.data
    if grid.config.dataset == "scenes" and not (data or grid.config.data_root):
        from keras_danet.data.scenes import write_scenes

        # Drawn once for all.
        data = grid.folder / "scenes"
        if not data.exists():
            write_scenes(data)
    data = ["--data", data] if data else []
    train = ["--distribute", arguments.distribute]
    train += ["--model-devices", arguments.model_devices]
    if arguments.devices is not None:
        train += ["--devices", arguments.devices]
    train += ["--checkpoint-every", arguments.checkpoint_every, "--keep", 1]
    return {"train": [*train, *data], "evaluate": data}


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
    for title, verb in failed.items():
        _complain(f"failed: {title} ({verb})")
    if ablation.changed_base:
        _complain(ablation.changed_base)
    for title, why in ablation.missing.items():
        if title not in failed:
            _complain(f"{why}: {title}")
    return 1 if ablation.missing or failed else 0


def _complain(text):
    # It may be of a file, which is untrusted.
    print(f"keras-danet: {harmless(text)}", file=sys.stderr)
