"""What a run tells whoever watches it. This one says nothing; `owpo.terminal` draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from owpo.evaluation.evaluate import Evaluation
from owpo.training.alarms import Alarm


class Display:
    """Every event of a run, ignored. Override what is to be shown."""

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A long piece of work of `total` units (None: unknown); call what it yields with the units done so far."""
        yield lambda done: None

    def start(self, folder: Path, stages: list[str], done: int) -> None:
        """The plan, a sentence a stage, of which `done` are behind us."""

    def stage(self, number: int, sentence: str) -> None:
        """Stage `number` (1-based) begins or goes on."""

    def step(self, metrics: dict[str, Any], timing: dict[str, Any], num_steps: int) -> None:
        """A rollout step is done: its lines of metrics.jsonl and timing.jsonl."""

    def evaluation(self, stage: int, step: int, evaluation: Evaluation, is_best: bool) -> None:
        """The selection set was measured."""

    def candidate(self, record: dict[str, Any]) -> None:
        """A stage has proposed a reference: its line of lineage.jsonl."""

    def alarm(self, alarm: Alarm, ends_stage: bool) -> None:
        """A sign of a collapse; the stage may end because of it."""

    def note(self, text: str) -> None:
        """What is about to happen, where it takes a while."""

    def warn(self, text: str) -> None:
        """Something that does not stop the run, but that its owner should know."""

    def result(self, folder: Path, result: dict[str, Any]) -> None:
        """The run is done: the closing table, as result.json holds it."""
