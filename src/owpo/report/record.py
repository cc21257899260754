"""A run folder as a report reads it: its logs and where the run stands. Nothing is written, no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from owpo.config import RunConfig
from owpo.disk.lock import is_locked
from owpo.evaluation.evaluate import Evaluation, evaluation_of
from owpo.evaluation.samples import read_samples
from owpo.ratchet.plan import Stage, plan_stages
from owpo.runs.folder import RunFolder

Record = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run has written so far, finished or not; each file is read when it is first asked for.

    name        what a reader calls it, unique among the runs of a report
    config      the resolved recipe
    is_running  whether a process of this machine is at work on it
    """

    name: str
    files: RunFolder
    config: RunConfig
    is_running: bool

    @property
    def folder(self) -> Path:
        return self.files.path

    @cached_property
    def starts(self) -> list[Record]:
        """A record a start: versions, machine, command."""
        return self.files.environment.records()

    @cached_property
    def metrics(self) -> list[Record]:
        return self.files.logs["metrics"].records()

    @cached_property
    def timing(self) -> list[Record]:
        return self.files.logs["timing"].records()

    @cached_property
    def evaluations(self) -> list[Record]:
        return self.files.logs["evaluations"].records()

    @cached_property
    def lineage(self) -> list[Record]:
        return self.files.logs["lineage"].records()

    @cached_property
    def moves(self) -> list[Record]:
        return self.files.logs["moves"].records()

    @cached_property
    def alarms(self) -> list[Record]:
        return self.files.logs["alarms"].records()

    @cached_property
    def tokens(self) -> list[Record]:
        return self.files.logs["tokens"].records()

    def last_rollouts(self, count: int) -> list[Record]:
        return self.files.logs["rollouts"].last(count)

    @cached_property
    def result(self) -> Record | None:
        """The closing table, None while there is none."""
        return self.files.result()

    @cached_property
    def plan(self) -> list[Stage]:
        return plan_stages(self.config.ratchet, self.config.objective)

    @property
    def is_finished(self) -> bool:
        return self.result is not None

    @cached_property
    def status(self) -> str:
        """Where the run stands, as a sentence; what to do where it has stopped."""
        if self.is_finished:
            stages = "1 stage" if len(self.plan) == 1 else f"{len(self.plan)} stages"
            return f"finished: {len(self.metrics)} steps in {stages}"
        state = "still running" if self.is_running else "not finished"
        if not self.metrics:
            place = "before the end of its first step"
        else:
            last = self.metrics[-1]
            steps = self.plan[last["stage"] - 1].steps
            place = f"in stage {last['stage']} of {len(self.plan)}, after step {last['step']} of {steps}"
        told = f"{state}: {place}; what follows is what was measured up to there, without a closing table"
        return told if self.is_running else f"{told}. Go on with it by: owpo resume {self.folder}"

    @cached_property
    def stages(self) -> list[int]:
        """Numbers of the stages that have begun."""
        return list(dict.fromkeys(record["stage"] for record in self.metrics))

    def of_stage(self, number: int) -> list[Record]:
        """The stage's lines of metrics.jsonl."""
        return [record for record in self.metrics if record["stage"] == number]

    def total_step(self, stage: int, step: int) -> int:
        """Rollout steps of the whole run before or at this place."""
        first = next((record for record in self.metrics if record["stage"] == stage), None)
        before = len(self.metrics) if first is None else first["total_step"] - first["step"]
        return before + step

    @cached_property
    def accuracy_of(self) -> dict[str, float]:
        """Accuracy on the selection set of every candidate."""
        return {r["candidate"]: r["accuracy"] for r in self.lineage if "accuracy" in r}

    @cached_property
    def report_set(self) -> dict[str, Evaluation]:
        """What the closing table's models answered on the report set, by version, in the table's order."""
        rows = self.result["rows"] if self.result is not None else []
        files = {row["version"]: self.folder / "report" / row["version"] / "report.jsonl" for row in rows}
        return {id: evaluation_of(read_samples(file)) for id, file in files.items() if file.is_file()}

    @property
    def recipe_key(self) -> str:
        """Equal for runs that differ by their seed and folder alone: repetitions of one experiment."""
        data = self.config.model_dump(mode="json")
        del data["seed"], data["run"]["folder"]
        return json.dumps(data, sort_keys=True)


def read_run(path: Path, name: str | None = None) -> RunRecord:
    """
    Raises:
        InputError: the folder is no run, or something in it is damaged.
    """
    config = RunFolder.read_config(path)
    return RunRecord(name or path.resolve().name, RunFolder(path), config, is_locked(path))


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Several runs, each with a name of its own: its folder's, or as much of the path as tells it from the others."""
    whole = [path.resolve() for path in paths]
    names = [path.name for path in whole]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [read_run(path, name) for path, name in zip(paths, names, strict=True)]


def repetitions(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs of one recipe under the name of the first, in order."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(run.recipe_key, []).append(run)
    return {
        members[0].name if len(members) == 1 else f"{members[0].name} ({len(members)} seeds)": members
        for members in groups.values()
    }
