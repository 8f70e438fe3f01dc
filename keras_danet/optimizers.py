"""What Keras lacks: SGD and its schedule as the reference recipes use them."""

import re
import warnings
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_danet import arguments
from keras_danet.distribution.keras_fixes import summed
from keras_danet.layers.numerics import check_dtype
from keras_danet.layers.numerics import is_float64
from keras_danet.layers.numerics import minimum


@keras.saving.register_keras_serializable(package="keras_danet")
class PolySchedule(LearningRateSchedule):
    """The usual "poly" learning rate, with a floor and a linear warm-up.

    At step t of T = total_steps, counted from 0 and at most T,

        rate = (initial - end) * (1 - t / T) ** power + end

    which is MMSegmentation's `PolyLR(eta_min=end)`. In the first
    `warmup_steps` W it is multiplied by

        1 - (1 - t / W) * (1 - warmup_ratio)

    like mmcv's `warmup="linear"`, whose ratio is also 0.1 by default.

    Reference:
        - [DANet](https://github.com/junfu1115/DANet): power 0.9, per
          iteration, to 0, no warm-up
        - [mmcv 1.x](https://github.com/open-mmlab/mmcv), `PolyLrUpdaterHook`

    Args:
        initial_learning_rate: float.
        total_steps: integer, updates of the whole training: batches / n if
            the optimizer has `gradient_accumulation_steps` n.
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
        initial_learning_rate: float,
        total_steps: int,
        power: float = 0.9,
        end_learning_rate: float = 0.0,
        warmup_steps: int = 0,
        warmup_ratio: float = 0.1,
    ) -> None:
        super().__init__()
        given = {
            argument: arguments.number(
                argument, value, "must be a number, 0 or more", least=0
            )
            for argument, value in (
                ("initial_learning_rate", initial_learning_rate),
                ("total_steps", total_steps),
                ("power", power),
                ("end_learning_rate", end_learning_rate),
                ("warmup_steps", warmup_steps),
                ("warmup_ratio", warmup_ratio),
            )
        }
        if total_steps < 1 or warmup_steps > total_steps or warmup_ratio > 1:
            raise ValueError(
                "`total_steps` must be at least 1, `warmup_steps` at most "
                "`total_steps` and `warmup_ratio` at most 1. Received: "
                f"total_steps={total_steps}, warmup_steps={warmup_steps}, "
                f"warmup_ratio={warmup_ratio}"
            )
        self._arguments = given

    def __call__(self, step):
        given = self._arguments
        step = ops.convert_to_tensor(step)
        policy = keras.config.dtype_policy()
        wanted = step.dtype, keras.config.floatx(), policy.variable_dtype
        wide = "float64" if any(map(is_float64, wanted)) else "float32"
        check_dtype(wide)
        step = ops.cast(step, wide)
        total, end = given["total_steps"], given["end_learning_rate"]
        # Subtract before dividing: steps are whole numbers, so it is exact.
        left = (total - minimum(step, total)) / total
        rate = (given["initial_learning_rate"] - end) * left ** given["power"]
        rate = rate + end
        if given["warmup_steps"]:
            missing = 1 - minimum(step / given["warmup_steps"], 1.0)
            rate = rate * (1 - missing * (1 - given["warmup_ratio"]))
        return rate

    def get_config(self):
        return dict(self._arguments)


@keras.saving.register_keras_serializable(package="keras_danet")
class SGD(keras.optimizers.SGD):
    """SGD with momentum and coupled weight decay, as in PyTorch.

    The published recipes were tuned with

        gradient = gradient + weight_decay * weight
        velocity = momentum * velocity + gradient
        weight = weight - learning_rate * velocity

    or, with `nesterov`, `learning_rate * (gradient + momentum * velocity)`.
    `keras.optimizers.SGD` instead shrinks weights outside the velocity, which
    is weaker by up to 1 / (1 - momentum), and a falling learning rate affects
    its velocity late.

    Gradients are clipped (`global_clipnorm`, which is PyTorch's
    `clip_grad_norm_`, or `clipnorm`, `clipvalue`) before the decay is added.
    With `gradient_accumulation_steps` n the mean gradient of n batches makes
    one update; a schedule and the moving average of `use_ema` count updates.
    (Keras's own optimizers count batches for both.)

    Args:
        learning_rate: float or `LearningRateSchedule`. Defaults to `0.01`.
        momentum: float in [0, 1). Defaults to `0.9`.
        weight_decay: float, added to the gradient as `weight_decay * weight`
            for every trainable weight but those of
            `exclude_from_weight_decay`. Defaults to `0.0`.
        multipliers: dict of regular expression to float. The learning rate of
            a variable whose path contains a match is multiplied by that
            number, as in a PyTorch parameter group.
            `DANet.head_multipliers` makes one for the head. Defaults to
            `None`.
        name: string. Defaults to `"SGD"`.
        nesterov: boolean, as in PyTorch. Defaults to `False`.
        **kwargs: those of `keras.optimizers.Optimizer` (`clipnorm`, ...).

    Raises:
        ValueError: for arguments that are out of range or incompatible,
            multipliers that are not numbers, or a variable that two
            expressions match.

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
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.9,
        weight_decay: float | None = 0.0,
        multipliers: Mapping[str, float] | None = None,
        name: str = "SGD",
        nesterov: bool = False,
        **kwargs: Any,
    ) -> None:
        momentum = arguments.number(
            "momentum", momentum, "must be in [0, 1)", least=0, below=1
        )
        if weight_decay is not None:
            must = "must be a number, 0 or more"
            weight_decay = arguments.number(
                "weight_decay", weight_decay, must, least=0
            )
        super().__init__(
            learning_rate=arguments.plain(learning_rate),
            momentum=float(momentum),
            nesterov=arguments.boolean("nesterov", nesterov),
            weight_decay=weight_decay,
            name=name,
            **_checked_options(kwargs),
        )
        if self.nesterov and not momentum:
            raise ValueError(
                "`nesterov` looks ahead along the momentum, which is 0. "
                "Received: nesterov=True, momentum=0"
            )
        if self.gradient_accumulation_steps and self.ema_overwrite_frequency:
            # Keras 3.15 would overwrite within an update.
            raise ValueError(
                "`ema_overwrite_frequency` cannot be used with "
                "`gradient_accumulation_steps`. Leave one of them out; "
                "keras.callbacks.SwapEMAWeights puts the averages in place "
                "for validation."
            )
        self._given_rate = arguments.plain(learning_rate)
        self.multipliers = _checked_multipliers(multipliers)
        self._not_decayed: dict[str, list] = {
            "paths": [],
            "names": [],
            "places": [],
        }

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[keras.Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Excludes variables from the decay; saved with the optimizer.

        Args:
            var_list: list of variables. Defaults to none.
            var_names: list of regular expressions to search in the names of
                variables, such as `["bias", "gamma", "beta"]`. Defaults to
                none.

        Raises:
            ValueError: if the optimizer is built, or for something other than
                lists.
        """
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay` must be called before the "
                "optimizer is built, which `fit` and `apply` do."
            )
        names = arguments.as_sequence(var_names or ())
        if names is None or not all(isinstance(name, str) for name in names):
            raise ValueError(
                "`var_names` must be a list of regular expressions, such as "
                f"['bias', 'gamma']. Received: var_names={var_names!r}"
            )
        self._not_decayed = {
            "paths": [variable.path for variable in var_list or ()],
            "names": list(names),
            "places": [],
        }

    def _use_weight_decay(self, variable):
        return variable.path not in self._not_decayed["paths"] and not any(
            re.search(name, variable.name)
            for name in self._not_decayed["names"]
        )

    def _apply_weight_decay(self, variables):
        pass  # Keras's, decoupled; `update_step` has the other one.

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        in_float64 = any(is_float64(v.dtype) for v in variables)
        self._wide = "float64" if in_float64 else "float32"
        self._variable_multipliers = tuple(
            _multiplier(self.multipliers, variable.path)
            for variable in variables
        )
        self._is_decayed = tuple(
            self._use_weight_decay(variable)
            and place not in self._not_decayed["places"]
            for place, variable in enumerate(variables)
        )
        for pattern in self.multipliers:
            if not any(re.search(pattern, v.path) for v in variables):
                warnings.warn(
                    f"`multipliers`: {pattern!r} matches the path of no "
                    "trainable variable.",
                    stacklevel=2,
                )

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        learning_rate = self._exact_rate(learning_rate)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        update = ops.cast(gradient, variable.dtype)
        # With tensors, not variables: torch would round the factors to
        # `floatx`.
        if self.weight_decay and self._is_decayed[index]:
            weight = ops.convert_to_tensor(variable)
            update = update + self.weight_decay * weight
        if self.momentum:
            moment = self.momentums[index]
            velocity = ops.convert_to_tensor(moment)
            velocity = self.momentum * velocity + update
            self.assign(moment, velocity)
            update = (
                update + self.momentum * velocity if self.nesterov else velocity
            )
        learning_rate = learning_rate * self._variable_multipliers[index]
        self.assign_sub(variable, learning_rate * update)

    def _get_current_learning_rate(self):
        # When gradients are accumulated, Keras 3.15 asks a schedule for the
        # rate of the batch, not of the update.
        if isinstance(self._learning_rate, LearningRateSchedule):
            step = self.iterations
            if isinstance(self._learning_rate, PolySchedule) and self.built:
                # It computes in the precision of its step, or a higher one.
                step = ops.cast(step, self._wide)
            return self._learning_rate(step)
        return super()._get_current_learning_rate()

    def _exact_rate(self, rate):
        """The given rate, which Keras rounds to `floatx`, unrounded.

        A rate that was set later stays as Keras keeps it.
        """
        if not isinstance(self._given_rate, float):
            return rate
        rate = ops.convert_to_tensor(rate)
        given = ops.convert_to_tensor(self._given_rate, self._wide)
        is_given = ops.equal(rate, ops.cast(given, rate.dtype))
        return ops.where(is_given, given, ops.cast(rate, self._wide))

    def _clip_gradients(self, grads):
        limit = self.clipnorm or self.global_clipnorm
        if not limit:
            return super()._clip_gradients(grads)
        # Like Keras, but it computes factors in `floatx` and divides by a norm
        # of 0, as of a batch without a labelled pixel.
        grads = summed(self, grads)
        limit = ops.convert_to_tensor(limit, self._wide)
        norms = [
            None
            if g is None
            else ops.sqrt(ops.sum(ops.square(ops.cast(g, self._wide))))
            for g in grads
        ]
        if self.global_clipnorm:
            present = ops.stack([norm for norm in norms if norm is not None])
            norms = [ops.sqrt(ops.sum(ops.square(present)))] * len(norms)

        def clipped(gradient, norm):
            norm = ops.where(ops.equal(norm, 0), limit, norm)
            factor = minimum(limit / norm, 1.0)
            return gradient * ops.cast(factor, gradient.dtype)

        return [
            None if g is None else clipped(g, norm)
            for g, norm in zip(grads, norms, strict=True)
        ]

    def _update_model_variables_moving_average(self, trainable_variables):
        if not self.use_ema:
            return
        # Keras 3.15 would average after every batch, with a momentum that
        # torch rounds to `floatx`.
        steps = self.gradient_accumulation_steps or 1
        updated = (self._iterations + 1) % steps == 0
        begun = self.iterations > 0
        for variable, average in zip(
            trainable_variables,
            self._model_variables_moving_average,
            strict=True,
        ):
            share = ops.convert_to_tensor(self.ema_momentum, variable.dtype)
            share = ops.where(begun, share, ops.zeros_like(share))
            share = ops.where(updated, share, ops.ones_like(share))
            average.assign(share * average + (1 - share) * variable)

    def get_config(self):
        config = {
            **super().get_config(),
            "multipliers": dict(self.multipliers),
        }
        not_decayed = {
            key: list(values) for key, values in self._not_decayed.items()
        }
        if self.built:
            # A loaded model's variables may have other paths.
            not_decayed["places"] = [
                place
                for place, is_in in enumerate(self._is_decayed)
                if not is_in
            ]
        if any(not_decayed.values()):
            config["not_decayed"] = not_decayed
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        not_decayed = config.pop("not_decayed", None)
        optimizer = super().from_config(config, custom_objects)
        if not_decayed:
            optimizer._not_decayed = not_decayed
        return optimizer


def _checked_options(given):
    """Options of Keras's optimizers, checked; ignored ones are refused."""
    given = arguments.plain_values(given)
    if "decay" in given:
        raise ValueError(
            "`decay` was removed. Give `learning_rate` a schedule, such as "
            f"PolySchedule. Received: decay={given['decay']!r}"
        )
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        if given.get(name) is not None:
            arguments.number(
                name, given[name], "must be a positive number", above=0
            )
    for name in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        if given.get(name) is not None:
            arguments.integer(name, given[name])
    if given.get("ema_overwrite_frequency") and not given.get("use_ema"):
        raise ValueError(
            "`ema_overwrite_frequency` needs the averages of `use_ema=True`. "
            "Received: ema_overwrite_frequency="
            f"{given['ema_overwrite_frequency']}, use_ema=False"
        )
    return given


def _checked_multipliers(multipliers):
    must = "must be a dict of regular expression to a number, 0 or more"
    if not isinstance(multipliers or {}, Mapping):
        raise arguments.refusal("multipliers", must, multipliers)
    multipliers = dict(multipliers or {})
    for pattern, factor in multipliers.items():
        try:
            re.compile(pattern)
            multipliers[pattern] = arguments.number(
                "multipliers", factor, must, least=0
            )
        except (TypeError, ValueError, re.error):
            raise ValueError(
                f"`multipliers` {must}. Received: {pattern!r}: {factor!r}"
            ) from None
    return multipliers


def _multiplier(multipliers, path):
    found = [pattern for pattern in multipliers if re.search(pattern, path)]
    if len(found) > 1:
        raise ValueError(
            f"`multipliers`: {found} all match {path!r}. Make them exclude "
            "each other."
        )
    return multipliers[found[0]] if found else 1.0
