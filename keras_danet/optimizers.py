"""What Keras lacks: SGD and its schedule as the reference recipes mean them."""

import math
import re
import warnings

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_danet")
class PolySchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The field's "poly" learning rate, with a floor and a linear warm-up.

    At step t of T = total_steps, from 0, and from T on at t = T,

        rate = (initial - end) * (1 - t / T) ** power + end

    which is MMSegmentation's `PolyLR(eta_min=end)`. In the first
    `warmup_steps` W it is multiplied by

        1 - (1 - t / W) * (1 - warmup_ratio)

    as mmcv's `warmup="linear"` does, whose ratio is 0.1 by default, too.

    Reference:
        - [DANet](https://github.com/junfu1115/DANet): power 0.9, per
          iteration, to 0, no warm-up
        - [mmcv 1.x](https://github.com/open-mmlab/mmcv), `PolyLrUpdaterHook`

    Args:
        initial_learning_rate: float.
        total_steps: integer, updates of the whole training: with an
            optimizer's `gradient_accumulation_steps` n, batches / n.
        power: float. Defaults to `0.9`.
        end_learning_rate: float, the floor. Defaults to `0.0`
            (MMSegmentation's recipes have 1e-4).
        warmup_steps: integer. Defaults to `0`, none.
        warmup_ratio: float in [0, 1], the share of the rate that the warm-up
            starts with. Defaults to `0.1`.

    Raises:
        ValueError: for arguments out of range.

    Example:

    >>> schedule = keras_danet.PolySchedule(0.01, 1000, end_learning_rate=1e-4)
    >>> [round(float(schedule(step)), 6) for step in (0, 500, 1000)]
    [0.01, 0.005405, 0.0001]
    """

    def __init__(
        self,
        initial_learning_rate,
        total_steps,
        power=0.9,
        end_learning_rate=0.0,
        warmup_steps=0,
        warmup_ratio=0.1,
    ):
        super().__init__()
        given = {
            "initial_learning_rate": initial_learning_rate,
            "total_steps": total_steps,
            "power": power,
            "end_learning_rate": end_learning_rate,
            "warmup_steps": warmup_steps,
            "warmup_ratio": warmup_ratio,
        }
        for argument, value in given.items():
            if not math.isfinite(value) or value < 0:
                raise ValueError(
                    f"`{argument}` must be a number, 0 or more. "
                    f"Received: {argument}={value!r}"
                )
        if total_steps < 1 or warmup_steps > total_steps or warmup_ratio > 1:
            raise ValueError(
                "`total_steps` must be at least 1, `warmup_steps` no more than "
                "it and `warmup_ratio` no more than 1. Received: "
                f"total_steps={total_steps}, warmup_steps={warmup_steps}, "
                f"warmup_ratio={warmup_ratio}"
            )
        self._arguments = given

    def __call__(self, step):
        given = self._arguments
        step = ops.cast(step, "float32")
        total, end = given["total_steps"], given["end_learning_rate"]
        # Subtracted before divided: steps are whole numbers, and exact.
        left = (total - ops.minimum(step, total)) / total
        rate = (given["initial_learning_rate"] - end) * left ** given["power"]
        rate = rate + end
        if given["warmup_steps"]:
            missing = 1 - ops.minimum(step / given["warmup_steps"], 1.0)
            rate = rate * (1 - missing * (1 - given["warmup_ratio"]))
        return rate

    def get_config(self):
        return dict(self._arguments)


@keras.saving.register_keras_serializable(package="keras_danet")
class SGD(keras.optimizers.SGD):
    """SGD with momentum and coupled weight decay, as in PyTorch.

    The published recipes were tuned with

        velocity = momentum * velocity + (gradient + weight_decay * weight)
        weight = weight - learning_rate * velocity

    `keras.optimizers.SGD` shrinks weights beside the velocity instead, which
    is weaker by up to 1 / (1 - momentum), and lets a falling learning rate
    reach the velocity late.

    Gradients are clipped (`global_clipnorm`, which is PyTorch's
    `clip_grad_norm_`, or `clipnorm`, `clipvalue`) before the decay is added.
    With `gradient_accumulation_steps` n the mean gradient of n batches makes
    one update; a schedule and the moving average of `use_ema` count updates.
    (Keras's own optimizers count batches for both.)

    Args:
        learning_rate: float or `LearningRateSchedule`. Defaults to `0.01`.
        momentum: float in [0, 1). Defaults to `0.9`.
        weight_decay: float, added to the gradient as `weight_decay * weight`
            for every trainable weight. Defaults to `0.0`.
        multipliers: dict of regular expression to float. The learning rate of
            a variable in whose path the expression is found is that many
            times larger, as in a parameter group of PyTorch's.
            `DANet.head_multipliers` makes one for the head. Defaults to
            `None`.
        name: string. Defaults to `"SGD"`.
        **kwargs: those of `keras.optimizers.Optimizer` (`clipnorm`, ...).

    Raises:
        ValueError: for multipliers that are no numbers, or a variable that
            two expressions are found in.

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
        multipliers=None,
        name="SGD",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate, momentum=momentum, name=name, **kwargs
        )
        # Not `self.weight_decay`: Keras would apply that one, decoupled.
        self.coupled_weight_decay = weight_decay
        self.multipliers = _checked_multipliers(multipliers)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._variable_multipliers = tuple(
            _multiplier(self.multipliers, variable.path)
            for variable in variables
        )
        for pattern in self.multipliers:
            if not any(re.search(pattern, v.path) for v in variables):
                warnings.warn(
                    f"`multipliers`: {pattern!r} is found in the path of no "
                    "trainable variable.",
                    stacklevel=2,
                )

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        update = ops.cast(gradient, variable.dtype)
        if self.coupled_weight_decay:
            update = update + self.coupled_weight_decay * variable
        if self.momentum:
            velocity = self.momentums[index]
            update = self.momentum * velocity + update
            self.assign(velocity, update)
        learning_rate = learning_rate * self._variable_multipliers[index]
        self.assign_sub(variable, learning_rate * update)

    def _get_current_learning_rate(self):
        # Keras 3.15 asks a schedule for the rate of the batch, not of the
        # update, where gradients are accumulated.
        schedule = keras.optimizers.schedules.LearningRateSchedule
        if isinstance(self._learning_rate, schedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def _update_model_variables_moving_average(self, trainable_variables):
        steps = self.gradient_accumulation_steps
        if not self.use_ema or not steps:
            super()._update_model_variables_moving_average(trainable_variables)
            return
        # Keras 3.15 would average after every batch.
        updated = (self._iterations + 1) % steps == 0
        kept = ops.where(self.iterations > 0, self.ema_momentum, 0.0)
        kept = ops.where(updated, kept, 1.0)
        for variable, average in zip(
            trainable_variables,
            self._model_variables_moving_average,
            strict=True,
        ):
            share = ops.cast(kept, variable.dtype)
            average.assign(share * average + (1 - share) * variable)

    def get_config(self):
        config = super().get_config()
        del config["nesterov"]
        return {
            **config,
            "weight_decay": self.coupled_weight_decay,
            "multipliers": dict(self.multipliers),
        }


def _checked_multipliers(multipliers):
    multipliers = dict(multipliers or {})
    for pattern, factor in multipliers.items():
        try:
            re.compile(pattern)
            known = math.isfinite(factor) and factor >= 0
        except (TypeError, re.error):
            known = False
        if not known:
            raise ValueError(
                "`multipliers` must be a dict of regular expression to a "
                f"number, 0 or more. Received: {pattern!r}: {factor!r}"
            )
    return multipliers


def _multiplier(multipliers, path):
    found = [pattern for pattern in multipliers if re.search(pattern, path)]
    if len(found) > 1:
        raise ValueError(
            f"`multipliers`: {found} are all found in {path!r}. Make them "
            "exclude each other."
        )
    return multipliers[found[0]] if found else 1.0
