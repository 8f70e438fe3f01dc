"""Text for terminals: harmless names, and columns that line up."""

import unicodedata

from rich.cells import cell_len

# Persian and Indian scripts need them inside words, emoji to combine.
_JOINERS = "\u200c\u200d"


def harmless(text):
    r"""Text with escapes for what a terminal would obey or not show.

    Line ends, control characters, including ANSI escapes, and marks that
    reorder a line are written out. Letters of all scripts stay.

    Args:
        text: String, perhaps from an untrusted file.

    Returns:
        String.

    Example:

    >>> harmless("road\x1b[2J")
    'road\\x1b[2J'
    """
    return "".join(
        character
        if character.isprintable()
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def table_lines(rows, num_texts=1):
    """Lines of a table whose columns line up.

    Args:
        rows: Iterable of rows of strings, all of the same length, including
            the heading. They are made `harmless`.
        num_texts: Integer, how many columns, from the first on, are aligned
            left; numbers are aligned right. Defaults to `1`.

    Returns:
        List of strings.

    Example:

    >>> table_lines([("class", "IoU"), ("道", "7 %")])
    ['class  IoU', '道     7 %']
    """
    rows = [[harmless(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(cell))
            cells.append(cell + space if index < num_texts else space + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def markdown_table(rows, num_texts=1):
    r"""A table for Markdown, as `table_lines` makes one for terminals.

    Example:

    >>> print(markdown_table([("class", "IoU"), ("sign_symbol", "7 %")]))
    | class | IoU |
    |---|---:|
    | sign\_symbol | 7 % |
    """
    heading, *lines = [
        f"| {' | '.join(map(markdown_text, row))} |" for row in rows
    ]
    sides = ["---"] * num_texts + ["---:"] * (len(rows[0]) - num_texts)
    return "\n".join([heading, f"|{'|'.join(sides)}|", *lines])


def markdown_text(text):
    """Text that Markdown shows as it is."""
    for mark in "\\|*_[<`":
        text = text.replace(mark, f"\\{mark}")
    return harmless(text)
