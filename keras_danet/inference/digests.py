"""Digests by which results are known to be of the same network."""

import hashlib
import json

import keras

# Settings of a layer that do not change what it computes; names are counted by
# a process.
NOT_COMPUTED = ("name", "trainable")


def digest_of(predictor):
    """A digest of what a network computes, the same when it is reloaded.

    Networks of other dilation rates or pixel statistics have the same weights,
    so that the layers' settings count as well.

    Args:
        predictor: `Predictor`, or any function.

    Returns:
        String, or `None` for a function without a model.
    """
    model = getattr(predictor, "model", None)
    if not hasattr(model, "weights"):
        return None
    digest = hashlib.sha256()
    about = [
        getattr(predictor, key, None) for key in ("class_names", "palette")
    ]
    digest.update(json.dumps([*about, *_settings_of(model)]).encode())
    # Without the state of random generators, which prediction does not use.
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _settings_of(layer):
    """The plain settings of every layer."""
    inner = getattr(layer, "layers", ())
    if not inner and isinstance(layer, keras.layers.Layer):
        settings = {
            key: value
            for key, value in layer.get_config().items()
            if key not in NOT_COMPUTED and _is_plain(value)
        }
        yield [type(layer).__name__, layer.dtype_policy.name, settings]
    for part in inner:
        yield from _settings_of(part)


def _is_plain(value):
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
