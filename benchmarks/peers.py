"""What others enter: each function returns a call to be timed.

Weights are random and nothing is downloaded: what is measured is time and
memory, not accuracy.
"""

import contextlib
import math
import sys
import types

import numpy as np
import torch
from torch import nn
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CHANNELS = 512
DEPTH = 64
# Rows of the scores that plain products make at a time: 32 MiB at 128x256.
BLOCK = 256


def finished(result):
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return result


# ---- Position attention alone -----------------------------------------------


class DensePositionAttention(nn.Module):
    """Position attention as the authors wrote it, with its N x N maps."""

    def __init__(self):
        super().__init__()
        self.query = nn.Conv2d(CHANNELS, DEPTH, 1)
        self.key = nn.Conv2d(CHANNELS, DEPTH, 1)
        self.value = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.gamma = nn.Parameter(torch.full((1,), 0.5))

    def attended(self, query, key, value):
        """All (batch, channels, positions)."""
        energy = torch.bmm(query.permute(0, 2, 1), key)
        scores = torch.softmax(energy, -1)
        return torch.bmm(value, scores.permute(0, 2, 1))

    def forward(self, x):
        query, key, value = (
            projection(x).flatten(2)
            for projection in (self.query, self.key, self.value)
        )
        return self.gamma * self.attended(query, key, value).view_as(x) + x


class FusedPositionAttention(DensePositionAttention):
    """The same by `scaled_dot_product_attention`, values as 8 heads.

    Its kernels want values as deep as queries; every head has the same scores.
    """

    def attended(self, query, key, value):
        batch, _, positions = query.shape
        heads = CHANNELS // DEPTH
        # Contiguous: of others PyTorch would compute the whole maps.
        query, key = (
            x.transpose(1, 2).contiguous()[:, None].expand(-1, heads, -1, -1)
            for x in (query, key)
        )
        value = value.view(batch, heads, DEPTH, positions).transpose(2, 3)
        value = value.contiguous()
        rows = functional.scaled_dot_product_attention(
            query, key, value, scale=1.0
        )
        return rows.transpose(2, 3).reshape(batch, CHANNELS, positions)


def attention(height, width, backward=False, fused=False, bfloat16=False):
    module = FusedPositionAttention() if fused else DensePositionAttention()
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    module = module.to(DEVICE, dtype)
    x = torch.randn(1, CHANNELS, height, width, device=DEVICE, dtype=dtype)
    if not backward:

        @torch.no_grad()
        def call():
            return finished(module(x))

        return call

    upstream = torch.randn_like(x)
    wanted = [x.requires_grad_(), *module.parameters()]
    return lambda: finished(torch.autograd.grad(module(x), wanted, upstream))


# ---- Matrix products with as many operations as position attention ----------


def product_matrices(positions):
    """Features, and the kernels of query, key and value."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((positions, CHANNELS), "float32"), [
        rng.standard_normal((CHANNELS, depth), "float32") / CHANNELS
        for depth in (DEPTH, DEPTH, CHANNELS)
    ]


def products_torch(height, width):
    features, kernels = product_matrices(height * width)
    features = torch.from_numpy(features)
    kernels = [torch.from_numpy(kernel) for kernel in kernels]
    scores = torch.empty(BLOCK, len(features))
    output = torch.empty_like(features)

    def call():
        query, key, value = (features @ kernel for kernel in kernels)
        for rows, out in zip(
            query.split(BLOCK), output.split(BLOCK), strict=True
        ):
            part = torch.mm(rows, key.T, out=scores[: len(rows)])
            torch.mm(part, value, out=out)

    return call


def products_jax(height, width):
    import jax

    @jax.jit
    def products(features, kernels):
        query, key, value = (features @ kernel for kernel in kernels)
        return jax.lax.map(
            lambda row: (row @ key.T) @ value, query, batch_size=BLOCK
        )

    matrices = jax.device_put(product_matrices(height * width))
    return lambda: jax.block_until_ready(products(*matrices))


def products_tensorflow(height, width):
    import tensorflow as tf

    @tf.function
    def products(features, kernels):
        query, key, value = (features @ kernel for kernel in kernels)
        padded = tf.pad(query, [[0, -len(features) % BLOCK], [0, 0]])
        return tf.map_fn(
            lambda rows: tf.matmul(rows, key, transpose_b=True) @ value,
            tf.reshape(padded, (-1, BLOCK, DEPTH)),
            parallel_iterations=1,
        )

    features, kernels = product_matrices(height * width)
    features = tf.constant(features)
    kernels = [tf.constant(kernel) for kernel in kernels]
    return lambda: products(features, kernels)


# ---- MMSegmentation's DANet -------------------------------------------------


def import_mmseg():
    """Imports MMSegmentation, whose other models import compiled operators.

    mmcv-lite has none of them, and DANet calls none: empty stand-ins will do.
    """
    operators = types.ModuleType("mmcv.ops")
    for name in (
        "CrissCrossAttention",
        "PSAMask",
        "point_sample",
        "sigmoid_focal_loss",
    ):
        setattr(operators, name, None)
    sys.modules["mmcv.ops"] = operators
    import mmseg.models  # registers them

    return mmseg


def danet(depth):
    """configs/_base_/models/danet_r50-d8.py, without its FCN on stage 3.

    That is not part of the paper's network and takes no part in prediction.
    """
    import_mmseg()
    from mmseg.registry import MODELS

    features = 512 if depth < 50 else 2048
    norm = {"type": "BN", "requires_grad": True}  # SyncBN on several GPUs
    model = MODELS.build(
        {
            "type": "EncoderDecoder",
            "data_preprocessor": None,
            "backbone": {
                "type": "ResNetV1c",
                "depth": depth,
                "num_stages": 4,
                "out_indices": (0, 1, 2, 3),
                "dilations": (1, 1, 2, 4),
                "strides": (1, 2, 1, 1),
                "norm_cfg": norm,
                "norm_eval": False,
                "style": "pytorch",
                "contract_dilation": True,
            },
            "decode_head": {
                "type": "DAHead",
                "in_channels": features,
                "in_index": 3,
                "channels": features // 4,
                "pam_channels": features // 32,
                "dropout_ratio": 0.1,
                "num_classes": 19,
                "norm_cfg": norm,
                "align_corners": False,
                "loss_decode": {"type": "CrossEntropyLoss"},
            },
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
        }
    )
    # Where the scores would all be scaled by 0.
    nn.init.constant_(model.decode_head.pam.gamma.scale, 0.5)
    nn.init.constant_(model.decode_head.cam.gamma.scale, 0.5)
    return model.to(DEVICE)


def autocast(bfloat16):
    if not bfloat16:
        return contextlib.nullcontext()
    return torch.autocast(DEVICE, torch.bfloat16)


def forward(
    depth,
    height,
    width,
    channels_last=False,
    compiled=False,
    frozen=False,
    bfloat16=False,
):
    """From a normalised image to logits of its size.

    `frozen` lets the compiler take weights for constants: it folds batch norms
    and lays kernels out as it likes them.
    """
    model = danet(depth).eval()
    images = torch.randn(1, 3, height, width, device=DEVICE)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    metas = [{"img_shape": (height, width)}]

    def logits(images):
        return model.encode_decode(images, metas)

    if compiled:
        from torch._inductor import config

        # Not an option of `torch.compile`: the tracer reads it, too.
        config.freezing = frozen
        logits = torch.compile(logits)

    @torch.no_grad()
    def call():
        with autocast(bfloat16):
            return finished(logits(images))

    return call


def training(depth, height, width, batch, bfloat16=False):
    """A step: three losses, their gradients, SGD with momentum, accuracy."""
    model = danet(depth).train()
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    images = torch.randn(batch, 3, height, width, device=DEVICE)
    samples = []
    for _ in range(batch):
        label = torch.randint(0, 19, (1, height, width), device=DEVICE)
        sample = SegDataSample(metainfo={"img_shape": (height, width)})
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
    )

    def call():
        optimizer.zero_grad()
        with autocast(bfloat16):
            losses = model.loss(images, samples)
        loss, _ = model.parse_losses(losses)
        loss.backward()
        optimizer.step()
        finished(loss.item())

    return call


# ---- Other networks, for scale ----------------------------------------------

# The widths and depths of the MiT encoders (Xie et al. 2021, table 6).
MIT_DEPTHS = {"b0": (2, 2, 2, 2), "b2": (3, 4, 6, 3)}
MIT_WIDTHS = {"b0": (32, 64, 160, 256), "b2": (64, 128, 320, 512)}


def deeplab(height, width, jit):
    """keras-hub's DeepLabV3+ on ResNet-50, as its one preset is made.

    Its ResNets have no dilation: the last stage is 32 times smaller.
    """
    from keras_hub import models

    encoder = models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
        image_shape=(height, width, 3),
    )
    backbone = models.DeepLabV3Backbone(
        encoder,
        spatial_pyramid_pooling_key="P5",
        low_level_feature_key="P2",
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
        image_shape=(height, width, 3),
    )
    return hub_call(models.DeepLabV3ImageSegmenter(backbone, 19), jit)


def segformer(variant, height, width, jit):
    """keras-hub's, which takes square images: one of about as many pixels."""
    from keras_hub import models

    side = 32 * round(math.sqrt(height * width) / 32)
    encoder = models.MiTBackbone(
        num_layers=4,
        layerwise_depths=MIT_DEPTHS[variant],
        hidden_dims=MIT_WIDTHS[variant],
        layerwise_num_heads=(1, 2, 5, 8),
        layerwise_sr_ratios=(8, 4, 2, 1),
        layerwise_patch_sizes=(7, 3, 3, 3),
        layerwise_strides=(4, 2, 2, 2),
        max_drop_path_rate=0.1,
        image_shape=(side, side, 3),
    )
    filters = 256 if variant == "b0" else 768
    backbone = models.SegFormerBackbone(encoder, projection_filters=filters)
    return hub_call(models.SegFormerImageSegmenter(backbone, 19), jit)


def hub_call(model, jit):
    from ours import forward_call

    images = np.random.default_rng(0).uniform(0, 1, (1, *model.input_shape[1:]))
    return forward_call(model, images.astype("float32"), jit)
