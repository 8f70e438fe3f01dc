"""Batch normalisation as the reference networks have it."""

import sys

import keras


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
