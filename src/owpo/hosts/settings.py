"""What a user sets of owpo in a host, whichever host it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from owpo.core.deviation import active_count
from owpo.core.reduce import MODES
from owpo.core.registry import Objective, did_you_mean, objective
from owpo.errors import InputError, input_errors


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """
    objective       what is optimised: `owpo objectives` lists them
    objective_args  its settings
    reference       model folder or hub id of the first reference; None: the policy as it starts
    move_every      steps after which the policy becomes the reference; None: never
    active_samples  "curriculum" (the top |A| of a group, G down to 1 between two moves) or "all"
    reduction       how token losses become one number; None: the objective's paper's
    first_step      steps that were done before the reference in force came
    """

    objective: str = "owpo"
    objective_args: dict[str, Any] = field(default_factory=dict)
    reference: str | None = None
    move_every: int | None = None
    active_samples: str = "curriculum"
    reduction: str | None = None
    first_step: int = 0

    def build_objective(self) -> Objective:
        """
        Raises:
            InputError: a setting is wrong, would have no effect, or cannot be had in a host.
        """
        with input_errors("objective"):
            chosen = objective(self.objective, **self.objective_args)
        if chosen.needs.prepared:
            raise InputError(
                f"objective {chosen.name!r} prepares weights over a whole step, which a host has shuffled; "
                "train it by `owpo train` with the local engine"
            )
        if not chosen.needs.reference and (self.reference is not None or self.move_every is not None):
            raise InputError(
                f"objective {chosen.name!r} reads no reference: leave out reference and move_every"
            )
        if self.move_every is not None and self.move_every < 1:
            raise InputError(f"move_every = {self.move_every} must be at least 1")
        if self.active_samples not in ("curriculum", "all"):
            raise InputError(f"active_samples = {self.active_samples!r} is neither 'curriculum' nor 'all'")
        if self.reduction is not None and self.reduction not in MODES:
            raise InputError(
                f"reduction = {self.reduction!r} is unknown.{did_you_mean(self.reduction, MODES)} "
                f"Known: {', '.join(MODES)}"
            )
        return chosen

    def step_of_stage(self, step: int) -> int:
        """Steps since the reference moved, of `step` in all."""
        step -= self.first_step
        return step if self.move_every is None else step % self.move_every

    def num_active(self, step: int, last_step: int, group_size: int) -> int:
        """Active samples of a group when `step` of `last_step` steps are done."""
        if self.active_samples == "all":
            return group_size
        length = self.move_every or last_step - self.first_step
        return active_count(self.step_of_stage(step), length, group_size)
