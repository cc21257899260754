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
from owpo.core.deviation import deviation, one_way_weight
from owpo.core.one_way import (
    BandConfig,
    LockingConfig,
    OWPOConfig,
    apply_weight,
    weighted_surrogate,
    where_active,
)
from owpo.core.registry import Needs, Scaffold, register

_PAPER = "arXiv 2605.22156, eq. 5-7"
# An inactive sample has weight 1, whatever the reference says of it.
_NEEDS = Needs(reference=True, active_only=True, old_logp=True)
_SCAFFOLD = Scaffold(dynamic_sampling=True)


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


@register("owpo", config=OWPOConfig, source=_PAPER, needs=_NEEDS, scaffold=_SCAFFOLD)
def owpo(batch: TokenBatch, config: OWPOConfig) -> TokenLoss:
    """The method."""
    return weighted_surrogate(batch, config)


@register("no_asym", config=LockingConfig, source=_PAPER + ', "w/o Asym"', needs=_NEEDS, scaffold=_SCAFFOLD)
def no_asym(batch: TokenBatch, config: LockingConfig) -> TokenLoss:
    """w = clip(exp(-|delta|)): how far, but not on which side. Never above 1, so there is no w_high."""
    return weighted_surrogate(batch, config.with_band(), "no_asym")


@register(
    "no_locking",
    config=AccelerationConfig,
    source=_PAPER + ', "w/o Locking"',
    needs=_NEEDS,
    scaffold=_SCAFFOLD,
)
def no_locking(batch: TokenBatch, config: AccelerationConfig) -> TokenLoss:
    """w = 1 past the reference."""
    return weighted_surrogate(batch, config.with_band())


@register("no_accel", config=LockingConfig, source=_PAPER + ', "w/o Accel"', needs=_NEEDS, scaffold=_SCAFFOLD)
def no_accel(batch: TokenBatch, config: LockingConfig) -> TokenLoss:
    """w = 1 behind the reference."""
    return weighted_surrogate(batch, config.with_band())


@register(
    "inverted", config=OWPOConfig, source="arXiv 2605.22156, Figure 2", needs=_NEEDS, scaffold=_SCAFFOLD
)
def inverted(batch: TokenBatch, config: OWPOConfig) -> TokenLoss:
    """The rule as Figure 2 prints it: w = clip(exp(+delta))."""
    return weighted_surrogate(batch, config, "inverted")


def permuted_weights(batch: TokenBatch, config: BandConfig, generator: torch.Generator) -> Tensor:
    """The step's one-way weights [B, T], permuted among the tokens of active samples with A != 0."""
    assert batch.ref_logp is not None
    delta = deviation(batch.logp, batch.ref_logp, batch.advantage_BT)
    weight = where_active(batch, one_way_weight(delta, config.w_low, config.w_high))
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
    return apply_weight(batch, config, delta, batch.weight)
