"""A stage's reference, and what it does to the learner's weights in the first step against it.

Shape legend: B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from owpo.core.deviation import deviation
from owpo.core.registry import Objective
from owpo.policy.model import Policy
from owpo.runs.versions import Version
from owpo.training.update import (
    TrainingRows,
    add_old_logp,
    add_ref_logp,
    batch_before_update,
    token_divergence,
)

_SHARES = ("neutral", "accelerated", "locked", "saturated")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference of a stage. `outgoing` loads the one before it, None where it has not moved."""

    policy: Policy
    version: Version
    outgoing: Callable[[], Policy] | None


def measure_move(
    policy: Policy,
    reference: Reference,
    objective: Objective,
    rows: TrainingRows,
    *,
    temperature: float,
    micro_batch_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """How far the learner stands from the outgoing and from the incoming reference, on the same responses, and what
    weights either gives them.

    Args:
        policy: the learner, before its first update of the stage.
        rows: of the stage's first step; those without a gradient are left out.
        seed: of weights that an objective prepares at random.

    Returns:
        `before` (None where the reference has not moved) and `after`, each None where no row has a gradient.
    """
    index = torch.arange(len(rows.advantage), device=rows.advantage.device)
    rows = add_old_logp(policy, rows, index, temperature, micro_batch_tokens)

    def against(other: Policy) -> dict[str, float] | None:
        if len(index) == 0:
            return None
        scored = add_ref_logp(other, rows, index, temperature, micro_batch_tokens)
        return _distance(scored, objective, seed)

    return {
        "before": against(reference.outgoing()) if reference.outgoing is not None else None,
        "after": against(reference.policy),
    }


def _distance(rows: TrainingRows, objective: Objective, seed: int) -> dict[str, float]:
    """Means over the rows' tokens: deviation, divergence, and the shares of weights where the objective has such."""
    assert rows.old_logp is not None and rows.ref_logp is not None
    mask = rows.responses.mask
    delta = deviation(rows.old_logp, rows.ref_logp, rows.advantage.unsqueeze(1))
    stats = weight_stats(rows, objective, seed)
    values = {
        "delta": delta,
        "abs_delta": delta.abs(),
        "kl": token_divergence(rows.old_logp, rows.ref_logp),
        **{name: stats[name] for name in _SHARES if name in stats},
    }
    return {name: value[mask].double().mean().item() for name, value in values.items()}


def weight_stats(rows: TrainingRows, objective: Objective, seed: int) -> Mapping[str, Tensor]:
    """What the objective says of every token, [B, T], were the policy at `old_logp` trained on the rows.

    Args:
        seed: of weights that the objective prepares at random.
    """
    return objective(batch_before_update(rows, objective, seed)).stats
