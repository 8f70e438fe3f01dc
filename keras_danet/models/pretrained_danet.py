"""DANets with the weights of checkpoints, presets and other models."""

import os
import warnings
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import numpy as np

from keras_danet.layers.convolution import blank_kernels
from keras_danet.models.backbones import NAMED_BACKBONES
from keras_danet.models.freezing import backbone_of
from keras_danet.models.freezing import merged_weights
from keras_danet.models.keras_backbones import describe
from keras_danet.models.keras_backbones import from_description
from keras_danet.models.keras_backbones import is_description
from keras_danet.models.pretrained import Pretrained
from keras_danet.models.pretrained import warn_of_new_classifiers
from keras_danet.models.resnet import DilatedResNet
from keras_danet.weights import keras_files
from keras_danet.weights import presets
from keras_danet.weights import sources
from keras_danet.weights import torch_names


class PretrainedDANet(Pretrained):
    """The ways to load a `DANet`'s weights, and to export them."""

    made_for = ("backbone", "stem_filters", "attention")
    reshaping = ("num_classes", "auxiliary")

    @classmethod
    def from_checkpoint(
        cls,
        source: str | os.PathLike | dict[str, Any],
        multi_grid: Sequence[int] | None = None,
        align_corners: bool | None = None,
        num_classes: int | None = None,
        ignore: str | Sequence[str] = (),
        **overrides: Any,
    ) -> Self:
        """The model of a PyTorch checkpoint, with its weights.

        Depth, stem, class count and auxiliary head are read off the tensors.
        Every tensor must match a variable and every variable a tensor; only
        batch counters, the authors' unused `pretrained.fc` and what `ignore`
        names may be left over.

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
                classifiers are newly initialized, with a warning. Defaults to
                `None`, the checkpoint's.
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
                network's tensors, or tensors or variables left over.

        Reference:
            - [DANet](https://github.com/junfu1115/DANet),
              [MMSegmentation](https://github.com/open-mmlab/mmsegmentation)
        """

        def make(found, told):
            if found.num_classes is None:
                raise ValueError(
                    f"The checkpoint is a backbone alone ({found}). Load it "
                    "with DilatedResNet.from_checkpoint, and pass that to "
                    "DANet as `backbone`."
                )
            given = {"auxiliary": found.auxiliary, **overrides}
            given |= _undecided(found, told, multi_grid, align_corners)
            given = _with_backbone(found, given)
            ours, theirs = num_classes, found.num_classes
            anew = () if ours in (None, theirs) else torch_names.CLASSIFIERS
            spare = [torch_names.CLASSIFIER_NAMES] if anew else []
            if not given["auxiliary"]:
                spare.append(r"auxiliary_head\..*")
            with blank_kernels(but=anew):
                model = cls(theirs if ours is None else ours, **given)
            if anew:
                warn_of_new_classifiers("checkpoint", theirs, ours)
            return model, anew, spare

        return cls._of_checkpoint(source, ignore, overrides, make)

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike,
        num_classes: int | None = None,
        load_weights: bool = True,
        **overrides: Any,
    ) -> Self:
        """The model of a preset, with its weights.

        A named preset is fetched once, into the Keras cache (`$KERAS_HOME` or
        `~/.keras`, `keras_danet/`), verified and converted there;
        MMSegmentation's need torch for that, the first time. It gets the
        global dtype policy; a folder keeps the policy it was saved with. On
        the Hub, a branch is looked up every time (except with
        `HF_HUB_OFFLINE=1` or without a network), a commit once; that needs
        `huggingface_hub`: `pip install huggingface_hub`.

            keras_danet.DANet.from_preset("danet_resnet50_cityscapes")

        Args:
            preset: a name, key of `DANet.presets`; a folder that
                `save_to_preset` or Keras (`zipped=False`) wrote;
                `"hf://user/repo"` (optionally with `@revision`), such a folder
                on the Hugging Face Hub; a run's folder; or a `.keras` file.
            num_classes: integer. If it is not the preset's, the classifiers
                are newly initialized, with a warning. Defaults to `None`, the
                preset's.
            load_weights: boolean. `False` initializes all weights newly,
                without fetching a named preset. Defaults to `True`.
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
        if num_classes is not None:
            overrides["num_classes"] = num_classes
        return cls._of_preset(preset, load_weights, overrides)

    @classmethod
    def from_model(
        cls,
        source: keras.Model | str | os.PathLike,
        num_classes: int | None = None,
        **overrides: Any,
    ) -> Self:
        """A new model with the weights of a trained one.

        For further training with other classes, or another `dropout`, `dtype`,
        `auxiliary` or `output_stride`. Layers that `source` lacks, and the
        classifiers if `num_classes` is not `source`'s, are newly initialized,
        with a warning that names them. Nothing is compiled or frozen.

            model = keras_danet.DANet.from_model("runs/cityscapes", 11)

        Args:
            source: a `DANet`, a run's folder, a `.keras` file, or a preset as
                `from_preset` takes it.
            num_classes: integer. Defaults to `None`, the source's.
            **overrides: further arguments of the constructor. What the
                weights were made for (`backbone`, `stem_filters`,
                `attention`) cannot be overridden.

        Returns:
            A `DANet`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that cannot be read, a model that is not a
                `DANet`, or another `output_stride` of a backbone that is
                neither ours nor one of `keras.applications` by its name.
        """
        cls._refuse_made_for(overrides, "source")
        if not isinstance(source, keras.Model):
            kind, place = sources.find(source, cls.presets)
            read = cls.from_preset if kind == "preset" else cls._in_file
            source = read(place)
        if not isinstance(source, PretrainedDANet):
            raise ValueError(
                f"Expected a DANet. Received a {type(source).__name__}."
            )
        if num_classes is not None:
            overrides["num_classes"] = num_classes
        shape = _pop_shape(overrides)
        if shape:
            overrides["backbone"] = _reshaped(source, shape, overrides)
        return cls._made_again(source, overrides)

    def to_state_dict(self, naming: str = "official") -> dict[str, np.ndarray]:
        """The weights in the naming and layout of a PyTorch implementation.

        Args:
            naming: `"official"`, the authors', or `"mmseg"`. Defaults to
                `"official"`.

        Returns:
            Dict of name to array, without `num_batches_tracked`, and with
            LoRA's factors added to the kernels that they adapt.

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

    def named_backbone(self) -> dict | None:
        """What a preset keeps of a backbone that a recipe names."""
        return describe(backbone_of(self))

    @classmethod
    def _in_file(cls, path):
        model = keras_files.load_keras_model(path)
        if not isinstance(model, PretrainedDANet):
            raise ValueError(
                f"{path} holds a {type(model).__name__}. Expected a DANet."
            )
        return model

    @classmethod
    def _overridden(cls, config, overrides):
        # Names and colors belong to the source's classes.
        theirs = config.get("num_classes")
        if overrides.get("num_classes", theirs) != theirs:
            config = {**config, "class_names": None, "palette": None}
        inner = config.get("backbone")
        # Other backbones keep their dtype; a named one gets the model's anyway.
        if "dtype" in overrides and isinstance(inner, dict):
            if inner["class_name"] == DilatedResNet.__name__:
                inner["config"]["dtype"] = overrides["dtype"]
        return {**config, **overrides}

    @classmethod
    def _with_parts(cls, config, folder, overrides):
        backbone = config.get("backbone")
        if isinstance(backbone, str) and backbone in NAMED_BACKBONES:
            return config
        # These shape the backbone; `DANet` takes them only for a named one.
        shape = _pop_shape(overrides)
        if "dtype" in overrides:
            shape["dtype"] = overrides["dtype"]
        if is_description(backbone):
            shape.setdefault("dtype", config.get("dtype"))
            return {**config, "backbone": from_description(backbone, **shape)}
        inner = presets.checked_arguments(folder, backbone, DilatedResNet)
        return {**config, "backbone": DilatedResNet(**{**inner, **shape})}


def _pop_shape(overrides):
    """The overrides that shape the backbone, and no weights."""
    return {
        key: overrides.pop(key)
        for key in ("output_stride", "multi_grid")
        if key in overrides
    }


def _reshaped(model, shape, overrides):
    """The backbone of `model` in another shape, without weights."""
    backbone = backbone_of(model)
    if isinstance(backbone, DilatedResNet):
        return DilatedResNet.from_config({**backbone.get_config(), **shape})
    named = describe(backbone)
    if named is None:
        raise ValueError(
            f"The backbone {backbone.name!r} keeps the `output_stride` that it "
            "was made with. Make it again with `dilate`, and a DANet over it. "
            f"Received: {shape}"
        )
    dtype = overrides.get("dtype", model.get_config()["dtype"])
    return from_description(named, dtype, **shape)


def _undecided(found, told, multi_grid, align_corners):
    """Arguments that tensors do not show: given, from metadata, or guessed."""
    guesses = {"multi_grid": (), "align_corners": found.naming == "official"}
    given = {"multi_grid": multi_grid, "align_corners": align_corners}
    for name, guess in guesses.items():
        if given[name] is not None:
            continue
        if name not in told:
            warnings.warn(
                f"The checkpoint ({found}) does not state `{name}`; "
                f"{name}={guess!r} is assumed. Pass `{name}` if it was trained "
                "otherwise"
                + (
                    ": the authors' released model needs (4, 8, 16)."
                    if name == "multi_grid" and found.naming == "official"
                    else "."
                ),
                stacklevel=5,
            )
        given[name] = told.get(name, guess)
    if given["multi_grid"] in ((), []):
        given["multi_grid"] = None
    return given


def _with_backbone(found, given):
    """Arguments of `DANet`, with those that make the checkpoint's backbone."""
    if found.filters == 64:
        name = f"resnet{found.depth}"
        return {**given, "backbone": name, "stem_filters": found.stem_filters}
    given = dict(given)
    backbone = DilatedResNet(
        found.depth,
        output_stride=given.pop("output_stride", None) or 8,
        multi_grid=given.pop("multi_grid"),
        stem_filters=found.stem_filters,
        filters=found.filters,
        dtype=given.get("dtype"),
    )
    return {**given, "backbone": backbone}
