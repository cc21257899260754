"""CISPO (MiniMax-M1, arXiv 2506.13585): REINFORCE with a capped importance weight; no token ever loses its
gradient.

    loss = -sg[clip(r, is_weight_min, is_weight_max)] A log pi,   r = pi / pi_old

Departures:
1. The bounds are those of the weight itself. The paper writes offsets from 1 and tunes the upper one alone;
   its value is not given, ours is the 5 that later libraries recommend.
"""

from __future__ import annotations

from dataclasses import dataclass

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.checks import check_ratio_bounds
from owpo.core.registry import Needs, Scaffold, register
from owpo.core.surrogate import probability_ratio


@dataclass(frozen=True, kw_only=True)
class CISPOConfig:
    """is_weight_min and is_weight_max bound the importance weight in absolute units."""

    is_weight_min: float = 0.0
    is_weight_max: float = 5.0

    def __post_init__(self) -> None:
        check_ratio_bounds("is_weight_min", self.is_weight_min, "is_weight_max", self.is_weight_max)


@register(
    "cispo",
    config=CISPOConfig,
    source="arXiv 2506.13585",
    needs=Needs(old_logp=True),
    scaffold=Scaffold(advantage="group_std", reduction="token-mean"),
)
def cispo(batch: TokenBatch, config: CISPOConfig) -> TokenLoss:
    assert batch.old_logp is not None
    ratio = probability_ratio(batch.logp.detach(), batch.old_logp)
    weight = ratio.clamp(config.is_weight_min, config.is_weight_max)
    loss = -weight * batch.advantage_BT * batch.logp
    return TokenLoss(loss, {"ratio": ratio, "weight": weight, "clipped": weight != ratio})
