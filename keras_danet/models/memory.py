"""Estimates the memory and work of a request before it runs.

A process that asks for more memory than there is gets no error: it is killed.
"""

import math
import pathlib
import sys
from typing import NamedTuple

import keras
import psutil

from keras_danet.data.resampling import scaled_size
from keras_danet.layers import ChannelAttention
from keras_danet.layers import PositionAttention

# Suggested sizes are multiples of the usual output stride.
STEP = 8
BYTES = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "uint8": 1}


class _Factors(NamedTuple):
    """How many copies of a network's tensors a backend holds.

    Args:
        fixed: integer, MiB; most of it is the compiler's.
        weights: float, copies of the weights besides the model's own:
            gradients, the optimizer's, those in a library's layout.
        kept: float, copies of all layers' outputs.
        largest: float, copies of the largest layer's inputs and outputs.
        logits: float, further copies of the full-size outputs, for losses.
    """

    fixed: int
    weights: float
    kept: float
    largest: float
    logits: float


# Fitted to the peaks of `benchmarks/memory.py`.
PREDICTING = {
    "tensorflow": _Factors(25, 0.0, 0.0, 1.6, 0.0),
    "jax": _Factors(20, 1.0, 0.0, 1.8, 0.0),
    "torch": _Factors(50, 0.6, 0.0, 2.8, 0.0),
}
TRAINING = {
    "tensorflow": _Factors(175, 4.6, 0.8, 0.0, 0.5),
    "jax": _Factors(390, 3.6, 0.6, 0.0, 1.8),
    "torch": _Factors(75, 2.3, 1.15, 0.0, 1.6),
}


def estimate_memory(model, batch_size, height, width, training=False):
    """The bytes that one step takes in addition to the model itself.

    The outputs of all layers at this size are added up and weighted by
    factors measured for each backend: a line through the peaks on a CPU. It
    catches the impossible but is not exact to the byte.

    Args:
        model: `DANet` or, for prediction, `optimize_for_inference`'s copy.
        batch_size: integer, images of one step on one device.
        height, width: integers, their size in pixels.
        training: boolean, whether the step trains or predicts. Defaults to
            `False`.

    Returns:
        Integer.
    """
    graph = model if training else getattr(model, "inference_model", model)
    sizes = []

    def visit(_, inputs, outputs):
        sizes.append((_num_bytes(inputs), _num_bytes(outputs)))

    logits = _walk(graph, [_image(graph, height, width)], visit)
    factors = (TRAINING if training else PREDICTING)[keras.backend.backend()]
    activations = (
        factors.kept * sum(outputs for _, outputs in sizes),
        factors.largest * max(map(sum, sizes)),
        factors.logits * _num_bytes(logits),
    )
    weights = factors.weights * _num_bytes(model.weights)
    return int(factors.fixed * 2**20 + weights + batch_size * sum(activations))


def count_multiplications(model, height, width):
    """The multiplications of convolutions, dense layers and attention.

    Args:
        model: `DANet`, or `optimize_for_inference`'s copy.
        height, width: integers, the size of one image in pixels.

    Returns:
        Integer. Position attention's part grows with the square of the image,
        channel attention's with the square of the channels.
    """
    graph = getattr(model, "inference_model", model)
    counts = []

    def visit(layer, _, outputs):
        shapes = [weight.shape for weight in getattr(layer, "weights", ())]
        kernels = [shape for shape in shapes if len(shape) == 4]
        if isinstance(layer, keras.layers.Dense):
            # A convolution of 1x1, as ConvNeXts have.
            kernels = [shape for shape in shapes if len(shape) == 2]
        if isinstance(layer, ChannelAttention):
            # Energies of each pair of channels, and weighted sums of them.
            kernels = [(2, *outputs.shape[-1:] * 2)]
        if not kernels:
            return
        positions = math.prod(outputs.shape[1:-1])
        counts.append(positions * sum(map(math.prod, kernels)))
        if isinstance(layer, PositionAttention):
            # Energies from queries and keys, and weighted sums of values.
            depths = layer.query.filters + layer.value.filters
            counts.append(positions**2 * depths)

    _walk(graph, [_image(graph, height, width)], visit)
    return sum(counts)


def features_stride(model, side=1024):
    """The pixels of an image's side to each of its smallest features."""
    graph = getattr(model, "inference_model", model)
    heights = []

    def visit(_, inputs, outputs):
        for x in keras.tree.flatten(outputs):
            # Features of a height of 1 are those of the whole image.
            if len(x.shape) == 4 and x.shape[1] > 1:
                heights.append(x.shape[1])

    height, width = (given or side for given in graph.input.shape[1:3])
    _walk(graph, [_image(graph, height, width)], visit)
    return max(height // min(heights, default=height), 1)


def _image(graph, height, width):
    return keras.KerasTensor((1, height, width, 3), graph.input.dtype)


def _walk(graph, inputs, visit):
    """Runs a graph on shapes; `visit` gets each layer's inputs and outputs."""

    def on_shapes(layer):
        def call(*args, **kwargs):
            if hasattr(layer, "operations"):
                return _walk(layer, args, visit)
            outputs = layer.compute_output_spec(*args, **kwargs)
            visit(layer, (args, kwargs), outputs)
            return outputs

        return call

    # Keras has no public way to follow a graph's edges without adding to it.
    return graph._run_through_graph(inputs, operation_fn=on_shapes)


def _num_bytes(tensors):
    return sum(
        math.prod(x.shape)
        * BYTES.get(keras.backend.standardize_dtype(x.dtype), 4)
        for x in keras.tree.flatten(tensors)
        if isinstance(x, (keras.KerasTensor, keras.Variable))
    )


def check_memory(
    model,
    batch_size,
    height,
    width,
    training=False,
    num_devices=1,
    remedy=None,
):
    """Refuses what cannot fit into memory, before any is allocated.

    Args:
        model: `DANet`.
        batch_size: integer, images of one step, over all devices together.
        height, width: integers, their size in pixels.
        training: boolean, whether the step trains or predicts. Defaults to
            `False`.
        num_devices: integer, how many devices share them. Defaults to `1`.
        remedy: string, what to do about a single image. Defaults to `None`:
            the largest size that would fit is named.

    Raises:
        ValueError: if the estimate exceeds what is available. It names the
            largest batch, or else the remedy.
    """
    available = available_memory(num_devices)

    def estimate(batch_size, height, width):
        share = math.ceil(batch_size / num_devices)
        return estimate_memory(model, share, height, width, training)

    def fits(*request):
        return available is None or estimate(*request) <= available

    if fits(batch_size, height, width):
        return
    per_device = " on each device" if num_devices > 1 else ""
    message = (
        f"{'Training on' if training else 'Predicting'} {batch_size} "
        f"image{'s' * (batch_size > 1)} of {height} x {width} pixels takes "
        f"about {shown_bytes(estimate(batch_size, height, width))} of memory"
        f"{per_device}, and {shown_bytes(available)} are available. "
    )
    share = _largest(
        lambda n: fits(n * num_devices, height, width),
        math.ceil(batch_size / num_devices) - 1,
    )
    if share:
        raise ValueError(f"{message}batch_size={share * num_devices} fits.")
    if remedy:
        raise ValueError(message + remedy)

    def size(steps):
        if training:
            return STEP * steps, STEP * max(round(steps * width / height), 1)
        # The size that a `Predictor` makes from a long side.
        return tuple(scaled_size((height, width), STEP * steps, None).tolist())

    least = min(batch_size, num_devices)
    longest = height if training else max(height, width)
    steps = _largest(lambda n: fits(least, *size(n)), (longest - 1) // STEP)
    if not steps:
        raise ValueError(
            f"{message}No size fits: free memory, or use a smaller network."
        )
    if training:
        advice = f"crop_size={size(steps)} with batch_size={least} fits."
    else:
        rows, columns = size(steps)
        long = STEP * steps
        advice = (
            f"Images of {rows} x {columns} pixels fit: resize this one with "
            f"`size={long}` (--size {long} on the command line, "
            f"`test_size={long}` in a recipe), or predict it in smaller "
            "windows (`window`)."
        )
    raise ValueError(message + advice)


def shown_bytes(num_bytes):
    """A number of bytes for people."""
    if num_bytes < 2**30:
        return f"{num_bytes / 2**20:.0f} MiB"
    return f"{num_bytes / 2**30:.1f} GiB"


def _largest(fits, most):
    """The largest integer from 1 to `most` that fits, 0 if none does."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if fits(middle):
            least = middle
        else:
            most = middle - 1
    return least


def available_memory(num_devices=1):
    """The bytes that a device can still allocate, `None` if unknown.

    Args:
        num_devices: integer, how many devices will each allocate as much.
            Devices that a CPU is split into share its memory. Defaults to
            `1`.
    """
    # The backend puts it on the model's device.
    probe = keras.ops.zeros(1)
    if keras.backend.backend() == "tensorflow":
        # TensorFlow reports how much of a GPU's memory it uses, not its size.
        on_cpu, free = "CPU" in probe.device, None
    elif keras.backend.backend() == "jax":
        device = next(iter(probe.devices()))
        stats = device.memory_stats() or {}
        on_cpu, free = device.platform == "cpu", None
        if "bytes_limit" in stats:
            free = stats["bytes_limit"] - stats["bytes_in_use"]
    else:
        on_cpu, free = probe.device.type == "cpu", None
        if probe.device.type == "cuda":
            cuda = sys.modules["torch"].cuda
            cached = cuda.memory_reserved() - cuda.memory_allocated()
            free = cuda.mem_get_info()[0] + cached
    if on_cpu:
        return host_memory() // num_devices
    return free


def is_out_of_memory(error):
    """Whether an exception of Python or a backend is of too little memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__
        in ("OutOfMemoryError", "ResourceExhaustedError")
        or "RESOURCE_EXHAUSTED" in str(error)
    )


def host_memory(root="/"):
    """The bytes that a process can still allocate.

    Args:
        root: path of the folder that holds `proc` and `sys`, where Linux
            says what its control groups allow. Defaults to `"/"`.
    """
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    return min([free, *_control_group_memory(pathlib.Path(root))])


def _control_group_memory(root):
    """The bytes that each of the process's control groups leaves to it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"
            prefix, names = "", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            prefix = "total_"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # In a container the path may be the host's, and the limit at the top.
        parts = pathlib.PurePath(path).parts[1:]
        for length in range(len(parts) + 1):
            folder = mount.joinpath(*parts[:length])
            try:
                limit, used = (int((folder / n).read_text()) for n in names)
                words = (folder / "memory.stat").read_text().split()
            # There is no such file, or no limit: "max".
            except (OSError, ValueError):
                continue
            stat = dict(zip(words[::2], words[1::2], strict=False))
            # The kernel frees its file cache before it kills a process.
            files = sum(
                int(stat.get(f"{prefix}{name}_file", 0))
                for name in ("inactive", "active")
            )
            yield max(limit - used + files, 0)
