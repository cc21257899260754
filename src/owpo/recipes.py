"""Reading a recipe: TOML and overrides in, a RunConfig or a sentence that mends it out."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from owpo.config import RunConfig
from owpo.core.registry import did_you_mean
from owpo.disk.files import read_json
from owpo.disk.sealed import read_sealed
from owpo.errors import InputError


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of a recipe file.

    Args:
        path: a TOML file, or the config.json of a run.
        overrides: command-line words, `--section.key value` or `--section.key=value`. A value is read as TOML,
            and as a plain string where that fails; an inline table replaces a whole section.

    Raises:
        InputError: the file is missing or malformed, or an entry is unknown, of the wrong type or contradictory.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no recipe {str(path)!r}.{_nearest_file(file)}")
    try:
        if file.suffix == ".json":
            data = _read_run_config(file)
        else:
            data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    for key, value in _parse_overrides(overrides):
        _set(data, key, value)
    return build_config(data, str(path))


def build_config(data: Mapping[str, Any], source: str) -> RunConfig:
    """A RunConfig from plain data; every error found is told at once, each with its key, value and fix."""
    try:
        return RunConfig.model_validate(dict(data))
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(item)}" for item in error.errors())
        raise InputError(f"{source}:\n{problems}") from error


def _read_run_config(file: Path) -> dict[str, Any]:
    fix = (
        "a recipe is a TOML file, or a run's config.json as the run wrote it, with changes given as overrides: "
        "--section.key VALUE"
    )
    data = read_json(file, fix)
    if not (isinstance(data, dict) and {"run", "seal"} <= data.keys()):
        raise InputError(f"{file} is not the config.json of a run; {fix}")
    return read_sealed(file, fix)


def _nearest_file(missing: Path) -> str:
    if (missing / "config.json").is_file():
        return f" Did you mean {str(missing / 'config.json')!r}?"
    if not missing.parent.is_dir():
        return f" The folder {str(missing.parent)!r} does not exist."
    recipes = sorted(p.name for p in missing.parent.glob("*.toml"))
    recipes += ["config.json"] * (missing.parent / "config.json").is_file()
    copies = [p.name for p in missing.parent.glob("*.json")] if missing.suffix == ".json" else []
    near = difflib.get_close_matches(missing.name, {*recipes, *copies}, n=1)
    if near:
        return f" Did you mean {str(missing.parent / near[0])!r}?"
    return f" Recipes there: {', '.join(recipes)}" if recipes else ""


def _parse_overrides(words: Sequence[str]) -> list[tuple[str, Any]]:
    pairs = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise InputError(f"unexpected argument {word!r}; overrides are written --section.key value")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not rest:
                raise InputError(f"--{key} has no value; write --{key} VALUE")
            text = rest.pop(0)
        pairs.append((key, _parse_value(text)))
    return pairs


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    table = data
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise InputError(f"--{dotted}: {section!r} is a value, not a section")
    table[key] = value


def _explain(item: Any) -> str:
    """One sentence for one error: key, what is wrong, value, nearest name."""
    location = [part for part in item["loc"] if isinstance(part, str)]
    owner, path = _walk(location)
    dotted = ".".join(path)
    kind = item["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _field_names(owner)
        return f"{dotted} is unknown.{did_you_mean(path[-1], known)} Known here: {', '.join(known)}"
    if kind == "missing":
        return f"{dotted} is missing; add it to the recipe or pass --{dotted} VALUE"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = item["ctx"]["discriminator"].strip("'")
        given = item["ctx"].get("tag")
        expected = item["ctx"].get("expected_tags", _tags(owner))
        near = did_you_mean(given, [name.strip("' ") for name in expected.split(",")]) if given else ""
        found = f"is {given!r}" if given else "is missing"
        return f"{dotted}.{tag} {found}.{near} Allowed: {expected}"
    if kind in ("model_type", "dataclass_type"):
        keys = _field_names(_field_type(owner, path[-1]))
        return f"{dotted} = {item['input']!r} must be a section with keys {', '.join(keys)}"
    if kind == "model_attributes_type":
        return f"{dotted} = {item['input']!r} must be a section, of one of the kinds {_tags(owner)}"
    message = item["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{dotted}: {message}" if dotted else message
    if message.startswith("Input should be "):
        return f"{dotted} = {item['input']!r} must be {message.removeprefix('Input should be ')}"
    return f"{dotted} = {item['input']!r}: {message}"


def explain_entry(item: Any) -> str:
    """One sentence for an error in a section that stands alone, outside any recipe."""
    key = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if item["type"] == "value_error":
        return message
    if item["type"] == "extra_forbidden":
        return f"{key} is unknown"
    return f"{key} = {item['input']!r} must be {message}"


def _walk(location: list[str]) -> tuple[Any, list[str]]:
    """The section that holds the last part of a location, and the location without pydantic's union tags."""
    owner: Any = RunConfig
    path: list[str] = []
    for index, part in enumerate(location):
        if _is_union(owner):
            member = next((m for m in _members(owner) if part in _tag_values(m)), None)
            if member is not None:
                owner = member
                continue
        path.append(part)
        if index < len(location) - 1 or (part in _field_names(owner) and _is_union(_field_type(owner, part))):
            owner = _field_type(owner, part)
    return owner, path


def _members(annotation: Any) -> list[Any]:
    return [m for m in get_args(annotation) if m is not type(None)]


def _is_union(annotation: Any) -> bool:
    return len([m for m in _members(annotation) if _is_section(m)]) > 1


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation))


def _tag_values(member: Any) -> tuple[str, ...]:
    hints = get_type_hints(member)
    return next((get_args(hints[name]) for name in ("kind", "protocol", "task") if name in hints), ())


def _tags(annotation: Any) -> str:
    return ", ".join(repr(tag) for member in _members(annotation) for tag in _tag_values(member))


def _field_type(owner: Any, name: str) -> Any:
    if isinstance(owner, type) and issubclass(owner, BaseModel) and name in owner.model_fields:
        annotation = owner.model_fields[name].annotation
        sections = [m for m in _members(annotation) if isinstance(m, type)]
        return sections[0] if len(sections) == 1 else annotation
    return owner


def _field_names(owner: Any) -> list[str]:
    if is_dataclass(owner):
        return [f.name for f in fields(owner)]
    if isinstance(owner, type) and issubclass(owner, BaseModel):
        return list(owner.model_fields)
    return []
