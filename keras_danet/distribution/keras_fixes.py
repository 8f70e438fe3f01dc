"""Fixes that make Keras's TensorFlow trainer correct on several replicas.

Each fix is for the Keras versions in `VERSIONS`; with others, training runs
without it and warns. The fixes apply within `fixed_keras`.
"""

import contextlib
import sys
import warnings

import keras

VERSIONS = ("3.15.1",)

# Keras's sum of gradients, within `fixed_keras`. A nested one does nothing, or
# gradients would be summed twice.
_open: list = []


@contextlib.contextmanager
def fixed_keras(strategy):
    """Fixes Keras for training under a `tf.distribute` strategy.

    In Keras 3.15.1

    - `_maybe_symbolic_build` consumes a batch to learn its shape: an endless
      `PyDataset` with several threads then starts some batches late. And
      under `MultiWorkerMirroredStrategy` it averages that batch, a tuple,
      over replicas, which TensorFlow refuses;
    - `reduce_per_replica`, under `MultiWorkerMirroredStrategy`, averages the
      step's figures along the first axis of scalars, which have none;
    - each replica clips its own gradients before they are summed, so the step
      depends on the number of devices;
    - batch norms use the statistics of each replica's share, unless they were
      made with `synchronized=True`, which other backends refuse.

    Args:
        strategy: a `tf.distribute.Strategy`.
    """
    if _open:
        yield
        return
    if keras.__version__ not in VERSIONS:
        warnings.warn(
            "Training on several replicas has fixes for Keras "
            f"{', '.join(VERSIONS)}; this is {keras.__version__}, which is "
            "used as it is. Compare a few steps with those of one device, "
            "especially with several workers or clipped gradients.",
            stacklevel=2,
        )
        yield
        return
    with contextlib.ExitStack() as stack:
        _open.append(keras.optimizers.Optimizer._all_reduce_sum_gradients)
        stack.callback(_open.pop)
        for owner, name, replacement in (
            *_trainer(strategy),
            *_clipping(),
            *_batch_norm(),
        ):
            stack.enter_context(_replaced(owner, name, replacement))
        yield


def summed(optimizer, grads):
    """Gradients summed over replicas; unchanged without the fixes."""
    if not _open:
        return grads
    pairs = _open[0](optimizer, [(grad, None) for grad in grads])
    return [grad for grad, _ in pairs]


def _trainer(strategy):
    trainer = next(
        kind
        for kind in keras.Model.__mro__
        if kind.__name__ == "TensorFlowTrainer"
    )
    build = trainer._maybe_symbolic_build

    def build_from_specs(self, iterator=None, data_batch=None):
        if iterator is not None and self._distribute_strategy is not None:
            # Only the shapes and dtypes of a batch are needed.
            data_batch = keras.tree.map_structure(
                lambda spec: getattr(spec, "_value_specs", [spec])[0],
                iterator._distributed_dataset.element_spec,
            )
        elif data_batch is not None:
            data_batch = keras.tree.map_structure(
                lambda x: x.values[0] if hasattr(x, "values") else x,
                data_batch,
            )
        return build(self, data_batch=data_batch)

    yield trainer, "_maybe_symbolic_build", build_from_specs

    tf = sys.modules["tensorflow"]
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    module = sys.modules[trainer.__module__]
    reduce = module.reduce_per_replica

    def reduce_scalars(values, strategy, reduction):
        if reduction != "auto":
            return reduce(values, strategy, reduction)
        return keras.tree.map_structure(
            lambda x: strategy.reduce("MEAN", x, axis=None), values
        )

    yield module, "reduce_per_replica", reduce_scalars


def _clipping():
    optimizer = keras.optimizers.Optimizer
    clip = optimizer._clip_gradients
    all_reduce = optimizer._all_reduce_sum_gradients

    def clips(self):
        return self.clipnorm or self.global_clipnorm or self.clipvalue

    def clip_the_sum(self, grads):
        return clip(self, summed(self, grads) if clips(self) else grads)

    def all_reduce_once(self, grads_and_vars):
        return (
            list(grads_and_vars)
            if clips(self)
            else all_reduce(self, grads_and_vars)
        )

    yield optimizer, "_clip_gradients", clip_the_sum
    yield optimizer, "_all_reduce_sum_gradients", all_reduce_once


def _batch_norm():
    kind = keras.layers.BatchNormalization
    moments = kind._moments

    def global_moments(self, inputs, mask):
        own, self.synchronized = self.synchronized, True
        try:
            return moments(self, inputs, mask)
        finally:
            self.synchronized = own

    yield kind, "_moments", global_moments


@contextlib.contextmanager
def unscaled_losses():
    """Keras's losses are not divided by the number of replicas inside."""
    module = sys.modules[keras.losses.Loss.__module__]
    with _replaced(module, "scale_loss_for_distribution", lambda value: value):
        yield


@contextlib.contextmanager
def _replaced(owner, name, replacement):
    # Only what a class defines itself: inherited attributes are its parents'.
    own = vars(owner).get(name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
