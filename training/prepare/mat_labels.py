"""Labels from MATLAB files to PNGs: what the scripts beside share."""

import argparse
import os
import re
import signal
import struct
import sys
import textwrap
import zlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

# The largest label of the data sets has 0.4 million pixels; its file, with all
# else that is in there, some hundred kilobytes.
MAX_MAT_BYTES = 2**26
MAX_UNPACKED_BYTES = 2**28
MAX_LIST_BYTES = 2**24
_COMPRESSED = 15
_PNG_END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
# More bad files than anybody reads; the rest is counted.
MAX_SHOWN = 20


def read_mat(path, *names, highest):
    """Reads a label from a MATLAB file.

    Args:
        path: Path of the file, of version 7 or older.
        names: Strings, a variable and the fields that lead to the label.
        highest: Integer, the highest value that it may have.

    Returns:
        uint16 array (height, width).

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is too large or broken, or holds no such label.
    """
    import scipy.io

    _check_unpacked_size(path)
    try:
        label = scipy.io.loadmat(path, variable_names=names[:1])[names[0]]
        for name in names[1:]:
            label = label[name].item()
    # SciPy has no common error for broken files.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read: {type(error).__name__}: {error}. Expected "
            f"a MATLAB file (version 7 or older) with {'.'.join(names)}; fetch "
            "it again."
        ) from error
    if (
        not isinstance(label, np.ndarray)
        or label.ndim != 2
        or label.dtype.kind not in "uif"
        or not label.size
    ):
        what = getattr(label, "dtype", type(label).__name__)
        raise ValueError(
            f"{path}: {'.'.join(names)} is no label but {what} of shape "
            f"{getattr(label, 'shape', ())}. Expected whole numbers (height, "
            "width)."
        )
    # Written so that NaN fails it too.
    if not ((label >= 0) & (label <= highest) & (label % 1 == 0)).all():
        raise ValueError(
            f"{path}: {'.'.join(names)} has values from {label.min()} to "
            f"{label.max()}. Expected whole numbers from 0 to {highest}."
        )
    return label.astype("uint16")


def _check_unpacked_size(path):
    """Unpacks a file piece by piece, and keeps none, to see how much it is."""
    with open(path, "rb") as file:
        contents = file.read(MAX_MAT_BYTES + 1)
    if len(contents) > MAX_MAT_BYTES:
        raise ValueError(
            f"{path} is too large: more than {MAX_MAT_BYTES} bytes. Expected "
            "the label of one image."
        )
    order = ">" if contents[126:128] == b"MI" else "<"
    place, unpacked = 128, 0
    while place + 8 <= len(contents):
        kind, length = struct.unpack_from(f"{order}II", contents, place)
        place += 8
        if kind == _COMPRESSED:
            rest = contents[place : place + length]
            stream = zlib.decompressobj()
            while rest and unpacked <= MAX_UNPACKED_BYTES:
                try:
                    unpacked += len(stream.decompress(rest, 2**20))
                except zlib.error:
                    break
                rest = stream.unconsumed_tail
        place += length
    if unpacked > MAX_UNPACKED_BYTES:
        raise ValueError(
            f"{path} unpacks to more than {MAX_UNPACKED_BYTES} bytes. Expected "
            "the label of one image."
        )


def read_ids(*paths):
    """The names in some lists, in their order and each once.

    Raises:
        OSError: if a list cannot be opened.
        ValueError: if one is empty, too large or no list of names.
    """
    ids = {}
    for path in paths:
        with open(path, "rb") as file:
            contents = file.read(MAX_LIST_BYTES + 1)
        names = contents.decode("utf-8", "replace").split()
        if len(contents) > MAX_LIST_BYTES or not names:
            raise ValueError(
                f"{path} is empty or has more than {MAX_LIST_BYTES} bytes. "
                "Expected one name a line."
            )
        for name in names:
            check_name(name, path)
        ids.update(dict.fromkeys(names))
    return list(ids)


def check_name(name, path):
    """Refuses a name that would lead out of the folder it is looked up in."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise ValueError(
            f"{path} holds {str(name)[:100]!r}. Expected names of files, of "
            "letters, digits, '_', '-' and '.'."
        )


def find_folder(root, needed, *below):
    """The first of `root` and the paths below it that holds `needed`."""
    places = [Path(root), *(Path(root) / path for path in below)]
    for place in places:
        if (place / needed).exists():
            return place
    raise FileNotFoundError(
        f"There is no {' nor '.join(str(place / needed) for place in places)}. "
        "Expected the folder of the data set as it was unpacked."
    )


def check_list(path, ids):
    """Refuses to replace a list that says something else."""
    if path.exists() and set(read_ids(path)) != set(ids):
        raise FileExistsError(
            f"{path} exists and lists other names ({len(read_ids(path))}, not "
            f"the {len(ids)} to be written). Move it away."
        )


def write_list(path, ids):
    """Writes names, one a line, whole or not at all, if it is not there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    try:
        partial.write_text("".join(f"{name}\n" for name in ids), "utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def convert_all(sources, make_label, folder, jobs):
    """Makes the label of every source that has none yet.

    Args:
        sources: Dict of name to what `make_label` makes the label of that
            name from.
        make_label: Function of a source to a uint8 array (height, width); it
            goes to other processes.
        folder: Path of the folder for `{name}.png`.
        jobs: Integer, number of processes.

    Returns:
        Integer, how many could not be made. They were named on stderr.
    """
    if jobs < 1:
        raise ValueError(f"--jobs expects 1 or more. Received: {jobs}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    targets = {name: folder / f"{name}.png" for name in sources}
    missing = [name for name in sources if not _is_complete(targets[name])]
    print(
        f"{len(sources)} labels for {folder}, {len(sources) - len(missing)} of "
        "them there already.",
        file=sys.stderr,
    )
    from keras_danet.data.class_tables import spread_color

    colors = [level for number in range(256) for level in spread_color(number)]
    errors = []
    # Not forked: a fork copies no thread, but the locks that it holds.
    with ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=signal.signal,
        # Interrupting is the first process's business.
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        results = pool.map(
            _convert,
            [make_label] * len(missing),
            [sources[name] for name in missing],
            [targets[name] for name in missing],
            [colors] * len(missing),
            chunksize=8,
        )
        try:
            for number, error in enumerate(results, start=1):
                errors += [error] if error else []
                _show_progress(number, len(missing), len(errors))
        except BrokenProcessPool as error:
            raise OSError(
                f"A process that made labels ended: {error}. Memory may have "
                "run out (try a smaller --jobs); what is made is kept."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for error in errors[:MAX_SHOWN]:
        print(f"error: {error}", file=sys.stderr)
    if len(errors) > MAX_SHOWN:
        print(f"... and {len(errors) - MAX_SHOWN} more.", file=sys.stderr)
    return len(errors)


def _is_complete(path):
    try:
        with open(path, "rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False


def _convert(make_label, source, target, colors):
    """Makes one label; returns what was wrong, or None."""
    partial = target.with_name(f".partial-{target.name}")
    try:
        label = Image.fromarray(make_label(source))
        # The numbers stay; viewers show them in colours.
        label.putpalette(colors)
        label.save(partial, "PNG")
        os.replace(partial, target)
    except (ValueError, OSError, MemoryError) as error:
        return f"{target.stem}: {error or type(error).__name__}"
    finally:
        partial.unlink(missing_ok=True)


def _show_progress(done, total, failed):
    # A line that redraws itself fills a log file.
    live = sys.stderr.isatty()
    if live or done == total or done % max(total // 10, 1) == 0:
        print(
            f"{done}/{total} made" + f", {failed} failed" * bool(failed),
            end="\r" if live and done < total else "\n",
            file=sys.stderr,
            flush=True,
        )


def parser(description, example):
    """A parser of the command line that all scripts have in common."""
    made = argparse.ArgumentParser(
        description=textwrap.fill(
            f"{description} What was made already is kept, the download is "
            "left as it is."
        ),
        epilog=f"example:\n  python {example}\n\nexit codes: 0 done; 1 some "
        "labels could not be made (they are named);\n2 could not do it",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes to work in (default: one per core)",
    )
    return made


def run(main):
    """Runs a script's `main` and exits; users see errors, no traceback."""
    # As an error does, so that no process of a pool stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except ImportError as error:
        message = f"{error}. Install it: pip install scipy"
    except (ValueError, OSError) as error:
        message = error
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
