"""Deterministic weights for the parity cases in this folder.

A parity case stores what a reference PyTorch implementation of DANet computed;
its weights are not stored, they follow from each tensor's name and shape, so a
test can rebuild the whole state dict with NumPy alone.
"""

import zlib

import numpy as np


def tensor(name, shape):
    """Returns the float32 array of `name` and `shape` in every case."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shape = tuple(shape)
    leaf = name.rsplit(".", 1)[-1]
    cam_input = ".conv5c.1." in name or ".cam_in_conv.bn." in name
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf in ("gamma", "scale"):  # the PAM and CAM scalars; never an identity
        sign = -1.0 if ".sc." in name or ".cam." in name else 1.0
        return np.full(shape, sign * rng.uniform(0.4, 0.9), np.float32)
    if leaf == "running_mean":
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if leaf == "running_var":
        return rng.uniform(0.8, 1.25, shape).astype(np.float32)
    if leaf == "bias":
        scale = 0.015 if cam_input else 0.1
        return (scale * rng.standard_normal(shape)).astype(np.float32)
    if len(shape) == 1:  # a batch-norm scale
        value = rng.uniform(0.6, 1.4, shape)
        if ".bn3." in name:  # keeps the residual sums from growing
            value *= 0.3
        if cam_input:  # keeps the channel softmax from being one-hot
            value *= 0.15
        return value.astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    value = rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)
    if "query" in name or "key_" in name:  # keeps the position softmax soft
        value *= 0.35
    return value.astype(np.float32)
