"""`predict.json`: which model the results in a folder are of."""

import hashlib
import json
import os
import pathlib
from typing import Any

import keras

from keras_danet.files import make_folder
from keras_danet.files import read_json
from keras_danet.files import save_text
from keras_danet.inference.digests import digest_of
from keras_danet.inference.inputs import FRAMES
from keras_danet.inference.inputs import RECORD
from keras_danet.inference.predictor import Predictor

# What must be equal for results to be those of the same prediction.
IDENTITY = ("digest", "protocol")
# What is known of a name that is not in a record.
NOTHING: dict[str, Any] = {"stamp": None, "kinds": [], "old": []}


class Record:
    """What is known of the results in a folder.

    Args:
        folder: `pathlib.Path` of the folder; it need not exist.
        predictor: `Predictor` whose results it is to hold.
        frame_rate: numbered frames in a second of their video.

    Attributes:
        unfinished: set of names whose results are old or incomplete.

    Raises:
        ValueError: if the folder's `predict.json` is not one.
    """

    def __init__(self, folder, predictor: Predictor, frame_rate):
        self.path = pathlib.Path(folder) / RECORD
        self.frame_rate = frame_rate
        self._new = {
            "digest": digest_of(predictor),
            "protocol": _protocol_of(predictor),
            "backend": keras.backend.backend(),
            "classes": list(predictor.class_names),
        }
        self._old = self._read()
        self.is_same = self._old is not None and all(
            self._old.get(key) == self._new[key] for key in IDENTITY
        )
        inputs = self._old["inputs"] if self._old else {}
        if not self.is_same:
            inputs = {
                name: _entry(None, (), entry["kinds"] + entry["old"])
                for name, entry in inputs.items()
            }
        self.inputs = dict(inputs)
        kept = self._old if self._old and self.is_same else {}
        self.unfinished = set(kept.get("unfinished", ()))

    def _read(self):
        try:
            content = read_json(self.path)
            lists = [content["unfinished"]]
            for entry in content["inputs"].values():
                lists += [entry["kinds"], entry["old"]]
                entry["stamp"]
            if (
                content["digest"]
                and content["protocol"] is not None
                and all(isinstance(each, list) for each in lists)
                and all(
                    isinstance(word, str) for each in lists for word in each
                )
            ):
                return content
        except FileNotFoundError:
            return None
        except (
            *(ValueError, KeyError, TypeError, AttributeError),
            IsADirectoryError,
        ):
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
        return f"the same model by another protocol{self._changes()}"

    def _changes(self):
        """The settings that differ, as they were and are now."""
        old, new = self._old["protocol"], self._new["protocol"]
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return ""
        changed = [
            f"{name} was {old.get(name)} and is {value}"
            for name, value in new.items()
            if old.get(name) != value
        ]
        return f" ({'; '.join(changed)})" if changed else ""

    def is_of(self, item, kind):
        """Whether a result is known to be of this model and this input."""
        entry = self.inputs.get(item.name, NOTHING)
        return kind in entry["kinds"] and entry["stamp"] == self._stamp_of(item)

    def is_unfinished(self, item):
        """Whether results are incomplete ones of this input, as it was."""
        stamp = self.inputs.get(item.name, NOTHING)["stamp"]
        return (
            item.name in self.unfinished
            and stamp is not None
            # The path of a file; of frames, their pattern.
            and stamp[0] == self._stamp_of(item)[0]
        )

    def has(self, name, kind):
        """Whether a result is ours, of whatever model and input."""
        entry = self.inputs.get(name, NOTHING)
        return kind in entry["kinds"] + entry["old"]

    def begin(self, kinds, redone):
        """Writes down what is going to be predicted.

        Args:
            kinds: dict of `Input` to the kinds of its results.
            redone: names of those whose results may be there and still are
                none: old ones, or those of a part.

        Raises:
            BlockingIOError: if somebody else has written there meanwhile.
        """
        if self._read() != self._old:
            raise BlockingIOError(
                f"{self.path} has changed: something else was predicted into "
                "its folder. Start again, or choose another --output."
            )
        for item, wanted in kinds.items():
            entry = self.inputs.get(item.name, NOTHING)
            stamp, old = self._stamp_of(item), entry["old"]
            same = entry["kinds"] if entry["stamp"] == stamp else []
            old = {*old, *entry["kinds"]} - {*same, *wanted}
            self.inputs[item.name] = _entry(stamp, {*same, *wanted}, old)
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

    def _stamp_of(self, item):
        """What changes when an input does."""
        found = stamp_of_files(item.files)
        if item.kind != FRAMES:
            return found[0]
        text = json.dumps([self.frame_rate, found]).encode()
        return [item.path.name, len(found), hashlib.sha256(text).hexdigest()]


def _entry(stamp, kinds, old):
    return {"stamp": stamp, "kinds": sorted(kinds), "old": sorted(old)}


def stamp_of_files(files):
    """Path, bytes and time of each file."""
    found = []
    for path in files:
        whole = os.path.realpath(path)
        try:
            status = os.stat(path)
            found.append([whole, status.st_size, status.st_mtime_ns])
        # Reading it says what is wrong.
        except OSError:
            found.append([whole, None, None])
    return found


def _protocol_of(predictor):
    protocol = predictor.protocol
    as_dict = getattr(protocol, "as_dict", None)
    # As it is once it has been written and read.
    return json.loads(json.dumps(as_dict() if as_dict else str(protocol)))
