"""The built-in data set: street scenes drawn from a seed."""

import os
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from keras_danet.arguments import integer
from keras_danet.arguments import integers
from keras_danet.data.class_tables import SCENES_PALETTE
from keras_danet.data.palettes import label_image
from keras_danet.data.scene_drawing import draw_street

SPLITS = {"train": 1600, "val": 96}
MIN_SIDE, MAX_SIDE = 32, 2**14 - 1  # pixels


def draw_scene(seed, index, size=(96, 128)):
    """Draws one street scene and its label map.

    The result depends only on the arguments. Objects keep their size
    relative to the image, so small images have objects of a few pixels.

    Args:
        seed: Integer from 0 to 2**32 - 1, the seed of the data set.
        index: Integer from 0 to 2**64 - 1, which of its scenes.
        size: `(height, width)` in pixels, each at least 32. Defaults to
            `(96, 128)`.

    Returns:
        `(image, label)`: uint8 `(height, width, 3)`, RGB, 0-255, and uint8
        `(height, width)` with the positions of `SCENES_CLASSES`, and 255
        (ignore) on the hood of the camera's own car.

    Raises:
        ValueError: If an argument is of another type or out of range.

    Example:

    >>> image, label = draw_scene(seed=0, index=7, size=(48, 64))
    >>> image.shape, label.shape
    ((48, 64, 3), (48, 64))
    """
    seed = _checked_seed(seed)
    must = "must be an integer from 0 to 2**64 - 1"
    index = integer("index", index, must, least=0, below=2**64)
    rng = np.random.default_rng([seed, index])
    return draw_street(rng, _checked_size(size))


def _checked_seed(seed):
    must = "must be an integer from 0 to 2**32 - 1"
    return integer("seed", seed, must, least=0, below=2**32)


def _checked_size(size):
    must = (
        "must be two integers, (height, width) in pixels, from "
        f"{MIN_SIDE} to {MAX_SIDE}"
    )
    return integers("size", size, must, 2, least=MIN_SIDE, most=MAX_SIDE)


def _checked_splits(splits):
    if not isinstance(splits, dict) or not all(
        isinstance(name, str)
        and name.isidentifier()
        and not name.endswith("annot")
        for name in splits or [None]
    ):
        raise ValueError(
            "`splits` must be a dict of split name -> number of scenes, such "
            f"as {SPLITS}; names are letters, digits and '_', and do not end "
            f"in 'annot'. Received: splits={splits!r}"
        )
    must = "must be an integer from 1 to 2**32 - 1"
    return {
        name: integer(f"splits[{name!r}]", count, must, least=1, below=2**32)
        for name, count in splits.items()
    }


def _write_split(folder, name, count, size, seed):
    for part in (name, f"{name}annot"):
        (folder / part).mkdir()
    # A split's scenes are numbered from its name's hash, so that they depend
    # neither on the other splits nor on its own length.
    first = zlib.crc32(name.encode()) << 32
    lines = []
    for number in range(count):
        image, label = draw_scene(seed, first + number, size)
        file = f"{name}_{number:05d}.png"
        Image.fromarray(image).save(folder / name / file)
        colored = label_image(label, SCENES_PALETTE)
        colored.save(folder / f"{name}annot" / file)
        lines.append(f"{name}/{file} {name}annot/{file}\n")
    (folder / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def write_scenes(root, splits=SPLITS, size=(96, 128), seed=0):
    """Writes scenes to a new folder, in CamVid's layout.

    Images are `{root}/{split}/{id}.png` (RGB), labels
    `{root}/{split}annot/{id}.png` (class indices and 255, with a palette), and
    `{root}/{split}.txt` lists the pairs relative to `root`. Splits share no
    scene, and a split's scenes do not change with the length of another.
    The folder appears complete or not at all.

    Args:
        root: Path of the folder to make. It must not exist.
        splits: Dict of split name -> number of scenes. Defaults to 1600 for
            `"train"` and 96 for `"val"`.
        size: `(height, width)` in pixels, each at least 32. Defaults to
            `(96, 128)`.
        seed: Integer from 0 to 2**32 - 1. Defaults to 0.

    Returns:
        `root` as a `pathlib.Path`.

    Raises:
        FileExistsError: If `root` exists.
        ValueError: If an argument is of another type or out of range.
    """
    splits, size = _checked_splits(splits), _checked_size(size)
    seed = _checked_seed(seed)
    root = Path(root)
    if root.exists():
        raise FileExistsError(
            f"Scenes are written to a new folder, but {root} exists already. "
            "Remove it or pass another `root`."
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{root.name}-", dir=root.parent
    ) as temporary:
        # A folder within it, because temporary folders are private to the user.
        folder = Path(temporary) / root.name
        folder.mkdir()
        for name, count in splits.items():
            _write_split(folder, name, count, size, seed)
        os.rename(folder, root)
    return root
