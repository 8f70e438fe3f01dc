"""Batch normalisation as the reference networks have it."""

import sys

import keras
from keras import ops

MIN_EPSILON = 1e-7


@keras.saving.register_keras_serializable(package="keras_danet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch norm of the ResNets: epsilon 1e-5, momentum 0.9, global statistics.

    Whether replicas share their statistics is decided when the layer is made,
    from the TensorFlow strategy in force, and is no part of the config: a
    model trained under a strategy loads on every backend and any number of
    devices. (JAX's data parallelism is global by construction.)

    Args:
        epsilon: float, added to the variance. Defaults to `1e-5`, PyTorch's
            and the authors' value (Keras's own is 1e-3).
        momentum: float, the share of the moving statistics that is kept at
            each step. Defaults to `0.9` (PyTorch writes it 0.1).
        **kwargs: those of `keras.layers.BatchNormalization` but
            `synchronized`.
    """

    def __init__(self, epsilon=1e-5, momentum=0.9, **kwargs):
        super().__init__(
            epsilon=epsilon,
            momentum=momentum,
            synchronized=_replicas() > 1,
            **kwargs,
        )

    def call(self, inputs, training=None, mask=None):
        if (
            keras.backend.backend() != "torch"
            or mask is not None
            or self.renorm
            # The variance is recovered from torch's 1 / sqrt(variance + it).
            or self.epsilon < MIN_EPSILON
        ):
            return super().call(inputs, training=training, mask=mask)
        return self._call_on_torch(inputs, training and self.trainable)

    def _call_on_torch(self, inputs, training):
        """torch's own batch norm, which reads its input once.

        Keras 3.15 writes it out as a dozen operations, each with a tensor to
        keep for the backward pass.
        """
        torch = sys.modules["torch"]
        wide = keras.backend.result_type(inputs.dtype, "float32")
        # Not negative: torch's tracer for ONNX writes it down as it is.
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
            # Without its running statistics: those are of the unbiased
            # variance, where Keras's, and the other backends', are not.
            x, batch_mean, deviation = torch.native_batch_norm(
                x, gamma, beta, None, None, True, 0.0, self.epsilon
            )
            with torch.no_grad():
                batch_variance = deviation**-2 - self.epsilon
                kept = self.momentum
                self.moving_mean.assign(mean * kept + batch_mean * (1 - kept))
                self.moving_variance.assign(
                    variance * kept + batch_variance * (1 - kept)
                )
        else:
            x = torch.nn.functional.batch_norm(
                x, mean, variance, gamma, beta, False, 0.0, self.epsilon
            )
        return ops.cast(ops.moveaxis(x, 1, axis), self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        del config["synchronized"]
        return config


def _replicas():
    """The replicas of the `tf.distribute` strategy in force, 1 without one."""
    if keras.backend.backend() != "tensorflow":
        return 1
    # Keras has imported its backend already; the models need no import of
    # TensorFlow for a question that only TensorFlow raises.
    strategy = sys.modules["tensorflow"].distribute.get_strategy()
    return strategy.num_replicas_in_sync
