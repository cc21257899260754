"""OWPO (arXiv 2605.22156, eq. 5-7): DAPO with a one-way weight on every token.

    loss  = -w * min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),   r = pi / pi_old
    w     = sg[clip(exp(-delta), w_low, w_high)],   delta = sgn(A) (log pi - log ref)

w follows the current policy, so it is recomputed at every inner update (`weight_policy = "old"` keeps
pi_old's). Samples that are not active (Algorithm 1's curriculum) have w = 1. The same w with lambda = 1 is in
RLSD (arXiv 2604.03128) with the reference as teacher.

The ablations differ in the weight alone: in its rule (`no_asym`, `inverted`), in its band (`no_locking` has
no lower half, `no_accel` no upper one), or in its place (`shuffled` permutes the weights among the tokens of
an optimiser step, which keeps their distribution and destroys their meaning).

Departures:
1. A token's response counts as active by (advantage, sample index); the paper does not say how ties are
   broken.
2. "w/o Asym" is one line in the paper; exp(-|delta|) is our reading.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.checks import check_band, check_clip
from owpo.core.deviation import deviation, kl_would_flip, one_way_weight
from owpo.core.registry import Needs, Scaffold, register
from owpo.core.surrogate import clipped_surrogate, probability_ratio

_PAPER = "arXiv 2605.22156, eq. 5-7"
# An inactive sample has weight 1, whatever the reference says of it.
_NEEDS = Needs(reference=True, active_only=True, old_logp=True)
_SCAFFOLD = Scaffold(dynamic_sampling=True)

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
        return OWPOConfig(w_high=1.0, **asdict(self))

    def __post_init__(self) -> None:
        self.with_band()


@dataclass(frozen=True, kw_only=True)
class AccelerationConfig:
    """A band [1, w_high]: behind the reference a step is larger, elsewhere it is the verifier's."""

    w_high: float = 1.2
    clip_low: float = 0.2
    clip_high: float = 0.28
    weight_policy: Literal["current", "old"] = "current"

    def with_band(self) -> OWPOConfig:
        return OWPOConfig(w_low=1.0, **asdict(self))

    def __post_init__(self) -> None:
        self.with_band()


def _weighted_surrogate(batch: TokenBatch, config: OWPOConfig, rule: str = "one_way") -> TokenLoss:
    assert batch.old_logp is not None
    assert batch.ref_logp is not None
    policy_logp = batch.logp if config.weight_policy == "current" else batch.old_logp
    delta = deviation(policy_logp, batch.ref_logp, batch.advantage_BT)
    weight = one_way_weight(delta, config.w_low, config.w_high, rule)
    return _apply_weight(batch, config, delta, _where_active(batch, weight))


def _where_active(batch: TokenBatch, weight: Tensor) -> Tensor:
    if batch.active is None:
        return weight
    return torch.where(batch.active.unsqueeze(1), weight, torch.ones_like(weight))


def _where_known(delta: Tensor, value: Tensor) -> Tensor:
    """NaN where the deviation is: an engine need not score inactive samples by the reference."""
    return torch.where(delta.isnan(), delta, value.to(delta.dtype))


def _apply_weight(batch: TokenBatch, config: BandConfig, delta: Tensor, weight: Tensor) -> TokenLoss:
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


@register("owpo", config=OWPOConfig, source=_PAPER, needs=_NEEDS, scaffold=_SCAFFOLD)
def owpo(batch: TokenBatch, config: OWPOConfig) -> TokenLoss:
    """The method."""
    return _weighted_surrogate(batch, config)


@register("no_asym", config=LockingConfig, source=_PAPER + ', "w/o Asym"', needs=_NEEDS, scaffold=_SCAFFOLD)
def no_asym(batch: TokenBatch, config: LockingConfig) -> TokenLoss:
    """w = clip(exp(-|delta|)): how far, but not on which side. Never above 1, so there is no w_high."""
    return _weighted_surrogate(batch, config.with_band(), "no_asym")


@register(
    "no_locking",
    config=AccelerationConfig,
    source=_PAPER + ', "w/o Locking"',
    needs=_NEEDS,
    scaffold=_SCAFFOLD,
)
def no_locking(batch: TokenBatch, config: AccelerationConfig) -> TokenLoss:
    """w = 1 past the reference."""
    return _weighted_surrogate(batch, config.with_band())


@register("no_accel", config=LockingConfig, source=_PAPER + ', "w/o Accel"', needs=_NEEDS, scaffold=_SCAFFOLD)
def no_accel(batch: TokenBatch, config: LockingConfig) -> TokenLoss:
    """w = 1 behind the reference."""
    return _weighted_surrogate(batch, config.with_band())


@register(
    "inverted", config=OWPOConfig, source="arXiv 2605.22156, Figure 2", needs=_NEEDS, scaffold=_SCAFFOLD
)
def inverted(batch: TokenBatch, config: OWPOConfig) -> TokenLoss:
    """The rule as Figure 2 prints it: w = clip(exp(+delta))."""
    return _weighted_surrogate(batch, config, "inverted")


def permuted_weights(batch: TokenBatch, config: BandConfig, generator: torch.Generator) -> Tensor:
    """The step's one-way weights [B, T], permuted among the tokens of active samples with A != 0."""
    assert batch.ref_logp is not None
    delta = deviation(batch.logp, batch.ref_logp, batch.advantage_BT)
    weight = _where_active(batch, one_way_weight(delta, config.w_low, config.w_high))
    has_weight = batch.mask & (batch.advantage_BT != 0)
    if batch.active is not None:
        has_weight = has_weight & batch.active.unsqueeze(1)
    own = weight[has_weight]
    order = torch.randperm(own.numel(), generator=generator).to(own.device)
    return weight.masked_scatter(has_weight, own[order])


@register(
    "shuffled",
    config=BandConfig,
    source="control; " + _PAPER,
    needs=replace(_NEEDS, prepared=True),
    scaffold=_SCAFFOLD,
    prepare=permuted_weights,
)
def shuffled(batch: TokenBatch, config: BandConfig) -> TokenLoss:
    """OWPO's weights under pi_old, each on another token."""
    assert batch.ref_logp is not None
    assert batch.weight is not None
    delta = deviation(batch.logp, batch.ref_logp, batch.advantage_BT)
    return _apply_weight(batch, config, delta, batch.weight)
