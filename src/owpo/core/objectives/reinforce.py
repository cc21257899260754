"""REINFORCE (Williams 1992) with a batch baseline: the score function times the advantage.

    loss = -A log pi

Departures:
1. Strictly on-policy: no ratio corrects for updates made since the rollout. Use one update per rollout, or
   CISPO.
2. The whitened baseline of later libraries is the advantage estimator's business (`batch_std`).
"""

from __future__ import annotations

from dataclasses import dataclass

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.registry import Needs, Scaffold, register


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig:
    """Nothing to choose."""


@register(
    "reinforce",
    config=ReinforceConfig,
    source="Williams 1992, doi 10.1007/BF00992696",
    needs=Needs(),
    scaffold=Scaffold(advantage="batch_mean", reduction="seq-mean-token-sum"),
)
def reinforce(batch: TokenBatch, config: ReinforceConfig) -> TokenLoss:
    return TokenLoss(-batch.advantage_BT * batch.logp)
