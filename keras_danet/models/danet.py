"""DANet: two attention branches over a dilated backbone, and their sum."""

import contextlib
import functools
import inspect
import operator
import sys
import warnings

import keras
from keras import layers

from keras_danet import arguments
from keras_danet.arguments import did_you_mean
from keras_danet.data.resampling import standardize_sides
from keras_danet.distribution.keras_distributions import on_devices
from keras_danet.distribution.replicas import part_of
from keras_danet.distribution.replicas import share_value
from keras_danet.distribution.tensorflow_strategies import check_replicas
from keras_danet.distribution.tensorflow_strategies import on_replicas
from keras_danet.distribution.tensorflow_strategies import refuse_on_replicas
from keras_danet.distribution.tensorflow_strategies import share_batch
from keras_danet.distribution.tensorflow_strategies import strategy_scope
from keras_danet.layers import BilinearResize
from keras_danet.layers import ChannelAttention
from keras_danet.layers import Conv2D
from keras_danet.layers import Normalization
from keras_danet.layers import PositionAttention
from keras_danet.layers.numerics import wide_dtype
from keras_danet.losses import PixelCrossentropy
from keras_danet.losses import SumOfLosses
from keras_danet.losses.pixels import of_known_shape
from keras_danet.metrics import SegmentationMetrics
from keras_danet.models import fit_checks
from keras_danet.models.freezing import frozen_config
from keras_danet.models.freezing import head_pattern
from keras_danet.models.freezing import merged_weights
from keras_danet.models.freezing import restore_frozen
from keras_danet.models.freezing import unfreeze
from keras_danet.models.functional import FunctionalModel
from keras_danet.models.functional import compilable
from keras_danet.models.functional import refuse_h5
from keras_danet.models.resnet import STAGE_BLOCKS
from keras_danet.models.resnet import DilatedResNet
from keras_danet.models.resnet import as_tuple
from keras_danet.models.resnet import blank_kernels
from keras_danet.models.resnet import checked_widths
from keras_danet.models.resnet import convolution_bn
from keras_danet.models.resnet import dtype_policy_scope
from keras_danet.optimizers import SGD
from keras_danet.optimizers import PolySchedule
from keras_danet.weights import files
from keras_danet.weights import presets
from keras_danet.weights import sources
from keras_danet.weights import torch_names
from keras_danet.weights.presets import split_frozen
from keras_danet.weights.shapes import danet_shapes

# ImageNet's statistics, RGB, in the 0-255 units of images.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

# Untrained; `DilatedResNet.presets` are backbones with weights.
NAMED_BACKBONES = {f"resnet{depth}": depth for depth in STAGE_BLOCKS}

ATTENTION = {"position": PositionAttention, "channel": ChannelAttention}
# Weights of the outputs' losses: the authors' 1, 1, 1 and MMSegmentation's 0.4.
LOSS_WEIGHTS = {
    "fusion": 1.0,
    "position": 1.0,
    "channel": 1.0,
    "auxiliary": 0.4,
}

# What can be squared in float32; pixels have 0-255.
MAX_PIXEL = 1e18

# What a model is told of its data set, and only keeps.
FACTS = ("class_names", "palette", "test_size")

# Label 255 means "ignore", so that it can be no class.
MAX_CLASSES = 255


def attention_branch(x, filters, kind):
    """3x3 convolution, one of the attentions, 3x3 convolution."""
    x = convolution_bn(x, filters, 3, f"{kind}_in")
    x = ATTENTION[kind](data_format="channels_last", name=f"{kind}_attention")(
        x
    )
    return convolution_bn(x, filters, 3, f"{kind}_out")


def head_features(x, attention):
    """What each output classifies, by the output's name."""
    filters = x.shape[-1] // 4
    if not attention:
        return {"fusion": convolution_bn(x, filters, 3, "fcn")}
    branches = {kind: attention_branch(x, filters, kind) for kind in attention}
    if len(branches) == 1:
        return {"fusion": branches[attention[0]]}
    fusion = layers.Add(name="fusion_sum")(list(branches.values()))
    return {"fusion": fusion, **branches}


def classifier(x, num_classes, dropout, name):
    """Logits at the resolution of the features."""
    if dropout:
        x = layers.SpatialDropout2D(
            dropout, data_format="channels_last", name=f"{name}_dropout"
        )(x)
    return Conv2D(
        num_classes,
        1,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        data_format="channels_last",
        name=f"{name}_classifier",
    )(x)


@keras.saving.register_keras_serializable(package="keras_danet")
class DANet(FunctionalModel):
    """Dual Attention Network: a semantic segmentation of any image.

    A dilated backbone's last features go through two branches: in one every
    position gathers features from all positions, in the other every channel
    from all channels. Their sum gives the segmentation; in training each
    branch is classified, too, and has its own loss.

        model = keras_danet.DANet(num_classes=19)
        model.compile(total_steps=80_000)
        model.fit(train_dataset, validation_data=val_dataset)
        logits = model.predict(images)

    The graph has the outputs `fusion`, `position` and `channel` (`fusion`
    alone with fewer than two attentions) and, if asked for, `auxiliary`.
    Called with `training=True` the model returns that dict of logits,
    otherwise the fused logits alone. `inference_model` is a functional model
    over the same layers with that one output: export it, or nest it in a
    model of your own. `features` is a dict of the symbolic tensors inside:
    `stage1` to `stage4` and `{output}_logits` before they are upsampled; read
    them with `keras.Model(model.input, model.features["stage4"])`.

    Built and compiled under a `tf.distribute` strategy, or after
    `keras.distribution.set_distribution`, it ends with the weights that one
    device would: losses, batch norms, clipping and metrics are those of the
    global batch.

    Reference:
        - [Dual Attention Network for Scene Segmentation](
          https://arxiv.org/abs/1809.02983) (Fu et al., CVPR 2019)

    Args:
        num_classes: integer from 2 to 255. Two classes are two classes, not
            one sigmoid.
        backbone: `"resnet18"`, `"resnet34"`, `"resnet50"`, `"resnet101"`,
            `"resnet152"`, untrained; a key of `DilatedResNet.presets`, such
            as `"resnet50_imagenet"`, with its weights; or a functional model
            of normalised images whose output is a dict with `stage4` (and
            `stage3` for `auxiliary`), such as `DilatedResNet`. Defaults to
            `"resnet50"`.
        attention: tuple of the attentions to use, of `"position"` and
            `"channel"`. `()` is the dilated FCN that the paper compares
            with. Defaults to both.
        auxiliary: boolean, whether to train a small FCN on `stage3` beside
            the head, as MMSegmentation does. Defaults to `False`.
        dropout: float in [0, 1), the share of channels dropped before each
            classifier. Defaults to `0.1`.
        align_corners: boolean, how logits are upsampled; see
            `BilinearResize`. Defaults to `True`, the authors' choice.
        output_stride: 8, 16 or 32, of a backbone given by name. Defaults to
            `None`, which is 8.
        multi_grid: dilation rates of the last stage of a backbone given by
            name. Defaults to `None`.
        stem_filters: widths of the deep stem of a backbone given by name.
            Defaults to `None`, the plain stem.
        pixel_mean: number, or three (red, green, blue), subtracted from the
            images, in 0-255 units. Defaults to ImageNet's.
        pixel_std: number, or three, that the images are then divided by. A
            mean of 0 and a deviation of 1 switch the normalisation off.
            Defaults to ImageNet's.
        class_names: tuple of strings, one per class, kept with the model for
            who prints or draws what it predicts. Defaults to `None`.
        palette: tuple of (red, green, blue), one per class, likewise.
            Defaults to `None`.
        test_size: what a `Predictor` resizes images to, as its `size`; a
            training leaves its own here. Defaults to `None`, the image's own
            size.
        name: string. Defaults to `"danet"`.
        dtype: dtype policy. Logits are float32 under half precision. Under
            float64 all is float64 but what Keras itself keeps in
            `keras.config.floatx()` (arrays of images given to `fit` and
            `predict`, a learning rate assigned after construction) and, on
            torch, the means of Keras's own losses. Defaults to the global
            policy.

    Input shape:
        `(batch, height, width, 3)`, RGB in 0-255, uint8 or float, of any
        height and width.

    Output shape:
        `(batch, height, width, num_classes)` logits; in training a dict of
        them.

    Raises:
        ValueError: for arguments out of range or that do not fit together.

    Example:

    >>> model = keras_danet.DANet(
    ...     num_classes=5, backbone=keras_danet.DilatedResNet(18, filters=8))
    >>> images = np.zeros((1, 33, 65, 3), "uint8")
    >>> model.predict(images, verbose=0).shape
    (1, 33, 65, 5)
    >>> sorted(model(images, training=True))
    ['channel', 'fusion', 'position']
    """

    def __init__(
        self,
        num_classes,
        backbone="resnet50",
        attention=("position", "channel"),
        auxiliary=False,
        dropout=0.1,
        align_corners=True,
        output_stride=None,
        multi_grid=None,
        stem_filters=None,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        class_names=None,
        palette=None,
        test_size=None,
        name="danet",
        dtype=None,
    ):
        given = {
            "num_classes": _checked_num_classes(num_classes),
            "backbone": backbone,
            "attention": _standardize_attention(attention),
            "auxiliary": arguments.boolean("auxiliary", auxiliary),
            "dropout": arguments.number(
                "dropout",
                dropout,
                "is the share of channels to drop, in [0, 1)",
                least=0,
                below=1,
            ),
            "align_corners": arguments.boolean("align_corners", align_corners),
            "output_stride": output_stride,
            "multi_grid": as_tuple("multi_grid", multi_grid),
            "stem_filters": as_tuple("stem_filters", stem_filters),
            "pixel_mean": _per_channel("pixel_mean", pixel_mean),
            "pixel_std": _per_channel("pixel_std", pixel_std),
        }
        given["class_names"] = _checked_names(class_names, given["num_classes"])
        given["palette"] = _checked_palette(palette, given["num_classes"])
        given["test_size"] = standardize_sides(test_size)
        if min(given["pixel_std"]) < 1 / MAX_PIXEL:
            raise ValueError(
                "`pixel_std` must be positive (1 switches it off). "
                f"Received: pixel_std={pixel_std!r}"
            )
        with dtype_policy_scope(dtype) as policy:
            built, given = _pretrained(given)
            images, features, outputs = _graph(
                **{k: v for k, v in built.items() if k not in FACTS}
            )
            super().__init__(images, outputs, name=name)
        self.num_classes = given["num_classes"]
        self.attention = given["attention"]
        self._constructor_arguments = {**given, "dtype": policy}
        # Kept from Keras's tracking: these are views of the layers above.
        self.__dict__["features"] = features
        self.__dict__["inference_model"] = FunctionalModel(
            images, outputs["fusion"], name=f"{name}_inference"
        )

    def __call__(self, inputs, *args, **kwargs):
        # As a layer of another model, which has one loss of one prediction.
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
            # One that was opened here.
            self._maybe_reset_call_context()

    def compute_output_spec(self, inputs, training=None, mask=None):
        return self.inference_model.compute_output_spec(inputs)

    def compute_output_shape(self, input_shape):
        return self.inference_model.compute_output_shape(input_shape)

    @property
    def class_names(self):
        """Tuple of a name per class, or None."""
        return self._constructor_arguments["class_names"]

    @class_names.setter
    def class_names(self, names):
        names = _checked_names(names, self.num_classes)
        self._constructor_arguments["class_names"] = names

    @property
    def palette(self):
        """Tuple of a (red, green, blue) per class, or None."""
        return self._constructor_arguments["palette"]

    @palette.setter
    def palette(self, colors):
        colors = _checked_palette(colors, self.num_classes)
        self._constructor_arguments["palette"] = colors

    @property
    def test_size(self):
        """(long, short) side that a `Predictor` resizes to, or Nones."""
        return self._constructor_arguments["test_size"]

    @test_size.setter
    def test_size(self, size):
        self._constructor_arguments["test_size"] = standardize_sides(size)

    def compile(
        self,
        optimizer="auto",
        loss="auto",
        loss_weights=None,
        metrics="auto",
        weighted_metrics=None,
        total_steps=None,
        **kwargs,
    ):
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
                `"sparse_categorical_crossentropy"`, are told so. In validation
                only the loss of `fusion` is computed.
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
                `total_steps` beside an optimizer of your own, losses that
                ignore different labels, a loss with reduction `"none"` or
                `from_logits=False`, or `jit_compile=True` on torch or under
                a strategy of several replicas.
        """
        _refuse_other_outputs("metrics", metrics)
        _refuse_other_outputs("weighted_metrics", weighted_metrics)
        names = [name for name in LOSS_WEIGHTS if name in self.output]
        given = PixelCrossentropy() if loss == "auto" else loss
        losses = _per_output("loss", given, names)
        weights = _per_output(
            "loss_weights",
            {name: LOSS_WEIGHTS[name] for name in names}
            if loss_weights is None
            else loss_weights,
            names,
        )
        kinds = dict, list, tuple, type(None)
        if not isinstance(loss_weights, kinds) or not all(
            map(arguments.is_number, weights.values())
        ):
            raise ValueError(
                "`loss_weights` must be a dict or a list of floats, one per "
                f"output {names}. Received: loss_weights={loss_weights!r}"
            )
        idle = [name for name in weights if losses.get(name) is None]
        if idle and isinstance(loss_weights, dict):
            raise ValueError(
                f"`loss_weights` names outputs without a loss: {idle}. Give "
                f"them one, or leave them out. Received: loss={loss!r}"
            )
        if optimizer != "auto" and total_steps is not None:
            raise ValueError(
                "`total_steps` sets the schedule of optimizer='auto'; give "
                "your own optimizer a learning-rate schedule instead. "
                f"Received: optimizer={optimizer!r}"
            )
        wide = self.inference_model.output.dtype
        losses = {
            name: _as_loss(losses[name], wide)
            for name in names
            if losses.get(name) is not None
        }
        kwargs = arguments.plain_values(kwargs)
        refuse_on_replicas(self, kwargs)
        _refuse_lost_exclusions(optimizer)
        ignored = fit_checks.ignored_by_all(losses.values())
        # What is made here belongs to the replicas of the model.
        with strategy_scope(self):
            if optimizer == "auto":
                optimizer = default_optimizer(total_steps)
            if metrics == "auto":
                # Of this name callbacks know that more is better.
                metrics = [
                    SegmentationMetrics(
                        self.num_classes,
                        255 if ignored is None else ignored,
                        name="mean_iou",
                    )
                ]
            metrics, weighted_metrics = keras.tree.map_structure(
                _of_logits, (metrics, weighted_metrics)
            )
            judged = fit_checks.ignored_labels(
                [
                    *losses.values(),
                    *keras.tree.flatten((metrics, weighted_metrics)),
                ]
            )
            # The losses are not handed on: Keras would look for one label per
            # output in every batch, and for every output in validation.
            super().compile(
                optimizer=optimizer,
                metrics=metrics,
                weighted_metrics=weighted_metrics,
                **kwargs,
            )
            # Keras's own would add up in `floatx`, perhaps a half precision.
            # Kept from Keras's tracking: it would count the one twice, and the
            # other is neither logged nor saved.
            self.__dict__["_loss_tracker"] = keras.metrics.Mean(
                name="loss", dtype=wide
            )
            self.__dict__["extremes"] = fit_checks.Extremes(
                self.num_classes, set.intersection(*judged) if judged else None
            )
            self.__dict__["told_of_rate"] = False
            self.__dict__["num_weighted"] = sum(
                metric is not None
                for metric in keras.tree.flatten(weighted_metrics)
            )
        check_replicas(self, keras.tree.flatten((metrics, weighted_metrics)))
        self.loss = given
        self._loss_weights = loss_weights
        self._output_losses = {
            name: (weights.get(name, 1.0), loss)
            for name, loss in losses.items()
        }

    def head_multipliers(self, factor=10.0):
        """`multipliers` of `SGD` for all that is not the backbone's.

        The authors train the head, and an auxiliary one, with ten times the
        backbone's learning rate; MMSegmentation trains all with one.

            model.compile(SGD(0.003, multipliers=model.head_multipliers()))

        Args:
            factor: float. Defaults to `10.0`.

        Returns:
            Dict of one regular expression to `factor`.

        Raises:
            ValueError: if the backbone has layers of the head's names.
        """
        must = "must be a number, 0 or more"
        return {
            head_pattern(self): arguments.number(
                "factor", factor, must, least=0
            )
        }

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
            # What `add_loss` and regularizers ask for, and Keras's error if
            # there is nothing at all.
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
            results = [(metric.name, metric.result())]
            weighted = 0
            if metric is self._compile_metrics:
                results = list(results[0][1].items())
                weighted = self.num_weighted
            found += [
                (place >= len(results) - weighted, isinstance(value, dict))
                + (name, value)
                for place, (name, value) in enumerate(results)
            ]
        # Keras would let one metric's scores overwrite another's. What two
        # would be called goes to the one without weights, and to the scalar.
        logs = {}
        for weighted, several, name, value in sorted(found, key=_precedence):
            scores = value if several else {name: value}
            if any(key in logs for key in scores):
                prefix = "weighted" if weighted and not several else name
                scores = {f"{prefix}_{key}": scores[key] for key in scores}
            logs.update(scores)
        self.__dict__["log_names"] = tuple(logs)
        return logs

    def _flatten_metrics_in_order(self, logs):
        # Keras would list twice what two metrics are called.
        known = self.__dict__.get("log_names", ())
        names = dict.fromkeys((*known, *sorted(logs)))
        values = [logs[name] for name in names if name in logs]
        return values[0] if len(values) == 1 else values

    def reset_metrics(self):
        # Before a validation begins: what training has met is not lost.
        self.check_extremes("Training")
        super().reset_metrics()

    def check_extremes(self, where):
        """Raises for labels, and warns of images, that cannot be meant."""
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
            # Keras gives the mean of what the replicas have measured.
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
        """Puts Keras's trainer in order for the devices of this model."""
        with fit_checks.explained(self), on_replicas(self), on_devices(self):
            yield

    def _forget_extremes(self):
        """What an interrupted `fit` has left is not the next one's."""
        if extremes := self.__dict__.get("extremes"):
            extremes.reset_state()

    def build_optimizer(self):
        """Makes the optimizer's variables before the first step.

        Inside it TensorFlow would trace the whole step a second time. `fit`
        does it; a checkpoint's need them to be there.
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

    # Name -> where its weights come from, and what they reached.
    presets = presets.DANET

    def get_config(self):
        refuse_h5(self)
        config = dict(self._constructor_arguments)
        if not isinstance(config["backbone"], str):
            config["backbone"] = keras.saving.serialize_keras_object(
                config["backbone"]
            )
        config["dtype"] = keras.dtype_policies.serialize(config["dtype"])
        return {**config, "name": self.name, **frozen_config(self)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config, frozen = split_frozen(config)
        if isinstance(config["backbone"], dict):
            backbone = keras.saving.deserialize_keras_object(
                config["backbone"], custom_objects=custom_objects
            )
            config = {**config, "backbone": backbone}
        return restore_frozen(cls(**config), frozen)

    @classmethod
    def from_checkpoint(
        cls,
        source,
        multi_grid=None,
        align_corners=None,
        num_classes=None,
        ignore=(),
        **overrides,
    ):
        """The model of a PyTorch checkpoint, with its weights.

        Depth, stem, class count and auxiliary head are read off the tensors.
        Every tensor must find its variable and every variable its tensor;
        only batch counters, the authors' dead `pretrained.fc` and what
        `ignore` names may be left over.

        Args:
            source: path of a `.pth`, `.pth.tar`, `.safetensors` or `.npz`
                file, or a dict of name to array, in the authors' naming or
                MMSegmentation's. Files are read without running code.
            multi_grid: dilation rates of the last stage's blocks, `()` for
                none. The authors' released model was trained with
                `(4, 8, 16)`. Defaults to `None`: what the file says, else
                none, with a warning.
            align_corners: boolean. Defaults to `None`: what the file says,
                else `True` for the authors' naming and `False` for
                MMSegmentation's (whose 769x769 models need `True`), with a
                warning.
            num_classes: integer. If it is not the checkpoint's, the
                classifiers start anew, with a warning. Defaults to `None`,
                the checkpoint's.
            ignore: regular expression, or list of them, of the names of
                tensors that may be left over, such as `"ema\\..*"`. Defaults
                to none.
            **overrides: further arguments of the constructor, such as
                `dropout`, `output_stride`, `pixel_mean`, `dtype`, or
                `auxiliary=False` to leave an auxiliary head out.

        Returns:
            A `DANet`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that cannot be read safely, another
                network's tensors, or tensors left over on either side.

        Reference:
            - [DANet](https://github.com/junfu1115/DANet),
              [MMSegmentation](https://github.com/open-mmlab/mmsegmentation)
        """
        tensors, meta = files.read_source(source)
        tensors = torch_names.normalize(tensors)
        found = torch_names.describe(tensors)
        if found.num_classes is None:
            raise ValueError(
                f"The checkpoint is a backbone alone ({found}). Load it with "
                "DilatedResNet.from_checkpoint, and hand that to DANet as "
                "`backbone`."
            )
        _refuse_read_off(overrides, "checkpoint")
        overrides.setdefault("auxiliary", found.auxiliary)
        anew, skip = _left_out(found, num_classes, overrides["auxiliary"])
        skip += torch_names.as_patterns(ignore)
        # Some bytes can claim a network of gigabytes.
        shapes = danet_shapes(
            found.depth,
            found.filters,
            found.stem_filters,
            found.num_classes,
            overrides["auxiliary"],
        )
        torch_names.check_tensors(_without(anew, shapes), tensors, found, skip)
        multi_grid, align_corners = _undecided(
            found, torch_names.told_by(meta), multi_grid, align_corners
        )
        with blank_kernels():
            model = cls(
                found.num_classes if num_classes is None else num_classes,
                align_corners=align_corners,
                **_backbone_of(found, multi_grid, overrides),
                **overrides,
            )
        if anew:
            _warn_of_new_classifiers(
                "checkpoint", found.num_classes, num_classes
            )
        variables = {variable.path: variable for variable in model.weights}
        torch_names.load_tensors(
            _without(anew, variables).values(), tensors, found, skip
        )
        return model

    @classmethod
    def from_preset(
        cls, preset, num_classes=None, load_weights=True, **overrides
    ):
        """The model of a preset, with its weights.

        A preset by name is fetched once, into the Keras cache
        (`$KERAS_HOME` or `~/.keras`, `keras_danet/`), verified and converted
        there; MMSegmentation's need torch for that, the first time. It gets
        the global dtype policy; a folder keeps the policy it was saved with.
        What was fetched from the Hub stays as it is: to have a newer state
        of a branch, name its commit, or delete the folder in the cache.

            keras_danet.DANet.from_preset("danet_resnet50_cityscapes")

        Args:
            preset: a name, key of `DANet.presets`; a folder that
                `save_to_preset` or Keras (`zipped=False`) wrote;
                `"hf://user/repo"` (with `@revision` if wanted), such a folder
                on the Hugging Face Hub; or what else names a DANet: a run's
                folder or a `.keras` file.
            num_classes: integer. If it is not the preset's, the classifiers
                start anew, with a warning. Defaults to `None`, the preset's.
            load_weights: boolean. `False` starts all weights anew, without
                fetching a preset by name. Defaults to `True`.
            **overrides: further arguments of the constructor, such as
                `dropout`, `output_stride`, `dtype`, or `auxiliary=False` to
                leave an auxiliary head out.

        Returns:
            A `DANet`.

        Raises:
            ValueError: if there is no such preset, or a file is not the one
                expected or cannot be read safely.
            OSError: if a file cannot be fetched (`ConnectionError`), or is
                not there.
        """
        kind, place = sources.find(preset, cls.presets)
        if kind == "file":
            source = _load_danet(place)
            if load_weights:
                return cls.from_model(source, num_classes, **overrides)
            _refuse_read_off(overrides, "preset")
            if num_classes is not None:
                overrides["num_classes"] = num_classes
            return _made_again(cls, source, overrides)
        _refuse_read_off(overrides, "preset")
        if overrides.get("multi_grid") in ((), []):
            overrides["multi_grid"] = None
        config, folder, held = presets.find(preset, cls, load_weights)
        presets.check_size(
            cls, lambda: _shapes_of(config, folder), folder, held
        )
        if num_classes is not None:
            overrides["num_classes"] = num_classes
        config = _with_facts(config, overrides)
        with blank_kernels() if load_weights else contextlib.nullcontext():
            config = _with_backbone(config, folder, overrides)
            model = presets.make(cls, {**config, **overrides}, folder)
        if not load_weights:
            return model
        if not {"num_classes", "auxiliary"} & set(overrides):
            presets.load_weights(model, folder)
            return model
        with blank_kernels():
            source = presets.make(cls, config, folder)
        presets.load_weights(source, folder)
        anew = ()
        if model.num_classes != source.num_classes:
            _warn_of_new_classifiers("preset", source.num_classes, num_classes)
            anew = torch_names.CLASSIFIERS
        presets.transfer(source, model, anew)
        return model

    @classmethod
    def from_model(cls, source, num_classes=None, **overrides):
        """A new model with the weights of a trained one.

        For training on with other classes, or another `dropout`, `dtype` or
        `auxiliary`. Layers that `source` lacks, and the classifiers if
        `num_classes` is not `source`'s, start anew, with a warning that
        names them. Nothing is compiled or frozen.

            model = keras_danet.DANet.from_model("runs/cityscapes", 11)

        Args:
            source: a `DANet`, or what names one: a run's folder, a `.keras`
                file, or a preset as `from_preset` takes it.
            num_classes: integer. Defaults to `None`, the source's.
            **overrides: further arguments of the constructor. What the
                weights were made for (`backbone`, `stem_filters`,
                `attention`) cannot be overridden.

        Returns:
            A `DANet`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that cannot be read, or another model.
        """
        _refuse_read_off(overrides, "source")
        if not isinstance(source, keras.Model):
            kind, place = sources.find(source, cls.presets)
            source = (
                cls.from_preset(place)
                if kind == "preset"
                else _load_danet(place)
            )
        if not isinstance(source, DANet):
            raise ValueError(
                f"Expected a DANet. Received a {type(source).__name__}."
            )
        if num_classes is not None:
            overrides["num_classes"] = num_classes
        model = _made_again(cls, source, overrides)
        _copy_and_name_the_rest(source, model)
        return model

    def save_to_preset(self, folder):
        """Writes the model as a preset: `config.json`, `model.weights.h5`.

        `from_preset` reads it on every backend, from the folder or, once
        uploaded, from the Hugging Face Hub. What is trained and what is
        frozen, and the optimizer, are not in it.

        Args:
            folder: path of the folder to make. An older preset there is
                replaced, anything else is left alone.

        Raises:
            FileExistsError: if `folder` holds something else.
            ValueError: if the backbone is no `DilatedResNet`.
        """
        presets.save(self, folder)

    def to_state_dict(self, naming="official"):
        """The weights in the naming and layout of a PyTorch implementation.

        Args:
            naming: `"official"`, the authors', or `"mmseg"`. Defaults to
                `"official"`.

        Returns:
            Dict of name to array. `num_batches_tracked` is not in it, and
            LoRA's factors are added to the kernels that they adapt.

        Raises:
            ValueError: if a part of the model has no name there, such as
                the auxiliary head in the authors' naming.
        """
        values = {
            path: keras.ops.convert_to_numpy(value)
            for path, value in merged_weights(self).items()
        }
        return torch_names.to_tensors(
            values, naming, "stem_conv3/kernel" in values
        )


def _is_symbolic(x):
    """Whether another model is being built or, on JAX, trained.

    There a model in training calls its layers as if each came first. What
    trains a DANet itself is `stateless_call`, which comes by `call` alone.
    """
    if isinstance(x, keras.KerasTensor):
        return True
    return keras.backend.backend() == "jax" and isinstance(
        x, sys.modules["jax"].core.Tracer
    )


def _load_danet(path):
    """The DANet of a `.keras` file."""
    model = files.load_keras_model(path)
    if not isinstance(model, DANet):
        raise ValueError(
            f"{path} holds a {type(model).__name__}. Expected a DANet."
        )
    return model


def _with_facts(config, overrides):
    """A model's arguments without names and colors of other classes."""
    if overrides.get("num_classes") in (None, config.get("num_classes")):
        return config
    return {**config, "class_names": None, "palette": None}


def _made_again(cls, source, overrides):
    """A model of another's configuration; nothing of it is frozen."""
    # Not blank: what the source lacks starts as in any other model.
    config, (_, _, adapters) = split_frozen(source.get_config())
    config = _with_facts(config, overrides)
    inner = config["backbone"]
    # Another's layers keep theirs; one by name gets the whole's anyway.
    if "dtype" in overrides and isinstance(inner, dict):
        if inner["class_name"] == DilatedResNet.__name__:
            inner["config"]["dtype"] = overrides["dtype"]
    model = cls.from_config({**config, **overrides})
    return unfreeze(restore_frozen(model, (True, (), adapters)))


def _refuse_read_off(overrides, source):
    """What the weights decide is not for the caller to decide."""
    taken = {"backbone", "stem_filters", "attention"} & set(overrides)
    if taken:
        raise ValueError(
            f"{sorted(taken)} are what the {source}'s weights were made for, "
            "and cannot be overridden."
        )


def _warn_of_new_classifiers(source, theirs, ours):
    warnings.warn(
        f"The {source} has {theirs} classes and num_classes={ours}: the "
        "classifiers start anew.",
        stacklevel=3,
    )


def _copy_and_name_the_rest(source, model):
    """Copies weights of equal path and shape; warns of the layers without."""
    theirs, ours = (
        {(v.path, tuple(v.shape)): v for v in each.weights}
        for each in (source, model)
    )
    for key, variable in ours.items():
        if key in theirs:
            # Its own array: on JAX either gives it away as it predicts.
            variable.assign(keras.ops.copy(theirs[key]))
    anew, left = (
        list(dict.fromkeys(path.rpartition("/")[0] for path, _ in rest))
        for rest in (
            [key for key in ours if key not in theirs],
            [key for key in theirs if key not in ours],
        )
    )
    if anew or left:
        warnings.warn(
            f"These layers start anew: {', '.join(anew) or 'none'}. These of "
            f"the source are left out: {', '.join(left) or 'none'}.",
            stacklevel=3,
        )


def _left_out(found, num_classes, auxiliary):
    """Layers that start anew, and patterns of tensors that are not taken."""
    anew, skip = (), []
    if num_classes not in (None, found.num_classes):
        anew = torch_names.CLASSIFIERS
        skip.append(torch_names.CLASSIFIER_NAMES)
    if not auxiliary:
        skip.append(r"auxiliary_head\..*")
    return anew, skip


def _without(layers, by_path):
    """A dict by variables' paths without those of some layers."""
    return {
        path: value
        for path, value in by_path.items()
        if path.partition("/")[0] not in layers
    }


def _shapes_of(config, folder):
    """Shapes of the variables of a preset's configuration, checked."""
    backbone = config.get("backbone", "resnet50")
    if isinstance(backbone, str) and backbone in NAMED_BACKBONES:
        inner = {
            "depth": NAMED_BACKBONES[backbone],
            "stem_filters": config.get("stem_filters"),
        }
    else:
        inner = presets.checked_arguments(folder, backbone, DilatedResNet)
    num_classes = _checked_num_classes(config.get("num_classes"))
    attention = config.get("attention", tuple(ATTENTION))
    return danet_shapes(
        *checked_widths(inner),
        num_classes,
        config.get("auxiliary", False),
        _standardize_attention(attention),
    )


def _with_backbone(config, folder, overrides):
    """A preset's arguments, with the backbone that they describe."""
    backbone = config.get("backbone")
    if isinstance(backbone, str) and backbone in NAMED_BACKBONES:
        return config
    inner = presets.checked_arguments(folder, backbone, DilatedResNet)
    # What shapes the backbone is not `DANet`'s, which did not make it.
    shape = {
        key: overrides.pop(key)
        for key in ("output_stride", "multi_grid")
        if key in overrides
    }
    inner.update(shape)
    if "dtype" in overrides:
        inner["dtype"] = overrides["dtype"]
    backbone = presets.make(DilatedResNet, inner, folder)
    return {**config, "backbone": backbone}


def _undecided(found, told, multi_grid, align_corners):
    """What tensors cannot tell: asked for, told by the file, or guessed."""
    guesses = {"multi_grid": (), "align_corners": found.naming == "official"}
    given = {"multi_grid": multi_grid, "align_corners": align_corners}
    for name, guess in guesses.items():
        if given[name] is not None:
            continue
        if name not in told:
            warnings.warn(
                f"The checkpoint ({found}) does not tell `{name}`; "
                f"{name}={guess!r} was taken. Pass `{name}` if it was trained "
                "otherwise"
                + (
                    ": the authors' released model needs (4, 8, 16)."
                    if name == "multi_grid" and found.naming == "official"
                    else "."
                ),
                stacklevel=3,
            )
        given[name] = told.get(name, guess)
    grid = given["multi_grid"]
    return None if grid in ((), []) else grid, given["align_corners"]


def _backbone_of(found, multi_grid, overrides):
    """Arguments of `DANet` that make the checkpoint's backbone."""
    shape = {"multi_grid": multi_grid, "stem_filters": found.stem_filters}
    if found.filters == 64:
        return {"backbone": f"resnet{found.depth}", **shape}
    return {
        "backbone": DilatedResNet(
            found.depth,
            output_stride=overrides.pop("output_stride", None) or 8,
            filters=found.filters,
            dtype=overrides.get("dtype"),
            **shape,
        )
    }


def default_optimizer(total_steps=None):
    """The optimizer of `DANet.compile`; see there."""
    learning_rate = 0.01
    if total_steps is not None:
        learning_rate = PolySchedule(learning_rate, total_steps)
    return SGD(learning_rate, momentum=0.9, weight_decay=1e-4)


def _graph(
    num_classes,
    backbone,
    attention,
    auxiliary,
    dropout,
    align_corners,
    output_stride,
    multi_grid,
    stem_filters,
    pixel_mean,
    pixel_std,
):
    """Images, the features inside, and the dict of outputs."""
    backbone = _build_backbone(
        backbone,
        output_stride=output_stride,
        multi_grid=multi_grid,
        stem_filters=stem_filters,
    )
    # Pixels are too fine for a half precision; what follows is not.
    wide = wide_dtype(keras.config.dtype_policy().compute_dtype)
    images = keras.Input((None, None, 3), name="images", dtype=wide)
    x = Normalization(pixel_mean, pixel_std, name="normalization", dtype=wide)(
        images
    )
    stages = backbone(x)
    features = dict(stages)
    classified = head_features(stages["stage4"], attention)
    if auxiliary:
        classified["auxiliary"] = convolution_bn(
            stages["stage3"], stages["stage3"].shape[-1] // 4, 3, "auxiliary_in"
        )
    outputs = {}
    for name, x in classified.items():
        logits = classifier(x, num_classes, dropout, name)
        features[f"{name}_logits"] = logits
        outputs[name] = BilinearResize(
            align_corners, data_format="channels_last", name=name, dtype=wide
        )(logits, images)
    return images, features, outputs


def _pretrained(arguments):
    """Arguments to build from, and to keep, of a backbone with weights.

    The model keeps the weights from then on: made again from its
    configuration, it must fetch nothing.
    """
    name = arguments["backbone"]
    if not isinstance(name, str) or name not in DilatedResNet.presets:
        return arguments, arguments
    if arguments["stem_filters"] is not None:
        raise ValueError(
            f"`stem_filters` are those of the preset's weights. Received: "
            f"stem_filters={arguments['stem_filters']!r}, backbone={name!r}"
        )
    row = DilatedResNet.presets[name]["arguments"]
    options = {
        key: arguments[key]
        for key in ("output_stride", "multi_grid")
        if arguments[key] is not None
    }
    backbone = DilatedResNet.from_preset(name, **options)
    without = dict.fromkeys(("output_stride", "multi_grid", "stem_filters"))
    return {**arguments, **without, "backbone": backbone}, {
        **arguments,
        "backbone": f"resnet{row['depth']}",
        "stem_filters": row["stem_filters"],
    }


def _build_backbone(backbone, **options):
    options = {k: v for k, v in options.items() if v is not None}
    if isinstance(backbone, str):
        if backbone not in NAMED_BACKBONES:
            known = [*NAMED_BACKBONES, *DilatedResNet.presets]
            raise ValueError(
                f"`backbone` must be one of {list(NAMED_BACKBONES)}, "
                f"{list(DilatedResNet.presets)}, or a model."
                f"{did_you_mean(backbone, known)} "
                f"Received: backbone={backbone!r}"
            )
        return DilatedResNet(NAMED_BACKBONES[backbone], **options)
    if options:
        raise ValueError(
            f"{', '.join(f'`{name}`' for name in options)} shape a backbone "
            "given by name; set them where you make the backbone. "
            f"Received: backbone={backbone!r}"
        )
    output = getattr(backbone, "output", None)
    if not isinstance(output, dict) or "stage4" not in output:
        raise ValueError(
            "`backbone` must be a name or a functional model whose output is "
            "a dict with 'stage4', such as keras_danet.DilatedResNet, or any "
            "other Keras backbone after keras_danet.dilate(backbone). "
            f"Received: backbone={backbone!r}"
        )
    return backbone


def _checked_num_classes(num_classes):
    num_classes = arguments.integer("num_classes", num_classes)
    if num_classes < 2:
        raise ValueError(
            "`num_classes` must be at least 2: the network decides between "
            "classes by softmax, so that foreground and background are two. "
            f"Received: num_classes={num_classes}"
        )
    if num_classes > MAX_CLASSES:
        raise ValueError(
            f"`num_classes` must be at most {MAX_CLASSES}: labels are one "
            "byte, and 255 means 'ignore'. "
            f"Received: num_classes={num_classes}"
        )
    return num_classes


def _checked_names(names, num_classes):
    if names is None:
        return None
    found = arguments.as_sequence(names) or ()
    if (
        not all(isinstance(name, str) and name for name in found)
        or not len(found) == len(set(found)) == num_classes
    ):
        raise ValueError(
            f"`class_names` must be {num_classes} different strings, one per "
            f"class. Received: class_names={arguments.shown(names)}"
        )
    return found


def _checked_palette(palette, num_classes):
    if palette is None:
        return None
    try:
        colors = tuple(
            tuple(map(operator.index, arguments.as_sequence(color) or ()))
            for color in arguments.as_sequence(palette) or ()
        )
    except TypeError:
        colors = ()
    if len(colors) != num_classes or not all(
        len(color) == 3 and 0 <= min(color) <= max(color) <= 255
        for color in colors
    ):
        raise ValueError(
            f"`palette` must be {num_classes} colors, one per class, each "
            "(red, green, blue) in 0-255. Received: "
            f"palette={arguments.shown(palette)}"
        )
    return colors


def _standardize_attention(attention):
    names = (attention,) if isinstance(attention, str) else attention
    names = arguments.as_sequence(names)
    if names is None or len(names) > len(ATTENTION):
        raise _no_attention(attention)
    for name in names:
        arguments.choice("attention", name, ATTENTION)
    if len(set(names)) < len(names):
        raise _no_attention(attention)
    # One order, whatever order was asked for: layer order is weight order.
    return tuple(name for name in ATTENTION if name in names)


def _no_attention(attention):
    must = f"must name each of {tuple(ATTENTION)} at most once; () uses none"
    return arguments.refusal("attention", must, attention)


def _per_channel(argument, value):
    must = (
        "must be one finite number or three (red, green, blue), of at most "
        f"{MAX_PIXEL:g}"
    )
    bounds = {"least": -MAX_PIXEL, "most": MAX_PIXEL}
    if getattr(value, "ndim", 0) == 0 and not hasattr(value, "__len__"):
        return (float(arguments.number(argument, value, must, **bounds)),) * 3
    values = arguments.numbers(argument, value, must, length=3, **bounds)
    return tuple(map(float, values))


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
            # Left alone it would take the logits for probabilities.
            loss = functools.partial(loss, from_logits=True)
        return _FunctionLoss(loss, name, dtype)
    if loss.reduction in (None, "none"):
        raise ValueError(
            "A loss to train with must give one number. Received: "
            f"{loss.name} with reduction={loss.reduction!r}. Take "
            "'sum_over_batch_size', 'sum' or 'mean_with_sample_weight'."
        )
    return loss


def _of_logits(metric):
    """A metric as `compile` was given it, told that there are logits."""
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


def _refuse_other_outputs(argument, metrics):
    others = sorted(
        set(metrics) - {"fusion"} if isinstance(metrics, dict) else ()
    )
    if others:
        raise ValueError(
            f"`{argument}` are computed on the fused output only, 'fusion'. "
            f"Received: metrics for {others}"
        )


def _precedence(found):
    return found[:2]


def _given(method, args, kwargs):
    """Arguments by name, however they were given, and numbers as Python's."""
    given = inspect.signature(method).bind(*args, **kwargs).arguments
    more = given.pop("kwargs", {})
    return arguments.plain_values({**given, **more})


def _refuse_lost_exclusions(optimizer):
    # Keras 3.15 hands them to no optimizer inside another.
    if hasattr(optimizer, "inner_optimizer") and hasattr(
        optimizer, "_exclude_from_weight_decay"
    ):
        raise ValueError(
            "`exclude_from_weight_decay` of a LossScaleOptimizer has no "
            "effect. Call it on the optimizer inside, before it is wrapped."
        )


def _refuse_class_weight(given):
    if given.get("class_weight") is not None:
        raise ValueError(
            "`class_weight` weights whole images, not pixels, in Keras. Give "
            "batches of (image, label, sample_weight) with one weight per "
            "pixel instead, or a weighted loss to `compile()`."
        )
