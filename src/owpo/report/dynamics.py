"""The one-way dynamics of a run, from its token records: deviations, weights, and what a KL penalty would turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from owpo.core.batch import TokenBatch
from owpo.report.record import RunRecord

_MOST_RATIOS = 2000  # a stage; more would be told apart by less than the share's third digit


@dataclass(frozen=True)
class StageDeviations:
    """Trained tokens of a stage that have a deviation and a direction.

    delta   [N] in nats
    size    [N] |advantage|, > 0
    """

    stage: int
    reference: str
    delta: Tensor
    size: Tensor

    def turning_points(self) -> dict[str, Any]:
        """delta / |A| of the tokens that some penalty beta * k2 would turn against the verifier, ascending: those above
        1 / beta (`core.deviation.kl_would_flip`).

        Of many the order statistics at even distances, each standing for `each` tokens; `total` counts all tokens.
        """
        ratio = (self.delta / self.size)[self.delta > 0].sort().values
        each = max(1, len(ratio) / _MOST_RATIOS)
        places = ((torch.arange(round(len(ratio) / each)) + 0.5) * each).long()
        return {
            "stage": self.stage,
            "total": len(self.delta),
            "each": each,
            "ratios": [float(f"{value:.5g}") for value in ratio[places].tolist()],
        }


def deviations(run: RunRecord) -> list[StageDeviations]:
    """By stage, of those that have any."""
    found = []
    for number in run.stages:
        pairs, reference = [], ""
        for record in run.tokens:
            if record["stage"] == number and record["kind"] == "training" and record["advantage"] != 0:
                reference = record["reference"]
                size = abs(record["advantage"])
                pairs += [(delta, size) for delta in record.get("delta", ()) if delta is not None]
        if pairs:
            delta, size = torch.tensor(pairs, dtype=torch.float64).T
            found.append(StageDeviations(number, reference, delta, size))
    return found


def weight_curve(run: RunRecord, delta: Tensor) -> Tensor | None:
    """The weight [N] that the run's objective gives to deviations [N], of a token with advantage 1.

    None where it has no weight, or one that is no function of a token's own deviation.
    """
    logp = delta.unsqueeze(0)
    batch = TokenBatch(
        logp=logp,
        old_logp=logp,
        ref_logp=torch.zeros_like(logp),
        advantage=torch.ones(1, dtype=logp.dtype),
        mask=torch.ones_like(logp, dtype=torch.bool),
        active=torch.ones(1, dtype=torch.bool),
    )
    for stage in run.plan:
        objective = stage.objective.build()
        if objective.needs.reference and not objective.needs.prepared:
            weight = objective(batch).stats.get("weight")
            if weight is not None:
                return weight[0]
    return None
