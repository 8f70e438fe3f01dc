"""Images of a data set, with their labels."""

import numpy as np

from keras_danet.data.decoding import read_pair
from keras_danet.data.files import find_pairs
from keras_danet.export.verification import Sample


def read_samples(dataset, root, split, count):
    """Images of a split, evenly spread over it.

    Args:
        dataset: `Dataset`.
        root: path of its folder.
        split: string.
        count: integer, how many at most.

    Returns:
        List of `Sample`.
    """
    pairs = find_pairs(dataset, root, split)
    chosen = np.linspace(0, len(pairs) - 1, min(count, len(pairs)))
    return [
        Sample(*read_pair(pairs[index], dataset))
        for index in np.round(chosen).astype(int)
    ]
