"""RLOO (arXiv 2402.14740): REINFORCE whose baseline is the mean reward of the group's other responses.

    loss = -A log pi,   A_i = R_i - mean of R_j over j != i

Departures:
1. The paper subtracts a KL to the reference from the reward; ours has none.
2. Some libraries call a clipped sequence-level surrogate RLOO; the paper's, and ours, has no ratio.
"""

from __future__ import annotations

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.objectives.reinforce import ReinforceConfig, reinforce
from owpo.core.registry import Needs, Scaffold, register


@register(
    "rloo",
    config=ReinforceConfig,
    source="arXiv 2402.14740",
    needs=Needs(),
    scaffold=Scaffold(advantage="leave_one_out", reduction="seq-mean-token-sum"),
)
def rloo(batch: TokenBatch, config: ReinforceConfig) -> TokenLoss:
    return reinforce(batch, config)
