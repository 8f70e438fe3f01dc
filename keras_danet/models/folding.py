"""`optimize_for_inference`: removes what a trained network does not need."""

import keras
import numpy as np
from keras import layers

from keras_danet.layers import BatchNormalization
from keras_danet.layers import Conv2D
from keras_danet.layers import WinogradConv2D
from keras_danet.models.freezing import copy_weights
from keras_danet.models.functional import FunctionalModel
from keras_danet.models.network_arguments import FACTS

# With fewer channels, the sums around Winograd's products take longer than the
# saved products.
MIN_WINOGRAD_CHANNELS = 256


@keras.saving.register_keras_serializable(package="keras_danet")
class InferenceModel(FunctionalModel):
    """What `optimize_for_inference` returns: it predicts but cannot learn."""

    def fit(self, *args, **kwargs):
        raise ValueError(
            "A copy that optimize_for_inference made is for prediction: its "
            "batch norms are gone. Train the model that it was made from, "
            "and make the copy again."
        )

    def train_on_batch(self, *args, **kwargs):
        self.fit()


def optimize_for_inference(
    model: keras.Model, winograd: bool = False
) -> InferenceModel:
    """A copy of a network that computes the same outputs with less work.

    Batch norms, constant once training is over, are folded into the
    convolutions before them; on CPUs the large 3x3 convolutions can be
    replaced by `WinogradConv2D`.

        fast = keras_danet.optimize_for_inference(model, winograd=True)
        fast.compile(jit_compile=True)  # not Keras's default on a CPU
        logits = fast.predict(images)

    The copy has its own weights, with LoRA's factors added to them: training
    `model` further does not change it, and it cannot be trained. Its outputs
    differ from the model's by rounding.

    Args:
        model: a `DANet`, whose fused logits the copy computes, or any
            functional model.
        winograd: boolean, whether to replace 3x3 convolutions of 256 channels
            or more. It is faster on CPUs in float32 if XLA compiles the
            network (TensorFlow on request, JAX always), takes more memory,
            and rounds more. Defaults to `False`.

    Returns:
        A functional `keras.Model` that predicts and refuses `fit`.

    Raises:
        ValueError: if `model` is not functional.

    Example:

    >>> model = keras_danet.DANet(
    ...     num_classes=5, backbone=keras_danet.DilatedResNet(18, filters=8))
    >>> fast = keras_danet.optimize_for_inference(model)
    >>> images = np.ones((1, 33, 65, 3), "uint8")
    >>> bool(np.allclose(
    ...     fast.predict(images, verbose=0), model.predict(images, verbose=0),
    ...     atol=1e-5))
    True
    """
    given, model = model, getattr(model, "inference_model", model)
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise ValueError(
            "`model` must be a DANet or a functional Keras model. "
            f"Received: {model!r}"
        )
    walk = _Folding(winograd)
    copy = walk.copy_model(model)
    walk.set_weights()
    # A `Predictor` of the copy needs them.
    for fact in FACTS:
        copy.__dict__[fact] = getattr(given, fact, None)
    return copy


class _Folding:
    """One walk over a graph: each layer copied, or folded into another."""

    def __init__(self, winograd):
        self.winograd = winograd
        # Output of a convolution's copy -> that convolution and its input.
        self.convolutions = {}
        # Layers -> their copy, which is reused when they are.
        self.copies = {}
        # Functions that set the copies' weights once the graph is complete.
        self.setters = []
        self.names = set()

    def copy_model(self, model):
        self.names |= {layer.name for layer in model.layers}
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(
                batch_shape=x.shape, dtype=x.dtype, name=x.name
            ),
            model.input,
        )
        copy = keras.models.clone_model(
            model,
            input_tensors=inputs,
            clone_function=lambda layer: layer,
            call_function=self.call,
        )
        return InferenceModel(inputs, copy.output, name=model.name)

    def call(self, layer, *args, **kwargs):
        if isinstance(layer, keras.Model) and hasattr(layer, "operations"):
            if layer not in self.copies:
                self.copies[layer] = self.copy_model(layer)
            return self.copies[layer](*args)
        before = self.convolutions.get(id(args[0])) if args else None
        if before is not None and _is_per_channel(layer, args[0]):
            return self.fold(layer, *before)
        kwargs.pop("training", None)
        output = self.copy(layer)(*args, **kwargs)
        if _is_foldable(layer):
            # Its copy goes unused if a batch norm follows.
            self.convolutions[id(output)] = layer, args[0], output
        return output

    def copy(self, layer):
        if not isinstance(layer, layers.Layer) or not layer.weights:
            return layer
        if layer not in self.copies:
            copy = type(layer).from_config(_without_adapters(layer))
            self.copies[layer] = copy
            self.setters.append(lambda: copy_weights(layer, copy))
        return self.copies[layer]

    def fold(self, norm, convolution, x, _output):
        pair = convolution, norm
        if pair in self.copies:
            return self.copies[pair](x)
        name = self.new_name(f"{convolution.name}_folded")
        rates = set(convolution.dilation_rate)
        if (
            self.winograd
            and convolution.kernel_size == (3, 3)
            and convolution.strides == (1, 1)
            and convolution.padding == "same"
            and convolution.groups == len(rates) == 1
            and x.shape[-1] >= MIN_WINOGRAD_CHANNELS
        ):
            made = WinogradConv2D(
                convolution.filters,
                rates.pop(),
                name=name,
                dtype=convolution.dtype_policy,
            )
            set_weights = made.set_convolution
        else:
            config = _without_adapters(convolution)
            made = Conv2D.from_config(
                {**config, "use_bias": True, "name": name}
            )

            def set_weights(*weights):
                made.set_weights(weights)

        self.copies[pair] = made
        self.setters.append(lambda: set_weights(*_folded(convolution, norm)))
        return made(x)

    def new_name(self, name):
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def set_weights(self):
        for setter in self.setters:
            setter()
        for copy in self.copies.values():
            # Even as part of a larger model the copy is not trained.
            if not isinstance(copy, keras.Model):
                copy.trainable = False


def _without_adapters(layer):
    """A layer's configuration without LoRA, whose factors are merged."""
    config = dict(layer.get_config())
    config.pop("lora_rank", None)
    return config


def _is_foldable(layer):
    # A subclass may do anything with its kernel.
    return (
        type(layer) in (layers.Conv2D, Conv2D)
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and layer.quantization_mode is None
    )


def _is_per_channel(layer, x):
    return type(layer) in (
        layers.BatchNormalization,
        BatchNormalization,
    ) and layer.axis in (-1, len(x.shape) - 1)


def _folded(convolution, norm):
    """Kernel and bias of a convolution and the batch norm after it."""
    kernel, bias, mean, variance, gamma, beta = (
        default
        if weight is None
        else keras.ops.convert_to_numpy(weight).astype("float64")
        for weight, default in (
            (convolution.kernel, None),
            (convolution.bias, 0.0),
            (norm.moving_mean, None),
            (norm.moving_variance, None),
            (norm.gamma, 1.0),
            (norm.beta, 0.0),
        )
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    dtype = "float64" if convolution.variable_dtype == "float64" else "float32"
    return (
        (kernel * scale).astype(dtype),
        ((bias - mean) * scale + beta).astype(dtype),
    )
