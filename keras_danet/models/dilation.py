"""`dilate`: any Keras backbone, with late strides turned into dilation."""

from typing import NamedTuple

import keras
from keras import layers

from keras_danet.models.functional import FunctionalModel
from keras_danet.models.network_arguments import one_of

STAGE_OF_STRIDE = {4: "stage1", 8: "stage2", 16: "stage3", 32: "stage4"}
# A network that is cut off ends with its third stage.
LAST_STAGES = {"stage3", "stage4"}

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
POOLING = (layers.MaxPooling2D, layers.AveragePooling2D)
GLOBAL_POOLING = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
PACKAGES = ("keras", "keras_cv", "keras_hub", "keras_danet")
# Layers that treat every position alike. By name, because the operators of a
# graph (`x * y`) and the layers of keras.applications are not public classes.
POINTWISE = {
    "Activation",
    "Add",
    "AlphaDropout",
    "Average",
    "BatchNormalization",
    "Cast",
    "Concatenate",
    "Dense",
    "Divide",
    "Dropout",
    "ELU",
    "GaussianDropout",
    "GaussianNoise",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LayerNormalization",
    "LayerScale",
    "LeakyReLU",
    "Maximum",
    "Multiply",
    "Normalization",
    "ReLU",
    "Relu",
    "Relu6",
    "Rescaling",
    "Sigmoid",
    "Silu",
    "SpatialDropout2D",
    "StochasticDepth",
    "Subtract",
    "TrueDivide",
}


class _Place(NamedTuple):
    """Where a tensor's positions are in the original.

    Args:
        stride: integer, how many pixels of the image one of its positions
            was in the original.
        rate: integer, how many positions there are now for each one.
        padding: ((top, bottom), (left, right)) zeros around it that the next
            convolution should use up, in the original's positions.
    """

    stride: int
    rate: int
    padding: tuple = ((0, 0), (0, 0))

    def padded(self, padding):
        """The same with more zeros around it."""
        sides = zip(self.padding, padding, strict=True)
        return self._replace(
            padding=tuple((a + c, b + d) for (a, b), (c, d) in sides)
        )


class _Dilation:
    """One walk through a backbone's graph, which copies it."""

    def __init__(self, output_stride):
        self.output_stride = output_stride
        # Tensors are kept with their places: an id is unique only while its
        # tensor lives. The place is None once there are no positions left.
        self.places = {}
        self.copies = {}
        self.features = {}

    def put(self, tensor, place):
        self.places[id(tensor)] = tensor, place
        return tensor

    def call(self, layer, *args, **kwargs):
        """Calls the dilated copy of `layer`; returns its output."""
        tensors = [
            value
            for value in keras.tree.flatten((args, kwargs))
            if isinstance(value, keras.KerasTensor)
        ]
        places = {self.places[id(tensor)][1] for tensor in tensors} - {None}
        if len({place[:2] for place in places}) > 1:
            raise _refusal(layer, "joins tensors of different strides")
        place = next(iter(places), None)
        if isinstance(layer, keras.Sequential):
            (x,) = tensors
            for part in layer.layers:
                x = self.call(part, x)
            return x
        if place is None or isinstance(layer, GLOBAL_POOLING):
            return self.put(self.copy(layer)(*args, **kwargs), None)
        if isinstance(layer, layers.ZeroPadding2D):
            return self.pad(layer, *tensors, place)
        if type(layer).__name__ == "Pad" and place.rate == 1:
            copy = layer(*args, **kwargs)
            return self.put(copy, place.padded(_sides(layer)))
        if isinstance(layer, CONVOLUTIONS):
            x = self.convolve(layer, *tensors, place)
        elif isinstance(layer, POOLING):
            x = self.pool(layer, *tensors, place)
        elif _is_pointwise(layer):
            copy = self.copy(layer)
            x = self.put(copy(*args, **kwargs), place)
        else:
            raise _refusal(
                layer,
                f"({type(layer).__name__}) is of a type that is not known to "
                "treat every position alike",
            )
        self.features[self.places[id(x)][1].stride] = x
        return x

    def copy(self, layer, **changes):
        """A new layer with the configuration of `layer` and `changes`."""
        if not isinstance(layer, keras.layers.Layer):
            return layer  # an operator, which owns nothing
        if layer in self.copies:
            raise _refusal(layer, "is used more than once")
        config = layer.get_config() | changes
        self.copies[layer] = type(layer).from_config(config)
        return self.copies[layer]

    def pad(self, layer, x, place):
        _check_layout(layer)
        scaled = tuple(
            tuple(place.rate * side for side in axis) for axis in layer.padding
        )
        x = self.copy(layer, padding=scaled)(x)
        return self.put(x, place.padded(layer.padding))

    def convolve(self, layer, x, place):
        _check_layout(layer)
        stride = _only(layer, "strides", layer.strides)
        after = _Place(place.stride * stride, place.rate)
        if place.rate == 1 and after.stride <= self.output_stride:
            return self.put(self.copy(layer)(x), after)
        rate = place.rate
        dilation = _only(layer, "dilation_rate", layer.dilation_rate)
        missing = []
        for size, given in zip(layer.kernel_size, place.padding, strict=True):
            reach = (size - 1) * dilation
            if layer.padding == "same":
                # What "same" adds before an even number of positions.
                before = max(reach + 1 - stride, 0) // 2
                missing.append((before * rate, (reach - before) * rate))
            elif layer.padding != "valid":
                raise _refusal(layer, f"pads by {layer.padding!r}")
            elif stride == 1:
                missing.append((0, 0))
            else:
                # Without the stride, the size stays the same.
                if sum(given) > reach:
                    raise _refusal(layer, "is padded beyond its kernel")
                missing.append((0, (reach - sum(given)) * rate))
        if any(map(any, missing)):
            x = layers.ZeroPadding2D(
                tuple(missing), data_format="channels_last"
            )(x)
        copy = self.copy(
            layer,
            strides=(1, 1),
            padding="valid",
            dilation_rate=(dilation * rate, dilation * rate),
        )
        return self.put(copy(x), after._replace(rate=rate * stride))

    def pool(self, layer, x, place):
        _check_layout(layer)
        stride = _only(layer, "strides", layer.strides)
        after = _Place(place.stride * stride, place.rate)
        if place.rate == 1 and after.stride <= self.output_stride:
            return self.put(self.copy(layer)(x), after)
        # Pools of size 1 only subsample.
        if tuple(layer.pool_size) != (1, 1):
            raise _refusal(
                layer,
                "pools where the resolution must be kept, and pooling has no "
                "dilation",
            )
        copy = self.copy(layer, strides=(1, 1))
        return self.put(copy(x), after._replace(rate=place.rate * stride))


def last_stage(stages):
    """The name of the last stage in a backbone's dict of outputs."""
    return max(stages.keys() & LAST_STAGES)


def dilate(
    backbone: keras.Model, output_stride: int = 8, num_stages: int = 4
) -> FunctionalModel:
    """Turns the late strides of a Keras backbone into dilation.

    Makes a copy in which each convolution before a removed stride keeps its
    rate and each one after it doubles its rate. Weights stay the same, and so
    does every feature, at the original's grid points and away from the
    borders, if the image's sides are multiples of the original's stride
    (32). A squeeze-and-excite block then pools over more positions, so its
    features change slightly.

        backbone = keras.applications.MobileNetV2(include_top=False)
        model = keras_danet.DANet(
            num_classes=19, backbone=keras_danet.dilate(backbone),
            pixel_mean=127.5, pixel_std=127.5)

    The backbone gets what `pixel_mean` and `pixel_std` make of RGB pixels in
    0-255; state what it was trained with, or 0 and 1 if it normalises
    itself. docs/backbones.md has a table.

    Reference:
        - [Multi-Scale Context Aggregation by Dilated Convolutions](
          https://arxiv.org/abs/1511.07122)

    Args:
        backbone: functional Keras model that takes images `(batch, height,
            width, channels)` and has one output, features of the same layout
            and stride 32, such as those of keras.applications with
            `include_top=False`.
        output_stride: 8, 16 or 32. Defaults to `8`.
        num_stages: 4; or 3, which leaves out what comes after the last
            features of stride 16: of a ResNet-50, the stage that holds most
            of its weights. Defaults to `4`.

    Returns:
        A functional model whose output is a dict of `stage1` to `stage4`,
        the last features of original strides 4, 8, 16 and 32; or to `stage3`.

    Raises:
        ValueError: if the backbone cannot be dilated; it names the layer.

    Example:

    >>> backbone = keras.applications.MobileNetV2(
    ...     alpha=0.35, weights=None, include_top=False)
    >>> features = keras_danet.dilate(backbone)(np.zeros((1, 64, 96, 3)))
    >>> tuple(features["stage4"].shape)
    (1, 8, 12, 1280)
    """
    output_stride = one_of("output_stride", output_stride, (8, 16, 32))
    num_stages = one_of("num_stages", num_stages, (3, 4))
    if num_stages == 3 and output_stride == 32:
        raise ValueError(
            "Three stages end at a stride of 16. Received: num_stages=3, "
            "output_stride=32. Use 4 stages, or a lower stride."
        )
    _check_backbone(backbone)
    walk = _Dilation(output_stride)
    # Any size, whatever size the original was made for.
    images = keras.Input(
        (None, None, backbone.input.shape[-1]),
        name="images",
        dtype=backbone.input.dtype,
    )
    walk.put(images, _Place(1, 1))
    copy = keras.models.clone_model(
        backbone,
        input_tensors=images,
        clone_function=lambda layer: layer,
        call_function=walk.call,
    )
    _, place = walk.places[id(copy.output)]
    if place is None or place.stride != 32:
        raise ValueError(
            f"The backbone {backbone.name!r} must end with features of stride "
            f"32. Received: {'none' if place is None else place.stride}"
        )
    features = {
        name: walk.features[stride]
        for stride, name in STAGE_OF_STRIDE.items()
        if stride in walk.features
    }
    features["stage4"] = copy.output
    if num_stages == 3:
        del features["stage4"]
    model = FunctionalModel(images, features, name=backbone.name)
    for layer, made in walk.copies.items():
        made.set_weights(layer.get_weights())
    return model


def _check_backbone(backbone):
    functional = isinstance(backbone, keras.Model) and hasattr(
        backbone, "operations"
    )
    shapes = (
        [getattr(x, "shape", ()) for x in (backbone.input, backbone.output)]
        if functional
        else []
    )
    if not functional or any(len(shape) != 4 for shape in shapes):
        raise ValueError(
            "`backbone` must be a functional Keras model with one input "
            "(batch, height, width, channels) and one output of that layout "
            "(include_top=False in keras.applications). Received: "
            + (f"shapes {shapes}" if functional else repr(backbone))
        )


def _is_pointwise(layer):
    kind = type(layer)
    if kind.__name__ not in POINTWISE:
        return False
    # The name identifies the layer only in these packages.
    if kind.__module__.partition(".")[0] not in PACKAGES:
        return False
    axis = getattr(layer, "axis", -1)
    axes = axis if isinstance(axis, (list, tuple)) else (axis,)
    return all(axis in (-1, 3, None) for axis in axes)


def _sides(pad):
    """The padding of `keras.ops.pad`, which must be of height and width."""
    widths = list(pad.pad_width)
    batch, *sides, channels = widths * 4 if len(widths) == 1 else widths
    if any((*batch, *channels)):
        raise _refusal(pad, "pads axes other than height and width")
    return tuple(map(tuple, sides))


def _check_layout(layer):
    if layer.data_format != "channels_last":
        raise _refusal(layer, "has its channels first")


def _only(layer, name, values):
    if len(set(values)) > 1:
        raise _refusal(layer, f"has different {name} per axis: {values}")
    return values[0]


def _refusal(layer, reason):
    return ValueError(
        f"The backbone cannot be dilated: its layer {layer.name!r} {reason}. "
        "Use another backbone, or cut it off before that layer."
    )
