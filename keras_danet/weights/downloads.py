"""Fetches files into the Keras cache: resumed, verified, then renamed.

Neither the server nor the connection is trusted: a file gets its final name
only once it is complete and its SHA-256 is the expected one or, if none is
published, has been recorded for later downloads. (`keras.utils.get_file` cannot
resume, match the beginning of a digest or stop at a size; `torch.hub` needs
torch and cannot resume.)
"""

import contextlib
import errno
import hashlib
import http.client
import json
import os
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings

from keras_danet.files import save_text
from keras_danet.waiting import is_terminal
from keras_danet.weights.files import MAX_FILE_BYTES

TIMEOUT_SECONDS = 30
# A connection that breaks is resumed.
MAX_ATTEMPTS = 5
RETRY_SECONDS = 0.25
CHUNK_BYTES = 2**18
# The beginning of a SHA-256, as much of it as is published.
DIGEST = r"[0-9a-f]{8,64}"
# A number of bytes; `isdigit` accepts digits that `int` does not.
COUNT = r"[0-9]{1,18}"


class _WrongFile(ValueError):
    """A file that a download cannot be resumed from."""


def cache_folder():
    """`keras_danet` in the Keras cache: `$KERAS_HOME`, or `~/.keras`."""
    home = os.environ.get("KERAS_HOME") or "~/.keras"
    return pathlib.Path(home).expanduser() / "keras_danet"


def fetch(url, path, digits=None, max_bytes=MAX_FILE_BYTES):
    """The file at `path`, fetched from `url` if it is not there; verified.

    An unfinished download is resumed if the server supports it and its file
    is unchanged; otherwise it starts again. If several processes want the
    file, one fetches it and the others wait.

    Args:
        url: string, http or https.
        path: path of the file in the cache.
        digits: string, the first 8 to 64 hexadecimal digits of the file's
            SHA-256. Defaults to `None`, unknown: the first one seen is kept
            beside the file and enforced from then on.
        max_bytes: integer; a larger file is refused.

    Returns:
        `path` as a `pathlib.Path`.

    Raises:
        FileNotFoundError: if the server has no such file.
        PermissionError: if the server requires authorization.
        ConnectionError: if it cannot be fetched.
        ValueError: if the file is not the one expected, or too large.
    """
    path = pathlib.Path(path)
    if digits is not None and not re.fullmatch(DIGEST, digits):
        raise ValueError(
            "`digits` must be 8 to 64 lower-case hexadecimal digits. "
            f"Received: digits={digits!r}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if path.exists():
            _verify(path, path, url, digits)
            return path
        part = path.with_name(f"{path.name}.part")
        try:
            _download(url, path, part, max_bytes)
            _verify(part, path, url, digits)
        except _WrongFile:
            part.unlink(missing_ok=True)
            _tag(part).unlink(missing_ok=True)
            raise
        _tag(part).unlink(missing_ok=True)
        os.replace(part, path)
    return path


def forget(path):
    """Deletes a fetched file that proved useless, and its record.

    The first download may have been a login page.
    """
    path = pathlib.Path(path)
    with locked(path):
        path.unlink(missing_ok=True)
        _record(path).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path):
    """Lets one process at a time work on `path`; the others wait."""
    try:
        import fcntl
    except ImportError:
        # Windows. Two downloads at once then fail the digest check.
        yield
        return
    with open(path.with_name(f".{path.name}.lock"), "w") as file:
        # The system releases the lock however the process ends.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _verify(file, path, url, digits):
    """Compares `file`, which will become `path`, with its known SHA-256."""
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    record = _record(path)
    recorded = None
    if record.exists():
        recorded = record.read_text(encoding="utf-8").strip()
        if not re.fullmatch(DIGEST, recorded):
            raise ValueError(
                f"{record} holds no SHA-256, so {url} cannot be verified. "
                "Delete it if you trust what is at that address."
            )
    for expected, source in (
        (digits, "published"),
        (recorded, f"{record} recorded at the first download"),
    ):
        if expected and not found.startswith(expected):
            raise _WrongFile(
                f"{url} is not the expected file. Expected a SHA-256 that "
                f"begins with {expected}, as {source}; received {found}. It "
                f"was not read. Delete {path}, if it exists, and fetch it "
                "again; if the publisher replaced the file and you trust it, "
                f"delete {record} as well."
            )
    if recorded is None:
        if digits is None:
            warnings.warn(
                f"{url} is unverified: no digest is published for it. Its "
                f"SHA-256 {found} was recorded in {record} and is enforced "
                "from now on.",
                stacklevel=2,
            )
        save_text(found + "\n", record)


def _download(url, path, part, max_bytes):
    """Downloads all of `url` to `part`, in several attempts if need be."""
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("http", "https"):
        raise ValueError(f"Expected an http or https URL. Received: {url}")
    remedy = (
        f"Without a network, fetch the file elsewhere and copy it to {path}, "
        "or pass its path to from_checkpoint."
    )
    for attempt in range(MAX_ATTEMPTS):
        before = _size(part)
        try:
            return _continue(url, part, max_bytes)
        except urllib.error.HTTPError as error:
            error.close()
            reason = _line(f"HTTP {error.code} {error.reason}")
            if error.code == 416:
                # The partial file is longer than the file: start again.
                part.unlink(missing_ok=True)
            elif 400 <= error.code < 500 and error.code not in (408, 429):
                private = error.code in (401, 403)
                kind = PermissionError if private else FileNotFoundError
                raise kind(
                    f"{url} cannot be fetched: {reason}. {remedy}"
                ) from None
        except _WrongFile:
            raise
        # The last two: a redirect leads to something that is not a URL.
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
            OverflowError,
        ) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            reason = getattr(error, "reason", None) or error
            reason = _line(reason) or type(reason).__name__
        # If nothing arrived, a quick retry will not help.
        if _size(part) == before or attempt + 1 == MAX_ATTEMPTS:
            break
        time.sleep(RETRY_SECONDS * 2**attempt)
    done = f" from {_size(part)} bytes" if _size(part) else ""
    raise ConnectionError(
        f"Could not fetch {url}: {reason}. Run it again to resume{done}. "
        f"{remedy}"
    )


def _line(text):
    """The first line, cut: what a server sends can have any length."""
    return str(text).strip().partition("\n")[0][:200]


def _continue(url, part, max_bytes):
    """One request: the rest of `part` if possible, else the whole file."""
    tag = _read_tag(part)
    start = _size(part) if tag else 0
    if tag and start == tag["size"]:
        return
    headers = {"User-Agent": "keras_danet", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        # The server sends the whole file if it has changed.
        headers["If-Range"] = tag["validator"]
    request = urllib.request.Request(url, headers=headers)
    with _opener.open(request, timeout=TIMEOUT_SECONDS) as response:
        resumed = response.status == 206
        if resumed and not _continues(response.headers, start, tag):
            part.unlink(missing_ok=True)
            raise http.client.HTTPException(
                "the server sent part of another file, or the wrong part"
            )
        length = response.headers.get("Content-Length", "")
        told = re.fullmatch(COUNT, length) is not None
        if not told and not response.chunked:
            # A truncated file would go unnoticed.
            raise http.client.HTTPException(
                "the server does not say how long the file is"
            )
        start = start if resumed else 0
        size = start + int(length) if told else None
        _check_size(url, size or 0, max_bytes)
        if not resumed:
            _write_tag(part, response.headers, size)
        with open(part, "ab" if resumed else "wb") as file:
            _copy(response, file, url, size, max_bytes)
    if size is not None and _size(part) != size:
        raise http.client.HTTPException(
            f"the connection was cut after {_size(part)} of {size} bytes"
        )


def _continues(headers, start, tag):
    """Whether a partial response continues `tag`'s file at `start`."""
    told = re.fullmatch(
        rf"bytes ({COUNT})-{COUNT}/({COUNT}|\*)",
        headers.get("Content-Range", ""),
    )
    return (
        told is not None
        and tag is not None
        and int(told[1]) == start
        and told[2] in ("*", str(tag["size"]))
        and tag["validator"] in (headers["ETag"], headers["Last-Modified"])
    )


def _copy(response, file, url, size, max_bytes):
    """Writes the response to the file and shows the progress.

    That is a counter on a terminal, ten lines in a log or a notebook.
    """
    done, shown = file.tell(), None
    name, terminal = url.rpartition("/")[2], is_terminal(sys.stderr)
    # `read1` returns what has arrived; `read` waits for all it was asked for,
    # and loses what it has if the connection breaks.
    while chunk := response.read1(CHUNK_BYTES):
        done += len(chunk)
        _check_size(url, done, max_bytes)
        file.write(chunk)
        text = f"{done / 1e6:.1f}{f' of {size / 1e6:.1f}' if size else ''} MB"
        step = 10 * done // size if size else done // 10**7
        step = text if terminal else step
        if step == shown and done != size:
            continue
        shown = step
        print(
            f"\r{name}: {text}" if terminal else f"{name}: {text}",
            end="" if terminal and done != size else "\n",
            file=sys.stderr,
            # Other streams get whole lines, and need not have `flush`.
            flush=terminal,
        )


def _check_size(url, size, max_bytes):
    if size > max_bytes:
        raise _WrongFile(
            f"{url} is larger than the {max_bytes} bytes allowed. "
            "It is not a file of this kind."
        )


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _record(path):
    return path.with_name(f"{path.name}.sha256")


def _tag(part):
    return part.with_name(f"{part.name}.json")


def _read_tag(part):
    """What the server said about the file that `part` begins."""
    try:
        tag = json.loads(_tag(part).read_text(encoding="utf-8"))
        return tag if {"validator", "size"} <= set(tag) else None
    except (OSError, ValueError, TypeError):
        # The partial file cannot be trusted: start again.
        return None


def _write_tag(part, headers, size):
    """Notes how the server identifies the file, if it says so."""
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)
    validator = headers.get("ETag", "")
    if not validator or validator.startswith("W/"):
        validator = headers.get("Last-Modified", "")
    if validator:
        save_text(
            json.dumps({"validator": validator, "size": size}), _tag(part)
        )


class _KeepHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        allowed = ("https:",) if req.type == "https" else ("https:", "http:")
        if not newurl.startswith(allowed):
            raise urllib.error.URLError(
                f"{req.full_url} redirects to {newurl}, which is not encrypted "
                "or not an http server"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_KeepHttps)
