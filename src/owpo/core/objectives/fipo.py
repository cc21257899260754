"""FIPO (arXiv 2603.19835): a token counts by how the policy moved on what followed it.

    FutureKL_t = sum over k >= t of gamma^(k-t) M_k Delta_k,   Delta = log pi - log pi_old,   gamma =
    2^(-1/half_life)
    f          = sg[clip(exp(FutureKL), 1 - f_clip, 1 + f_clip)]      (low bound 1 with high_only)
    loss       = PPO's dual-clipped surrogate with the advantage f A

M_k drops tokens with Delta_k > log dual_clip. Where A < 0 and r > safety_ratio, f is held to [0.8, 1]. A
response with more than one dual-clipped token is left out. Defaults: the authors' 32B run.

At the first update after a rollout f = 1 and FIPO is DAPO: it needs several updates per rollout.

Departures:
1. Read from a fork of the authors' code, since no release of it was at hand.
2. f_clip = 0 gives f = 1, so DAPO; in that code it lifts the band instead and caps f at 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.checks import check_clip
from owpo.core.deviation import MAX_LOG_RATIO
from owpo.core.registry import Needs, Scaffold, register
from owpo.core.surrogate import clipped_surrogate, probability_ratio

_SAFE_LOW, _SAFE_HIGH = 0.8, 1.0
_CHUNK = 128


@dataclass(frozen=True, kw_only=True)
class FIPOConfig:
    """half_life of the future in tokens (the paper's tau); f_clip is an offset from 1."""

    half_life: float = 32.0
    f_clip: float = 0.2
    high_only: bool = True
    safety_ratio: float = 4.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 10.0

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high, self.dual_clip)
        if self.dual_clip == 0:
            raise ValueError(
                "fipo's dual_clip must be above 1, got 0: it also bounds what counts as future movement"
            )
        if self.half_life <= 0:
            raise ValueError(f"half_life is a number of tokens and must be positive, got {self.half_life}")
        if not 0 <= self.f_clip < 1:
            raise ValueError(f"f_clip is an offset from 1 and must lie in [0, 1), got {self.f_clip}")
        if self.safety_ratio < 1:
            raise ValueError(
                f"safety_ratio must be at least 1, got {self.safety_ratio}; the 32B run's value is 4"
            )


@register(
    "fipo",
    config=FIPOConfig,
    source="arXiv 2603.19835",
    needs=Needs(old_logp=True),
    scaffold=Scaffold(dynamic_sampling=True),
)
def fipo(batch: TokenBatch, config: FIPOConfig) -> TokenLoss:
    assert batch.old_logp is not None
    advantage = batch.advantage_BT
    ratio = probability_ratio(batch.logp, batch.old_logp)
    movement = (batch.logp.detach() - batch.old_logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    counted = movement <= math.log(config.dual_clip)
    future_kl = discounted_future_sum(movement * counted, 2 ** (-1 / config.half_life))

    low = 1.0 if config.high_only else 1 - config.f_clip
    weight = future_kl.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(low, 1 + config.f_clip)
    is_unsafe = (advantage < 0) & (ratio.detach() > config.safety_ratio)
    weight = torch.where(is_unsafe, weight.clamp(_SAFE_LOW, _SAFE_HIGH), weight)

    loss, clipped = clipped_surrogate(
        ratio, weight * advantage, config.clip_low, config.clip_high, config.dual_clip
    )
    is_dual = (advantage < 0) & (ratio.detach() > config.dual_clip)
    dropped = (is_dual.sum(dim=1, keepdim=True) > 1).expand_as(batch.mask)
    stats = {"ratio": ratio, "clipped": clipped, "future_kl": future_kl, "weight": weight, "dropped": dropped}
    return TokenLoss(torch.where(dropped, torch.zeros_like(loss), loss), stats)


def discounted_future_sum(value: Tensor, gamma: float) -> Tensor:
    """sum over k >= t of gamma^(k-t) value_k, [B, T].

    In chunks: a triangular product inside each, and one carry between neighbours. T steps would cost T kernel
    launches, a [T, T] matrix too much memory, and a scaled cumulative sum its precision (gamma^-T overflows).
    """
    rows, tokens = value.shape
    chunks = -(-tokens // _CHUNK)
    padded = torch.nn.functional.pad(value, (0, chunks * _CHUNK - tokens)).reshape(rows, chunks, _CHUNK)
    place = torch.arange(_CHUNK, device=value.device, dtype=value.dtype)
    discount = torch.tril(gamma ** (place.unsqueeze(1) - place).clamp(min=0))  # [k, t]
    inside = padded @ discount
    to_next_chunk = gamma ** (_CHUNK - place)
    carry, sums = value.new_zeros(rows, 1), []
    for chunk in reversed(inside.unbind(dim=1)):
        total = chunk + carry * to_next_chunk
        carry = total[:, :1]
        sums.append(total)
    return torch.cat(sums[::-1], dim=1)[:, :tokens] if sums else value
