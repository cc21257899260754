"""A host's steps in a file that owpo reads while they come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from owpo.disk.logs import JSONLLog


def metrics_file(folder: Path) -> Path:
    return folder / "metrics.jsonl"


class StepLog:
    """`metrics.jsonl` as a host writes it."""

    def __init__(self, folder: Path, done: int) -> None:
        """
        Args:
            done: steps that the host's checkpoint has; lines of later ones are forgotten, for they come again.
        """
        self._log = JSONLLog(metrics_file(folder))
        self._log.replace(*(record for record in self._log.records() if record["step"] <= done))

    def append(self, step: int, numbers: Mapping[str, Any]) -> None:
        self._log.append({"step": step, **numbers})
