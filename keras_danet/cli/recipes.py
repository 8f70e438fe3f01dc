"""`keras-danet recipes`: the recipes in a folder and their figures."""

import ast
import contextlib
import json
import pathlib
import re
import sys

# The figure to expect (published or measured before) and the one measured.
FIGURES = {
    kind: re.compile(
        rf"^{kind.capitalize()}(?: mean IoU)?: *"
        r"((?P<percent>\d+(\.\d+)?) *%)?.*",
        re.MULTILINE,
    )
    for kind in ("expected", "measured")
}
COLUMNS = (
    *("recipe", "data set", "backbone"),
    *("crop", "batch", "epochs", *FIGURES),
)
NUM_TEXTS = 3


def add(verbs):
    verb = verbs.add_parser(
        "recipes",
        help="list the recipes with the mean IoU to expect",
        description="Lists recipes: what each trains, on what, the mean IoU "
        "that its docstring expects, and the one that was measured here, if it "
        "was run. Every *.py of the folder is executed. Exit code 1 if one of "
        "them is not a recipe or is broken.",
    )
    verb.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="folder of recipes (default: those that come with the package)",
    )
    verb.add_argument(
        "--json", action="store_true", help="print a list of objects as JSON"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet.recipe import recipes_folder

    folder = pathlib.Path(arguments.folder or recipes_folder())
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}. Expected a folder that holds "
            "recipes; without one, `keras-danet recipes` lists those of the "
            "package."
        )
    rows = list(map(_describe, sorted(folder.glob("*.py"))))
    broken = [row for row in rows if "error" in row]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        _print_table([row for row in rows if "error" not in row])
        for row in broken:
            print(f"keras-danet: {row['error']}", file=sys.stderr)
    if not rows:
        print(f"keras-danet: no recipe in {folder}", file=sys.stderr)
    return 1 if broken else 0


def _describe(path):
    """What is shown of a recipe, or why it cannot be loaded."""
    from keras_danet.recipe import load_recipe

    try:
        # What a recipe prints is not part of the list.
        with contextlib.redirect_stdout(sys.stderr):
            config = load_recipe(path)
    except (ValueError, OSError) as error:
        return {"recipe": path.name, "error": str(error)}
    docstring = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    return {
        "recipe": path.name,
        "dataset": config.dataset,
        "backbone": config.model.start_from
        or (None if config.model.is_own else config.model.backbone)
        or config.model.own().backbone_weights
        or f"resnet{config.model.own().depth}",
        "crop_size": config.augmentation.crop_size,
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        **_figures(docstring),
    }


def _figures(docstring):
    """The docstring's mean IoUs, as shares and in its own words."""
    found = {}
    for kind, pattern in FIGURES.items():
        match = pattern.search(docstring)
        number = match and match["percent"]
        found[f"{kind}_mean_iou"] = (
            round(float(number) / 100, 6) if number else None
        )
        found[kind] = match and match[0].partition(":")[2].strip()
    return found


def _print_table(rows):
    from keras_danet.text_tables import table_lines

    lines = [COLUMNS]
    for row in rows:
        lines.append(
            (
                row["recipe"],
                row["dataset"],
                row["backbone"],
                "x".join(map(str, row["crop_size"])),
                str(row["batch_size"]),
                str(row["epochs"]),
                *(_percent(row[f"{kind}_mean_iou"]) for kind in FIGURES),
            )
        )
    print("\n".join(table_lines(lines, NUM_TEXTS)))


def _percent(share):
    # With as many digits as were published.
    return "-" if share is None else f"{100 * share:g} %"
