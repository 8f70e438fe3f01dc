"""Weights of classes for the loss, from how often they occur.

Each method turns a `SplitReport`, in which at least one class occurs, into a
float64 array (num_classes,).
"""

import numpy as np

# ENet's, with which weights are between 1.4 and 50.5.
_ENET_OFFSET = 1.02


def median_frequency_weights(report):
    """Weights with which classes count as much as the median one.

    `median(f) / f`, where `f` is a class's pixels divided by all pixels of the
    images in which it occurs; 1 for a class that never occurs.

    Reference:
        Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic
        Labels" (ICCV 2015), section 6.3.2; SegNet trains with it.
    """
    seen = report.class_pixels > 0
    frequency = report.class_pixels[seen] / report.class_image_pixels[seen]
    weights = np.ones(len(seen))
    weights[seen] = np.median(frequency) / frequency
    return weights


def enet_weights(report):
    """Weights that fall with the logarithm of a class's share.

    `1 / log(1.02 + p)`, where `p` is a class's share of the labelled pixels.

    Reference:
        Paszke et al., "ENet" (arXiv:1606.02147), section 5.2.
    """
    share = report.class_pixels / max(report.class_pixels.sum(), 1)
    return 1 / np.log(_ENET_OFFSET + share)


def inverse_weights(report):
    """Weights with which every class counts the same over the whole split.

    `pixels / (classes * pixels of the class)`, over labelled pixels and the
    classes that occur, as scikit-learn's "balanced"; 1 for one that does not.
    """
    seen = report.class_pixels > 0
    pixels = report.class_pixels[seen]
    weights = np.ones(len(seen))
    weights[seen] = pixels.sum() / (len(pixels) * pixels)
    return weights


METHODS = {
    "median-frequency": median_frequency_weights,
    "enet": enet_weights,
    "inverse": inverse_weights,
}
