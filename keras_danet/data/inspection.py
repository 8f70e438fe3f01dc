"""What is in a data set, and what is wrong with it, before it is trained on."""

import collections
import dataclasses
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from keras_danet.arguments import integer
from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.datasets import Dataset
from keras_danet.data.decoding import read_orientation
from keras_danet.data.decoding import read_raw_label
from keras_danet.data.decoding import read_raw_pair
from keras_danet.data.files import find_splits
from keras_danet.data.files import search_pairs
from keras_danet.data.label_values import guess_mapping
from keras_danet.data.label_values import to_train_ids
from keras_danet.text_tables import harmless
from keras_danet.text_tables import table_lines

# A label that is a photograph has millions of colours; only these are kept.
MAX_VALUES = 2**12
_PIECE = 2**20
# Problems in the table; JSON has all.
MAX_SHOWN = 10


class Problem(NamedTuple):
    """Something that is wrong with a data set.

    Args:
        kind: String: `"layout"` (files that are missing or superfluous),
            `"file"` (one that cannot be used), `"values"` (of a label),
            `"mapping"` (values that are possible, but look wrong) or
            `"orientation"` (a file that is turned as it is read).
        message: String, what was found, what was expected, the remedy.
        image: String, path of the pair's image, or `None` if it is not the
            problem of one pair. Defaults to `None`.
        label: String, likewise.
    """

    kind: str
    message: str
    image: str | None = None
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """What was found in one split.

    Args:
        dataset: The `Dataset`.
        split: String.
        num_pairs: Integer, how many pairs there are.
        problems: Tuple of `Problem`.
        sizes: Dict from (height, width) to the number of usable pairs.
        class_pixels: int64 array (num_classes,), pixels of each class in the
            usable pairs.
        class_images: int64 array (num_classes,), in how many of them it
            occurs.
        class_image_pixels: int64 array (num_classes,), all pixels of the
            pairs in which it occurs.
        ignored_pixels: Integer.
    """

    dataset: Dataset
    split: str
    num_pairs: int
    problems: tuple[Problem, ...]
    sizes: dict[tuple[int, int], int]
    class_pixels: np.ndarray
    class_images: np.ndarray
    class_image_pixels: np.ndarray
    ignored_pixels: int

    @property
    def official_count(self):
        return self.dataset.splits[self.split].count

    @property
    def never_seen(self):
        """Names of the classes that no usable pair has."""
        return [name for name, _, _, images in self._classes() if not images]

    def _classes(self):
        """(name, pixels, share of the labelled pixels, images) of each."""
        share = self.class_pixels / max(self.class_pixels.sum(), 1)
        return zip(
            self.dataset.class_names,
            self.class_pixels.tolist(),
            share.tolist(),
            self.class_images.tolist(),
            strict=True,
        )

    def to_json(self):
        """The report as a dict for `json.dumps`."""
        return {
            "dataset": self.dataset.name,
            "split": self.split,
            "pairs": self.num_pairs,
            "official_pairs": self.official_count,
            "problems": [problem._asdict() for problem in self.problems],
            "sizes": [
                {"height": height, "width": width, "pairs": count}
                for (height, width), count in sorted(self.sizes.items())
            ],
            "classes": [
                {
                    "name": name,
                    "pixels": pixels,
                    "share": share,
                    "images": images,
                }
                for name, pixels, share, images in self._classes()
            ],
            "ignored_pixels": self.ignored_pixels,
            "never_seen": self.never_seen,
        }

    def table(self):
        """The report as text, one row per class."""
        official = self.official_count
        lines = [
            f"{self.dataset.title}, {self.split}: {self.num_pairs} pairs"
            + (f" (officially {official})" if official is not None else ""),
            *([_describe_sizes(self.sizes)] if self.sizes else []),
        ]
        if self.sizes:
            lines += self._class_rows()
        if self.sizes and self.never_seen:
            lines.append(f"never seen: {', '.join(self.never_seen)}")
        count = len(self.problems)
        lines += [
            f"wrong: {problem.message}" for problem in self.problems[:MAX_SHOWN]
        ]
        if count > MAX_SHOWN:
            lines.append(f"wrong: {count - MAX_SHOWN} more (--json lists all)")
        lines.append("" if count else "nothing wrong")
        # Names of folders and files, too, come from whoever made the data.
        return "\n".join(map(harmless, lines)).rstrip()

    def _class_rows(self):
        rows = [("class", "pixels", "share", "images")]
        rows += [
            (name, f"{pixels:,}", f"{share:.2%}", f"{images:,}")
            for name, pixels, share, images in self._classes()
        ]
        rows.append(("ignored", f"{self.ignored_pixels:,}", "", ""))
        return table_lines(rows)


def _describe_sizes(sizes):
    heights, widths = zip(*sizes, strict=True)
    if len(sizes) == 1:
        return f"all of {heights[0]} x {widths[0]} pixels (height x width)"
    often = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:3]
    return (
        f"{len(sizes)} sizes, heights {min(heights)}..{max(heights)}, widths "
        f"{min(widths)}..{max(widths)}; most often "
        + ", ".join(f"{h} x {w} ({count})" for (h, w), count in often)
    )


def inspect_split(
    dataset, root, split, *, workers=None, labels_only=False, progress=None
):
    """Reads every file of a split and counts what is in it.

    Files are read and checked as in training. Memory does not grow with the
    number of pairs, only with the number of problems.

    Args:
        dataset: A `Dataset`.
        root: String or path, its folder.
        split: String, one of `dataset.splits`.
        workers: Integer, the number of threads. Defaults to `None`, one for
            each core.
        labels_only: Boolean, whether to skip the images. Defaults to
            `False`.
        progress: Function of (number done, total number), called after each
            pair. Defaults to `None`.

    Returns:
        A `SplitReport`.

    Raises:
        FileNotFoundError: if the split is missing.
        ValueError: for an invalid argument. What is wrong with the data set
            is reported, not raised.
    """
    if workers is None:
        workers = os.cpu_count() or 1
    must = "must be an integer, at least 1"
    workers = integer("workers", workers, must, least=1)
    # Raises for an unknown or missing split.
    find_splits(dataset, root, [split])
    try:
        pairs, found, _ = search_pairs(dataset, root, split)
    except (ValueError, OSError) as error:
        pairs, found = [], [str(error)]
    problems = [Problem("layout", message) for message in found]
    official = dataset.splits[split].count
    if pairs and official not in (None, len(pairs)):
        problems.append(
            Problem(
                "layout",
                f"{dataset.title}'s split {split!r} has {len(pairs)} pairs "
                f"in {root}. Expected {official}; unpack the download again, "
                "or continue if you mean to use a part of it.",
            )
        )
    totals = _Totals(dataset)
    for done, seen in enumerate(
        _in_threads(
            lambda pair: _inspect_pair(pair, dataset, labels_only),
            pairs,
            workers,
        ),
        start=1,
    ):
        totals.add(*seen)
        if progress:
            progress(done, len(pairs))
    facts = dataset.splits[split]
    place = os.path.join(root, os.path.dirname(facts.label))
    guess = guess_mapping(totals.values, dataset)
    if guess:
        problems.append(Problem("mapping", f"{place}: {guess}"))
    if totals.sizes and not totals.has_labels() and facts.labelled:
        problems.append(
            Problem(
                "values",
                f"{place} has no labelled pixels: all are ignored. Expected "
                "labels of at least one class.",
            )
        )
    return totals.report(split, len(pairs), (*problems, *totals.problems))


def _in_threads(function, items, workers):
    """Yields `function(item)` in order, a few items ahead and no more."""
    items = iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = collections.deque()
        while True:
            ahead = 2 * workers - len(waiting)
            for item in itertools.islice(items, ahead):
                waiting.append(pool.submit(function, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        # Also after Ctrl-C and SIGTERM: items already begun are finished.
        pool.shutdown(cancel_futures=True)


def _inspect_pair(pair, dataset, labels_only):
    """(label's size, pixels by train id, by raw value, `Problem`)."""
    try:
        raw = (
            read_raw_label(pair.label, dataset)
            if labels_only
            else read_raw_pair(pair, dataset)[1]
        )
    except (ValueError, OSError) as error:
        return None, None, {}, Problem("file", str(error), *pair)
    values = _count_values(raw)
    try:
        label = to_train_ids(raw, dataset, pair.label)
    except ValueError as error:
        return None, None, values, Problem("values", str(error), *pair)
    turned = _find_turned(pair, labels_only)
    return label.shape, _count_bytes(label), values, turned


def _find_turned(pair, labels_only):
    """A `Problem` if an image or a label has an EXIF orientation.

    Each is turned by its own. If the mask was drawn over the pixels as they
    are stored, a turn by 90 degrees shows in the size; one by 180 does not.
    """
    turned = [
        f"{path} (EXIF orientation {orientation})"
        for path in pair[labels_only:]
        if (orientation := read_orientation(path)) != 1
    ]
    if not turned:
        return None
    return Problem(
        "orientation",
        f"Rotated on reading (EXIF): {' and '.join(turned)}. Expected "
        "files that are stored upright, so that all programs agree. Check "
        "that the label matches the upright image, and save both upright "
        "(Pillow's ImageOps.exif_transpose, `mogrify -auto-orient`).",
        *pair,
    )


def _count_bytes(array):
    # In pieces: `bincount` turns each byte into eight.
    flat = array.ravel()
    return sum(
        np.bincount(flat[start : start + _PIECE], minlength=256)
        for start in range(0, flat.size, _PIECE)
    )


def _count_values(raw):
    if raw.dtype == np.uint8:
        counts = _count_bytes(raw)
        values = np.flatnonzero(counts)
        return dict(zip(values.tolist(), counts[values].tolist(), strict=True))
    found = zip(*np.unique(raw, return_counts=True), strict=True)
    counter = collections.Counter({int(n): int(count) for n, count in found})
    return dict(counter.most_common(MAX_VALUES))


class _Totals:
    """Sums over the pairs of a split."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.problems = []
        self.sizes = collections.Counter()
        self.values = collections.Counter()
        self.pixels = np.zeros(256, "int64")
        self.images = np.zeros(256, "int64")
        self.image_pixels = np.zeros(256, "int64")

    def add(self, size, pixels, values, problem):
        self.values.update(values)
        if len(self.values) > MAX_VALUES:
            self.values = collections.Counter(
                dict(self.values.most_common(MAX_VALUES))
            )
        if problem:
            self.problems.append(problem)
        # A pair without a size is unusable; one that is turned can be used.
        if size is None:
            return
        self.sizes[size] += 1
        self.pixels += pixels
        self.images += pixels > 0
        self.image_pixels += np.where(pixels > 0, pixels.sum(), 0)

    def has_labels(self):
        return self.pixels[: self.dataset.num_classes].any()

    def report(self, split, num_pairs, problems):
        count = self.dataset.num_classes
        return SplitReport(
            dataset=self.dataset,
            split=split,
            num_pairs=num_pairs,
            problems=problems,
            sizes=dict(self.sizes),
            class_pixels=self.pixels[:count],
            class_images=self.images[:count],
            class_image_pixels=self.image_pixels[:count],
            ignored_pixels=int(self.pixels[IGNORE_LABEL]),
        )
