"""Folders to write to, refused with a remedy where there can be none."""

import os
import pathlib


def check_folder(path):
    """Raises a FileExistsError where a file is in a folder's way."""
    path = pathlib.Path(path)
    for folder in (path, *path.parents):
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise FileExistsError(
                f"{folder} is a file. Expected a folder, or nothing, there. "
                "Move it away, or choose another --output."
            )


def make_folder(path, exist_ok=True):
    """Makes a folder, and those that it is to lie in.

    Raises:
        OSError: if it cannot be made, of the kind that the system raises; a
            FileExistsError if a file is in the way.
    """
    check_folder(path)
    try:
        os.makedirs(path, exist_ok=exist_ok)
    except OSError as error:
        raise type(error)(
            f"The folder {path} cannot be made: {error.strerror}. Expected "
            "one that can be written to. Choose another --output."
        ) from error
