"""What is optimised, and when the reference moves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from owpo.config.section import CanBeOff, PathString, Section
from owpo.core.registry import Objective, objective


class ObjectiveConfig(BaseModel):
    """The objective's name beside its own hyper-parameters, all of them filled in."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            chosen = objective(data["name"], **{k: v for k, v in data.items() if k != "name"})
            return {"name": chosen.name, **asdict(chosen.config)}
        return data

    def build(self) -> Objective:
        return objective(self.name, **(self.model_extra or {}))


class GateConfig(Section):
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Of the test: how often a candidate that is no better may pass."""
    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The test asks for a gain above this, in accuracy on the selection set."""
    max_tail_growth: Annotated[Annotated[float, Field(ge=1)] | None, CanBeOff] = 1.5
    """Largest ratio of candidate to reference in the 95th percentile of response lengths; "off": not looked at."""
    max_truncated_rise: Annotated[Annotated[float, Field(ge=0, le=1)] | None, CanBeOff] = 0.05
    """Largest rise of the share of truncated responses over the reference's; "off": not looked at."""
    max_kl: Annotated[Annotated[float, Field(gt=0)] | None, CanBeOff] = 0.5
    """Largest KL(candidate || reference), in nats a token of the candidate's responses; "off": not looked at."""
    on_refusal: Literal["train_on", "roll_back", "restart_optimizer"] = "train_on"
    """What a refused learner does: go on; go back to its newest version that passed; or go on with a new optimiser."""
    on_move: Literal["go_on", "restart_optimizer"] = "go_on"
    """What the learner does after a move: go on, or go on with a new optimiser (ProRL)."""


class MovingProtocol(Section):
    gate: GateConfig | None = None
    """Bounds that a candidate must keep to become the reference; None: every candidate does."""
    keep_references: Annotated[int, Field(ge=2)] = 8
    """How many references to keep, the newest ones; the first one and what the plan still needs stay beside them."""

    def _check_restarts(self) -> None:
        """For protocols that begin every stage with a new optimiser."""
        gate = self.gate
        if gate is not None and "restart_optimizer" in (gate.on_refusal, gate.on_move):
            raise ValueError(
                "here every stage starts from a version with a new optimiser; leave out restart_optimizer of "
                "ratchet.gate.on_refusal and on_move"
            )


class FixedProtocol(Section):
    protocol: Literal["fixed"]
    steps: Annotated[int, Field(ge=1)]
    """Rollout steps."""
    reference: PathString | None = None
    """The reference: 'base' for the policy's own start, a folder, or a hub id. None where the objective reads none."""


class EveryKProtocol(MovingProtocol):
    protocol: Literal["every_k"]
    steps: Annotated[int, Field(ge=1)]
    """Rollout steps in all."""
    k: Annotated[int, Field(ge=1)] = 80
    """Steps after which the reference becomes the policy (Algorithm 1)."""


class BestOfStageProtocol(MovingProtocol):
    protocol: Literal["best_of_stage"]
    stages: Annotated[int, Field(ge=1)]
    """How often the reference is chosen anew, the start included."""
    steps: Annotated[int, Field(ge=1)]
    """Rollout steps a stage."""
    continue_from: Literal["last", "best"] = "last"
    """Where the learner goes on: its last weights and optimiser, or the stage's best weights with a new optimiser."""

    @model_validator(mode="after")
    def _new_optimizer_once(self) -> BestOfStageProtocol:
        if self.continue_from == "best":
            self._check_restarts()
        return self


class LeapfrogProtocol(MovingProtocol):
    protocol: Literal["leapfrog"]
    stages: Annotated[int, Field(ge=2)]
    """Stages in all: 1 is lineage A's, 2 is B's, and so on in turn."""
    steps: Annotated[int, Field(ge=1)]
    """Rollout steps a stage, after the first."""
    first_steps: Annotated[int, Field(ge=1)]
    """Rollout steps of stage 1, which makes the first reference."""
    first_objective: ObjectiveConfig = ObjectiveConfig(name="dapo")
    """What stage 1 learns by; it may read no reference."""

    @model_validator(mode="after")
    def _new_optimizer_once(self) -> LeapfrogProtocol:
        self._check_restarts()
        return self


Protocol = Annotated[
    FixedProtocol | EveryKProtocol | BestOfStageProtocol | LeapfrogProtocol, Field(discriminator="protocol")
]
