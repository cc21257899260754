"""The folder of a run.

    config.json        the resolved configuration      problems.json    what its problem sets were
    environment.jsonl  versions, machine and code, a line for every start
    metrics.jsonl      a line a rollout step         timing.jsonl     its seconds, by phase
    rollouts.jsonl     some responses of each step   evaluations.jsonl  a line an evaluation
    lineage.jsonl      a line for every candidate    moves.jsonl      the weights' first step against a new reference
    alarms.jsonl       signs of a collapse           tokens.jsonl.gz  some responses, token by token
    bad_updates/       what a skipped update had in hand
    versions/          weights with a name           checkpoints/     what a restart needs
    result.json        the closing table             report/          every sample behind it, a folder a version
    tracker_id         the run's id at W&B or trackio, where `run.trackers` names one

Every number in it repeats bit for bit when the run is repeated on the same CPU, but for those in timing.jsonl
and environment.jsonl. docs/run-folder.md says what every field means.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from owpo.config import RunConfig
from owpo.disk.logs import JSONLLog, LogMark
from owpo.disk.sealed import read_sealed, write_sealed
from owpo.errors import InputError
from owpo.recipes import build_config
from owpo.runs.checkpoints import CheckpointStore
from owpo.runs.versions import VersionStore

LOGS = {
    name: f"{name}.jsonl"
    for name in ("metrics", "timing", "rollouts", "evaluations", "lineage", "moves", "alarms")
} | {"tokens": "tokens.jsonl.gz"}


class RunFolder:
    """A run on disk. Making this object writes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.versions = VersionStore(path / "versions")
        self.checkpoints = CheckpointStore(path / "checkpoints")
        self.logs = {name: JSONLLog(path / file) for name, file in LOGS.items()}
        self.environment = JSONLLog(path / "environment.jsonl")
        self.result_file = path / "result.json"

    @classmethod
    def create(cls, path: Path, config: RunConfig, problem_digests: dict[str, str]) -> RunFolder:
        """A new run in an empty folder."""
        (path / "versions").mkdir()
        CheckpointStore.create(path / "checkpoints")
        write_sealed(path / "config.json", config.model_dump(mode="json"))
        write_sealed(path / "problems.json", problem_digests)
        return cls(path)

    @staticmethod
    def read_config(path: Path) -> RunConfig:
        """
        Raises:
            InputError: the folder is no run, or its configuration is not what it was started with.
        """
        file = path / "config.json"
        if not file.is_file():
            raise InputError(
                f"{str(path)!r} is not a run folder (it has no config.json); start one with owpo train RECIPE"
            )
        return build_config(read_sealed(file), str(file))

    def check_problems(self, problem_digests: dict[str, str]) -> None:
        """
        Raises:
            InputError: a problem set is not the one that the run began with.
        """
        recorded = read_sealed(self.path / "problems.json")
        changed = [f"problems.{name}" for name in recorded if recorded[name] != problem_digests[name]]
        if changed:
            raise InputError(
                f"{' and '.join(changed)} of {self.path} hold other problems than when the run began; restore the "
                "files, or start a new run"
            )

    def sync_logs(self) -> dict[str, LogMark]:
        """Flush every log; how far each has come, for a checkpoint."""
        return {name: log.sync() for name, log in self.logs.items()}

    def cut_logs(self, marks: dict[str, LogMark]) -> None:
        """Forget what was logged after a checkpoint (everything, for an empty `marks`).

        Raises:
            InputError: a log's past is not what it was; then none has been cut.
        """
        for name, log in self.logs.items():
            log.check(marks.get(name, LogMark()))
        for name, log in self.logs.items():
            log.cut(marks.get(name, LogMark()))

    def result(self) -> dict[str, Any] | None:
        """The closing table, None while the run is not done.

        Raises:
            InputError: it is damaged.
        """
        if not self.result_file.is_file():
            return None
        return read_sealed(self.result_file, "remove it, and owpo resume makes it again")
