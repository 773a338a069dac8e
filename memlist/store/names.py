"""Show names of files on a terminal: any bytes may be in a name, the terminal's own commands included."""

from __future__ import annotations

from typing import Any

#: The most characters of a wrong value that a message shows.
BRIEF = 80


def shown(text: Any) -> str:
    r"""Return `text` with what can't be printed as it is escaped, such as `\n`, `\x1b`, or `\xff` for a byte.

    So a name takes one line, gives the terminal no commands, and can be encoded even if it is no UTF-8.
    """
    return "".join(char if char.isprintable() else _escaped(char) for char in str(text))


def brief(value: Any) -> str:
    "Return the `repr` of a value on one line, cut where it is long: some objects print their contents."
    text = repr(value)
    return shown(text if len(text) <= BRIEF else text[: BRIEF - 1] + "…")


def _escaped(char: str) -> str:
    "Return the escape of one character. A byte of a name that is no UTF-8 stands in the text as a lone surrogate."
    byte = ord(char) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else repr(char)[1:-1]
