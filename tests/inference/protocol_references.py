"""Three published ways to show a network an image, as plain torch loops.

`network` is a function of a float32 tensor (batch, 3, height, width) of
pixels in 0-255 to logits (batch, num_classes, height, width). Each returns
scores (height, width, num_classes), NumPy.
"""

import math

import numpy as np
import torch
from torch.nn.functional import interpolate
from torch.nn.functional import pad


def to_tensor(image):
    return torch.from_numpy(np.float32(image).transpose(2, 0, 1)[None].copy())


def to_numpy(scores):
    return scores[0].numpy().transpose(1, 2, 0)


def flip(x):
    return torch.flip(x, [3])


def authors(network, image, base, crop, stride, scales=(1.0,)):
    """Windows of `crop` and their mirror images, exponentials."""
    x = to_tensor(image)
    height, width = image.shape[:2]

    def resized(x, size):
        return interpolate(x, size, mode="bilinear", align_corners=True)

    def black_to_crop(x):
        return pad(
            x, (0, max(crop - x.shape[3], 0), 0, max(crop - x.shape[2], 0))
        )

    def both(x):
        logits = network(x).double() + flip(network(flip(x))).double()
        return logits.exp()

    total = 0
    for scale in scales:
        long = math.ceil(base * scale)
        if height > width:
            size = long, int(1.0 * width * long / height + 0.5)
        else:
            size = int(1.0 * height * long / width + 0.5), long
        small = resized(x, size)
        if long <= crop:
            scores = both(black_to_crop(small))
        else:
            small = black_to_crop(small)
            high, wide = small.shape[2:]
            scores, count = 0, 0
            for i in range(math.ceil((high - crop) / stride) + 1):
                for j in range(math.ceil((wide - crop) / stride) + 1):
                    top, left = i * stride, j * stride
                    bottom, right = (
                        min(top + crop, high),
                        min(left + crop, wide),
                    )
                    piece = small[:, :, top:bottom, left:right]
                    found = both(black_to_crop(piece))
                    found = found[:, :, : bottom - top, : right - left]
                    place = (left, wide - right, top, high - bottom)
                    scores = scores + pad(found, place)
                    count = count + pad(torch.ones_like(found), place)
            scores = scores / count
        scores = scores[:, :, : size[0], : size[1]]
        total = total + resized(scores, (height, width))
    return to_numpy(total / total.sum(1, keepdim=True))


def slide(network, x, crop, stride):
    """The mean logits of windows, the last one shifted to the border."""
    _, _, height, width = x.shape
    total, count = 0, torch.zeros(1, 1, height, width)
    for i in range(max(height - crop + stride - 1, 0) // stride + 1):
        for j in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom = min(i * stride + crop, height)
            right = min(j * stride + crop, width)
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            found = network(x[:, :, top:bottom, left:right])
            place = (left, width - right, top, height - bottom)
            total = total + pad(found, place)
            count[:, :, top:bottom, left:right] += 1
    return total / count


def mmsegmentation(
    network, image, limits, scales=(1.0,), mirror=False, crop=None, stride=None
):
    """The mean of softmax over scales and mirror images."""
    x = to_tensor(image)
    height, width = image.shape[:2]
    total, count = 0, 0
    for scale in scales:
        long, short = (int(side * scale) for side in limits)
        factor = min(long / max(height, width), short / min(height, width))
        size = [int(side * factor + 0.5) for side in (height, width)]
        # torch's float32 would be off by 1e-3, which rounding makes a 1.
        small = interpolate(
            x.double(), size, mode="bilinear", align_corners=False
        )
        small = small.round().float()
        for mirrored in (False, True)[: mirror + 1]:
            seen = flip(small) if mirrored else small
            logits = (
                slide(network, seen, crop, stride) if crop else (network(seen))
            )
            logits = interpolate(
                logits,
                (height, width),
                mode="bilinear",
                align_corners=crop is not None,
            )
            scores = logits.softmax(1)
            total = total + (flip(scores) if mirrored else scores)
            count += 1
    return to_numpy(total / count)


def paddleseg(network, image, scales=(1.0,), mirror=False, canvas=None):
    """The mean of softmax; each scale's image is made from the last one's."""
    x = to_tensor(image)
    height, width = image.shape[:2]
    if canvas:
        x = pad(x, (0, canvas[1] - width, 0, canvas[0] - height), value=127.5)
    whole = x.shape[2:]
    total, count = 0, 0
    for scale in scales:
        size = [int(side * scale + 0.5) for side in whole]
        x = interpolate(x, size, mode="bilinear", align_corners=False)
        for mirrored in (False, True)[: mirror + 1]:
            logits = network(flip(x) if mirrored else x)
            logits = flip(logits) if mirrored else logits
            logits = interpolate(
                logits, whole, mode="bilinear", align_corners=False
            )
            total = total + logits.softmax(1)
            count += 1
    return to_numpy(total / count)[:height, :width]
