"""What is measured: rows of contestants, each row run in turn.

A row's key is also how it is asked for: `--rows forward-r50` takes every key
that begins so.
"""

import dataclasses

GIB = 2**30

# Backend and arguments, as users meet them; `fit` and `predict` compile with
# XLA on TensorFlow unless told otherwise.
BACKENDS = {
    "TensorFlow": ("tensorflow", {"jit": False}),
    "TensorFlow, XLA": ("tensorflow", {"jit": True}),
    "JAX": ("jax", {"jit": True}),
    "torch": ("torch", {"jit": False}),
}
MAPS = ((32, 64), (48, 96), (64, 128), (96, 192), (128, 256))
SMOKE_MAPS = ((4, 8), (6, 12), (8, 16), (12, 24), (16, 32))
FORWARD, BACKWARD = "forward", "forward + backward"

DENSE = "PyTorch, dense"
PRODUCTS = "matrix products"
EAGER = "MMSegmentation, eager"
AUTOCAST = "MMSegmentation, bfloat16 autocast"


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One line of a table, measured in a process of its own.

    Args:
        name: string, the line's name.
        build: "module:function" that returns the call to be timed.
        arguments: dict, its keyword arguments.
        backend: Keras's backend, `None` where Keras takes no part.
        needs: integer, bytes that a call is known to take. It is not run
            where they are more than 60 % of what is free, and runs alone.
    """

    name: str
    build: str
    arguments: dict
    backend: str | None = None
    needs: int = 0

    @property
    def ours(self):
        return self.name.startswith("keras_danet")


@dataclasses.dataclass(frozen=True)
class Row:
    """Contestants measured in turn, and whom their times are divided by.

    Args:
        key: string, unique.
        title: string.
        contestants: list of `Contestant`.
        references: dict of a ratio's name to the beginning of the names of
            the contestants of which the fastest is its reference.
        note: string, what a reader must know.
        gpu: boolean, whether the row is for an accelerator.
    """

    key: str
    title: str
    contestants: list
    references: dict
    note: str = ""
    gpu: bool = False


def ours(build, backends=tuple(BACKENDS), suffix="", **arguments):
    return [
        Contestant(
            f"keras_danet, {name}{suffix}",
            f"ours:{build}",
            {**arguments, **BACKENDS[name][1]},
            BACKENDS[name][0],
        )
        for name in backends
    ]


def peer(name, build, backend=None, needs=0, **arguments):
    return Contestant(name, build, arguments, backend, needs)


def dense_attention(height, width, backward):
    """The peer with N x N maps: two of them forward, four backward."""
    maps = (4 if backward else 2) * 4 * (height * width) ** 2
    return peer(
        DENSE,
        "peers:attention",
        # Small ones take their turn with the others.
        needs=maps if maps > GIB * 4 else 0,
        height=height,
        width=width,
        backward=backward,
    )


def attention_row(name, height, width, backward):
    size = {"height": height, "width": width}
    contestants = [
        dense_attention(height, width, backward),
        peer(
            "PyTorch, scaled_dot_product_attention, 8 heads",
            "peers:attention",
            fused=True,
            backward=backward,
            **size,
        ),
        *ours("attention", backward=backward, **size),
    ]
    references = {"dense": DENSE}
    kind = BACKWARD if backward else FORWARD
    if not backward:
        contestants += [
            peer(f"{PRODUCTS}, {library}", f"peers:products_{module}", **size)
            for library, module in (
                ("PyTorch", "torch"),
                ("JAX", "jax"),
                ("TensorFlow", "tensorflow"),
            )
        ]
        references["fastest products"] = PRODUCTS
    return Row(
        f"attention-{name}-{kind.replace(' + ', '-')}",
        f"Position attention, {height}x{width}x512, {kind}, float32",
        contestants,
        references,
        "Matrix products: as many operations as position attention has, in "
        "blocks of 256 queries, without softmax."
        if not backward
        else "",
    )


def attention_rows(smoke):
    small, large = ((6, 7), (12, 16)) if smoke else ((97, 97), (128, 256))
    return [
        attention_row("97x97", *small, backward=False),
        attention_row("128x256", *large, backward=False),
        attention_row("97x97", *small, backward=True),
    ]


def forward_row(depth, name, network):
    """The whole network in float32, beside everybody."""
    size = f"{network['height']}x{network['width']}"
    return Row(
        f"forward-{name}-float32",
        f"DANet-ResNet{depth}, one image of {size}, float32",
        [
            peer(EAGER, "peers:forward", **network),
            peer(
                "MMSegmentation, channels_last",
                "peers:forward",
                channels_last=True,
                **network,
            ),
            peer(
                "MMSegmentation, torch.compile",
                "peers:forward",
                compiled=True,
                **network,
            ),
            peer(
                "MMSegmentation, channels_last, torch.compile",
                "peers:forward",
                channels_last=True,
                compiled=True,
                **network,
            ),
            *ours("forward", **network),
            *ours("forward", suffix=", folded", folded=True, **network),
            peer(
                "keras_danet, ONNX Runtime",
                "exports:onnx_runtime",
                backend="torch",
                **network,
            ),
            peer(
                "keras_danet, OpenVINO",
                "exports:openvino",
                backend="torch",
                precision="f32",
                **network,
            ),
        ],
        {"eager": EAGER, "MMSegmentation's best": "MMSegmentation"},
    )


def bfloat16_row(depth, name, network):
    size = f"{network['height']}x{network['width']}"
    half = {**network, "dtype": "mixed_bfloat16"}
    return Row(
        f"forward-{name}-bfloat16",
        f"DANet-ResNet{depth}, one image of {size}, bfloat16",
        [
            peer(EAGER + ", float32", "peers:forward", **network),
            peer(AUTOCAST, "peers:forward", bfloat16=True, **network),
            peer(
                AUTOCAST + ", channels_last, torch.compile",
                "peers:forward",
                bfloat16=True,
                channels_last=True,
                compiled=True,
                **network,
            ),
            *ours("forward", **half),
            *ours("forward", suffix=", folded", folded=True, **half),
            peer(
                "keras_danet, OpenVINO",
                "exports:openvino",
                backend="torch",
                precision="bf16",
                **network,
            ),
        ],
        {"eager float32": EAGER, "autocast": AUTOCAST, "best": AUTOCAST},
    )


def scale_row(network):
    """What else a Keras user could take."""
    size = {key: network[key] for key in ("height", "width")}
    return Row(
        "forward-scale",
        f"Other networks of Keras, one image of {size['height']}x"
        f"{size['width']}, float32, TensorFlow with XLA",
        [
            *ours("forward", ("TensorFlow, XLA",), **network),
            peer(
                "keras-hub DeepLabV3+, ResNet50, stride 32",
                "peers:deeplab",
                "tensorflow",
                jit=True,
                **size,
            ),
            *(
                peer(
                    f"keras-hub SegFormer-{variant.upper()}",
                    "peers:segformer",
                    "tensorflow",
                    variant=variant,
                    jit=True,
                    **size,
                )
                for variant in ("b0", "b2")
            ),
        ],
        {"DANet": "keras_danet"},
        "keras-hub's ResNets have no dilation (DANet's stride is 8), and its "
        "SegFormer takes square images only: here of about as many pixels.",
    )


def whole_image_row(depth, name, network):
    positions = network["height"] * network["width"] // 64
    size = f"{network['height']}x{network['width']}"
    return Row(
        f"forward-{name}-float32",
        f"DANet-ResNet{depth}, a whole image of {size}, float32",
        [
            peer(
                EAGER,
                "peers:forward",
                needs=2 * 4 * positions**2 + GIB,
                **network,
            ),
            *ours("forward", **network),
            *ours("forward", suffix=", folded", folded=True, **network),
        ],
        {"eager": EAGER},
    )


def forward_rows(smoke):
    rows = []
    crop = (
        {"height": 64, "width": 128}
        if smoke
        else {
            "height": 512,
            "width": 1024,
        }
    )
    whole = {side: 2 * length for side, length in crop.items()}
    for depth in (50, 101):
        network = {"depth": 18 if smoke else depth}
        name = f"r{depth}-512x1024"
        rows += [
            forward_row(depth, name, network | crop),
            bfloat16_row(depth, name, network | crop),
            whole_image_row(depth, f"r{depth}-1024x2048", network | whole),
        ]
    return [*rows, scale_row({"depth": 18 if smoke else 50, **crop})]


def training_rows(smoke):
    step = {
        "depth": 18 if smoke else 50,
        "height": 64 if smoke else 256,
        "width": 64 if smoke else 256,
        "batch": 2,
    }
    return [
        Row(
            "training-r50-256x256",
            f"A training step of DANet-ResNet50, {step['height']}x"
            f"{step['width']}, batch 2, float32",
            [
                peer(EAGER, "peers:training", **step),
                *ours("training", **step),
            ],
            {"eager": EAGER},
            "Three losses, their gradients, SGD with momentum, and accuracy "
            "(MMSegmentation) or mean IoU.",
        )
    ]


def growth_rows(smoke):
    """Position attention as the map grows; a plot and a table of their own."""
    rows = []
    for kind in (FORWARD, BACKWARD):
        for (height, width), shown in zip(
            SMOKE_MAPS if smoke else MAPS, MAPS, strict=True
        ):
            backward = kind == BACKWARD
            size = {"height": height, "width": width}
            rows.append(
                Row(
                    f"growth-{kind.replace(' + ', '-')}-{shown[0]}x{shown[1]}",
                    f"{height}x{width}",
                    [
                        dense_attention(height, width, backward),
                        *ours("attention", backward=backward, **size),
                    ],
                    {"dense": DENSE},
                )
            )
    return rows


def gpu_rows(smoke):
    """In bfloat16, on the accelerator that JAX and torch find."""
    depth = 18 if smoke else 101
    whole = (
        {"height": 128, "width": 256}
        if smoke
        else {
            "height": 1024,
            "width": 2048,
        }
    )
    crop = {side: length // 2 for side, length in whole.items()}
    large = {side: length // 8 for side, length in whole.items()}
    backends, half = ("JAX", "torch"), {"dtype": "mixed_bfloat16"}
    eager = EAGER + ", bfloat16 autocast"
    step = {"depth": 18 if smoke else 50, "batch": 2, **crop}
    return [
        Row(
            "gpu-attention-128x256",
            "Position attention, 128x256x512, forward, bfloat16",
            [
                peer(DENSE, "peers:attention", bfloat16=True, **large),
                peer(
                    "PyTorch, scaled_dot_product_attention, 8 heads",
                    "peers:attention",
                    fused=True,
                    bfloat16=True,
                    **large,
                ),
                *ours("attention", backends, **large, **half),
            ],
            {"dense": DENSE},
            gpu=True,
        ),
        Row(
            "gpu-forward-r101-1024x2048",
            "DANet-ResNet101, a whole image of 1024x2048, bfloat16",
            [
                peer(
                    eager, "peers:forward", depth=depth, bfloat16=True, **whole
                ),
                *ours("forward", backends, depth=depth, **whole, **half),
                *ours(
                    "forward",
                    backends,
                    ", folded",
                    folded=True,
                    depth=depth,
                    **whole,
                    **half,
                ),
            ],
            {"eager": EAGER},
            gpu=True,
        ),
        Row(
            "gpu-training-r50-512x1024",
            "A training step of DANet-ResNet50, 512x1024, batch 2, bfloat16",
            [
                peer(eager, "peers:training", bfloat16=True, **step),
                *ours("training", backends, **step, **half),
            ],
            {"eager": EAGER},
            gpu=True,
        ),
    ]


def all_rows(smoke=False):
    return [
        *attention_rows(smoke),
        *forward_rows(smoke),
        *training_rows(smoke),
        *growth_rows(smoke),
        *gpu_rows(smoke),
    ]
