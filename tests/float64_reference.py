"""DANet and its training in plain PyTorch, float64: no Keras, none of ours.

Weights are a dict of our variables' paths to float64 arrays, which say what
there is: kernels are (height, width, in, out). Images are (batch, height,
width, 3).
"""

import numpy as np
import torch
from torch.nn import functional

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Network:
    """One forward pass; keeps the batch statistics that it sees.

    Args:
        weights: dict of path to float64 tensor.
        depth: 18 or 50, at output stride 8.
        multi_grid: rates of the last stage's blocks, or None.
        training: boolean, whether batch norms take the batch's statistics.
    """

    def __init__(self, weights, depth, multi_grid=None, training=True):
        self.weights = weights
        self.depth = depth
        self.multi_grid = multi_grid
        self.training = training
        self.moved = {}

    def __call__(self, images, align_corners=True):
        """(what is inside by name, logits by name), channels first."""
        mean, std = (
            torch.tensor(x, dtype=torch.float64)[:, None, None]
            for x in (MEAN, STD)
        )
        x = (torch.tensor(images).double().permute(0, 3, 1, 2) - mean) / std
        inside = {"normalization": x}
        x = self.stem(x)
        for index, (blocks, stride, rate, before) in enumerate(
            zip(
                BLOCKS[self.depth],
                (1, 2, 1, 1),
                (1, 1, 2, 4),
                (1, 1, 1, 2),
                strict=True,
            )
        ):
            for block in range(blocks):
                rates = (before if block == 0 else rate, rate)
                if index == 3 and self.multi_grid:
                    rates = (self.multi_grid[block % len(self.multi_grid)],) * 2
                name = f"stage{index + 1}_block{block}"
                x = self.block(x, name, stride if block == 0 else 1, rates)
            inside[f"stage{index + 1}"] = x
        branches = {}
        for kind, attend in (
            ("position", self.position),
            ("channel", self.channel),
        ):
            y = self.unit(x, f"{kind}_in", padding=1)
            branches[kind] = self.unit(attend(y), f"{kind}_out", padding=1)
        classified = {"fusion": sum(branches.values()), **branches}
        if "auxiliary_in/kernel" in self.weights:
            classified["auxiliary"] = self.unit(
                inside["stage3"], "auxiliary_in", padding=1
            )
        logits = {
            name: functional.interpolate(
                self.convolution(y, f"{name}_classifier"),
                images.shape[1:3],
                mode="bilinear",
                align_corners=align_corners,
            )
            for name, y in classified.items()
        }
        return inside, logits

    def convolution(self, x, name, **options):
        kernel = self.weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        return functional.conv2d(
            x, kernel, self.weights.get(f"{name}/bias"), **options
        )

    def unit(self, x, name, relu=True, **options):
        """Convolution, batch norm by its definition, ReLU."""
        x = self.convolution(x, name, **options)
        norm = f"{name}_bn"
        if self.training:
            mean = x.mean((0, 2, 3))
            variance = x.var((0, 2, 3), unbiased=False)
            for statistic, seen in (("mean", mean), ("variance", variance)):
                path = f"{norm}/moving_{statistic}"
                old = self.weights[path]
                self.moved[path] = (0.9 * old + 0.1 * seen).detach()
        else:
            mean, variance = (
                self.weights[f"{norm}/moving_{statistic}"]
                for statistic in ("mean", "variance")
            )
        gamma, beta = (self.weights[f"{norm}/{x}"] for x in ("gamma", "beta"))
        scale = gamma / torch.sqrt(variance + 1e-5)
        x = (x - mean[:, None, None]) * scale[:, None, None]
        x = x + beta[:, None, None]
        return x.relu() if relu else x

    def stem(self, x):
        if "stem_conv2/kernel" in self.weights:
            for index in range(3):
                stride = 2 if index == 0 else 1
                name = f"stem_conv{index + 1}"
                x = self.unit(x, name, stride=stride, padding=1)
        else:
            x = self.unit(x, "stem_conv1", stride=2, padding=3)
        return functional.max_pool2d(x, 3, stride=2, padding=1)

    def block(self, x, name, stride, rates):
        residual = x
        if f"{name}_shortcut/kernel" in self.weights:
            residual = self.unit(
                x, f"{name}_shortcut", relu=False, stride=stride
            )
        first = {"stride": stride, "dilation": rates[0], "padding": rates[0]}
        if self.depth < 50:
            x = self.unit(x, f"{name}_conv1", **first)
            x = self.unit(
                *(x, f"{name}_conv2", False),
                dilation=rates[1],
                padding=rates[1],
            )
        else:
            x = self.unit(x, f"{name}_conv1")
            x = self.unit(x, f"{name}_conv2", **first)
            x = self.unit(x, f"{name}_conv3", relu=False)
        return (x + residual).relu()

    def position(self, x):
        query, key, value = (
            self.convolution(x, f"position_attention/{part}").flatten(2)
            for part in ("query", "key", "value")
        )
        scores = (query.transpose(1, 2) @ key).softmax(-1)
        attended = (value @ scores.transpose(1, 2)).reshape(x.shape)
        return self.weights["position_attention/gamma"] * attended + x

    def channel(self, x):
        rows = x.flatten(2)
        energy = rows @ rows.transpose(1, 2)
        energy = energy.amax(-1, keepdim=True) - energy
        attended = (energy.softmax(-1) @ rows).reshape(x.shape)
        return self.weights["channel_attention/gamma"] * attended + x


def loss_of(logits, labels):
    """Mean cross-entropy of the labelled pixels, 0.4 of the auxiliary one."""
    labels = torch.tensor(labels.astype("int64"))
    return sum(
        (0.4 if name == "auxiliary" else 1.0)
        * functional.cross_entropy(x, labels, ignore_index=255)
        for name, x in logits.items()
    )


def train(weights, batches, trainable, total_steps=10, **network):
    """The paper's SGD: momentum 0.9, decay 1e-4, poly schedule from 0.01.

    Args:
        weights: dict of path to array.
        batches: list of (images, labels).
        trainable: paths of what is trained.

    Returns:
        (losses, gradients of the first step, weights after the last one),
        the latter two dicts of path to array.
    """
    weights = {k: torch.tensor(v).double() for k, v in weights.items()}
    velocities, losses, first = dict.fromkeys(trainable, 0.0), [], None
    for step, (images, labels) in enumerate(batches):
        for path in trainable:
            weights[path] = weights[path].detach().requires_grad_()
        net = Network(weights, **network)
        loss = loss_of(net(images)[1], labels)
        gradients = torch.autograd.grad(loss, [weights[k] for k in trainable])
        gradients = dict(zip(trainable, gradients, strict=True))
        first = first or {k: g.numpy() for k, g in gradients.items()}
        losses.append(loss.item())
        rate = 0.01 * (1 - step / total_steps) ** 0.9
        with torch.no_grad():
            for path, gradient in gradients.items():
                gradient = gradient + 1e-4 * weights[path]
                velocities[path] = 0.9 * velocities[path] + gradient
                weights[path] = weights[path] - rate * velocities[path]
        weights |= net.moved
    return losses, first, {k: v.detach().numpy() for k, v in weights.items()}


def distance(received, expected):
    """The difference's norm, of the expected tensor's norm."""
    received, expected = (
        np.asarray(x, "float64") for x in (received, expected)
    )
    norm = np.linalg.norm(expected)
    return np.linalg.norm(received - expected) / (norm or 1.0)
