"""Presets on the Hugging Face Hub, fetched with its own library."""

import os
import re

from keras_danet.weights import downloads


def fetch_folder(handle, files):
    """Fetches a preset from the Hub, with the user's token and settings.

    A branch is looked up every time, and the cached files are used if the Hub
    cannot be reached; a commit is looked up once.

    Args:
        handle: string, `"hf://user/repo"` or `"hf://user/repo@revision"`.
        files: dict of file name to the file's maximum size in bytes.

    Returns:
        Path of the folder in the Keras cache that holds them.

    Raises:
        ImportError: if `huggingface_hub` is not installed.
        ValueError: for a malformed handle, or a file that is too large.
        OSError: what `huggingface_hub` raises if it cannot be fetched.
    """
    match = re.fullmatch(
        r"hf://([\w.-]+)/([\w.-]+?)(?:@([\w.-]+))?", handle, re.ASCII
    )
    if match is None or {".", ".."} & set(match.groups()):
        raise ValueError(
            "Expected 'hf://user/repo', or 'hf://user/repo@revision'. "
            f"Received: {handle!r}"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError(
            f"{handle} is fetched with huggingface_hub, which is not "
            "installed: pip install huggingface_hub"
        ) from error
    user, repo, revision = match.groups()
    revision = revision or "main"
    folder = downloads.cache_folder() / "hf" / user / repo / revision
    wanted = {
        "repo_id": f"{user}/{repo}",
        "local_dir": folder,
        "endpoint": os.environ.get("HF_ENDPOINT"),
    }
    for name, most in files.items():
        about = hf_hub_download(
            filename=name, revision=revision, dry_run=True, **wanted
        )
        if about.file_size > most:
            raise ValueError(
                f"{name} of {handle} has {about.file_size} bytes. Expected "
                f"at most {most}."
            )
        # All files from one commit.
        revision = about.commit_hash
        hf_hub_download(filename=name, revision=revision, **wanted)
    return folder
