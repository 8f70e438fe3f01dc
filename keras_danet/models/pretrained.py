"""DANets with the weights of checkpoints, presets and other models."""

import contextlib
import warnings

import keras

from keras_danet.models.backbones import NAMED_BACKBONES
from keras_danet.models.danet_arguments import ATTENTIONS
from keras_danet.models.danet_arguments import checked_num_classes
from keras_danet.models.danet_arguments import standardize_attention
from keras_danet.models.freezing import merged_weights
from keras_danet.models.freezing import restore_frozen
from keras_danet.models.freezing import unfreeze
from keras_danet.models.resnet import DilatedResNet
from keras_danet.models.resnet import blank_kernels
from keras_danet.models.resnet import checked_widths
from keras_danet.weights import files
from keras_danet.weights import presets
from keras_danet.weights import sources
from keras_danet.weights import torch_names
from keras_danet.weights.presets import split_frozen
from keras_danet.weights.shapes import danet_shapes


class PretrainedDANet:
    """The ways in which a `DANet` comes to weights, and gives them away."""

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
        if not isinstance(source, PretrainedDANet):
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


def _load_danet(path):
    """The DANet of a `.keras` file."""
    model = files.load_keras_model(path)
    if not isinstance(model, PretrainedDANet):
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
    num_classes = checked_num_classes(config.get("num_classes"))
    attention = config.get("attention", ATTENTIONS)
    return danet_shapes(
        *checked_widths(inner),
        num_classes,
        config.get("auxiliary", False),
        standardize_attention(attention),
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
