"""The classes of a model's channels, kept beside it as `channels.json`."""

import json
import os
import pathlib

from keras_danet.explain.channels import ChannelClasses
from keras_danet.files import read_json
from keras_danet.files import save_text
from keras_danet.inference import Predictor
from keras_danet.inference.digests import digest_of

FILE = "channels.json"


def save_channels(
    classes: ChannelClasses,
    predictor: Predictor,
    folder: str | os.PathLike[str],
) -> pathlib.Path:
    """Writes `channels.json` into a folder: a run's, a preset's.

    Args:
        classes: `ChannelClasses`.
        predictor: `Predictor` of the network that they were measured with.
        folder: path of a folder that there is.

    Returns:
        The path of the file.
    """
    content = {"network": digest_of(predictor), **classes.as_dict()}
    path = pathlib.Path(folder) / FILE
    save_text(json.dumps(content) + "\n", path)
    return path


def read_channels(
    folder: str | os.PathLike[str], predictor: Predictor
) -> ChannelClasses | None:
    """What `save_channels` wrote for this network.

    Returns:
        `ChannelClasses`; `None` if there is no such file, or it is of other
        weights.

    Raises:
        ValueError: if the file is damaged.
    """
    path = pathlib.Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        network = content["network"]
        classes = ChannelClasses.from_dict(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold the classes of channels ({error}). Expected "
            "the file that `keras-danet explain --measure` wrote: delete it, "
            "and measure again."
        ) from error
    return classes if network == digest_of(predictor) else None
