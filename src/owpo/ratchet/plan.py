"""Who learns from whom: a run as a list of stages, made by a pure function before anything loads.

A reference moves between two stages and never inside one. A stage proposes a candidate; where there is a gate
(`ratchet.gate`), the plan says what becomes the reference if it passes. The four protocols (docs/method.md):

    fixed          one stage against a given reference
    every_k        one learner, a stage every k steps; the reference is the policy as the stage found it
    best_of_stage  one learner; the reference is the best checkpoint of the stage before
    leapfrog       two lineages from one base; each learns against the other's best
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from owpo.config import (
    BestOfStageProtocol,
    EveryKProtocol,
    FixedProtocol,
    LeapfrogProtocol,
    ObjectiveConfig,
    Protocol,
)


@dataclass(frozen=True)
class Weights:
    """Weights by their role: the base, the given reference, or the best or last of a stage (1-based)."""

    kind: Literal["base", "given", "best", "last"]
    stage: int = 0

    def __str__(self) -> str:
        if self.kind == "given":
            return "given reference"
        return self.kind if self.kind == "base" else f"{self.kind} of stage {self.stage}"


BASE = Weights("base")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """
    number      1-based
    lineage     which learner: "A" or "B"
    start       weights it starts from with a new optimiser; None: it goes on with weights and optimiser as they are
    reference   what it learns against; None where its objective reads no reference
    reason      why the reference is what it is
    steps       rollout steps
    candidate   which of its weights it proposes as the reference; None where the reference does not move
    """

    number: int
    lineage: str
    start: Weights | None
    reference: Weights | None
    reason: str
    objective: ObjectiveConfig
    steps: int
    candidate: Literal["best", "last"] | None = None

    def __str__(self) -> str:
        start = f"from {self.start}" if self.start is not None else "going on"
        against = (
            f"against {self.reference} ({self.reason})" if self.reference is not None else "no reference"
        )
        return (
            f"stage {self.number}: lineage {self.lineage}, {start}, by {self.objective.name}, {against}, "
            f"{self.steps} steps"
        )

    def to_json(self) -> dict[str, str | int]:
        return {
            "number": self.number,
            "lineage": self.lineage,
            "start": str(self.start) if self.start is not None else "where it stands",
            "objective": self.objective.name,
            "reference": str(self.reference) if self.reference is not None else "none",
            "reason": self.reason,
            "steps": self.steps,
        }


def plan_stages(protocol: Protocol, objective: ObjectiveConfig) -> list[Stage]:
    """The stages of a run, in order."""
    if isinstance(protocol, FixedProtocol):
        return [_fixed(protocol, objective)]
    if isinstance(protocol, EveryKProtocol):
        stages = _every_k(protocol, objective)
    elif isinstance(protocol, BestOfStageProtocol):
        stages = _best_of_stage(protocol, objective)
    else:
        stages = _leapfrog(protocol, objective)
    if protocol.gate is None:
        return stages
    return [_gated(stage) if stage.reference not in (None, BASE) else stage for stage in stages]


def _gated(stage: Stage) -> Stage:
    return replace(stage, reason=f"{stage.reason}, if it passes the gate")


def _fixed(protocol: FixedProtocol, objective: ObjectiveConfig) -> Stage:
    given = {None: None, "base": BASE}.get(protocol.reference, Weights("given"))
    return Stage(
        number=1, lineage="A", start=BASE, reference=given,
        reason="given and stays" if given else "none is read",
        objective=objective, steps=protocol.steps,
    )  # fmt: skip


def _every_k(protocol: EveryKProtocol, objective: ObjectiveConfig) -> list[Stage]:
    lengths = [
        min(protocol.k, protocol.steps - done) for done in range(0, protocol.steps, protocol.k)
    ]  # the last stage may be shorter
    return [
        Stage(
            number=number, lineage="A",
            start=BASE if number == 1 else None,
            reference=BASE if number == 1 else Weights("last", number - 1),
            reason="the start" if number == 1 else f"the policy, every {protocol.k} steps",
            objective=objective, steps=steps, candidate="last",
        )
        for number, steps in enumerate(lengths, start=1)
    ]  # fmt: skip


def _best_of_stage(protocol: BestOfStageProtocol, objective: ObjectiveConfig) -> list[Stage]:
    def start(number: int) -> Weights | None:
        if number == 1:
            return BASE
        return None if protocol.continue_from == "last" else Weights("best", number - 1)

    return [
        Stage(
            number=number, lineage="A", start=start(number),
            reference=BASE if number == 1 else Weights("best", number - 1),
            reason="the start" if number == 1 else "the best of the stage before",
            objective=objective, steps=protocol.steps, candidate="best",
        )
        for number in range(1, protocol.stages + 1)
    ]  # fmt: skip


def _leapfrog(protocol: LeapfrogProtocol, objective: ObjectiveConfig) -> list[Stage]:
    first = Stage(
        number=1, lineage="A", start=BASE, reference=None, reason="none yet",
        objective=protocol.first_objective, steps=protocol.first_steps, candidate="best",
    )  # fmt: skip
    others = [
        Stage(
            number=number,
            lineage="A" if number % 2 else "B",
            start=BASE if number == 2 else Weights("best", number - 2),
            reference=Weights("best", number - 1),
            reason=f"lineage {'B' if number % 2 else 'A'}'s best",
            objective=objective, steps=protocol.steps, candidate="best",
        )
        for number in range(2, protocol.stages + 1)
    ]  # fmt: skip
    return [first, *others]
