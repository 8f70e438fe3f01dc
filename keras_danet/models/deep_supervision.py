"""Several outputs, one label map: how such a model is compiled and trained."""

import contextlib
import inspect
import sys
from collections.abc import Sequence
from typing import Any

import keras

from keras_danet import arguments
from keras_danet.distribution.keras_distributions import on_devices
from keras_danet.distribution.replicas import part_of
from keras_danet.distribution.replicas import share_value
from keras_danet.distribution.tensorflow_strategies import check_replicas
from keras_danet.distribution.tensorflow_strategies import on_replicas
from keras_danet.distribution.tensorflow_strategies import refuse_on_replicas
from keras_danet.distribution.tensorflow_strategies import share_batch
from keras_danet.distribution.tensorflow_strategies import strategy_scope
from keras_danet.losses import PixelCrossentropy
from keras_danet.losses.pixels import of_known_shape
from keras_danet.metrics import SegmentationMetrics
from keras_danet.models import fit_checks
from keras_danet.models.compiling import chosen_optimizer
from keras_danet.models.compiling import of_logits
from keras_danet.models.compiling import refuse_other_outputs
from keras_danet.models.compiling import weighted_losses
from keras_danet.models.functional import FunctionalModel
from keras_danet.models.functional import compilable


class DeepSupervision(FunctionalModel):
    """A functional model of several outputs that learn from one label map.

    Called in training it returns the dict of its outputs, otherwise `fusion`
    alone. Subclasses set `num_classes` and `inference_model`, a functional
    model over the same layers with that one output.
    """

    def __call__(self, inputs, *args, **kwargs):
        # Used as a layer of another model, which expects one prediction.
        if any(map(_is_symbolic, keras.tree.flatten(inputs))):
            return self.inference_model(inputs, *args, **kwargs)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs, training=None, mask=None):
        nested = self._get_call_context().entry_layer is not self
        try:
            if training and not nested:
                return super().call(inputs, training=True, mask=mask)
            return self.inference_model(inputs, training=bool(training))
        finally:
            # If it was opened here.
            self._maybe_reset_call_context()

    def compute_output_spec(self, inputs, training=None, mask=None):
        return self.inference_model.compute_output_spec(inputs)

    def compute_output_shape(self, input_shape):
        return self.inference_model.compute_output_shape(input_shape)

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Any = "auto",
        loss_weights: dict[str, float] | Sequence[float] | None = None,
        metrics: Any = "auto",
        weighted_metrics: Any = None,
        total_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training; the defaults are the paper's.

        Args:
            optimizer: a Keras optimizer or its name, or `"auto"`: `SGD` with
                momentum 0.9, coupled weight decay 1e-4 and learning rate
                0.01, which falls to 0 over `total_steps` with power 0.9 and
                stays constant without `total_steps`. Defaults to `"auto"`.
            loss: `"auto"` for `PixelCrossentropy`; one loss for every
                output; or a dict, or list in the order of `loss_weights`, of
                one loss per output (`None` leaves an output untrained).
                Each is given the labels of the batch and one output's
                logits; Keras's crossentropies by name, such as
                `"sparse_categorical_crossentropy"`, get `from_logits=True`. In
                validation only the loss of `fusion` is computed.
                Defaults to `"auto"`.
            loss_weights: dict of output name to float, or list in the order
                fusion, position, channel, auxiliary. Defaults to `None`: 1,
                and 0.4 for `auxiliary`.
            metrics: metrics of the fused logits; `"auto"` for mean IoU and
                pixel accuracy over the pixels that the losses do not ignore.
                Defaults to `"auto"`.
            weighted_metrics: metrics of the fused logits that are given the
                sample weights. Defaults to `None`.
            total_steps: integer, the steps of the whole training, for the
                schedule of the `"auto"` optimizer. Defaults to `None`.
            **kwargs: the rest of `keras.Model.compile`.

        Raises:
            ValueError: for outputs that the model does not have,
                `total_steps` together with your own optimizer, losses that
                ignore different labels, a loss with reduction `"none"` or
                `from_logits=False`, or `jit_compile=True` on torch or under
                a strategy of several replicas.
        """
        refuse_other_outputs("metrics", metrics)
        refuse_other_outputs("weighted_metrics", weighted_metrics)
        wide = self.inference_model.output.dtype
        given = PixelCrossentropy() if loss == "auto" else loss
        weighted = weighted_losses(given, loss_weights, self.output, wide)
        losses = [loss for _, loss in weighted.values()]
        kwargs = arguments.plain_values(kwargs)
        refuse_on_replicas(self, kwargs)
        ignored = fit_checks.ignored_by_all(losses)
        # Variables made here must belong to the model's replicas.
        with strategy_scope(self):
            optimizer = chosen_optimizer(optimizer, total_steps)
            if metrics == "auto":
                label = 255 if ignored is None else ignored
                # From this name callbacks know that higher is better.
                metrics = [
                    SegmentationMetrics(self.num_classes, label, "mean_iou")
                ]
            metrics, weighted_metrics = keras.tree.map_structure(
                of_logits, (metrics, weighted_metrics)
            )
            flat = keras.tree.flatten((metrics, weighted_metrics))
            judged = fit_checks.ignored_labels([*losses, *flat])
            # The losses are not passed on: Keras would expect one label per
            # output in every batch, and every output in validation.
            super().compile(
                optimizer=optimizer,
                metrics=metrics,
                weighted_metrics=weighted_metrics,
                **kwargs,
            )
            # Hidden from Keras's tracking: it would count the first twice, and
            # the second is neither logged nor saved.
            self.__dict__.update(
                # Keras's own would sum in `floatx`, which may be float16.
                _loss_tracker=keras.metrics.Mean(name="loss", dtype=wide),
                extremes=fit_checks.Extremes(
                    self.num_classes,
                    set.intersection(*judged) if judged else None,
                ),
                told_of_rate=False,
                num_weighted=sum(
                    metric is not None
                    for metric in keras.tree.flatten(weighted_metrics)
                ),
            )
        check_replicas(self, flat)
        self.loss = given
        self._loss_weights = loss_weights
        self._output_losses = weighted

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        outputs = y_pred if isinstance(y_pred, dict) else {"fusion": y_pred}
        if isinstance(y, (dict, list, tuple)):
            raise ValueError(
                "A DANet has one label map for all outputs: a tensor (batch, "
                f"height, width). Received: a {type(y).__name__} of labels. "
                "Give batches of (image, label)."
            )
        y, sample_weight = of_known_shape(y, outputs["fusion"], sample_weight)
        total = None
        for name, (weight, loss) in self._output_losses.items():
            if name in outputs:
                value = weight * part_of(loss, y, outputs[name], sample_weight)
                total = value if total is None else total + value
        if total is None or self.losses:
            # The losses of `add_loss` and regularizers, or Keras's error if
            # there is no loss at all.
            added = super().compute_loss(
                x, y, y_pred, sample_weight, training=training
            )
            total = added if total is None else total + added
        return share_value(total)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if isinstance(y_pred, dict):
            y_pred = y_pred["fusion"]
        self.extremes.update_state(x, y)
        y, sample_weight = of_known_shape(y, y_pred, sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    @property
    def metrics(self):
        extremes = self.__dict__.get("extremes")
        return [*super().metrics, *([extremes] if extremes else [])]

    def get_metrics_result(self):
        found = []
        for metric in self.metrics:
            if metric is self.extremes:
                continue
            results, unweighted = [(metric.name, metric.result())], 1
            if metric is self._compile_metrics:
                results = list(results[0][1].items())
                unweighted = len(results) - self.num_weighted
            found += [
                (place >= unweighted, isinstance(value, dict), name, value)
                for place, (name, value) in enumerate(results)
            ]
        # Keras would let one metric's scores overwrite another's. If two share
        # a name, the unweighted one keeps it, and a scalar before a dict.
        logs = {}
        for weighted, several, name, value in sorted(
            found, key=lambda each: each[:2]
        ):
            scores = value if several else {name: value}
            if any(key in logs for key in scores):
                prefix = "weighted" if weighted and not several else name
                scores = {f"{prefix}_{key}": scores[key] for key in scores}
            logs.update(scores)
        self.__dict__["log_names"] = tuple(logs)
        return logs

    def _flatten_metrics_in_order(self, logs):
        # Keras would list a name that two metrics share twice.
        known = self.__dict__.get("log_names", ())
        names = dict.fromkeys((*known, *sorted(logs)))
        values = [logs[name] for name in names if name in logs]
        return values[0] if len(values) == 1 else values

    def reset_metrics(self):
        # Before a validation, so that what training has met is not lost.
        self.check_extremes("Training")
        super().reset_metrics()

    def check_extremes(self, where):
        """Raises for labels, and warns about images, that must be wrong."""
        extremes = self.__dict__.get("extremes")
        if extremes is None:
            return
        strategy = getattr(self, "distribute_strategy", None)
        labels, pixels = extremes.found(strategy)
        fit_checks.warn_of_pixels(self, pixels)
        if labels:
            extremes.reset_state()
            fit_checks.check_labels(
                labels, self.num_classes, extremes.ignored, where
            )

    def fit(self, *args, **kwargs):
        given = _given(super().fit, args, kwargs)
        _refuse_class_weight(given)
        checks = fit_checks.FitChecks(given.get("initial_epoch", 0))
        callbacks = given.get("callbacks") or []
        if isinstance(callbacks, keras.callbacks.CallbackList):
            checks.set_model(self)
            checks.set_params(callbacks.params)
            callbacks.append(checks)
        else:
            callbacks = [checks, *keras.tree.flatten(callbacks)]
        self._forget_extremes()
        with self._in_order():
            self.build_optimizer()
            return super().fit(**{**given, "callbacks": callbacks})

    def train_on_batch(
        self,
        x,
        y=None,
        sample_weight=None,
        class_weight=None,
        return_dict=False,
    ):
        _refuse_class_weight({"class_weight": class_weight})
        with self._in_order():
            self.build_optimizer()
            batch = share_batch(self, (x, y, sample_weight))
            logs = super().train_on_batch(*batch, return_dict=True)
            logs = self._logs_of_batch(logs, return_dict)
        fit_checks.warn_of_rate(self, 0)
        self.check_extremes("Training")
        return logs

    def evaluate(self, *args, **kwargs):
        given = _given(super().evaluate, args, kwargs)
        in_fit = given.get("_use_cached_eval_dataset")
        if not in_fit:
            self._forget_extremes()
        with self._in_order():
            result = super().evaluate(**given)
        self.check_extremes("Validation" if in_fit else "Evaluation")
        return result

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        with self._in_order():
            batch = share_batch(self, (x, y, sample_weight))
            logs = super().test_on_batch(*batch, return_dict=True)
            logs = self._logs_of_batch(logs, return_dict)
        self.check_extremes("Evaluation")
        return logs

    def _logs_of_batch(self, logs, return_dict):
        if getattr(self, "_distribute_strategy", None) is not None:
            # Keras returns the mean of what the replicas have measured.
            logs = self.get_metrics_result()
            logs = {name: float(value) for name, value in logs.items()}
        return logs if return_dict else self._flatten_metrics_in_order(logs)

    def predict(self, *args, **kwargs):
        given = _given(super().predict, args, kwargs)
        fit_checks.warn_of_pixels(self, fit_checks.pixels_of(given["x"]))
        with self._in_order():
            return super().predict(**given)

    def predict_on_batch(self, x):
        fit_checks.warn_of_pixels(self, fit_checks.pixels_of(x))
        with self._in_order():
            return super().predict_on_batch(x)

    @contextlib.contextmanager
    def _in_order(self):
        """Adapts Keras's trainer to the devices of this model."""
        with fit_checks.explained(self), on_replicas(self), on_devices(self):
            yield

    def _forget_extremes(self):
        """Discards what an interrupted `fit` has left."""
        if extremes := self.__dict__.get("extremes"):
            extremes.reset_state()

    def build_optimizer(self):
        """Makes the optimizer's variables before the first step.

        Within the step, TensorFlow would trace all of it a second time. `fit`
        calls this; loading a checkpoint's variables needs it.
        """
        check_replicas(self)
        optimizer = getattr(self, "optimizer", None)
        if optimizer is None or optimizer.built:
            return
        with strategy_scope(self):
            optimizer.build(self.trainable_variables)

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            for key, value in (
                ("loss", self.loss),
                ("loss_weights", self._loss_weights),
            ):
                config[key] = keras.saving.serialize_keras_object(value)
        return config

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(compilable(config))
        self.compile(**config)
        self.optimizer.build(self.trainable_variables)


def _is_symbolic(x):
    """Whether another model is being built or, on JAX, trained.

    On JAX a model in training calls each of its layers like an outermost
    model. A DANet's own training uses `stateless_call`, which goes straight
    to `call`.
    """
    if isinstance(x, keras.KerasTensor):
        return True
    return keras.backend.backend() == "jax" and isinstance(
        x, sys.modules["jax"].core.Tracer
    )


def _given(method, args, kwargs):
    """Arguments by name, however they were given, with Python's numbers."""
    given = inspect.signature(method).bind(*args, **kwargs).arguments
    more = given.pop("kwargs", {})
    return arguments.plain_values({**given, **more})


def _refuse_class_weight(given):
    if given.get("class_weight") is not None:
        raise ValueError(
            "`class_weight` weights whole images, not pixels, in Keras. Give "
            "batches of (image, label, sample_weight) with one weight per "
            "pixel instead, or a weighted loss to `compile()`."
        )
