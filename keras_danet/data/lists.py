"""Reads the files that say which image and label belong together."""

import csv
import io
import os
import re
from pathlib import PurePosixPath

# The longest official list has 0.4 MB, a table of 118,287 pairs about 10 MB.
MAX_LIST_BYTES = 2**27
MAX_LINE_LENGTH = 2**14


def read_list(facts, root, split):
    """Reads the list of the split that `facts`, a `Split`, describes.

    Returns:
        List of (image, label), both strings, in the order of the list.

    Raises:
        FileNotFoundError: if there is no list.
        ValueError: if it is empty, malformed, too large, names a file twice
            or leads out of `root`.
    """
    path = os.path.join(root, facts.list_path)
    read = {"ids": _read_ids, "pairs": _read_pairs, "table": _read_rows}
    pairs = []
    places = {}
    for where, pair in read[facts.list_holds](path, root, facts, split):
        for name in map(os.path.normpath, pair):
            if name in places:
                raise ValueError(
                    f"{path}, {where}: {name} is listed a second time, first "
                    f"in {places[name]}. Remove one of the lines."
                )
            places[name] = where
        pairs.append(pair)
    if not pairs:
        raise ValueError(
            f"{path} is empty: it has no pair for split {split!r}. Expected "
            f"one per line: {_expected_line(facts)!r}."
        )
    return pairs


def read_text(path, most_bytes, expected="a list of files"):
    r"""The text of a file, whose line ends all become `"\n"`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is too large, or not UTF-8 text.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path} cannot be read: there is no such file. Expected a text "
            "file."
        )
    with open(path, "rb") as file:
        contents = file.read(most_bytes + 1)
    if len(contents) > most_bytes:
        raise ValueError(
            f"{path} has more than {most_bytes} bytes. Expected {expected}; "
            "is it another file?"
        )
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file: {error}. Expected UTF-8; save it as "
            "such."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path):
    # Not `splitlines`, which also splits at characters that names may have.
    text = read_text(path, MAX_LIST_BYTES)
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MAX_LINE_LENGTH:
            raise ValueError(
                f"{path}, line {number} has {len(line)} characters. Expected "
                f"one or two names, of at most {MAX_LINE_LENGTH} in all."
            )
        if line.strip():
            yield f"line {number}", line.strip()


def _read_ids(path, root, facts, split):
    for where, line in _lines(path):
        _check_below(f"{path}, {where}", line, root)
        image, label = (
            os.path.join(root, template.format(id=line))
            for template in (facts.image, facts.label)
        )
        yield where, (image, label)


def _read_pairs(path, root, facts, split):
    """Pairs of paths, of which only the last two components count.

    CamVid's own lists hold absolute paths of the machine they were made on.
    """
    suffixes = (
        re.escape(os.path.splitext(template)[1])
        for template in (facts.image, facts.label)
    )
    # Names with spaces can be told apart by their suffix.
    spaced = re.compile(r"(.+?{})\s+(.+{})".format(*suffixes))
    for where, line in _lines(path):
        # A list written on Windows has backslashes.
        line = line.replace("\\", "/")
        match = spaced.fullmatch(line)
        words = line.split()
        if len(words) != 2 and match:
            words = match.groups()
        parts = [PurePosixPath(word) for word in words]
        if len(parts) != 2 or any(part.name == "" for part in parts):
            raise ValueError(
                f"{path}, {where}: expected an image and its label, as in "
                f"{_expected_line(facts)!r}. Received: {line!r}."
            )
        below_root = []
        for part in parts:
            _check_below(f"{path}, {where}", str(part), root)
            last = part.relative_to(part.anchor).parts[-2:]
            below_root.append(os.path.join(root, *last))
        yield where, tuple(below_root)


def read_table(path):
    """Reads a CSV file of pairs.

    Its first line is `image,label` or `image,label,split`, in any order.

    Yields:
        String, the line of a row; and a dict of its columns, all strings.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is too large or malformed.
    """
    expected = "Expected the columns image,label or image,label,split"
    try:
        text = read_text(path, MAX_LIST_BYTES)
        reader = csv.reader(io.StringIO(text), strict=True)
        header = [name.strip() for name in next(reader, [])]
        if sorted(header) not in (
            ["image", "label"],
            ["image", "label", "split"],
        ):
            raise ValueError(
                f"{path} begins with {','.join(header)[:99]!r}. {expected}, "
                "named in the first line."
            )
        for row in reader:
            if not any(map(str.strip, row)):
                continue
            where = f"line {reader.line_num}"
            if len(row) != len(header) or not all(map(str.strip, row)):
                raise ValueError(
                    f"{path}, {where}: expected {','.join(header)}. Received: "
                    f"{','.join(row)[:999]!r}."
                )
            yield where, dict(zip(header, map(str.strip, row), strict=True))
    except csv.Error as error:
        raise ValueError(
            f"{path} is not a CSV file: {error}. {expected}."
        ) from (error)


def _read_rows(path, root, facts, split):
    for where, row in read_table(path):
        if row.get("split", split) != split:
            continue
        paths = [row["image"], row["label"]]
        for name in paths:
            _check_below(f"{path}, {where}", name, root)
            if os.path.isabs(name):
                raise ValueError(
                    f"{path}, {where}: {name!r} is an absolute path. Write it "
                    f"relative to {root}."
                )
        yield where, tuple(os.path.join(root, name) for name in paths)


def _check_below(where, name, root):
    if ".." in name.replace("\\", "/").split("/"):
        raise ValueError(
            f"{where}: {name!r} may lead out of {root}. Write the path without "
            "'..'."
        )


def _expected_line(facts):
    if facts.list_holds == "table":
        return "images/NAME.jpg,masks/NAME.png"
    line = "{id}" if facts.list_holds == "ids" else f"{facts.image} {{label}}"
    return line.format(id="NAME", label=facts.label.format(id="NAME"))
