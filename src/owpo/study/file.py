"""Reading a study file: TOML in, a Study or sentences that mend it out. What a run of it is, `grid.py` says."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from owpo.config import RunConfig
from owpo.core.registry import did_you_mean
from owpo.errors import InputError
from owpo.study.form import AXES, Axis, Form, Measure, Metric, Reduced, explain
from owpo.study.overrides import Overrides, laid_over, nested

NAMELESS = ""
"""The one point of an axis that the file does not have."""
FOLDER = Path("studies")
_OWN = {"arms": ("reference",), "tasks": ("reference", "transfer", "arms"), "settings": ("reference",)}
"""Entries of a point that are the study's own and no overrides of the recipe."""
_NOT_TO_OVERRIDE = {
    ("seed",): "seeds lists the study's",
    ("run", "folder"): "every run has a folder of its own in the study's",
    ("run", "threads"): "every run has one thread, and --jobs says how many go on at once",
    ("evaluation", "report_last"): "measure says what is measured",
    ("evaluation", "share"): "a study's runs share its folder evaluations/",
}


@dataclass(frozen=True)
class Study:
    """A study as it is to be run: reduced or whole.

    name      of its file, without .toml; in a folder of ./studies with that
    source    the recipe as the file names it; None where it stands in the file
    recipe    plain data
    is_full   whether the whole of it is meant, where there is a reduced form
    seeds     of each arm
    baseline  the arm that others are held against; None where there is but one
    contrasts  pairs of arms whose difference is tabulated too, the first less the second
    measures  what is tabulated: "best", the last stage's best checkpoint on the selection set, or "last", the weights
              at the end of the run, both on the report set; or "selection", the best one's accuracy on the selection
              set, to choose by
    pass_at   the j of pass@j, tabulated beside accuracy; None: it is not
    metrics   of each step's metrics, those that are tabulated and drawn
    at        rollout steps of the whole run that the curves show; None: each that was evaluated
    arms, tasks, settings  overrides of the recipe by name; an axis without points has the one point NAMELESS
    references  runs whose best checkpoint others learn against, overrides by name; once a task and seed
    reference_of  by axis and name: the run of `references`, or the arm, that is learned against
    arms_of   by task and arm (or reference): overrides for it in this task, over its own
    transfer  by task and name: problem sets that the best checkpoint is measured on beside the report set
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
    contrasts: tuple[tuple[str, str], ...]
    measures: tuple[Measure, ...]
    pass_at: int | None
    metrics: tuple[Metric, ...]
    at: tuple[int, ...] | None
    arms: dict[str, Overrides]
    tasks: dict[str, Overrides]
    settings: dict[str, Overrides]
    references: dict[str, Overrides]
    reference_of: dict[str, dict[str, str]]
    arms_of: dict[str, dict[str, Overrides]]
    transfer: dict[str, dict[str, dict[str, Any]]]
    shrink: Overrides
    shrink_by: dict[str, dict[str, Overrides]]

    @property
    def num_runs(self) -> int:
        per_task = len(self.settings) * len(self.arms) + len(self.references)
        return len(self.tasks) * per_task * len(self.seeds)

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
    try:
        read = Form.model_validate(_with_tasks(file, _with_like(file, _toml(file))))
    except ValidationError as error:
        sentences = "\n".join(f"  {explain(item)}" for item in error.errors())
        raise InputError(f"{file}:\n{sentences}") from error
    reduced = None if full else read.reduced
    shrink = reduced or Reduced()
    recipe = read.recipe
    if isinstance(recipe, str):
        recipe = _toml(file.parent / recipe, f"{file}: recipe = {recipe!r}: ")
    axes = {axis: getattr(read, axis) or {NAMELESS: {}} for axis in AXES}
    return Study(
        name=_name_of(file),
        title=read.title,
        question=read.question,
        source=read.recipe if isinstance(read.recipe, str) else None,
        recipe=nested(recipe, f"{file}: recipe"),
        is_full=full and read.reduced is not None,
        seeds=tuple(shrink.seeds or read.seeds),
        baseline=read.baseline,
        contrasts=tuple((a, b) for a, b in read.contrasts),
        measures=tuple(dict.fromkeys(read.measure)),
        pass_at=read.pass_at,
        metrics=tuple(dict.fromkeys(read.metrics)),
        at=tuple(sorted(shrink.at or read.at or ())) or None,
        **{axis: _points(file, axis, points) for axis, points in axes.items()},
        references=_points(file, "references", read.references or {}),
        reference_of={
            axis: {name: point["reference"] for name, point in points.items() if "reference" in point}
            for axis, points in axes.items()
        },
        arms_of={
            name: _points(file, f"tasks.{name}.arms", point.get("arms", {}))
            for name, point in axes["tasks"].items()
        },
        transfer={name: point.get("transfer", {}) for name, point in axes["tasks"].items()},
        shrink=_overrides(file, "reduced", shrink.overrides, ("seeds", "at", *AXES)),
        shrink_by={axis: _points(file, f"reduced.{axis}", getattr(shrink, axis)) for axis in AXES},
    )


def _with_like(file: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The study's data over that of the study that it is like, key by key; its paths stay relative to its own file.

    Raises:
        InputError: there is no such file.
    """
    if not isinstance(data.get("like"), str):
        return data
    other = file.parent / data["like"]
    known = _toml(other, f"{file}: like = {data['like']!r}: ")
    for key in ("recipe", "tasks_from", "like"):
        if isinstance(known.get(key), str):
            known[key] = str(Path(data["like"]).parent / known[key])
    own = {key: value for key, value in data.items() if key != "like"}
    return _with_like(file, known) | own if "like" in known else known | own


def _with_tasks(file: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The study's data with the tasks of `tasks_from`: all of them, or those that it names, with its overrides.

    Raises:
        InputError: the file cannot be read, or lacks a task.
    """
    source, named = data.get("tasks_from"), data.get("tasks")
    if not isinstance(source, str):
        return data
    shared = _toml(file.parent / source, f"{file}: tasks_from = {source!r}: ")
    if not isinstance(named, dict):
        return {**data, "tasks": shared}
    for name in named:
        if name not in shared:
            near = did_you_mean(name, shared)
            raise InputError(
                f"{file}: tasks.{name} is no task of {source}.{near} It has: {', '.join(shared)}"
            )
    tasks = {name: laid_over(nested(shared[name], source), nested(named[name], str(file))) for name in named}
    return {**data, "tasks": tasks}


def find_study(name: str) -> Path:
    """The file of a study that was named, as a path or as one of studies/.

    Raises:
        InputError: there is none.
    """
    for file in (Path(name), FOLDER / f"{name}.toml"):
        if file.suffix == ".toml" and file.is_file():
            return file
    known = [_name_of(file) for file in study_files()]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"no study {name!r}, neither as a file nor as {FOLDER / f'{name}.toml'}.{hint} owpo study --list shows all"
    )


def study_files() -> list[Path]:
    """Of ./studies and its folders; what they share, recipes and tasks, is no study."""
    files = sorted(FOLDER.rglob("*.toml"), key=lambda file: (len(file.parts), file))
    return [
        file for file in files if not {"question", "like"}.isdisjoint(_toml(file)) or file.parent == FOLDER
    ]


def _name_of(file: Path) -> str:
    """What `find_study` finds it by, else its own name."""
    name = file.with_suffix("")
    return (name.relative_to(FOLDER) if name.is_relative_to(FOLDER) else Path(name.name)).as_posix()


def _toml(file: Path, where: str = "") -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{where}no file {str(file)!r}; a path is relative to the study file")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid TOML: {error}") from error


def _points(file: Path, axis: str, tables: Axis) -> dict[str, Overrides]:
    own = _OWN.get(axis, ())
    return {
        name: _overrides(
            file, f"{axis}.{name}", {key: value for key, value in table.items() if key not in own}, own
        )
        for name, table in tables.items()
    }


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
