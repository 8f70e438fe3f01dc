"""Images of a data set, with their labels, as a network sees them."""

import numpy as np

from keras_danet.data.decoding import read_pair
from keras_danet.data.files import find_pairs
from keras_danet.data.resampling import resize_image
from keras_danet.data.resampling import scaled_size
from keras_danet.export.verification import Sample


def read_samples(dataset, root, split, sides, count):
    """The first images of a split, evenly spread over it.

    Args:
        dataset: `Dataset`.
        root: path of its folder.
        split: string.
        sides: (long, short) side that images are resized to, each `None` for
            their own.
        count: integer, how many at most.

    Returns:
        List of `Sample`.
    """
    pairs = find_pairs(dataset, root, split)
    chosen = np.linspace(0, len(pairs) - 1, min(count, len(pairs)))
    return [
        _sized(*read_pair(pairs[index], dataset), sides)
        for index in np.round(chosen).astype(int)
    ]


def _sized(image, label, sides):
    size = scaled_size(image.shape[:2], *sides)
    # The pixel in the middle of which each new one's middle lies.
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, label.shape, strict=True)
    )
    image = np.round(resize_image(image, size)).astype("uint8")
    return Sample(image, label[rows][:, columns])
