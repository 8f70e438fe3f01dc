"""Settings of a recipe as they are typed: `KEY=VALUE`, `KEY=VALUE,VALUE`."""

import ast
from typing import Any

OPENING, CLOSING = "([{", ")]}"
QUOTES = "\"'"


def parse_setting(text: str, option: str = "--set") -> tuple[str, Any]:
    """`key=value` as a pair; see `parse_value`.

    >>> parse_setting("crop_size=(96, 128)")
    ('crop_size', (96, 128))
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(
            f"{option} expects KEY=VALUE, such as batch_size=4. Received: "
            f"{text!r}"
        )
    return key.strip(), parse_value(value)


def parse_value(text: str) -> Any:
    """A Python literal, or else the text itself, a plain word.

    >>> parse_value("none"), parse_value("None"), parse_value("0.5")
    ('none', None, 0.5)
    """
    try:
        return ast.literal_eval(text)
    # What Python's parser raises for anything that is not a literal.
    except (
        ValueError,
        SyntaxError,
        TypeError,
        MemoryError,
        RecursionError,
    ):
        return text


def split_values(text: str) -> list[str]:
    """The values of a list, between commas outside of brackets and quotes.

    >>> split_values("None,(4, 8, 16),'a,b'")
    ['None', '(4, 8, 16)', "'a,b'"]
    """
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES:
            quote = letter
        elif letter in OPENING:
            depth += 1
        elif letter in CLOSING:
            depth -= 1
        elif letter == "," and not depth:
            values.append("")
            continue
        values[-1] += letter
    if depth or quote:
        raise ValueError(
            "Expected values with commas between them, and every bracket and "
            f"quote closed. Received: {text!r}"
        )
    return [value.strip() for value in values]
