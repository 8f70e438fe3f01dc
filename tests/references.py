"""What the layers compute, in float64 NumPy loops and sums; no Keras.

Feature maps are (batch, height, width, channels).
"""

import numpy as np


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


def confusion_matrix(labels, predictions, num_classes, ignore_label=255):
    matrix = np.zeros((num_classes, num_classes), "int64")
    for label, prediction in zip(
        labels.ravel(), predictions.ravel(), strict=True
    ):
        if label != ignore_label:
            matrix[label, prediction] += 1
    return matrix
