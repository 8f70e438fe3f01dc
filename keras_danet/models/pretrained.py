"""How networks load and save weights, shared by all of them."""

import contextlib
import math
import os
import warnings
from typing import ClassVar

import keras
import numpy as np

from keras_danet.layers.convolution import blank_kernels
from keras_danet.layers.convolution import no_larger_than
from keras_danet.models.freezing import frozen_config
from keras_danet.models.freezing import restore_frozen
from keras_danet.models.freezing import unfreeze
from keras_danet.models.functional import refuse_h5
from keras_danet.models.keras_backbones import from_description
from keras_danet.models.keras_backbones import is_description
from keras_danet.weights import files
from keras_danet.weights import presets
from keras_danet.weights import sources
from keras_danet.weights import torch_names
from keras_danet.weights import torch_networks
from keras_danet.weights.presets import split_frozen


def warn_of_new_classifiers(source, theirs, ours):
    warnings.warn(
        f"The {source} has {theirs} classes but num_classes={ours}: the "
        "classifiers are newly initialized.",
        stacklevel=4,
    )


class Pretrained:
    """How `DilatedResNet` and `DANet` handle configs and weights.

    Subclasses are models that keep their arguments, `dtype` as a policy, in
    `_constructor_arguments`. They have a table `presets`. `made_for` names the
    arguments that the weights decide, `reshaping` others that make some
    weights unfit, and `_in_file` returns their model from a `.keras` file.
    """

    made_for: tuple[str, ...] = ()
    reshaping: tuple[str, ...] = ()
    presets: ClassVar[dict[str, dict]] = {}

    def get_config(self):
        refuse_h5(self)
        config = dict(self._constructor_arguments)
        if isinstance(config.get("backbone"), keras.Model):
            config["backbone"] = keras.saving.serialize_keras_object(
                config["backbone"]
            )
        config["dtype"] = keras.dtype_policies.serialize(config["dtype"])
        return {**config, "name": self.name, **frozen_config(self)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config, frozen = split_frozen(config)
        backbone = config.get("backbone")
        # Keras reads the folders of presets, too.
        if is_description(backbone):
            config["backbone"] = from_description(backbone, config.get("dtype"))
        elif isinstance(backbone, dict):
            config["backbone"] = keras.saving.deserialize_keras_object(
                backbone, custom_objects=custom_objects
            )
        return restore_frozen(cls(**config), frozen)

    def save_to_preset(
        self, folder: str | os.PathLike, kernel_dtype: str | None = None
    ) -> None:
        """Writes the model as a preset: `config.json`, `model.weights.h5`.

        `from_preset` reads it on every backend, from the folder or, once
        uploaded, from the Hugging Face Hub. It does not hold the optimizer,
        nor which layers are frozen.

        Args:
            folder: path of the folder to make. An older preset there is
                replaced, anything else is left alone.
            kernel_dtype: `"float16"` rounds kernels to half the bytes; biases
                and batch norms stay as they are. The model that is loaded
                has its own dtype all the same. Defaults to `None`.

        Raises:
            FileExistsError: if `folder` holds something else.
            ValueError: if a backbone is neither a `DilatedResNet` nor one
                that a recipe names, or a kernel is too large for float16.
        """
        presets.save(self, folder, kernel_dtype=kernel_dtype)

    @classmethod
    def _refuse_made_for(cls, overrides, source):
        taken = set(cls.made_for) & set(overrides)
        if taken:
            raise ValueError(
                f"{sorted(taken)} are set by the {source}'s weights and "
                "cannot be overridden."
            )

    @classmethod
    def _of_checkpoint(cls, source, ignore, overrides, make):
        """The body of `from_checkpoint`.

        `make` gets a `Description` of the tensors and what the metadata say;
        it returns the model, the names of newly initialized layers, and
        patterns of tensors that may be left over.
        """
        cls._refuse_made_for(overrides, "checkpoint")
        tensors, meta = files.read_source(source)
        tensors = torch_networks.normalize(tensors)
        found = torch_networks.describe(tensors)
        # A few bytes can claim a network of gigabytes. If only a little is
        # missing, `load_tensors` says what.
        held = sum(math.prod(np.shape(each)) for each in tensors.values())
        with no_larger_than(held, held + 2**20), blank_kernels():
            model, anew, spare = make(found, torch_networks.told_by(meta))
        torch_names.load_tensors(
            [v for v in model.weights if v.path.split("/")[0] not in anew],
            tensors,
            found,
            [*spare, *torch_names.as_patterns(ignore)],
        )
        return model

    @classmethod
    def _of_preset(cls, preset, load_weights, overrides):
        """The body of `from_preset`."""
        cls._refuse_made_for(overrides, "preset")
        kind, place = sources.find(preset, cls.presets)
        if kind == "file":
            return cls._made_again(cls._in_file(place), overrides, load_weights)
        if overrides.get("multi_grid") in ((), []):
            overrides["multi_grid"] = None
        config, folder, held = presets.find(preset, cls, load_weights)
        starts = blank_kernels() if load_weights else contextlib.nullcontext()
        reshaped = load_weights and set(cls.reshaping) & set(overrides)
        # Memory is not allocated on a configuration's word either.
        with presets.explained(cls, folder), no_larger_than(held), starts:
            config = cls._with_parts(config, folder, overrides)
            given = config if reshaped else cls._overridden(config, overrides)
            model = cls(**given)
        if load_weights:
            presets.load_weights(model, folder)
        if not reshaped:
            return model
        source, theirs = model, model.num_classes
        ours = overrides.get("num_classes", theirs)
        anew = () if ours == theirs else torch_names.CLASSIFIERS
        with presets.explained(cls, folder), blank_kernels(but=anew):
            model = cls(**cls._overridden(config, overrides))
        presets.transfer(source, model, anew)
        if anew:
            warn_of_new_classifiers("preset", theirs, ours)
        return model

    @classmethod
    def _with_parts(cls, config, folder, overrides):
        """A preset's arguments, with models in place of their descriptions."""
        return config

    @classmethod
    def _overridden(cls, config, overrides):
        """A model's arguments with some of them replaced."""
        return {**config, **overrides}

    @classmethod
    def _made_again(cls, source, overrides, load_weights=True):
        """A model with another's configuration and weights; nothing is frozen.

        A warning names layers that either of them lacks.
        """
        # Not blank: layers that the source lacks are initialized as usual.
        config, (_, _, adapters) = split_frozen(source.get_config())
        model = cls.from_config(cls._overridden(config, overrides))
        model = unfreeze(restore_frozen(model, (True, (), adapters)))
        if not load_weights:
            return model
        theirs, ours = (
            {(v.path, tuple(v.shape)): v for v in each.weights}
            for each in (source, model)
        )
        for key in theirs.keys() & ours.keys():
            # A copy: on JAX each model donates its arrays when it predicts.
            ours[key].assign(keras.ops.copy(theirs[key]))
        anew, left = (
            ", ".join(
                dict.fromkeys(path.rpartition("/")[0] for path, _ in rest)
            )
            for rest in (
                [key for key in ours if key not in theirs],
                [key for key in theirs if key not in ours],
            )
        )
        if anew or left:
            warnings.warn(
                f"These layers are newly initialized: {anew or 'none'}. These "
                f"of the source are left out: {left or 'none'}.",
                stacklevel=3,
            )
        return model
