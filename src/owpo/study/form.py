"""What may stand in a study file, and how it is said what may not."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from owpo.config import Section
from owpo.core.registry import did_you_mean

Measure = Literal["best", "last", "selection"]
Metric = Literal[
    "accuracy", "entropy", "kl_to_reference", "delta", "weight", "accelerated", "locked", "saturated", "flipped_by_kl",
    "overruled", "clipped", "grad_norm", "response_length", "active_share",
]  # fmt: skip
"""Of metrics.jsonl (docs/run-folder.md), those whose mean over steps says something."""
AXES = ("arms", "tasks", "settings")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")

Axis = dict[str, dict[str, Any]]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]
Steps = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class Reduced(Section):
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
        own = {key: data[key] for key in ("seeds", "at", *AXES) if key in data}
        return {**own, "overrides": {key: value for key, value in data.items() if key not in own}}

    @field_validator("seeds")
    @classmethod
    def _once(cls, seeds: list[int] | None) -> list[int] | None:
        return seeds if seeds is None else _each_once(seeds)


class Form(Section):
    like: Annotated[str, Field(min_length=1)] | None = None
    title: Annotated[str, Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    recipe: Any
    seeds: Seeds
    baseline: str | None = None
    contrasts: list[Pair] = Field(default_factory=list)
    measure: Annotated[tuple[Measure, ...], Field(min_length=1)] = ("best",)
    pass_at: Annotated[int, Field(ge=2)] | None = None
    metrics: list[Metric] = Field(default_factory=list)
    at: Steps | None = None
    arms: Axis | None = None
    tasks_from: Annotated[str, Field(min_length=1)] | None = None
    tasks: Axis | None = None
    settings: Axis | None = None
    references: Axis | None = None
    reduced: Reduced | None = None

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

    @field_validator("arms", "tasks", "settings", "references")
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
    def _fits_together(self) -> Form:
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
        for name in (name for pair in self.contrasts for name in pair):
            if name not in arms:
                raise ValueError(
                    f"contrasts: {name!r} is no arm.{did_you_mean(name, arms)} Arms: {', '.join(arms)}"
                )
        self._check_references()
        self._check_tasks(known=[*(self.references or {}), *(self.arms or {})])
        for axis in AXES:
            own = getattr(self, axis) or {}
            for name in getattr(self.reduced, axis, {}):
                if name not in own:
                    raise ValueError(
                        f"reduced.{axis}.{name} is none of the study's {axis}.{did_you_mean(name, own)}"
                    )
        return self

    def _check_references(self) -> None:
        known = [*(self.references or {}), *(self.arms or {})]
        twice = sorted(set(self.references or {}) & set(self.arms or {}))
        if twice:
            raise ValueError(f"{twice[0]} is both an arm and a reference; rename one")
        for axis in AXES:
            for name, point in (getattr(self, axis) or {}).items():
                reference = point.get("reference")
                if reference is not None and reference not in known:
                    near = did_you_mean(str(reference), known)
                    raise ValueError(
                        f"{axis}.{name}.reference = {reference!r} is neither one of the study's references nor an arm."
                        f"{near} A folder, a hub id or 'base' is given as ratchet.reference"
                    )

    def _check_tasks(self, known: list[str]) -> None:
        for task, point in (self.tasks or {}).items():
            arms = point.get("arms", {})
            if not isinstance(arms, dict):
                raise ValueError(f"tasks.{task}.arms = {arms!r} must be a table of overrides by arm")
            for name, table in arms.items():
                if name not in known or not isinstance(table, dict):
                    raise ValueError(
                        f"tasks.{task}.arms.{name} must be a table of overrides for one of the study's arms or "
                        f"references.{did_you_mean(name, known)}"
                    )
            sets = point.get("transfer", {})
            if not isinstance(sets, dict) or not all(isinstance(table, dict) for table in sets.values()):
                raise ValueError(
                    f"tasks.{task}.transfer holds problem sets by name, such as "
                    'transfer.longer = { kind = "chain_addition", terms = 10, count = 200 }'
                )
            for name in sets:
                if name in (*get_args(Measure), "references") or not _NAME.fullmatch(name):
                    raise ValueError(
                        f"tasks.{task}.transfer.{name}: a set's name is of letters, digits, '_', '.' and '-', and none "
                        "of the measures"
                    )


def _each_once(seeds: list[int]) -> list[int]:
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(
            f"seeds has {', '.join(map(str, twice))} more than once; a seed is one run of each arm"
        )
    return seeds


def explain(item: Any) -> str:
    """One sentence for one error."""
    path = [str(part) for part in item["loc"]]
    key, owner = ".".join(path), Reduced if path[:1] == ["reduced"] else Form
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
        return _unknown("measure", item["input"], get_args(Measure))
    if path[:1] == ["metrics"]:
        return _unknown("metrics", item["input"], get_args(Metric))
    return f"{key} = {item['input']!r} must be {message}"


def _unknown(key: str, value: Any, known: tuple[str, ...]) -> str:
    return f"{key} = {value!r} is unknown.{did_you_mean(str(value), known)} Known: {', '.join(known)}"
