"""GSPO (arXiv 2507.18071): one ratio for a whole response, clipped in a very narrow band.

    s    = exp(mean over the response of (log pi - log pi_old))
    loss = -min(s_t A, clip(s_t, 1 - clip_low, 1 + clip_high) A),   s_t = sg[s] pi / sg[pi]

s_t has the value of s at every token and passes each token its own gradient (the paper's GSPO-token). Under
`seq-mean-token-mean`, and with one advantage per response, the gradient is that of the sequence form.

Departures: none known; the clip offsets are from a secondary source.
"""

from __future__ import annotations

from dataclasses import dataclass

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.checks import check_clip
from owpo.core.registry import Needs, Scaffold, register
from owpo.core.surrogate import clipped_surrogate, probability_ratio


@dataclass(frozen=True, kw_only=True)
class GSPOConfig:
    """clip_low and clip_high are offsets from 1 of the sequence ratio."""

    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)


@register(
    "gspo",
    config=GSPOConfig,
    source="arXiv 2507.18071, in token form",
    needs=Needs(old_logp=True),
    scaffold=Scaffold(advantage="group_std", reduction="seq-mean-token-mean"),
)
def gspo(batch: TokenBatch, config: GSPOConfig) -> TokenLoss:
    assert batch.old_logp is not None
    tokens_B1 = batch.mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean_logp_B1 = (batch.logp.detach() * batch.mask).sum(dim=1, keepdim=True) / tokens_B1
    mean_old_logp_B1 = (batch.old_logp * batch.mask).sum(dim=1, keepdim=True) / tokens_B1
    sequence_ratio_B1 = probability_ratio(mean_logp_B1, mean_old_logp_B1)
    ratio = sequence_ratio_B1 * (batch.logp - batch.logp.detach()).exp()
    loss, clipped = clipped_surrogate(ratio, batch.advantage_BT, config.clip_low, config.clip_high)
    return TokenLoss(loss, {"ratio": ratio, "clipped": clipped})
