"""Text that a model or a stranger wrote, made safe to show in a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Every character that is not printed but acts (escape sequences, carriage returns, changes of direction) as its
    Python escape; newlines and tabs stay."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )
