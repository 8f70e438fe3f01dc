"""What the layers compute, in float64 NumPy loops and sums; no Keras.

Feature maps are (batch, height, width, channels).
"""

import colorsys
import math
from fractions import Fraction

import numpy as np
from PIL import Image


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def position_attention(x, query, key, value, gamma):
    """`query`, `key`, `value`: pairs (matrix, bias) of the projections."""
    batch, height, width, channels = x.shape
    output = np.empty_like(x)
    maps = []
    for b in range(batch):
        rows = x[b].reshape(height * width, channels)
        q, k, v = (rows @ m + bias for m, bias in (query, key, value))
        scores = softmax(q @ k.T)
        output[b] = (gamma * (scores @ v) + rows).reshape(x.shape[1:])
        maps.append(scores)
    return output, np.stack(maps)


def attention_gradients(query, key, value, upstream):
    """softmax(query key^T) value, and its gradients by the chain rule."""
    query, key, value, upstream = (
        x.astype("float64") for x in (query, key, value, upstream)
    )
    scores = softmax(query @ key.swapaxes(1, 2))
    grad_scores = upstream @ value.swapaxes(1, 2)
    mean = (scores * grad_scores).sum(axis=-1, keepdims=True)
    grad_energy = scores * (grad_scores - mean)
    return scores @ value, (
        grad_energy @ key,
        grad_energy.swapaxes(1, 2) @ query,
        scores.swapaxes(1, 2) @ upstream,
    )


def channel_attention(x, gamma):
    batch, height, width, channels = x.shape
    output = np.empty_like(x)
    maps = []
    for b in range(batch):
        columns = x[b].reshape(height * width, channels).T
        energy = columns @ columns.T
        scores = softmax(energy.max(axis=1, keepdims=True) - energy)
        attended = gamma * (scores @ columns) + columns
        output[b] = attended.T.reshape(x.shape[1:])
        maps.append(scores)
    return output, np.stack(maps)


def convolution(x, kernel, bias, rate=1):
    """3x3 kernels and their like, stride 1, zeros around the input."""
    height, width = x.shape[1:3]
    reach = [rate * (size // 2) for size in kernel.shape[:2]]
    padded = np.pad(x, ((0, 0), *((r, r) for r in reach), (0, 0)))
    output = np.zeros((*x.shape[:3], kernel.shape[3]))
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            window = padded[:, i * rate :, j * rate :][:, :height, :width]
            output += window @ kernel[i, j].astype("float64")
    return output + bias


def bilinear_resize(x, height, width, align_corners):
    """Pixel by pixel from its four neighbours."""
    batch, source_height, source_width, channels = x.shape
    output = np.empty((batch, height, width, channels))

    def neighbours(index, target, source):
        if align_corners:
            at = index * (source - 1) / (target - 1) if target > 1 else 0.0
        else:
            at = (index + 0.5) * source / target - 0.5
        at = min(max(at, 0.0), source - 1)
        low = int(np.floor(at))
        return low, min(low + 1, source - 1), at - low

    for i in range(height):
        top, bottom, down = neighbours(i, height, source_height)
        for j in range(width):
            left, right, across = neighbours(j, width, source_width)
            upper = x[:, top, left] * (1 - across) + x[:, top, right] * across
            lower = (
                x[:, bottom, left] * (1 - across) + x[:, bottom, right] * across
            )
            output[:, i, j] = upper * (1 - down) + lower * down
    return output


def pixel_crossentropy(labels, logits, ignore_label=255, weights=None):
    """Pixel by pixel, mean over the valid ones."""
    total, count = 0.0, 0
    flat_weights = np.ones(labels.size) if weights is None else weights.ravel()
    flat_logits = logits.reshape(-1, logits.shape[-1])
    for label, row, weight in zip(
        labels.ravel(), flat_logits, flat_weights, strict=True
    ):
        if label == ignore_label:
            continue
        row = row.astype("float64")
        log_sum = np.log(np.exp(row - row.max()).sum()) + row.max()
        total += weight * (log_sum - row[label])
        count += 1
    return total / max(count, 1)


def rows_of(labels, logits, ignore_label=255):
    """Labels, and probabilities of the classes, of the labelled pixels."""
    valid = labels.ravel() != ignore_label
    flat = logits.astype("float64").reshape(-1, logits.shape[-1])
    return labels.ravel()[valid].astype(int), softmax(flat[valid])


def ohem_crossentropy(labels, logits, threshold, min_kept, class_weights=None):
    """Image by image, its pixels from hard to easy."""
    weights = np.ones(logits.shape[-1]) if class_weights is None else None
    weights = np.array(class_weights) if weights is None else weights
    total, divisor = 0.0, 0.0
    for image, its_logits in zip(labels, logits, strict=True):
        classes, scores = rows_of(image, its_logits)
        ranked = sorted(
            (scores[i, c], c) for i, c in enumerate(classes.tolist())
        )
        for place, (score, c) in enumerate(ranked):
            if score < threshold or place < min_kept:
                total -= weights[c] * np.log(score)
                divisor += weights[c]
    return total / divisor if divisor else 0.0


def focal_loss(labels, logits, gamma, class_weights):
    classes, scores = rows_of(labels, logits)
    score = scores[np.arange(len(classes)), classes]
    weights = np.array(class_weights)[classes]
    losses = weights * (1 - score) ** gamma * -np.log(score)
    return losses.sum() / weights.sum() if len(classes) else 0.0


def dice_loss(labels, logits, smooth, only_present=True):
    classes, scores = rows_of(labels, logits)
    losses = []
    for c in range(logits.shape[-1]):
        wanted, given = classes == c, scores[:, c]
        if wanted.any() or not only_present:
            both = (wanted * given).sum()
            size = wanted.sum() + given.sum()
            losses.append(1 - (2 * both + smooth) / (size + smooth))
    return np.mean(losses) if len(classes) else 0.0


def lovasz_softmax(labels, logits, only_present=True):
    """By definition: what the Jaccard loss gains, one wrong pixel at a time."""
    classes, scores = rows_of(labels, logits)

    def jaccard_loss(wanted, wrong):
        union = (wanted | wrong).sum()
        return 1 - (wanted & ~wrong).sum() / union if union else 0.0

    losses = []
    for c in range(logits.shape[-1]):
        wanted = classes == c
        if not wanted.any() and only_present:
            continue
        errors = np.where(wanted, 1 - scores[:, c], scores[:, c])
        wrong = np.zeros(len(classes), bool)
        loss, before = 0.0, 0.0
        for i in np.argsort(-errors, kind="stable"):
            wrong[i] = True
            after = jaccard_loss(wanted, wrong)
            loss += errors[i] * (after - before)
            before = after
        losses.append(loss)
    return np.mean(losses) if losses else 0.0


def confusion_matrix(labels, predictions, num_classes, ignore_label=255):
    matrix = np.zeros((num_classes, num_classes), "int64")
    for label, prediction in zip(
        labels.ravel(), predictions.ravel(), strict=True
    ):
        if label != ignore_label:
            matrix[label, prediction] += 1
    return matrix


def augment(image, label, decisions, augmentation):
    """A plan's decisions on one example, the whole scaled image at a time.

    `image` (height, width, 3) and `label` (height, width), train ids, are
    uint8; `decisions` a `Plan` of numbers. Pillow scales, colorsys colours.
    """
    factor = float(decisions.scale)
    long, short = augmentation.long_side, augmentation.short_side
    if long or short:
        factor *= min(
            long / max(label.shape) if long else math.inf,
            short / min(label.shape) if short else math.inf,
        )
    height, width = (
        max(math.floor(size * factor + 0.5), 1) for size in label.shape
    )
    scaled = np.stack(
        [
            Image.fromarray(channel, "F").resize(
                (width, height), Image.Resampling.BILINEAR
            )
            for channel in np.moveaxis(image, -1, 0).astype("float32")
        ],
        axis=-1,
    )
    # The pixel that holds the centre, in fractions: Pillow's floats round.
    rows, columns = (
        [int(Fraction(2 * k + 1, 2) * size / new) for k in range(new)]
        for size, new in zip(label.shape, (height, width), strict=True)
    )
    scaled_label = label[np.ix_(rows, columns)]
    crop_height, crop_width = augmentation.crop_size
    for crop_y, crop_x in zip(decisions.crop_y, decisions.crop_x, strict=True):
        top = int(float(crop_y) * (max(height - crop_height, 0) + 1))
        left = int(float(crop_x) * (max(width - crop_width, 0) + 1))
        part = np.s_[top : top + crop_height, left : left + crop_width]
        _, counts = np.unique(
            scaled_label[part][scaled_label[part] != 255], return_counts=True
        )
        share = counts.max(initial=0) / max(counts.sum(), 1)
        if share < augmentation.max_class_share or (
            augmentation.max_class_share == 1
        ):
            break
    pixels = _distort(scaled[part].astype("float64"), decisions)
    if decisions.blur:
        pixels = _blur(pixels, float(decisions.blur), augmentation.blur)
    rest = [
        (0, crop_height - pixels.shape[0]),
        (0, crop_width - pixels.shape[1]),
    ]
    padded = np.stack(
        [
            np.pad(channel, rest, constant_values=mean)
            for channel, mean in zip(
                np.moveaxis(pixels, -1, 0), augmentation.mean_pixel, strict=True
            )
        ],
        axis=-1,
    )
    labels = np.pad(scaled_label[part], rest, constant_values=255)
    step = -1 if decisions.flip else 1
    return padded[:, ::step], labels[:, ::step]


def _distort(pixels, decisions):
    def contrast(pixels):
        return np.clip(pixels * float(decisions.contrast), 0, 255)

    pixels = np.clip(pixels + float(decisions.brightness), 0, 255)
    if not decisions.contrast_last:
        pixels = contrast(pixels)
    turned = np.empty_like(pixels)
    for place in np.ndindex(pixels.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*pixels[place])
        h = (h + float(decisions.hue)) % 1
        s = min(s * float(decisions.saturation), 1)
        turned[place] = colorsys.hsv_to_rgb(h, s, v)
    return contrast(turned) if decisions.contrast_last else turned


def _blur(pixels, deviation, greatest):
    radius = math.ceil(3 * greatest)
    taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * deviation**2))
    taps /= taps.sum()
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, [(radius, radius)] * 2 + [(0, 0)], mode="edge")
    result = np.zeros_like(pixels)
    for i, down in enumerate(taps):
        for j, across in enumerate(taps):
            result += down * across * padded[i : i + height, j : j + width]
    return result
