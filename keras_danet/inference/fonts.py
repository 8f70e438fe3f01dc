"""Fonts for the names in pictures, in any script."""

import functools
import importlib.util
import os
import sys
import unicodedata
from pathlib import Path

from PIL import ImageFont
from PIL import features

from keras_danet.text_tables import harmless

# Font files to try first, separated like the paths in PATH.
VARIABLE = "KERAS_DANET_FONT"
MAX_FONTS = 5000
# Upright fonts with even strokes come first.
_STYLES = (
    *("bold", "italic", "oblique", "light", "thin", "black", "condensed"),
    *("mono", "serif", "math"),
)
_ENDINGS = (".ttf", ".otf", ".ttc", ".otc")
_TRIAL_SIZE = 20
# No font has a letter there.
_NO_LETTER = "\U0010ffff"


def font_for(text, size):
    """A font of Pillow that has all letters of a text, or `None`.

    Pillow's own has those of ASCII. Others are looked for in
    `KERAS_DANET_FONT` (paths of font files), in the system's font folders
    and in matplotlib, if that is installed.
    """
    found = _find_font("".join(sorted(_letters(text))), _needs_layout(text))
    if found is None:
        return None
    if not found:
        return ImageFont.load_default(size)
    return ImageFont.truetype(found, size)


def drawable(text, stand_in):
    """The text, made `harmless`, if a font has its letters.

    Otherwise without accents, if that makes it ASCII; else `stand_in`.
    """
    # Split and joined, because a line break would run into the next row.
    text = harmless(" ".join(text.split()))
    if font_for(text, _TRIAL_SIZE):
        return text
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFKD", text)
        if not unicodedata.combining(letter)
    )
    return plain if plain.isascii() else stand_in


def _letters(text):
    """The characters of a text that a font must have."""
    return {
        letter
        for letter in text
        if not letter.isspace()
        # Joiners and variation selectors.
        and unicodedata.category(letter) != "Cf"
        and not "\ufe00" <= letter <= "\ufe0f"
    }


def _needs_layout(text):
    """Whether letters are joined, moved or written from right to left."""
    return any(
        unicodedata.bidirectional(letter) in ("R", "AL")
        or unicodedata.category(letter) in ("Mn", "Mc", "Me")
        for letter in text
    )


@functools.cache
def _find_font(letters, needs_layout):
    """The path of a font, "" for Pillow's own, None if there is none."""
    if needs_layout and not features.check("raqm"):
        return None
    if letters.isascii():
        return ""
    return next((path for path in _paths() if _has(path, letters)), None)


@functools.cache
def _paths():
    named = os.environ.get(VARIABLE, "").split(os.pathsep)
    found = []
    for folder in _folders():
        for place, _, files in os.walk(folder):
            found += [
                os.path.join(place, file)
                for file in files
                if file.lower().endswith(_ENDINGS)
            ]
    found.sort(key=_rank)
    return [*filter(None, named), *found[:MAX_FONTS]]


def _folders():
    home = Path.home()
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"
        local = os.environ.get("LOCALAPPDATA")
        if local:
            yield Path(local) / "Microsoft/Windows/Fonts"
    elif sys.platform == "darwin":
        yield from (home / "Library/Fonts", "/Library/Fonts")
        yield "/System/Library/Fonts"
    else:
        own = os.environ.get("XDG_DATA_HOME") or home / ".local/share"
        shared = os.environ.get("XDG_DATA_DIRS")
        shared = (shared or "/usr/local/share:/usr/share").split(":")
        yield home / ".fonts"
        yield from (Path(folder) / "fonts" for folder in (own, *shared))
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib and matplotlib.origin:
        yield Path(matplotlib.origin).parent / "mpl-data/fonts/ttf"


def _rank(path):
    name = os.path.basename(path).lower()
    return sum(style in name for style in _STYLES), len(name), name, path


def _has(path, letters):
    """Whether a font draws each letter differently from a missing one."""
    font = _open(path)
    if font is None:
        return False
    missing = _drawing(font, _NO_LETTER)
    return all(_drawing(font, letter) != missing for letter in letters)


@functools.lru_cache(maxsize=64)
def _open(path):
    try:
        font = ImageFont.truetype(
            path, _TRIAL_SIZE, layout_engine=ImageFont.Layout.BASIC
        )
    # Not a font, or a bitmap font, which has only one size.
    except OSError:
        return None
    # It draws a box for every letter.
    family = (font.getname()[0] or "").replace(" ", "")
    return None if "LastResort" in family else font


def _drawing(font, letter):
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
