"""Reading a study file: TOML in, a Study or sentences that mend it out. What a run of it is, `grid.py` says."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from owpo.config import RunConfig, Section
from owpo.core.registry import did_you_mean
from owpo.errors import InputError
from owpo.study.overrides import Overrides, nested

Measure = Literal["best", "last"]
NAMELESS = ""
"""The one point of an axis that the file does not have."""
FOLDER = Path("studies")
_AXES = ("arms", "tasks", "settings")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_NOT_TO_OVERRIDE = {
    ("seed",): "seeds lists the study's",
    ("run", "folder"): "every run has a folder of its own in the study's",
    ("run", "threads"): "every run has one thread, and --jobs says how many go on at once",
    ("evaluation", "report_last"): "measure says what is measured",
}

Axis = dict[str, dict[str, Any]]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Steps = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class _Reduced(Section):
    seeds: Seeds | None = None
    at: Steps | None = None
    arms: Axis = Field(default_factory=dict)
    tasks: Axis = Field(default_factory=dict)
    settings: Axis = Field(default_factory=dict)
    overrides: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _rest_is_overrides(cls, data: Any) -> Any:
        """What is none of ours is an entry of the recipe."""
        if not isinstance(data, dict):
            return data
        own = {key: data[key] for key in ("seeds", "at", *_AXES) if key in data}
        return {**own, "overrides": {key: value for key, value in data.items() if key not in own}}

    @field_validator("seeds")
    @classmethod
    def _once(cls, seeds: list[int] | None) -> list[int] | None:
        return seeds if seeds is None else _each_once(seeds)


class _File(Section):
    title: Annotated[str, Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    recipe: Any
    seeds: Seeds
    baseline: str | None = None
    measure: Annotated[tuple[Measure, ...], Field(min_length=1)] = ("best",)
    at: Steps | None = None
    arms: Axis | None = None
    tasks: Axis | None = None
    settings: Axis | None = None
    reduced: _Reduced | None = None

    @field_validator("recipe")
    @classmethod
    def _path_or_table(cls, recipe: Any) -> Any:
        if not isinstance(recipe, dict) and not (isinstance(recipe, str) and recipe):
            raise ValueError(f"recipe = {recipe!r} must be the path of a recipe, or a table [recipe]")
        return recipe

    @field_validator("measure", mode="before")
    @classmethod
    def _one_or_several(cls, measure: Any) -> Any:
        return (
            (measure,)
            if isinstance(measure, str)
            else tuple(measure)
            if isinstance(measure, list)
            else measure
        )

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, seeds: list[int]) -> list[int]:
        return _each_once(seeds)

    @field_validator("arms", "tasks", "settings")
    @classmethod
    def _points(cls, axis: Axis | None, info: Any) -> Axis | None:
        if axis is not None and not axis:
            raise ValueError(
                f"{info.field_name} is empty; add a table [{info.field_name}.NAME], or leave it out"
            )
        for name in axis or {}:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{info.field_name}.{name}: a name is of letters, digits, '_', '.', '+' and '-', and begins "
                    "with a letter or digit, as it becomes part of a folder's name"
                )
        return axis

    @model_validator(mode="after")
    def _fits_together(self) -> _File:
        arms = list(self.arms or {})
        if self.baseline is None and len(arms) > 1:
            raise ValueError(
                f"baseline is missing; name the arm that others are held against: {', '.join(arms)}"
            )
        if self.baseline is not None and self.baseline not in arms:
            known = f"Arms: {', '.join(arms)}" if arms else "the study has no arms; leave baseline out"
            raise ValueError(
                f"baseline = {self.baseline!r} is no arm.{did_you_mean(self.baseline, arms)} {known}"
            )
        for axis in _AXES:
            own = getattr(self, axis) or {}
            for name in getattr(self.reduced, axis, {}):
                if name not in own:
                    raise ValueError(
                        f"reduced.{axis}.{name} is none of the study's {axis}.{did_you_mean(name, own)}"
                    )
        return self


def _each_once(seeds: list[int]) -> list[int]:
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(
            f"seeds has {', '.join(map(str, twice))} more than once; a seed is one run of each arm"
        )
    return seeds


@dataclass(frozen=True)
class Study:
    """A study as it is to be run: reduced or whole.

    name      of its file, without .toml
    source    the recipe as the file names it; None where it stands in the file
    recipe    plain data
    is_full   whether the whole of it is meant, where there is a reduced form
    seeds     of each arm
    baseline  the arm that others are held against; None where there is but one
    measures  what is tabulated: "best", the last stage's best checkpoint on the selection set, or "last", the weights
              at the end of the run; both on the report set
    at        rollout steps of the whole run that the curves show; None: each that was evaluated
    arms, tasks, settings  overrides of the recipe by name; an axis without points has the one point NAMELESS
    shrink    overrides of all runs, then by axis and name: the reduced form; none of the whole
    """

    name: str
    title: str
    question: str
    source: str | None
    recipe: dict[str, Any]
    is_full: bool
    seeds: tuple[int, ...]
    baseline: str | None
    measures: tuple[Measure, ...]
    at: tuple[int, ...] | None
    arms: dict[str, Overrides]
    tasks: dict[str, Overrides]
    settings: dict[str, Overrides]
    shrink: Overrides
    shrink_by: dict[str, dict[str, Overrides]]

    @property
    def num_runs(self) -> int:
        return len(self.tasks) * len(self.settings) * len(self.arms) * len(self.seeds)

    @property
    def folder_name(self) -> str:
        return f"{self.name}-full" if self.is_full else self.name

    @property
    def command(self) -> str:
        return f"owpo study {self.name}{' --full' if self.is_full else ''}"


def read_study(file: Path, *, full: bool = False) -> Study:
    """
    Args:
        full: the whole study; else its reduced form, where the file has one.

    Raises:
        InputError: the file is missing or malformed, or an entry is unknown or does not fit; the recipe's own entries
            are checked by `grid.runs_of`.
    """
    data = _toml(file)
    try:
        read = _File.model_validate(data)
    except ValidationError as error:
        sentences = "\n".join(f"  {_explain(item)}" for item in error.errors())
        raise InputError(f"{file}:\n{sentences}") from error
    reduced = None if full else read.reduced
    shrink = reduced or _Reduced()
    recipe = read.recipe
    if isinstance(recipe, str):
        recipe = _toml(file.parent / recipe, f"{file}: recipe = {recipe!r}: ")
    return Study(
        name=file.stem,
        title=read.title,
        question=read.question,
        source=read.recipe if isinstance(read.recipe, str) else None,
        recipe=nested(recipe, f"{file}: recipe"),
        is_full=full and read.reduced is not None,
        seeds=tuple(shrink.seeds or read.seeds),
        baseline=read.baseline,
        measures=tuple(dict.fromkeys(read.measure)),
        at=tuple(sorted(shrink.at or read.at or ())) or None,
        **{axis: _points(file, axis, getattr(read, axis) or {NAMELESS: {}}) for axis in _AXES},
        shrink=_overrides(file, "reduced", shrink.overrides, ("seeds", "at", *_AXES)),
        shrink_by={axis: _points(file, f"reduced.{axis}", getattr(shrink, axis)) for axis in _AXES},
    )


def find_study(name: str) -> Path:
    """The file of a study that was named, as a path or as one of studies/.

    Raises:
        InputError: there is none.
    """
    for file in (Path(name), FOLDER / f"{name}.toml"):
        if file.suffix == ".toml" and file.is_file():
            return file
    known = [file.stem for file in study_files()]
    near = difflib.get_close_matches(Path(name).stem, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"no study {name!r}, neither as a file nor as {FOLDER / f'{name}.toml'}.{hint} owpo study --list shows all"
    )


def study_files() -> list[Path]:
    return sorted(FOLDER.glob("*.toml"))


def _toml(file: Path, where: str = "") -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{where}no file {str(file)!r}; a path is relative to the study file")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid TOML: {error}") from error


def _points(file: Path, axis: str, tables: Axis) -> dict[str, Overrides]:
    return {name: _overrides(file, f"{axis}.{name}", table) for name, table in tables.items()}


def _overrides(file: Path, where: str, table: dict[str, Any], also: Iterable[str] = ()) -> Overrides:
    """A table of overrides, nested; what no recipe has, or the study itself decides, is refused."""
    read = nested(table, f"{file}: {where}")
    for key in read:
        if key not in RunConfig.model_fields:
            near = did_you_mean(key, [*RunConfig.model_fields, *also])
            raise InputError(
                f"{file}: {where}.{key} is unknown.{near} A recipe has: {', '.join(RunConfig.model_fields)}"
            )
    for path, instead in _NOT_TO_OVERRIDE.items():
        found: Any = read
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            raise InputError(
                f"{file}: {where}.{'.'.join(path)} is not to be overridden: {instead}; leave it out"
            )
    return read


def _explain(item: Any) -> str:
    """One sentence for one error."""
    path = [str(part) for part in item["loc"]]
    key, owner = ".".join(path), _Reduced if path[:1] == ["reduced"] else _File
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if item["type"] == "value_error":
        return message
    if item["type"] == "extra_forbidden":
        known = list(owner.model_fields)
        return f"{key} is unknown.{did_you_mean(path[-1], known)} Known here: {', '.join(known)}"
    if item["type"] == "missing":
        return f"{key} is missing; add it to the study file"
    if item["type"] in ("dict_type", "model_type"):
        return f"{key} = {item['input']!r} must be a table"
    if path[:1] == ["measure"]:
        near = did_you_mean(str(item["input"]), get_args(Measure))
        return f"measure = {item['input']!r} is unknown.{near} Known: {', '.join(get_args(Measure))}"
    return f"{key} = {item['input']!r} must be {message}"
