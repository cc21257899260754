"""ReST (arXiv 2308.08998): fine-tuning on one's own samples that pass a threshold.

    loss = -A log pi,   A = 1 where R > threshold, else 0

With a binary reward and one filtering this is rejection-sampling fine-tuning (RAFT, STaR).

Departures:
1. The inner loop, which raises the threshold and fine-tunes again on the same samples, is the engine's:
   several updates per rollout, and `threshold` of the advantage estimator.
2. The paper does not fix a token average; ours is over the step's tokens, those of rejected samples counted
   too.
"""

from __future__ import annotations

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.objectives.reinforce import ReinforceConfig, reinforce
from owpo.core.registry import Needs, Scaffold, register


@register(
    "rest",
    config=ReinforceConfig,
    source="arXiv 2308.08998",
    needs=Needs(),
    scaffold=Scaffold(advantage="above_threshold", reduction="token-mean"),
)
def rest(batch: TokenBatch, config: ReinforceConfig) -> TokenLoss:
    return reinforce(batch, config)
