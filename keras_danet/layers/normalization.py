"""Batch normalisation as the reference networks have it."""

import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_danet import arguments
from keras_danet.layers.numerics import check_dtype
from keras_danet.layers.numerics import is_float64
from keras_danet.layers.numerics import wide_dtype


@keras.saving.register_keras_serializable(package="keras_danet")
class Normalization(keras.layers.Layer):
    """(inputs - mean) / std, channel by channel, with given numbers.

    `keras.layers.Normalization` keeps such numbers as variances in float32,
    and takes roots of them, under every dtype policy.

    Args:
        mean, std: one number per channel; those of `std` are positive.
        **kwargs: `name`, `dtype` of `keras.layers.Layer`.

    Input shape, output shape:
        `(..., channels)`, floats.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], **kwargs: Any
    ) -> None:
        super().__init__(**arguments.plain_values(kwargs))
        check_dtype(self.dtype_policy)
        self.mean = arguments.numbers("mean", mean)
        self.std = arguments.numbers(
            "std",
            std,
            f"must be {len(self.mean)} positive numbers, one per channel",
            length=len(self.mean),
            above=0,
        )

    def call(self, inputs):
        mean, std = (
            ops.convert_to_tensor(np.array(values), self.compute_dtype)
            for values in (self.mean, self.std)
        )
        return (inputs - mean) / std

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "std": self.std}


@keras.saving.register_keras_serializable(package="keras_danet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch norm of the ResNets: epsilon 1e-5, momentum 0.9, global statistics.

    Whether replicas share their statistics is decided when the layer is made,
    from the TensorFlow strategy in force, and is not part of the config: a
    model trained under a strategy loads on every backend and any number of
    devices. (JAX's data parallelism is global by construction.)

    Args:
        epsilon: float, added to the variance. Defaults to `1e-5`, PyTorch's
            and the authors' value (Keras's own is 1e-3).
        momentum: float, the share of the moving statistics that is kept at
            each step. Defaults to `0.9` (PyTorch writes it 0.1).
        **kwargs: those of `keras.layers.BatchNormalization` but
            `synchronized`.

    Raises:
        ValueError: for `synchronized`.
    """

    def __init__(
        self, epsilon: float = 1e-5, momentum: float = 0.9, **kwargs: Any
    ) -> None:
        if "synchronized" in kwargs:
            raise ValueError(
                "Whether statistics are synchronized is decided by the "
                "strategy that the layer is made under. Leave `synchronized` "
                f"out. Received: synchronized={kwargs['synchronized']!r}"
            )
        super().__init__(
            epsilon=arguments.plain(epsilon),
            momentum=arguments.plain(momentum),
            synchronized=_replicas() > 1,
            **arguments.plain_values(kwargs),
        )
        check_dtype(self.dtype_policy)

    def call(self, inputs, training=None, mask=None):
        backend = keras.backend.backend()
        training = training and self.trainable
        if mask is None and not self.renorm and backend == "torch":
            return self._call_on_torch(inputs, training)
        if (
            not self.renorm
            and backend != "tensorflow"
            and is_float64(inputs.dtype)
        ):
            return self._call_in_float64(inputs, training, mask)
        return super().call(inputs, training=training, mask=mask)

    def _call_in_float64(self, inputs, training, mask):
        """Keras's batch norm, which would turn float64 into float32."""
        mean, variance = self.moving_mean.value, self.moving_variance.value
        if training:
            moving = mean, variance
            mean, variance = self._moments(inputs, mask)
            self._move(*moving, mean, variance)
        return ops.batch_normalization(
            inputs,
            mean,
            variance,
            self.axis,
            offset=self.beta,
            scale=self.gamma,
            epsilon=self.epsilon,
        )

    def _call_on_torch(self, inputs, training):
        """torch's own batch norm, which reads its input once.

        Keras 3.15 computes it in a dozen operations, and each keeps a tensor
        for the backward pass.
        """
        torch = sys.modules["torch"]
        wide = wide_dtype(inputs.dtype)
        # Not negative: torch's tracer for ONNX records it as it is.
        axis = self.axis % len(inputs.shape)
        x = ops.moveaxis(ops.cast(inputs, wide), axis, 1)
        gamma, beta, mean, variance = (
            None if weight is None else ops.cast(weight, wide)
            for weight in (
                self.gamma,
                self.beta,
                self.moving_mean,
                self.moving_variance,
            )
        )
        if training:
            # With a momentum of 1 its running statistics are the batch's.
            batch_mean, batch_variance = (
                torch.zeros_like(old) for old in (mean, variance)
            )
            x, *_ = torch.native_batch_norm(
                x,
                gamma,
                beta,
                batch_mean,
                batch_variance,
                True,
                1.0,
                self.epsilon,
            )
            # torch's variance is unbiased; Keras's is not on any backend. (Of
            # one value the variance is 0, where torch computes 0 / 0.)
            number = x.numel() // x.shape[1]
            batch_variance = batch_variance * ((number - 1) / max(number, 1))
            if number < 2:
                batch_variance = torch.zeros_like(variance)
            self._move(mean, variance, batch_mean, batch_variance)
        else:
            x = torch.nn.functional.batch_norm(
                x, mean, variance, gamma, beta, False, 0.0, self.epsilon
            )
        return ops.cast(ops.moveaxis(x, 1, axis), self.compute_dtype)

    def _move(self, mean, variance, batch_mean, batch_variance):
        kept = self.momentum
        self.moving_mean.assign(mean * kept + batch_mean * (1 - kept))
        self.moving_variance.assign(
            variance * kept + batch_variance * (1 - kept)
        )

    def get_config(self):
        config = super().get_config()
        del config["synchronized"]
        return config


def _replicas():
    """The replicas of the `tf.distribute` strategy in force, 1 without one."""
    if keras.backend.backend() != "tensorflow":
        return 1
    # Keras has imported TensorFlow already, so nothing is imported here.
    strategy = sys.modules["tensorflow"].distribute.get_strategy()
    return strategy.num_replicas_in_sync
