"""`predict.json`: which model the results in a folder are of."""

import hashlib
import json
import os
import pathlib

import keras

from keras_danet.files import make_folder
from keras_danet.files import save_text
from keras_danet.inference.inputs import RECORD
from keras_danet.inference.predictor import Predictor

# What must be equal for results to be those of the same prediction.
IDENTITY = ("digest", "protocol")


class Record:
    """What is known of the results in a folder.

    Args:
        folder: `pathlib.Path` of the folder; it need not exist.
        predictor: `Predictor` whose results it is to hold.
        kinds: the kinds of result that are wanted.

    Attributes:
        unfinished: set of names whose results are old or incomplete.

    Raises:
        ValueError: if the folder's `predict.json` is not one.
    """

    def __init__(self, folder, predictor: Predictor, kinds):
        self.path = pathlib.Path(folder) / RECORD
        self._new = {
            "digest": digest_of(predictor),
            "protocol": _protocol_of(predictor),
            "backend": keras.backend.backend(),
            "classes": list(predictor.class_names),
            "save": list(kinds),
        }
        self._old = self._read()
        self.is_same = self._old is not None and all(
            self._old.get(key) == self._new[key] for key in IDENTITY
        )
        kept = self._old if self.is_same and self._old else {}
        self.inputs = dict(kept.get("inputs", {}))
        self.unfinished = set(kept.get("unfinished", ()))

    def _read(self):
        try:
            content = json.loads(self.path.read_text("utf-8"))
            if content["digest"] and content["protocol"] is not None:
                dict(content["inputs"]), set(content["unfinished"])
                return content
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise ValueError(
            f"{self.path} is not what `keras-danet predict` writes there. "
            "Expected no such file, or that of earlier results. Move it away, "
            "or choose another --output."
        )

    def difference(self):
        """How the folder's results differ from what is wanted, or `None`."""
        if self._old is None or self.is_same:
            return None
        if self._old["digest"] != self._new["digest"]:
            return "another model, or of other weights"
        return f"the same model by another protocol, {self._old['protocol']}"

    def is_of(self, item):
        """Whether the results of a name are known to be of this input."""
        return self.inputs.get(item.name) == stamp_of(item)

    def has(self, name):
        """Whether the results of a name are ours, of whatever input."""
        return name in ((self._old or {}).get("inputs", {}))

    def begin(self, items, redone):
        """Writes down what is going to be predicted.

        Args:
            items: list of `Input`.
            redone: names among them that have results, which are replaced.
        """
        self.inputs |= {item.name: stamp_of(item) for item in items}
        self.unfinished |= set(redone)
        self.write()

    def write(self):
        make_folder(self.path.parent)
        content = {
            **self._new,
            "inputs": self.inputs,
            "unfinished": sorted(self.unfinished),
        }
        save_text(json.dumps(content, indent=1) + "\n", self.path)


def stamp_of(item):
    """What changes when an input does: names, bytes and times of its files."""
    found = []
    for path in item.files:
        try:
            status = os.stat(path)
            found.append([path.name, status.st_size, status.st_mtime_ns])
        # Reading it says what is wrong.
        except OSError:
            found.append([path.name, None, None])
    if len(found) == 1:
        return found[0]
    text = json.dumps(found).encode()
    return [item.path.name, len(found), hashlib.sha256(text).hexdigest()]


def digest_of(predictor):
    """A digest of what a model's results depend on, the same when reloaded."""
    digest = hashlib.sha256()
    model = predictor.model
    about = [predictor.class_names, predictor.palette, *settings_of(model)]
    digest.update(json.dumps(about).encode())
    # Without the state of random generators, which prediction does not use.
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable)
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def settings_of(layer):
    """The plain settings of every layer; names are counted by a process."""
    inner = getattr(layer, "layers", ())
    if not inner:
        settings = {
            key: value
            for key, value in layer.get_config().items()
            if key != "name" and _is_plain(value)
        }
        yield [type(layer).__name__, settings]
    for part in inner:
        yield from settings_of(part)


def _is_plain(value):
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _protocol_of(predictor):
    protocol = predictor.protocol
    as_dict = getattr(protocol, "as_dict", None)
    # As it is once it has been written and read.
    return json.loads(json.dumps(as_dict() if as_dict else str(protocol)))
