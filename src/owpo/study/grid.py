"""The runs of a study: every task, setting, arm and seed, each with its configuration, checked before any starts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from owpo.config import ModelConfig, RunConfig
from owpo.core.registry import objective
from owpo.errors import InputError
from owpo.ratchet.plan import plan_stages
from owpo.recipes import build_config
from owpo.study.file import NAMELESS, Study
from owpo.study.overrides import laid_over


@dataclass(frozen=True)
class Point:
    """A place in the grid; an axis that the study does not have is ""."""

    task: str
    setting: str
    arm: str
    seed: int

    @property
    def key(self) -> str:
        """What its files are called."""
        return "-".join([*filter(None, (self.task, self.setting, self.arm)), f"seed{self.seed}"])

    @property
    def told(self) -> str:
        axes = (("task", self.task), ("setting", self.setting), ("arm", self.arm))
        return ", ".join([*(f"{axis} {name}" for axis, name in axes if name), f"seed {self.seed}"])


@dataclass(frozen=True)
class StudyRun:
    """
    config     complete, with its folder. Where it learns against another run of the study, ratchet.reference is that
               run's folder until `learning_from` puts the checkpoint in its place
    asked      sha256 of what the study file asks for of this run. Defaults are not in it, so that a key which a recipe
               gains later leaves stored results valid
    reference  the run whose best checkpoint this one learns against
    transfer   problem sets that its best checkpoint is measured on beside the report set, by name
    measures_base  whether what it started from is measured on those too; once for each task, setting and seed
    """

    point: Point
    config: RunConfig
    asked: str
    reference: Point | None = None
    transfer: dict[str, dict[str, Any]] = field(default_factory=dict)
    measures_base: bool = False

    @property
    def folder(self) -> Path:
        return Path(self.config.run.folder)

    def learning_from(self, model: str) -> StudyRun:
        """The run with the model that it learns against, a folder."""
        ratchet = self.config.ratchet.model_copy(update={"reference": model})
        return replace(self, config=self.config.model_copy(update={"ratchet": ratchet}))


def points_of(study: Study) -> list[Point]:
    """Seed by seed, so that a study which is stopped has something of every arm; a seed's references come first."""
    found = []
    for seed in study.seeds:
        found += [Point(task, NAMELESS, name, seed) for task in study.tasks for name in study.references]
        found += [Point(*place, seed) for place in product(study.tasks, study.settings, study.arms)]
    return found


def runs_of(study: Study, out: Path) -> list[StudyRun]:
    """
    Args:
        out: the study's folder; runs live in its folder `runs`.

    Raises:
        InputError: a run's configuration is refused, with the task, setting and arm that it belongs to; or two runs
            would make one base in two ways.
    """
    runs: dict[Point, StudyRun] = {}
    for point in points_of(study):
        _add_run(study, point, out, runs, ())
    ordered = [runs[point] for point in points_of(study)]
    _check_keys(ordered)
    _check_bases(ordered)
    return ordered


def data_of(study: Study, point: Point) -> dict[str, Any]:
    """The recipe of one run as plain data, without its folder: the recipe, then each override over what came before."""
    by_axis = [("tasks", point.task)]
    if point.arm not in study.references:
        by_axis += [("settings", point.setting), ("arms", point.arm)]
    layers = [getattr(study, axis)[name] for axis, name in by_axis]
    layers += [
        study.references.get(point.arm, {}),
        study.arms_of[point.task].get(point.arm, {}),
        study.shrink,
    ]
    layers += [study.shrink_by[axis].get(name, {}) for axis, name in by_axis]
    own: dict[str, Any] = {"seed": point.seed, "run": {"threads": 1}}
    if "last" in study.measures:
        own["evaluation"] = {"report_last": True}
    data = study.recipe
    for layer in (*layers, own):
        data = laid_over(data, layer)
    run = {key: value for key, value in data["run"].items() if key != "folder"}
    return {**data, "run": run}


def reference_of(study: Study, point: Point, data: dict[str, Any]) -> Point | None:
    """The run of the study that this one learns against.

    An arm's own `reference` counts; a setting's, then a task's, for an arm that reads a reference and names none.
    """
    if point.arm in study.references:
        return None
    name = study.reference_of["arms"].get(point.arm)
    if name is None and _lacks_reference(data):
        in_task = study.reference_of["tasks"].get(point.task)
        name = study.reference_of["settings"].get(point.setting, in_task)
    if name is None:
        return None
    return Point(point.task, NAMELESS if name in study.references else point.setting, name, point.seed)


def _lacks_reference(data: dict[str, Any]) -> bool:
    ratchet, chosen = data.get("ratchet", {}), dict(data.get("objective", {}))
    if ratchet.get("protocol") != "fixed" or "reference" in ratchet:
        return False
    try:
        return objective(chosen.pop("name", ""), **chosen).needs.reference
    except ValueError:  # said by `build_config`, in its words
        return False


def _add_run(
    study: Study, point: Point, out: Path, runs: dict[Point, StudyRun], before: tuple[Point, ...]
) -> StudyRun:
    """The run, after the one that it learns against.

    Args:
        before: the runs that wait for this one.
    """
    if point in runs:
        return runs[point]
    where = f"study {study.name}, {point.told}"
    if point in before:
        circle = " -> ".join(each.arm for each in (*before[before.index(point) :], point))
        raise InputError(
            f"{where}: the arms learn against each other in a circle, {circle}; give one another reference"
        )
    data = data_of(study, point)
    asked: dict[str, Any] = dict(data)
    reference = reference_of(study, point, data)
    if reference is not None:
        from_run = _add_run(study, reference, out, runs, (*before, point))
        data["ratchet"] = {**data["ratchet"], "reference": str(from_run.folder)}
        asked["reference"] = from_run.asked
    transfer = {} if point.arm in study.references else study.transfer[point.task]
    if transfer:
        asked["transfer"] = transfer
    data["run"] = {**data["run"], "folder": str(out / "runs" / point.key)}
    data = laid_over(data, {"evaluation": {"share": str(out / "evaluations")}})
    config = build_config(data, where)
    if point.arm not in study.references:
        _check_at(study, point, config)
    _check_pass_at(study, config, where)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
    measures_base = point.arm == (study.baseline or next(iter(study.arms)))
    runs[point] = StudyRun(point, config, digest, reference, transfer, measures_base)
    return runs[point]


def _check_pass_at(study: Study, config: RunConfig, where: str) -> None:
    samples = config.evaluation.report_samples
    if study.pass_at is not None and study.pass_at > samples:
        raise InputError(
            f"{where}: pass_at = {study.pass_at} needs as many samples a problem, and evaluation.report_samples = "
            f"{samples}; raise that, or lower pass_at"
        )


def evaluated_steps(config: RunConfig) -> set[int]:
    """Rollout steps of the whole run after which the learner is evaluated, unless an alarm ends a stage."""
    steps, before = set(), 0
    for stage in plan_stages(config.ratchet, config.objective):
        every = config.evaluation.every
        steps |= {before + step for step in (*range(every, stage.steps + 1, every), stage.steps)}
        before += stage.steps
    return steps


def _check_at(study: Study, point: Point, config: RunConfig) -> None:
    steps = evaluated_steps(config)
    missing = [step for step in study.at or () if step not in steps]
    if missing:
        raise InputError(
            f"study {study.name}, {point.told}: at = {missing[0]} is no step that is evaluated; it is one of "
            f"{', '.join(map(str, sorted(steps)))}, or change evaluation.every"
        )


def _check_keys(runs: list[StudyRun]) -> None:
    """Names of files differ, also where the disk does not tell capitals from small letters."""
    seen: dict[str, Point] = {}
    for run in runs:
        other = seen.setdefault(run.point.key.lower(), run.point)
        if other != run.point:
            raise InputError(
                f"the runs of {other.told} and of {run.point.told} would both be called {run.point.key}; rename one"
            )


def _check_bases(runs: list[StudyRun]) -> None:
    seen: dict[str, ModelConfig] = {}
    for run in runs:
        model = run.config.model
        if model.make is not None and seen.setdefault(model.path, model).make != model.make:
            raise InputError(
                f"study run {run.point.key}: model.path = {model.path!r} is made in another way (model.make) by "
                "another run; give each base a path of its own"
            )
