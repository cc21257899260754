"""A stage as it is handed to a host's process: a file of JSON, and the files that come back.

    FOLDER/job.json       what to do                   FOLDER/metrics.jsonl   a line a step, in owpo's names
    FOLDER/train.jsonl    prompts as they are given    FOLDER/exports/step-N  the policy after step N, as a model folder
    FOLDER/host.log       what the host printed        FOLDER/checkpoints     the host's own, by which it goes on

Steps are rollout steps, counted from where the optimiser was new: a stage may go on where the one before it ended.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from owpo.config import ObjectiveConfig, RunConfig
from owpo.disk.files import read_json, write_json
from owpo.disk.logs import read_jsonl_records
from owpo.hosts.step_log import metrics_file


@dataclass(frozen=True, kw_only=True)
class Job:
    """
    folder         the host's
    model          what it starts from, where it has no checkpoint yet
    reference      what it learns against; None where the objective reads none
    objective      name and settings
    first_step     steps that were done before this stage
    last_step      steps that are done after it
    export_steps   after which the policy is written as a model folder
    prompt_tokens  of the longest prompt
    config         the run's
    """

    folder: str
    model: str
    reference: str | None
    objective: dict[str, Any]
    first_step: int
    last_step: int
    export_steps: list[int]
    prompt_tokens: int
    config: dict[str, Any]

    @property
    def path(self) -> Path:
        return Path(self.folder)

    @property
    def run(self) -> RunConfig:
        return RunConfig.model_validate(self.config)

    @property
    def chosen(self) -> ObjectiveConfig:
        return ObjectiveConfig.model_validate(self.objective)

    @property
    def objective_args(self) -> dict[str, Any]:
        return {key: value for key, value in self.objective.items() if key != "name"}

    def export_folder(self, step: int) -> Path:
        return self.path / "exports" / f"step-{step}"

    @property
    def is_done(self) -> bool:
        """Everything that was asked for is there, up to the last step."""
        steps = [record["step"] for record in self.metrics()]
        return steps[-1:] == [self.last_step] and all(
            self.export_folder(s).is_dir() for s in self.export_steps
        )

    def write(self) -> Path:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "exports").mkdir(exist_ok=True)
        write_json(self.path / "job.json", asdict(self))
        return self.path / "job.json"

    @staticmethod
    def read(file: str | Path) -> Job:
        return Job(**read_json(Path(file)))

    def metrics(self) -> list[dict[str, Any]]:
        """The stage's steps, in order."""
        records = read_jsonl_records(metrics_file(self.path))
        return [record for record in records if self.first_step < record["step"] <= self.last_step]
