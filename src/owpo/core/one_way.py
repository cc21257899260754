"""What OWPO, its ablations and its variants share: the band's hyper-parameters, and a weight on DAPO's surrogate.

Shape legend: B sequences, T response tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.checks import check_band, check_clip
from owpo.core.deviation import deviation, kl_would_flip, one_way_weight
from owpo.core.surrogate import clipped_surrogate, probability_ratio

# The KL weight of the paper's symmetric baseline, for the stat `flipped_by_kl`.
_PAPER_KL_BETA = 1e-3


@dataclass(frozen=True, kw_only=True)
class BandConfig:
    """w_low and w_high bound the weight itself; clip_low and clip_high are the ratio's offsets from 1."""

    w_low: float = 0.8
    w_high: float = 1.2
    clip_low: float = 0.2
    clip_high: float = 0.28

    def __post_init__(self) -> None:
        check_band(self.w_low, self.w_high)
        check_clip(self.clip_low, self.clip_high)


@dataclass(frozen=True, kw_only=True)
class OWPOConfig(BandConfig):
    """weight_policy: whose log-prob stands in delta, the current policy's or pi_old's.

    The two are equal at the first update of a rollout.
    """

    weight_policy: Literal["current", "old"] = "current"


@dataclass(frozen=True, kw_only=True)
class LockingConfig:
    """A band [w_low, 1]: past the reference a step is smaller, elsewhere it is the verifier's."""

    w_low: float = 0.8
    clip_low: float = 0.2
    clip_high: float = 0.28
    weight_policy: Literal["current", "old"] = "current"

    def with_band(self) -> OWPOConfig:
        return OWPOConfig(
            w_low=self.w_low, w_high=1.0,
            clip_low=self.clip_low, clip_high=self.clip_high, weight_policy=self.weight_policy,
        )  # fmt: skip

    def __post_init__(self) -> None:
        self.with_band()


def deviation_of(batch: TokenBatch, weight_policy: Literal["current", "old"]) -> Tensor:
    """delta [B, T] of the current policy or of pi_old, without gradient."""
    assert batch.old_logp is not None
    assert batch.ref_logp is not None
    policy_logp = batch.logp if weight_policy == "current" else batch.old_logp
    return deviation(policy_logp, batch.ref_logp, batch.advantage_BT)


def where_active(batch: TokenBatch, weight: Tensor) -> Tensor:
    """The weight [B, T], 1 in samples that are not active."""
    if batch.active is None:
        return weight
    return torch.where(batch.active.unsqueeze(1), weight, torch.ones_like(weight))


def _where_known(delta: Tensor, value: Tensor) -> Tensor:
    """NaN where the deviation is: an engine need not score inactive samples by the reference."""
    return torch.where(delta.isnan(), delta, value.to(delta.dtype))


def apply_weight(batch: TokenBatch, config: BandConfig, delta: Tensor, weight: Tensor) -> TokenLoss:
    """DAPO's loss times the weight [B, T], and what there is to know of the weight."""
    assert batch.old_logp is not None
    advantage = batch.advantage_BT
    ratio = probability_ratio(batch.logp, batch.old_logp)
    loss, clipped = clipped_surrogate(ratio, advantage, config.clip_low, config.clip_high)
    stats = {
        "delta": delta,
        "weight": weight,
        "neutral": weight == 1,
        "accelerated": weight > 1,
        "locked": weight < 1,
        "saturated": (weight != 1) & ((weight <= config.w_low) | (weight >= config.w_high)),
        "flipped_by_kl": _where_known(delta, kl_would_flip(delta, advantage, _PAPER_KL_BETA)),
        "ratio": ratio,
        "clipped": clipped,
    }
    return TokenLoss(weight * loss, stats)


def weighted_surrogate(batch: TokenBatch, config: OWPOConfig, rule: str = "one_way") -> TokenLoss:
    """DAPO's loss under the weight of a rule of `owpo.core.deviation.RULES`."""
    delta = deviation_of(batch, config.weight_policy)
    weight = one_way_weight(delta, config.w_low, config.w_high, rule)
    return apply_weight(batch, config, delta, where_active(batch, weight))
