"""Images, folders, videos and frames to segment, and their results' names."""

import collections
import dataclasses
import glob
import os
import pathlib
import re
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from keras_danet.data.decoding import PHOTO_ENDINGS
from keras_danet.inference.results import ENDINGS

IMAGE, VIDEO, FRAMES = "image", "video", "frames"
VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg"),
    *(".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv", ".ogv"),
)
# How many names of skipped files fit in a line.
MAX_SKIPPED_NAMES = 3
RECORD = "predict.json"
# Of results, at the end of a file's stem or a folder's name.
_RESULTS = tuple(f"_{kind}" for kind in (*ENDINGS, "labels"))
_NUMBER = re.compile(r"%0?(\d*)d")


@dataclasses.dataclass(frozen=True)
class Input:
    """One thing to segment.

    Args:
        path: `pathlib.Path` of a file; of numbered frames, their pattern.
        name: string, how its results are called, with `/` for subfolders.
        kind: `"image"`, `"video"` or `"frames"`.
    """

    path: pathlib.Path
    name: str
    kind: str = IMAGE

    @property
    def files(self) -> list[pathlib.Path]:
        """The files that it consists of, numbered frames in their order."""
        if self.kind != FRAMES:
            return [self.path]
        return [path for _, path in sorted(frames_of(self.path))]


def find_inputs(
    given: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    note: Callable[[str], Any] = lambda text: None,
) -> list[Input]:
    """Finds images, videos and frames, and names their results.

    Args:
        given: paths of images and videos; of folders, which are searched with
            all subfolders; patterns of names with `*`, `?`, `[...]` and `**`;
            and numbered frames, such as `frames/%05d.png`.
        output: folder of the results; earlier ones in it are not found.
        note: function that gets a sentence for people about what was left
            out. Defaults to one that does nothing.

    Returns:
        List of `Input`, in order; nothing twice. Results have the name of the
        file without its ending; of what was found in a folder, with its
        subfolders. Where two names would be the same, the ending is added
        (`a_png` and `a_jpg`), or the folder put before it.

    Raises:
        FileNotFoundError: if a folder has no image and no video, or a pattern
            matches nothing.
        ValueError: if results of two inputs would have one name.
    """
    output = pathlib.Path(output)
    found = []
    for path in map(pathlib.Path, given):
        if path.is_dir():
            found += _in_folder(path, output, note)
        elif os.path.lexists(path):
            found.append(Input(path, path.stem, _kind(path)))
        elif _NUMBER.search(path.name):
            found.append(_numbered(path))
        elif glob.has_magic(str(path)):
            found += _matching(path, output, note)
        else:
            # Reading it says that there is no such file.
            found.append(Input(path, path.stem, _kind(path)))
    once: dict[Any, Input] = {}
    for item in found:
        # A link in a folder has results of its own name.
        place = os.path.realpath(item.path.parent), item.path.name
        once.setdefault((item.kind, place), item)
    return _distinct(list(once.values()))


def _kind(path):
    return VIDEO if path.suffix.lower() in VIDEO_ENDINGS else IMAGE


def _is_input(path):
    return path.suffix.lower() in (*PHOTO_ENDINGS, *VIDEO_ENDINGS)


def _is_result(path, output):
    """Whether a path lies in the output folder and is called as a result."""
    path, output = path.resolve(), output.resolve()
    if not path.is_relative_to(output):
        return False
    parts = path.relative_to(output).parts
    return any(pathlib.PurePath(name).stem.endswith(_RESULTS) for name in parts)


def _in_folder(top, output, note):
    within, skipped, called_so = [], [], []
    # Earlier results, if they were written among the images.
    is_output = top.resolve() == output.resolve()
    results = _RESULTS if is_output else ()

    def unreadable(error):
        # Reading it says what is wrong.
        path = pathlib.Path(error.filename)
        name = path.relative_to(top).as_posix() if path != top else top.name
        within.append(Input(path, name))

    for folder, folders, files in os.walk(top, onerror=unreadable):
        folder = pathlib.Path(folder)
        links = [name for name in folders if (folder / name).is_symlink()]
        skipped += [f"{name} (a link to a folder)" for name in sorted(links)]
        # Skips an output folder inside, and hidden folders.
        stems = {pathlib.PurePath(name).stem for name in files}
        visible = [name for name in folders if name[0] != "."]
        folders[:] = sorted(
            name
            for name in visible
            if not name.endswith(results)
            and (folder / name).resolve() != output.resolve()
        )
        # Of no image or video that is here, it may be meant itself.
        called_so += sorted(
            name
            for name in visible
            if name.endswith(results) and name.rpartition("_")[0] not in stems
        )
        for name in sorted(files):
            path = folder / name
            if name[0] == ".":
                continue
            if path.stem.endswith(results):
                if path.stem.rpartition("_")[0] not in stems:
                    called_so.append(name)
                continue
            if _is_input(path):
                relative = path.relative_to(top).with_suffix("")
                within.append(Input(path, relative.as_posix(), _kind(path)))
            elif not (is_output and name == RECORD):
                skipped.append(name)
    if called_so:
        note(
            f"left out {_shown(called_so)} in {top}, which is named as results "
            "are. Rename it if it is meant, or choose another --output."
        )
    if not within:
        raise FileNotFoundError(
            f"{top} holds no image and no video. Expected files that end in "
            f"{', '.join(PHOTO_ENDINGS)}, or in a video's ending such as .mp4, "
            "in it or its subfolders."
        )
    if skipped:
        note(_skipped(skipped, top))
    return within


def _matching(pattern, output, note):
    paths = sorted(map(pathlib.Path, glob.glob(str(pattern), recursive=True)))
    files = [
        path
        for path in paths
        if not path.is_dir() and not _is_result(path, output)
    ]
    found = [Input(p, p.stem, _kind(p)) for p in files if _is_input(p)]
    # Of `**`, every subfolder matches, and its files do, too.
    if "**" not in pattern.parts:
        for path in paths:
            if path.is_dir() and not _is_result(path, output):
                found += _in_folder(path, output, note)
    if not found:
        raise FileNotFoundError(
            f"{pattern} matches no image and no video. Expected a pattern of "
            f"files that end in {', '.join(PHOTO_ENDINGS)}, or in a video's "
            "ending such as .mp4."
        )
    skipped = [path.name for path in files if not _is_input(path)]
    if skipped:
        note(_skipped(skipped, pattern.parent))
    return found


def _numbered(pattern):
    """The `Input` of numbered frames, named as what is left of their name."""
    if len(_NUMBER.findall(pattern.name)) > 1 or not frames_of(pattern):
        raise FileNotFoundError(
            f"{pattern} matches no frame. Expected one number in the name, as "
            "ffmpeg writes it: frames/%05d.png for frames/00001.png and so on."
        )
    name = _NUMBER.sub("", pattern.stem).strip(" _-.")
    return Input(pattern, name or pattern.resolve().parent.name, FRAMES)


def frames_of(pattern):
    """(number, path) of the frames that a pattern such as %05d.png names.

    In no order.
    """
    before, digits, after = _NUMBER.split(pattern.name)
    frame = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    found = []
    if not pattern.parent.is_dir():
        return found
    with os.scandir(pattern.parent) as entries:
        for entry in entries:
            match = frame.fullmatch(entry.name)
            if match and match[1] == f"{int(match[1]):0{int(digits or 0)}}":
                found.append((int(match[1]), pattern.parent / entry.name))
    return found


def _distinct(found):
    """The inputs with names that differ."""
    groups = _by_name(found)
    renamed = [
        item
        if len(groups[item.name]) == 1
        else dataclasses.replace(item, name=_longer(item, groups[item.name]))
        for item in found
    ]
    for name, same in _by_name(renamed).items():
        if len(same) > 1:
            raise ValueError(
                f"Results of two inputs would be called {name}: "
                f"{same[0].path} and {same[1].path}. Rename one of them, or "
                "predict them into two folders."
            )
    return renamed


def _by_name(found):
    groups = collections.defaultdict(list)
    for item in found:
        groups[item.name].append(item)
    return groups


def _longer(item, same):
    """Its name with its ending, its folder, or both, as it takes."""
    ending = f"_{item.path.suffix[1:]}"
    if len({other.path.suffix for other in same}) == len(same):
        return item.name + ending
    if len({other.path.parent for other in same}) == len(same):
        ending = ""
    folder, _, stem = item.name.rpartition("/")
    place = f"{folder}/" if folder else ""
    return f"{place}{item.path.resolve().parent.name}_{stem}{ending}"


def _skipped(names, folder):
    are = "is not an image" if len(names) == 1 else "are not images"
    return (
        f"skipped {len(names)} file{'s' * (len(names) > 1)} in "
        f"{folder} that {are}: {_shown(names)}"
    )


def _shown(names):
    more = len(names) - MAX_SKIPPED_NAMES
    return ", ".join(names[:MAX_SKIPPED_NAMES]) + (
        f" and {more} more" if more > 0 else ""
    )
