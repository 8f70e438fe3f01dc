"""The optimizer that Keras lacks: SGD as the reference recipes mean it."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_danet")
class SGD(keras.optimizers.SGD):
    """SGD with momentum and coupled weight decay, as in PyTorch.

    The published recipes were tuned with

        velocity = momentum * velocity + (gradient + weight_decay * weight)
        weight = weight - learning_rate * velocity

    `keras.optimizers.SGD` shrinks weights beside the velocity instead, which
    is weaker by up to 1 / (1 - momentum), and lets a falling learning rate
    reach the velocity late.

    Args:
        learning_rate: float or `LearningRateSchedule`. Defaults to `0.01`.
        momentum: float in [0, 1). Defaults to `0.9`.
        weight_decay: float, added to the gradient as `weight_decay * weight`
            for every trainable weight. Defaults to `0.0`.
        name: string. Defaults to `"SGD"`.
        **kwargs: those of `keras.optimizers.Optimizer` (`clipnorm`, ...).

    Example:

    >>> weight = keras.Variable([1.0])
    >>> optimizer = keras_danet.SGD(0.1, weight_decay=0.5)
    >>> optimizer.apply([keras.ops.array([1.0])], [weight])
    >>> value = keras.ops.convert_to_numpy(weight)[0]
    >>> round(float(value), 4)  # 1 - 0.1 * (1 + 0.5 * 1)
    0.85
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=0.0,
        name="SGD",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate, momentum=momentum, name=name, **kwargs
        )
        # Not `self.weight_decay`: Keras would apply that one, decoupled.
        self.coupled_weight_decay = weight_decay

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = ops.cast(learning_rate, variable.dtype)
        update = ops.cast(gradient, variable.dtype)
        if self.coupled_weight_decay:
            update = update + self.coupled_weight_decay * variable
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            update = self.momentum * velocity + update
            self.assign(velocity, update)
        self.assign_sub(variable, learning_rate * update)

    def get_config(self):
        config = super().get_config()
        del config["nesterov"]
        return {**config, "weight_decay": self.coupled_weight_decay}
