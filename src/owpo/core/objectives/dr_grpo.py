"""Dr.GRPO (arXiv 2503.20783): GRPO without its two biases, the division by the group's std and by the
response's length.

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),   A = R - group mean,   summed and divided by a
    constant

The loss of a token is PPO's; what differs is the scaffold.

Departures:
1. The constant is the longest response that sampling allows (`StepCounts.max_tokens`), not the authors' 3000.
   It only rescales the learning rate: compare runs at equal effective steps.
"""

from __future__ import annotations

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.objectives.ppo import PPOConfig, ppo
from owpo.core.registry import Needs, Scaffold, register


@register(
    "dr_grpo",
    config=PPOConfig,
    source="arXiv 2503.20783",
    needs=Needs(old_logp=True),
    scaffold=Scaffold(advantage="group_mean", reduction="seq-mean-token-sum-norm"),
)
def dr_grpo(batch: TokenBatch, config: PPOConfig) -> TokenLoss:
    return ppo(batch, config)
