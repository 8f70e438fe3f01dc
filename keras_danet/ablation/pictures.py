"""Pictures of what a variant changes, in images that a rule chooses."""

import pathlib

import numpy as np

from keras_danet.data.decoding import read_pair
from keras_danet.data.files import find_pairs
from keras_danet.explain import position_attention
from keras_danet.explain.points import deepest_point
from keras_danet.inference import sheets
from keras_danet.inference import visualization
from keras_danet.inference.attention_pictures import attention_picture
from keras_danet.inference.image_records import image_score
from keras_danet.inference.image_records import read_records
from keras_danet.inference.image_records import records_path
from keras_danet.inference.predictor import Predictor
from keras_danet.runs import find_data
from keras_danet.runs import open_model

FOLDER = "pictures"
RULE = (
    "No image is chosen by hand. Of two runs of the same seed, images are "
    "ordered by the difference of their mean IoU, over the classes in their "
    "ground truth: shown are the largest gain, the median and the largest "
    "loss. Where there is position attention, a second picture shows what one "
    "point of the first image takes in: the point that lies deepest inside "
    "what only the network with attention got right."
)


def picture_paths(folder, variant) -> tuple[pathlib.Path, pathlib.Path]:
    """The picture of a variant's images, and that of a point's attention."""
    place = pathlib.Path(folder) / FOLDER
    return (
        place / f"{variant.folder}.png",
        place / f"{variant.folder}-attention.png",
    )


def draw_pictures(ablation, data=None) -> list[pathlib.Path]:
    """Draws each variant beside the first one, with the first common seed.

    Args:
        ablation: `table.Ablation`; its runs must have their models and their
            records of images.
        data: root folder of the data set. Defaults to `None`: where the
            runs found it.

    Returns:
        List of the paths written.

    Raises:
        FileNotFoundError: if a model, its records or the data are missing.
        ValueError: if the data are others than those that were measured.
    """
    grid = ablation.grid
    base, *others = ablation.rows
    written = []
    for row in others:
        common = [seed for seed in row.runs if seed in base.runs]
        if not common:
            continue
        pair = [grid.run(r.variant, common[0]) for r in (base, row)]
        names = [", ".join(r.variant.settings.values()) for r in (base, row)]
        pictures = _draw_pair(pair, names, data)
        paths = picture_paths(grid.folder, row.variant)
        for path, picture in zip(paths, pictures, strict=False):
            visualization.save_png(path, picture)
            written.append(path)
    return written


def choose_images(base, other):
    """Of the images of two runs: the largest gain, the median, the loss.

    Args:
        base, other: dict of an image's index to its mean IoU.

    Returns:
        List of (title, index), without repetitions.

    >>> choose_images({0: 0.5, 1: 0.5, 2: 0.5}, {0: 0.4, 1: 0.9, 2: 0.6})
    [('largest gain', 1), ('median', 2), ('largest loss', 0)]
    """
    gains = {index: other[index] - base[index] for index in base}
    # Ties go in the order of the images.
    ordered = sorted(gains, key=lambda index: (-gains[index], index))
    chosen = {}
    for title, place in (
        ("largest gain", 0),
        ("median", len(ordered) // 2),
        ("largest loss", -1),
    ):
        chosen.setdefault(ordered[place], title)
    return [(title, index) for index, title in chosen.items()]


def _draw_pair(runs, names, data):
    """One picture of the chosen images; with position attention a second."""
    scores = [_scores(run) for run in runs]
    if scores[0].keys() != scores[1].keys():
        raise ValueError(
            f"{runs[0]} and {runs[1]} were measured on different images. "
            "Call `keras-danet evaluate` alike for both."
        )
    if not scores[0]:
        raise ValueError(f"No image of {runs[0]} has labels: none is drawn.")
    models, configs = zip(*map(open_model, runs), strict=True)
    config = configs[1]
    if data is not None:
        config = config.replace({"data_root": str(data)})
    dataset, root = find_data(config, runs[1])
    for run, model in zip(runs, models, strict=True):
        if getattr(model, "num_classes", None) != dataset.num_classes:
            raise ValueError(
                f"{run / 'model.keras'} is no DANet of {dataset.num_classes} "
                f"classes, as {dataset.title} has. Evaluate what was trained."
            )
    pairs = find_pairs(dataset, root, config.val_split)
    predictors = [Predictor(model) for model in models]
    panels, present, attention = [], set(), None
    for title, index in choose_images(*scores):
        if index >= len(pairs):
            raise ValueError(
                f"{root} has {len(pairs)} images, and {runs[1]} was measured "
                f"on more. Give the same data with --data."
            )
        image, label = read_pair(pairs[index], dataset)
        maps = [predictor(image) for predictor in predictors]
        size = sheets.panel_size(image.shape[:2], 4, 4)
        small = sheets.resize_image(image, size)
        panels.append((title, small))
        for words, classes in (
            *(
                (f"{name}: {100 * score[index]:.1f} %", found)
                for name, score, found in zip(names, scores, maps, strict=True)
            ),
            ("ground truth", label),
        ):
            shown = sheets.resize_map(classes, size)
            drawn = visualization.overlay(small, shown, dataset.palette, 0.6)
            panels.append((words, drawn))
            present |= set(np.unique(shown).tolist()) - {255}
        if attention is None:
            attention = _attention(models[1], image, label, maps)
    sheet = sheets.draw_sheet(panels, 4)
    sheet = visualization.add_legend(
        sheet, dataset.class_names, dataset.palette, present, 0.6
    )
    return [sheet] if attention is None else [sheet, attention]


def _scores(run):
    """The mean IoU of every image that has labels."""
    path = records_path(run / "report.json")
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. Expected the records that `keras-danet "
            "evaluate` writes beside the report: evaluate the run again."
        )
    _, records = read_records(path)
    found = {record.index: image_score(record) for record in records()}
    return {k: score for k, score in found.items() if score is not None}


def _attention(model, image, label, maps):
    """What a point takes in that only the second network got right."""
    if "position" not in getattr(model, "attention", ()):
        return None
    base, other = (np.asarray(found) == label for found in maps)
    point = deepest_point(other & ~base)
    if point is None:
        return None
    maps = position_attention(model, image, [point])
    return attention_picture(image, maps, [point], [])
