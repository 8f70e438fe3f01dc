"""Tensors of the PyTorch implementations, by name, into our variables."""

import re

import numpy as np

# "Their module -> our layer", tried in order; {0}, {1} are the groups.
# The authors' names (junfu1115/DANet) and MMSegmentation's.
_BLOCK = r"(?:pretrained|backbone)\.layer(\d)\.(\d+)\."
MODULES = (
    (_BLOCK + r"conv(\d)", "{stage}_conv{2}"),
    (_BLOCK + r"bn(\d)", "{stage}_conv{2}_bn"),
    (_BLOCK + r"downsample\.0", "{stage}_shortcut"),
    (_BLOCK + r"downsample\.1", "{stage}_shortcut_bn"),
    (r"pretrained\.conv1", "stem_conv1"),
    (r"(?:pretrained\.conv1|backbone\.stem)\.0", "stem_conv1"),
    (r"(?:pretrained\.conv1|backbone\.stem)\.1", "stem_conv1_bn"),
    (r"(?:pretrained\.conv1|backbone\.stem)\.3", "stem_conv2"),
    (r"(?:pretrained\.conv1|backbone\.stem)\.4", "stem_conv2_bn"),
    (r"(?:pretrained\.conv1|backbone\.stem)\.6", "stem_conv3"),
    (r"pretrained\.bn1|backbone\.stem\.7", "{last_stem}_bn"),
    (r"head\.conv5a\.0|decode_head\.pam_in_conv\.conv", "position_in"),
    (r"head\.conv5a\.1|decode_head\.pam_in_conv\.bn", "position_in_bn"),
    (r"head\.conv5c\.0|decode_head\.cam_in_conv\.conv", "channel_in"),
    (r"head\.conv5c\.1|decode_head\.cam_in_conv\.bn", "channel_in_bn"),
    (r"head\.sa\.(query|key|value)_conv", "position_attention/{0}"),
    (r"decode_head\.pam\.(query|key|value)_project", "position_attention/{0}"),
    (r"head\.sa|decode_head\.pam\.gamma", "position_attention"),
    (r"head\.sc|decode_head\.cam\.gamma", "channel_attention"),
    (r"head\.conv51\.0|decode_head\.pam_out_conv\.conv", "position_out"),
    (r"head\.conv51\.1|decode_head\.pam_out_conv\.bn", "position_out_bn"),
    (r"head\.conv52\.0|decode_head\.cam_out_conv\.conv", "channel_out"),
    (r"head\.conv52\.1|decode_head\.cam_out_conv\.bn", "channel_out_bn"),
    (r"head\.conv6\.1|decode_head\.pam_conv_seg", "position_classifier"),
    (r"head\.conv7\.1|decode_head\.cam_conv_seg", "channel_classifier"),
    (r"head\.conv8\.1|decode_head\.conv_seg", "fusion_classifier"),
    (r"auxiliary_head\.convs\.0\.conv", "auxiliary_in"),
    (r"auxiliary_head\.convs\.0\.bn", "auxiliary_in_bn"),
    (r"auxiliary_head\.conv_seg", "auxiliary_classifier"),
)
BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
OTHER = {"weight": "kernel", "bias": "bias", "gamma": "gamma", "scale": "gamma"}


def our_path(name, deep_stem=False):
    """The path of our variable for their tensor, None if there is none."""
    module, _, leaf = name.rpartition(".")
    for pattern, layer in MODULES:
        match = re.fullmatch(pattern, module)
        if not match:
            continue
        groups = match.groups()
        layer = layer.format(
            *groups,
            stage="stage{}_block{}".format(*groups[:2])
            if "{stage}" in layer
            else None,
            last_stem="stem_conv3" if deep_stem else "stem_conv1",
        )
        leaves = BATCH_NORM if layer.endswith("_bn") else OTHER
        return f"{layer}/{leaves[leaf]}" if leaf in leaves else None
    return None


def load_state_dict(model, state_dict):
    """Assigns a PyTorch state dict to a model, accounting for every tensor.

    Args:
        model: Keras model with our layer names.
        state_dict: dict of name to array, in the authors' or
            MMSegmentation's naming. `num_batches_tracked` is passed over.

    Raises:
        ValueError: if a tensor has no variable, a variable no tensor, or
            shapes differ; nothing is assigned then.
    """
    variables = {
        variable.path: variable
        for variable in model.variables
        if not variable.path.startswith("seed_generator")
    }
    deep_stem = "stem_conv3/kernel" in variables
    arrays, unknown = {}, []
    for name, array in state_dict.items():
        if name.endswith("num_batches_tracked"):
            continue
        path = our_path(name, deep_stem)
        if path not in variables or path in arrays:
            unknown.append(name)
            continue
        arrays[path] = _our_layout(array, tuple(variables[path].shape))
    missing = sorted(set(variables) - set(arrays))
    wrong = [
        f"{path} {tuple(variables[path].shape)} from {array.shape}"
        for path, array in arrays.items()
        if array.shape != tuple(variables[path].shape)
    ]
    if unknown or missing or wrong:
        raise ValueError(
            "The checkpoint does not fit the model. Tensors without a "
            f"variable: {_list(unknown)}. Variables without a tensor: "
            f"{_list(missing)}. Other shapes: {_list(wrong)}."
        )
    for path, array in arrays.items():
        variables[path].assign(array)


def _our_layout(array, shape):
    """OIHW kernels as HWIO; a scalar stored as (1,) as ()."""
    array = np.asarray(array)
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.reshape(()) if array.shape == (1,) and not shape else array


def _list(names, shown=8):
    if not names:
        return "none"
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
