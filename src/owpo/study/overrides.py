"""Overrides of a recipe: dotted keys or nested tables in, one nested table out, and one laid over another."""

from __future__ import annotations

from typing import Any

from owpo.errors import InputError

Overrides = dict[str, Any]
_SAYS_WHAT_IT_IS = ("name", "kind", "protocol")


def nested(table: dict[str, Any], where: str) -> Overrides:
    """The table with "a.b" = 1 as a = {b = 1}, at every depth.

    Raises:
        InputError: a key is given twice, or both as a value and as a table.
    """
    found: Overrides = {}
    for dotted, value in table.items():
        *sections, key = dotted.split(".")
        inside = found
        for section in sections:
            inside = inside.setdefault(section, {})
            if not isinstance(inside, dict):
                raise InputError(
                    f"{where}.{dotted}: {section!r} is a value there, and a table here; keep one"
                )
        if isinstance(value, dict):
            _join(inside.setdefault(key, {}), nested(value, f"{where}.{dotted}"), f"{where}.{dotted}")
        elif key in inside:
            raise InputError(f"{where}.{dotted} is given twice; keep one")
        else:
            inside[key] = value
    return found


def _join(into: Any, table: Overrides, where: str) -> None:
    for key, value in table.items():
        if not isinstance(into, dict) or (key in into and not isinstance(value, dict)):
            raise InputError(f"{where}.{key} is given twice; keep one")
        if isinstance(value, dict):
            _join(into.setdefault(key, {}), value, f"{where}.{key}")
        else:
            into[key] = value


def laid_over(below: Overrides, above: Overrides) -> Overrides:
    """`below` with what `above` gives instead, entry by entry.

    A table that says by its name, kind or protocol that it is another thing than the one below takes its place whole:
    a leapfrog plan has no use for the entries of a fixed one.
    """
    if any(key in above and key in below and above[key] != below[key] for key in _SAYS_WHAT_IT_IS):
        return above
    merged = dict(below)
    for key, value in above.items():
        under = below.get(key)
        merged[key] = (
            laid_over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
        )
    return merged
