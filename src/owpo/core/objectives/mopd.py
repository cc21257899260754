"""MOPD (MiMo-V2-Flash, arXiv 2601.02780, eq. 7-9): distillation and verifier summed into one advantage.

    loss = -sg[w] (sg[log ref - log pi] + alpha A) log pi
    w    = pi / pi_old where that lies in [ratio_min, ratio_max], else 0

averaged over each response's tokens, then over responses. alpha = 5 is the OWPO paper's choice (arXiv
2605.22156) among 0.1, 0.5, 1, 5, 10 and 50; the reference is the teacher.

Departures:
1. w compares with pi_old; the paper compares with the sampling engine's probabilities.
2. The bounds 0.2 and 5 are from a later implementation; the paper does not print them.
3. One reference for all prompts; the paper has a teacher per domain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.checks import check_ratio_bounds
from owpo.core.deviation import deviation
from owpo.core.registry import Needs, Scaffold, register
from owpo.core.surrogate import probability_ratio


@dataclass(frozen=True, kw_only=True)
class MOPDConfig:
    """alpha weighs the verifier's advantage against a nat; tokens with a ratio out of bounds are left out."""

    alpha: float = 5.0
    ratio_min: float = 0.2
    ratio_max: float = 5.0

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError(
                f"alpha must not be negative, got {self.alpha}: it would turn the verifier's verdict"
            )
        check_ratio_bounds("ratio_min", self.ratio_min, "ratio_max", self.ratio_max)


@register(
    "mopd",
    config=MOPDConfig,
    source="arXiv 2601.02780, eq. 7-9; alpha from arXiv 2605.22156",
    needs=Needs(reference=True, old_logp=True, zero_advantage=True),
    scaffold=Scaffold(advantage="group_std", reduction="seq-mean-token-mean"),
)
def mopd(batch: TokenBatch, config: MOPDConfig) -> TokenLoss:
    assert batch.old_logp is not None
    assert batch.ref_logp is not None
    logp = batch.logp.detach()
    ratio = probability_ratio(logp, batch.old_logp)
    clipped = (ratio < config.ratio_min) | (ratio > config.ratio_max)
    weight = torch.where(clipped, torch.zeros_like(ratio), ratio)
    kl = logp - batch.ref_logp
    summed_advantage = config.alpha * batch.advantage_BT - kl
    stats = {
        "ratio": ratio,
        "weight": weight,
        "clipped": clipped,
        "kl": kl,
        "delta": deviation(logp, batch.ref_logp, batch.advantage_BT),
        "overruled": summed_advantage * batch.advantage_BT < 0,
    }
    return TokenLoss(-weight * summed_advantage * batch.logp, stats)
