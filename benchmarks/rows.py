"""What is measured: rows of contestants, each row run in turn.

A row's key is also how it is asked for: `--rows forward-r50` takes every key
that begins so.
"""

import dataclasses

GIB = 2**30

# Keras's backend and what is asked of it. Both ways of TensorFlow: on a CPU
# Keras takes XLA only when it is told to.
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
EAGER = "MMSegmentation, eager"
AUTOCAST = f"{EAGER}, bfloat16 autocast"
PRODUCTS = {
    "PyTorch": "products_torch",
    "JAX": "products_jax",
    "TensorFlow": "products_tensorflow",
}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One line of a table, measured in a process of its own.

    Args:
        name: string, the line's name.
        build: "module:function" that returns the call to be timed.
        arguments: dict, its keyword arguments.
        backend: Keras's backend, `None` where Keras takes no part.
        needs: integer, bytes that a call is known to take. It is not run
            where they are more than 60 % of what is free.
        alone: boolean, whether it runs while no other is in memory, and so
            not in turn.
    """

    name: str
    build: str
    arguments: dict
    backend: str | None = None
    needs: int = 0
    alone: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """Contestants measured in turn, and whom their times are divided by.

    Args:
        key: string, unique.
        title: string.
        contestants: list of `Contestant`.
        references: dict of a ratio's name to the names of the contestants
            of which the fastest is its reference.
        note: string, what a reader must know.
        gpu: boolean, whether the row is for an accelerator.
    """

    key: str
    title: str
    contestants: list
    references: dict
    note: str = ""
    gpu: bool = False


def size(height, width):
    return {"height": height, "width": width}


def names(contestants):
    return [contestant.name for contestant in contestants]


def last_word(kind):
    return kind.split()[-1]


def peer(name, build, backend=None, needs=0, alone=False, **arguments):
    return Contestant(name, build, arguments, backend, needs, alone)


def ours(build, backends=tuple(BACKENDS), suffix="", **arguments):
    """keras_danet's contestants, one for each of `backends`."""
    return [
        Contestant(
            f"keras_danet, {name}{suffix}",
            f"ours:{build}",
            {**arguments, **BACKENDS[name][1]},
            BACKENDS[name][0],
        )
        for name in backends
    ]


def winograd(**network):
    """The optimized network, where its sums are compiled or torch's."""
    return ours(
        "forward",
        ("TensorFlow, XLA", "JAX", "torch"),
        ", optimized, Winograd",
        optimized=True,
        winograd=True,
        **network,
    )


def export(runtime, format, **arguments):
    """An export of ours, which TensorFlow writes."""
    return peer(
        f"keras_danet, {runtime}",
        "exports:forward",
        "tensorflow",
        format=format,
        **arguments,
    )


def dense_attention(height, width, backward):
    """The peer with N x N maps: two of them forward, four backward."""
    return peer(
        DENSE,
        "peers:attention",
        needs=(4 if backward else 2) * 4 * (height * width) ** 2,
        backward=backward,
        **size(height, width),
    )


def fused_attention(**arguments):
    return peer(
        "PyTorch, scaled_dot_product_attention, 8 heads",
        "peers:attention",
        fused=True,
        **arguments,
    )


def attention_row(name, height, width, backward):
    kind = BACKWARD if backward else FORWARD
    shape = size(height, width)
    dense = dense_attention(height, width, backward)
    contestants = [
        dense,
        fused_attention(backward=backward, **shape),
        *ours("attention", backward=backward, **shape),
    ]
    references, note = {"dense": [dense.name]}, ""
    if not backward:
        products = [
            peer(f"matrix products, {library}", f"peers:{build}", **shape)
            for library, build in PRODUCTS.items()
        ]
        contestants += products
        references["fastest products"] = names(products)
        note = (
            "Matrix products: as many operations as position attention has, "
            "in blocks of 256 queries, without softmax."
        )
    return Row(
        f"attention-{name}-{last_word(kind)}",
        f"Position attention, {height}x{width}x512, {kind}, float32",
        contestants,
        references,
        note,
    )


def attention_rows(smoke):
    small, large = ((6, 7), (12, 16)) if smoke else ((97, 97), (128, 256))
    return [
        attention_row("97x97", *small, backward=False),
        attention_row("128x256", *large, backward=False),
        attention_row("97x97", *small, backward=True),
    ]


def frozen(**network):
    """PyTorch's network in its best form for serving."""
    return peer(
        "MMSegmentation, channels_last, torch.compile, frozen",
        "peers:forward",
        channels_last=True,
        compiled=True,
        frozen=True,
        **network,
    )


def float32_row(key, title, network):
    """The whole network beside everybody."""
    eager = peer(EAGER, "peers:forward", **network)
    others = [
        peer(
            "MMSegmentation, channels_last",
            "peers:forward",
            channels_last=True,
            **network,
        ),
        peer(
            "MMSegmentation, channels_last, torch.compile",
            "peers:forward",
            channels_last=True,
            compiled=True,
            **network,
        ),
        frozen(**network),
    ]
    return Row(
        f"{key}-float32",
        f"{title}, float32",
        [
            eager,
            *others,
            *ours("forward", **network),
            *winograd(**network),
        ],
        {"eager": [EAGER], "MMSegmentation's best": names([eager, *others])},
    )


def bfloat16_row(key, title, network):
    eager = peer(f"{EAGER}, float32", "peers:forward", **network)
    autocast = peer(AUTOCAST, "peers:forward", bfloat16=True, **network)
    others = [
        peer(
            "MMSegmentation, bfloat16 autocast, channels_last, torch.compile"
            f"{', frozen' if frozen else ''}",
            "peers:forward",
            bfloat16=True,
            channels_last=True,
            compiled=True,
            frozen=frozen,
            **network,
        )
        for frozen in (False, True)
    ]
    half = {**network, "dtype": "mixed_bfloat16"}
    return Row(
        f"{key}-bfloat16",
        f"{title}, bfloat16",
        [
            eager,
            autocast,
            *others,
            *ours("forward", suffix=", optimized", optimized=True, **half),
        ],
        {
            "eager float32": [eager.name],
            "eager autocast": [autocast.name],
            "best autocast": names([autocast, *others]),
        },
        "Where the CPU has no bfloat16 instructions (see its flags above) "
        "this says little.",
    )


def server_row(smoke):
    """What a server would run."""
    height, width = (64, 128) if smoke else (512, 1024)
    network = {"depth": 50, **size(height, width)}
    [plain, compiled] = ours(
        "forward", ("TensorFlow", "TensorFlow, XLA"), **network
    )
    theirs = frozen(**network)
    return Row(
        "exports-r50-512x1024",
        f"Exports of DANet-ResNet50, one image of {height}x{width}",
        [
            plain,
            compiled,
            theirs,
            export("SavedModel", "saved_model", **network),
            export("ONNX Runtime", "onnx", **network),
            export("OpenVINO", "openvino", **network),
            export(
                "OpenVINO, int8", "openvino", quantization="int8", **network
            ),
        ],
        {
            "TensorFlow": [plain.name],
            "TensorFlow, XLA": [compiled.name],
            "MMSegmentation": [theirs.name],
        },
    )


def phone_row(smoke):
    """What a phone would run, on this CPU."""
    side = 65 if smoke else 513
    network = {"depth": 18, **size(side, side)}
    float32 = export("TFLite", "tflite", **network)
    return Row(
        "exports-r18-513x513",
        f"TFLite files of DANet-ResNet18, one image of {side}x{side}",
        [
            float32,
            *(
                export(
                    f"TFLite, {quantization}",
                    "tflite",
                    quantization=quantization,
                    **network,
                )
                for quantization in ("float16", "dynamic", "int8", "int16x8")
            ),
        ],
        {"TFLite float32": [float32.name]},
    )


def whole_image_row(key, title, network):
    positions = network["height"] * network["width"] // 64
    eager = peer(
        EAGER,
        "peers:forward",
        needs=2 * 4 * positions**2 + GIB,
        alone=True,
        **network,
    )
    return Row(
        f"{key}-float32",
        f"{title}, float32",
        [
            eager,
            *ours("forward", **network),
            *winograd(**network),
        ],
        {"eager": [EAGER]},
    )


def scale_row(height, width, depth):
    """What else a user of Keras could take."""
    shape = size(height, width)
    danet = ours("forward", ["TensorFlow, XLA"], depth=depth, **shape)
    hub = {"backend": "tensorflow", "jit": True, **shape}
    return Row(
        "forward-scale",
        f"Other networks for Keras, one image of {height}x{width}, float32, "
        "TensorFlow with XLA",
        [
            *danet,
            peer(
                "keras-hub DeepLabV3+, ResNet50, stride 32",
                "peers:deeplab",
                **hub,
            ),
            *(
                peer(
                    f"keras-hub SegFormer-{variant.upper()}",
                    "peers:segformer",
                    variant=variant,
                    **hub,
                )
                for variant in ("b0", "b2")
            ),
        ],
        {"DANet": names(danet)},
        "keras-hub's ResNets have no dilation (DANet's stride is 8), and its "
        "SegFormer takes square images only: here of about as many pixels.",
    )


def forward_rows(smoke):
    height, width = (64, 128) if smoke else (512, 1024)
    rows = []
    for depth in (50, 101):
        network = {"depth": 18 if smoke else depth, **size(height, width)}
        title = f"DANet-ResNet{depth}, one image of {height}x{width}"
        for row in (float32_row, bfloat16_row):
            rows.append(row(f"forward-r{depth}-512x1024", title, network))
    for depth in (50, 101):
        whole = size(2 * height, 2 * width)
        rows.append(
            whole_image_row(
                f"forward-r{depth}-1024x2048",
                f"DANet-ResNet{depth}, one image of {2 * height}x{2 * width}",
                {"depth": 18 if smoke else depth, **whole},
            )
        )
    return [
        *rows,
        scale_row(height, width, 18 if smoke else 50),
        server_row(smoke),
        phone_row(smoke),
    ]


def training_rows(smoke):
    side = 64 if smoke else 256
    step = {"depth": 18 if smoke else 50, "batch": 2, **size(side, side)}
    return [
        Row(
            "training-r50-256x256",
            f"A training step of DANet-ResNet50, {side}x{side}, batch 2, "
            "float32",
            [peer(EAGER, "peers:training", **step), *ours("training", **step)],
            {"eager": [EAGER]},
            "Three losses, their gradients, SGD with momentum, and accuracy "
            "(MMSegmentation) or mean IoU (keras_danet).",
        )
    ]


def growth_rows(smoke):
    """Position attention as the map grows; a plot and tables of their own."""
    return [
        Row(
            f"growth-{last_word(kind)}-{full[0]}x{full[1]}",
            f"{height}x{width}",
            [
                dense_attention(height, width, kind == BACKWARD),
                *ours(
                    "attention",
                    backward=kind == BACKWARD,
                    **size(height, width),
                ),
            ],
            {"dense": [DENSE]},
        )
        for kind in (FORWARD, BACKWARD)
        for full, (height, width) in zip(
            MAPS, SMOKE_MAPS if smoke else MAPS, strict=True
        )
    ]


def gpu_rows(smoke):
    """In bfloat16, on the accelerator that JAX and torch find."""
    height, width = (128, 256) if smoke else (1024, 2048)
    backends, half = ("JAX", "torch"), {"dtype": "mixed_bfloat16"}
    features = size(height // 8, width // 8)
    whole = {"depth": 18 if smoke else 101, **size(height, width)}
    step = {
        "depth": 18 if smoke else 50,
        "batch": 2,
        **size(height // 2, width // 2),
    }
    return [
        Row(
            "gpu-attention-128x256",
            f"Position attention, {height // 8}x{width // 8}x512, forward, "
            "bfloat16",
            [
                peer(DENSE, "peers:attention", bfloat16=True, **features),
                fused_attention(bfloat16=True, **features),
                *ours("attention", backends, **features, **half),
            ],
            {"dense": [DENSE]},
            gpu=True,
        ),
        Row(
            "gpu-forward-r101-1024x2048",
            f"DANet-ResNet101, one image of {height}x{width}, bfloat16",
            [
                peer(AUTOCAST, "peers:forward", bfloat16=True, **whole),
                *ours("forward", backends, **whole, **half),
                *ours(
                    "forward",
                    backends,
                    ", optimized",
                    optimized=True,
                    **whole,
                    **half,
                ),
            ],
            {"eager": [AUTOCAST]},
            gpu=True,
        ),
        Row(
            "gpu-training-r50-512x1024",
            f"A training step of DANet-ResNet50, {height // 2}x{width // 2}, "
            "batch 2, bfloat16",
            [
                peer(AUTOCAST, "peers:training", bfloat16=True, **step),
                *ours("training", backends, **step, **half),
            ],
            {"eager": [AUTOCAST]},
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
