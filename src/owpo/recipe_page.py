"""docs/recipe.md, written from the configuration's own docstrings (`make docs`); a test holds the page to it."""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass
from inspect import getdoc
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from owpo.config import ObjectiveConfig, RunConfig

_HEAD = """# A recipe, key by key

A recipe is a TOML file with the sections below; a key that is left out has its default, `None` among them. On the
command line `--section.key value` overrides one entry, and an inline table a whole section:
`--ratchet '{protocol = "every_k", steps = 160}'`. `owpo check RECIPE --json` prints a recipe with every default filled
in. An `objective` has a `name` and that objective's own hyper-parameters ([objectives.md](objectives.md)).

This page is written from the code by `make docs`.
"""
_TAGS = ("kind", "protocol", "task")  # what tells the members of a union apart


def recipe_page() -> str:
    """The whole page, as Markdown."""
    places: dict[Any, list[str]] = {}
    _find_sections(RunConfig, "", places)
    return _HEAD + "".join(_section(section, where) for section, where in places.items())


def _find_sections(section: Any, path: str, places: dict[Any, list[str]]) -> None:
    """Every section below `section`, with the dotted paths that it may stand at."""
    places.setdefault(section, []).append(path)
    if is_dataclass(section):
        return
    for name, field in section.model_fields.items():
        for inner in _sections_in(field.annotation):
            _find_sections(inner, f"{path}.{name}".lstrip("."), places)


def _sections_in(annotation: Any) -> list[Any]:
    candidates = get_args(annotation) if _is_union(annotation) else (annotation,)
    return [
        kind
        for kind in candidates
        if isinstance(kind, type)
        and (is_dataclass(kind) or issubclass(kind, BaseModel))
        and kind is not ObjectiveConfig
    ]


def _section(section: Any, where: list[str]) -> str:
    rows = _dataclass_rows(section) if is_dataclass(section) else _model_rows(section)
    if not rows:
        return ""
    title = (
        ", ".join(f"`[{path}]`" for path in dict.fromkeys(where)) if where != [""] else "Outside any section"
    )
    tag = _tag(section)
    lines = [f"\n## {title}{f' with `{tag}`' if tag else ''}\n"]
    if is_dataclass(section):
        lines.append(f"```\n{_doc(section)}\n```\n")
    lines += ["| key | value | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _model_rows(section: type[BaseModel]) -> list[str]:
    def default(field: FieldInfo) -> Any:
        return "required" if field.is_required() else field.get_default(call_default_factory=True)

    return [
        _row(name, field.annotation, default(field), field.description)
        for name, field in section.model_fields.items()
        if name not in _TAGS and not _sections_in(field.annotation)
    ]


def _dataclass_rows(section: Any) -> list[str]:
    hints = get_type_hints(section)
    return [
        _row(f.name, hints[f.name], "required" if f.default is MISSING else f.default, "")
        for f in fields(section)
        if f.name not in _TAGS
    ]


def _doc(section: Any) -> str:
    """What the dataclass says of its keys, after what those that it extends say of theirs."""
    return "\n".join(getdoc(part) or "" for part in reversed(section.__mro__) if is_dataclass(part))


def _row(name: str, annotation: Any, default: Any, meaning: str | None) -> str:
    if isinstance(default, ObjectiveConfig):
        default = default.name
    shown = default if default == "required" else f"`{default!r}`"
    text = " ".join((meaning or "").split()).replace("|", "\\|")
    return f"| `{name}` | {_type(annotation)} | {shown} | {text} |"


def _type(annotation: Any) -> str:
    if _is_union(annotation):
        return " or ".join(_type(a) for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value!r}`" for value in get_args(annotation))
    if hasattr(annotation, "__metadata__"):
        return _type(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return f"[{', '.join(_type(a) for a in get_args(annotation))}]"
    return "objective" if annotation is ObjectiveConfig else annotation.__name__


def _tag(section: Any) -> str:
    hints = get_type_hints(section)
    return next((f'{name} = "{get_args(hints[name])[0]}"' for name in _TAGS if name in hints), "")


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


if __name__ == "__main__":
    print(recipe_page(), end="")
