"""What a DANet is compiled with: losses by output, metrics, an optimizer."""

import functools
import inspect

import keras

from keras_danet import arguments
from keras_danet.losses import SumOfLosses
from keras_danet.optimizers import SGD
from keras_danet.optimizers import PolySchedule

# Weights of the outputs' losses: the authors' 1, 1, 1 and MMSegmentation's 0.4.
LOSS_WEIGHTS = {
    "fusion": 1.0,
    "position": 1.0,
    "channel": 1.0,
    "auxiliary": 0.4,
}


def chosen_optimizer(optimizer, total_steps):
    """The optimizer of `DANet.compile`; see there."""
    if optimizer != "auto":
        if total_steps is None:
            refuse_lost_exclusions(optimizer)
            return optimizer
        raise ValueError(
            "`total_steps` sets the schedule of optimizer='auto'; give "
            "your own optimizer a learning-rate schedule instead. "
            f"Received: optimizer={optimizer!r}"
        )
    learning_rate = 0.01
    if total_steps is not None:
        learning_rate = PolySchedule(learning_rate, total_steps)
    return SGD(learning_rate, momentum=0.9, weight_decay=1e-4)


def _per_output(argument, value, names):
    """A dict by output name from a dict, a list or one value for all."""
    if isinstance(value, dict):
        unknown = sorted(set(value) - set(names))
        if unknown:
            raise ValueError(
                f"`{argument}` names {unknown}, but the outputs of this model "
                f"are {names}."
            )
        return dict(value)
    if isinstance(value, (list, tuple)):
        if len(value) != len(names):
            raise ValueError(
                f"`{argument}` must have one entry per output, {names}. "
                f"Received: {argument}={value!r}"
            )
        return dict(zip(names, value, strict=True))
    return dict.fromkeys(names, value)


def weighted_losses(loss, loss_weights, outputs, dtype):
    """The losses and weights given to `compile`, checked.

    Args:
        loss: a loss, or a dict or list of them by output.
        loss_weights: `None`, or a dict or list of numbers.
        outputs: collection of the names of the model's outputs.
        dtype: that of the logits.

    Returns:
        Dict of an output's name to the weight and the loss that train it.

    Raises:
        ValueError: for unknown outputs, weights that are not numbers or belong
            to outputs without a loss, and losses that cannot train logits.
    """
    names = [name for name in LOSS_WEIGHTS if name in outputs]
    losses = _per_output("loss", loss, names)
    weights = loss_weights
    if loss_weights is None:
        weights = {name: LOSS_WEIGHTS[name] for name in names}
    kinds = dict, list, tuple
    if isinstance(weights, kinds):
        weights = _per_output("loss_weights", weights, names)
    if not isinstance(weights, dict) or not all(
        map(arguments.is_number, weights.values())
    ):
        raise ValueError(
            "`loss_weights` must be a dict or a list of floats, one per "
            f"output {names}. Received: loss_weights={loss_weights!r}"
        )
    idle = [name for name in weights if losses.get(name) is None]
    if idle and isinstance(loss_weights, dict):
        raise ValueError(
            f"`loss_weights` names outputs without a loss: {idle}. Give them "
            f"one, or leave them out. Received: loss={loss!r}"
        )
    return {
        name: (weights.get(name, 1.0), _as_loss(losses[name], dtype))
        for name in names
        if losses.get(name) is not None
    }


def _as_loss(loss, dtype):
    loss = keras.losses.get(loss)
    if isinstance(loss, SumOfLosses):
        for _, part in loss.losses:
            _as_loss(part, dtype)
    if getattr(loss, "from_logits", None) is False:
        raise ValueError(
            "The outputs of DANet are logits, not probabilities. Received: "
            f"{loss.name} with from_logits=False. Make it with "
            "from_logits=True, or take loss='auto'."
        )
    if not isinstance(loss, keras.losses.Loss):
        name = getattr(loss, "__name__", "loss").strip("<>")
        if _is_keras_crossentropy(loss):
            # By default it would take the logits for probabilities.
            loss = functools.partial(loss, from_logits=True)
        return _FunctionLoss(loss, name, dtype)
    if loss.reduction in (None, "none"):
        raise ValueError(
            "A loss to train with must give one number. Received: "
            f"{loss.name} with reduction={loss.reduction!r}. Take "
            "'sum_over_batch_size', 'sum' or 'mean_with_sample_weight'."
        )
    return loss


def of_logits(metric):
    """A metric given to `compile`, set to take logits."""
    by_name = ("crossentropy", "ce", "sparse_categorical_crossentropy")
    if metric in by_name or _is_keras_crossentropy(metric):
        name = metric if isinstance(metric, str) else metric.__name__
        return keras.metrics.SparseCategoricalCrossentropy(
            name, from_logits=True
        )
    given = getattr(metric, "_fn_kwargs", {})
    if given.get("from_logits") is False:
        raise ValueError(
            "The outputs of DANet are logits, not probabilities. Received: "
            f"{metric.name} with from_logits=False. Make it with "
            "from_logits=True."
        )
    return metric


def _is_keras_crossentropy(function):
    module = getattr(function, "__module__", None) or ""
    return (
        inspect.isfunction(function)
        and module.startswith("keras.")
        and "from_logits" in inspect.signature(function).parameters
    )


class _FunctionLoss(keras.losses.Loss):
    """A loss given as a function of (labels, logits)."""

    def __init__(self, function, name, dtype):
        super().__init__(name=name, dtype=dtype)
        self.function = function

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred)


def refuse_other_outputs(argument, metrics):
    others = sorted(
        set(metrics) - {"fusion"} if isinstance(metrics, dict) else ()
    )
    if others:
        raise ValueError(
            f"`{argument}` are computed on the fused output only, 'fusion'. "
            f"Received: metrics for {others}"
        )


def refuse_lost_exclusions(optimizer):
    # Keras 3.15 does not pass them to the inner optimizer.
    if hasattr(optimizer, "inner_optimizer") and hasattr(
        optimizer, "_exclude_from_weight_decay"
    ):
        raise ValueError(
            "`exclude_from_weight_decay` of a LossScaleOptimizer has no "
            "effect. Call it on the optimizer inside, before it is wrapped."
        )
