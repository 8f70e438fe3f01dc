"""Text for terminals: names made harmless, and columns that line up."""

import unicodedata

# Persian and Indian scripts need them inside of words, emoji to be combined.
_JOINERS = "\u200c\u200d"
_ZERO_WIDTH_JOINER = "\u200d"
_EMOJI_SELECTOR = "\ufe0f"
_SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"


def harmless(text):
    r"""Text with escapes for what a terminal would obey or not show.

    Line ends, control characters, ANSI's escape among them, and marks that
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


def display_width(text):
    """How many columns of a terminal a text takes.

    Args:
        text: String without control characters.

    Returns:
        Integer: two for each wide character (Unicode's East Asian width), none
        for marks, joiners and what is joined to an emoji, else one.

    Example:

    >>> display_width("road"), display_width("道路"), display_width("e\u0301")
    (4, 4, 1)
    """
    total, last, joined = 0, 0, False
    for character in text:
        if character == _ZERO_WIDTH_JOINER:
            joined = last == 2
        elif character == _EMOJI_SELECTOR:
            # It makes an emoji, which is wide, of a narrow sign.
            total += last == 1
            last = 2
        elif joined or (last == 2 and character in _SKIN_TONES):
            joined = False
        elif not _is_mark(character):
            wide = unicodedata.east_asian_width(character) in "WF"
            last = 2 if wide else 1
            total += last
    return total


def table_lines(rows, num_texts=1):
    """Lines of a table whose columns line up.

    Args:
        rows: Iterable of rows of strings, all of the same length, the heading
            among them. They are made `harmless`.
        num_texts: Integer, how many columns, from the first on, are set to
            the left; numbers are set to the right. Defaults to `1`.

    Returns:
        List of strings.

    Example:

    >>> table_lines([("class", "IoU"), ("道", "7 %")])
    ['class  IoU', '道     7 %']
    """
    rows = [[harmless(cell) for cell in row] for row in rows]
    widths = [
        max(map(display_width, column)) for column in zip(*rows, strict=True)
    ]
    lines = []
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - display_width(cell))
            cells.append(cell + space if index < num_texts else space + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def _is_mark(character):
    # Hangul's medial vowels and finals are drawn into the letter before.
    return (
        unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf")
        or "\u1160" <= character <= "\u11ff"
    )
