"""PPO's clipped surrogate (arXiv 1707.06347, eq. 7). DAPO, GRPO and Dr.GRPO are this with other surroundings.

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),   r = pi / pi_old

Departures:
1. No critic: the advantage is the whitened reward of the response, the same at every token (GAE with gamma =
   lambda = 1 and no value function).
2. Two clip offsets, equal by default. No KL in the reward, no entropy term.
"""

from __future__ import annotations

from dataclasses import dataclass

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.checks import check_clip
from owpo.core.registry import Needs, Scaffold, register
from owpo.core.surrogate import clipped_surrogate, probability_ratio


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """clip_low and clip_high are offsets from 1. dual_clip: see `clipped_surrogate`; 0 leaves it out."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high, self.dual_clip)


@register(
    "ppo",
    config=PPOConfig,
    source="arXiv 1707.06347, eq. 7",
    needs=Needs(old_logp=True),
    scaffold=Scaffold(advantage="batch_std", reduction="token-mean"),
)
def ppo(batch: TokenBatch, config: PPOConfig) -> TokenLoss:
    assert batch.old_logp is not None
    ratio = probability_ratio(batch.logp, batch.old_logp)
    loss, clipped = clipped_surrogate(
        ratio, batch.advantage_BT, config.clip_low, config.clip_high, config.dual_clip or None
    )
    return TokenLoss(loss, {"ratio": ratio, "clipped": clipped})
