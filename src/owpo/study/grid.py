"""The runs of a study: every task, setting, arm and seed, each with its configuration, checked before any starts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from owpo.config import ModelConfig, RunConfig
from owpo.errors import InputError
from owpo.ratchet.plan import plan_stages
from owpo.recipes import build_config
from owpo.study.file import Study
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
    config  complete, with its folder
    asked   sha256 of what the study file asks for of this run. Defaults are not in it, so that a key which a recipe
            gains later leaves stored results valid.
    """

    point: Point
    config: RunConfig
    asked: str

    @property
    def folder(self) -> Path:
        return Path(self.config.run.folder)


def points_of(study: Study) -> list[Point]:
    """Seed by seed, so that a study which is stopped has something of every arm."""
    places = product(study.seeds, study.tasks, study.settings, study.arms)
    return [Point(task, setting, arm, seed) for seed, task, setting, arm in places]


def runs_of(study: Study, out: Path) -> list[StudyRun]:
    """
    Args:
        out: the study's folder; runs live in its folder `runs`.

    Raises:
        InputError: a run's configuration is refused, with the task, setting and arm that it belongs to; or two runs
            would make one base in two ways.
    """
    runs = [_run(study, point, out) for point in points_of(study)]
    _check_keys(runs)
    _check_bases(runs)
    return runs


def data_of(study: Study, point: Point) -> dict[str, Any]:
    """The recipe of one run as plain data, without its folder: the recipe, then each override over what came before."""
    by_axis = (("tasks", point.task), ("settings", point.setting), ("arms", point.arm))
    layers = [getattr(study, axis)[name] for axis, name in by_axis]
    layers += [study.shrink, *(study.shrink_by[axis].get(name, {}) for axis, name in by_axis)]
    own: dict[str, Any] = {"seed": point.seed, "run": {"threads": 1}}
    if "last" in study.measures:
        own["evaluation"] = {"report_last": True}
    data = study.recipe
    for layer in (*layers, own):
        data = laid_over(data, layer)
    run = {key: value for key, value in data["run"].items() if key != "folder"}
    return {**data, "run": run}


def _run(study: Study, point: Point, out: Path) -> StudyRun:
    data = data_of(study, point)
    asked = json.dumps(data, sort_keys=True, default=str)
    data["run"] = {**data["run"], "folder": str(out / "runs" / point.key)}
    config = build_config(data, f"study {study.name}, {point.told}")
    _check_at(study, point, config)
    return StudyRun(point, config, hashlib.sha256(asked.encode()).hexdigest())


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
