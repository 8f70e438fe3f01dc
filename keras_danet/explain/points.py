"""Points of an image that are worth looking at, chosen by a rule."""

import numpy as np

RULE = (
    "The first point lies deepest inside what position attention changes, if "
    "it changes anything; the others deepest inside each class, the classes "
    "with most pixels first."
)


def deepest_point(mask: np.ndarray) -> tuple[int, int] | None:
    """(row, column) that is farthest from what is not in a mask, or `None`.

    The distance counts steps in all eight directions; what is outside of the
    image is not in the mask. Of several points, the first one row by row.

    >>> from keras_danet.explain.points import deepest_point
    >>> deepest_point(np.pad(np.ones((3, 3), bool), ((0, 2), (4, 0))))
    (1, 5)
    """
    mask = np.asarray(mask, bool)
    if not mask.any():
        return None
    # The largest square of pixels that are all in the mask, by the sums over
    # rectangles that begin at the top left.
    sums = np.pad(mask.cumsum(0, "int64").cumsum(1), ((1, 0), (1, 0)))
    low, high = 0, (min(mask.shape) - 1) // 2
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high)
            if _centres(sums, middle).any()
            else (low, middle - 1)
        )
    row, column = np.argwhere(_centres(sums, low))[0].tolist()
    return row + low, column + low


def _centres(sums, radius):
    """Where a square of `2 * radius + 1` is full; the first is at `radius`."""
    side = 2 * radius + 1
    inside = (
        sums[side:, side:]
        - sums[:-side, side:]
        - sums[side:, :-side]
        + sums[:-side, :-side]
    )
    return inside == side**2


def classes_by_size(label: np.ndarray) -> list[int]:
    """The classes in a label map, those with most pixels first."""
    classes, sizes = np.unique(label, return_counts=True)
    return classes[np.argsort(-sizes, kind="stable")].tolist()


def choose_points(
    label: np.ndarray, changed: np.ndarray, count: int
) -> list[tuple[int, int]]:
    """Up to `count` points of an image, by `RULE`.

    Args:
        label: integer array `(height, width)`, its classes.
        changed: boolean array of the same shape, the pixels that position
            attention gives another class.
        count: integer, how many at most.

    Returns:
        List of different (row, column).
    """
    masks = [changed] + [label == k for k in classes_by_size(label)]
    points = map(deepest_point, masks)
    return list(dict.fromkeys(filter(None, points)))[:count]
