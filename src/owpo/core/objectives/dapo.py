"""DAPO (arXiv 2503.14476): PPO's clipped surrogate with a higher upper clip, averaged over the step's tokens.

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),   r = pi / pi_old

No KL, no entropy term. Dynamic sampling and overlong shaping, the paper's other half, belong to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.checks import check_clip
from owpo.core.registry import Needs, Scaffold, register
from owpo.core.surrogate import clipped_surrogate, probability_ratio


@dataclass(frozen=True, kw_only=True)
class DAPOConfig:
    """clip_low and clip_high are offsets from 1. dual_clip: see `clipped_surrogate`; 0 leaves it out."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 0.0

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high, self.dual_clip)


@register(
    "dapo",
    config=DAPOConfig,
    source="arXiv 2503.14476, eq. 8",
    needs=Needs(old_logp=True),
    scaffold=Scaffold(dynamic_sampling=True),
)
def dapo(batch: TokenBatch, config: DAPOConfig) -> TokenLoss:
    assert batch.old_logp is not None
    ratio = probability_ratio(batch.logp, batch.old_logp)
    loss, clipped = clipped_surrogate(
        ratio, batch.advantage_BT, config.clip_low, config.clip_high, config.dual_clip or None
    )
    return TokenLoss(loss, {"ratio": ratio, "clipped": clipped})
