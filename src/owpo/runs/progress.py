"""Where a run stands: everything a restart needs beside weights and optimiser. Plain data, kept as JSON.

No random state is in it: every random choice draws from a seed derived from the run's seed and its place in the
run (`owpo.seeds`), so that a restart repeats it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Progress:
    """
    stage            index of the current stage, 0-based; the number of stages when the run is done
    step             rollout steps done in the stage
    evaluated_step   the stage's last step that was evaluated on the selection set, -1 for none
    total_steps      rollout steps done in all stages
    updates          optimiser updates done since the optimiser was new
    cursor           problems drawn so far
    bad_updates      non-finite updates in a row
    short_batches    rollout batches that dynamic sampling could not fill
    first_unparseable_share  share of unparseable responses in the run's first step, None before it
    best             version and score of the stage's best evaluation so far
    stage_best       version of each finished stage's best, by stage number, as far as they are kept
    stage_start      version that the current stage started from
    reference        version and hash of what the current stage learns against, None where nothing is read
    references       versions that are or were the reference, in order: the first one, and the newest that are kept
    passed           newest version of each lineage that became the reference
    refused          lineages whose newest candidate did not
    host_folder      stage that began with the host's present optimiser, after which its folder is named
    host_steps       rollout steps that it had done before the current stage
    """

    stage: int = 0
    step: int = 0
    evaluated_step: int = -1
    total_steps: int = 0
    updates: int = 0
    cursor: int = 0
    bad_updates: int = 0
    short_batches: int = 0
    first_unparseable_share: float | None = None
    best: dict[str, Any] | None = None
    stage_best: dict[str, str] = field(default_factory=dict)
    stage_start: str = "base"
    reference: dict[str, str] | None = None
    references: list[str] = field(default_factory=list)
    passed: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    host_folder: int = 1
    host_steps: int = 0

    def versions(self) -> set[str]:
        """Every version of weights that this state still points to."""
        named = {self.stage_start, *self.stage_best.values(), *self.references, *self.passed.values()}
        if self.best is not None:
            named.add(self.best["version"])
        if self.reference is not None:
            named.add(self.reference["version"])
        return named

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Progress:
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(
                f"the checkpoint was written by another version of owpo; unknown: {sorted(unknown)}"
            )
        return cls(**data)
