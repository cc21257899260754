"""OWPO with a band that narrows with the measured signal: a variant of ours, not the paper's.

    loss   = -w * min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),   r = pi / pi_old
    w      = sg[clip(exp(-delta), 1 - s a, 1 + s b)],   a = 1 - w_low,  b = w_high - 1
    s      = min(1, 2 k m / (a (1 + m) + b (1 - m))),   k = max_cancelled
    m      = |sum A| / sum |A|   over the responses of the optimiser step that share the token's context

A context is the prompt with the response's tokens up to and including this one. OWPO's w depends on the sign
of A, so where responses part after a token, some right and some wrong, the mean of w A can turn although no w
is negative. Let P and N be the sums of A's positive and negative parts in a context, P > N. The least that
weights of the band [1 - s a, 1 + s b] can make of sum A = P - N is

    (1 - s a) P - (1 + s b) N  =  (P - N) - s (a P + b N)

and (1 - k) (P - N) of it is left, at least, if s (a P + b N) <= k (P - N): the s above, for m = (P - N) / (P + N).
For N > P the same holds with the signs turned. In a band of [1 - h, 1 + h] it reads s h = min(h, k m).

Departures:
1. Of the paper in all that is said here. With one response to each context m = 1, and it is OWPO if k >= a.
2. The mean is over responses with equal weights, those of `token-mean`. A reduction that divides by a
   response's length weighs them otherwise than m does.
3. m is of the sample: above the expectation's |E A| / E|A| on average, and 1 in a context of one response.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.deviation import one_way_weight
from owpo.core.one_way import OWPOConfig, apply_weight, deviation_of, where_active
from owpo.core.registry import Needs, Scaffold, register


@dataclass(frozen=True, kw_only=True)
class NarrowedConfig(OWPOConfig):
    """max_cancelled: the largest share of a context's mean advantage that the weights may take away."""

    max_cancelled: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_cancelled <= 1:
            raise ValueError(
                f"max_cancelled is a share of the mean advantage and must lie in (0, 1], got {self.max_cancelled}; "
                "above 1 the mean update could turn"
            )


def measured_signal(batch: TokenBatch, config: NarrowedConfig, generator: torch.Generator) -> Tensor:
    """m [B, T] = |sum A| / sum |A| over the tokens that share a context; 0 where no A in it differs from 0."""
    assert batch.context is not None
    advantage = batch.advantage_BT.to(batch.logp.dtype)
    contexts, index = batch.context.unique(return_inverse=True)
    index = index.flatten()

    def summed(value: Tensor) -> Tensor:
        return value.new_zeros(len(contexts)).index_add(0, index, value.flatten())

    signal = summed(advantage).abs() / summed(advantage.abs())
    return signal.nan_to_num(nan=0.0).clamp(max=1)[index].view_as(advantage)


@register(
    "owpo_narrowed",
    config=NarrowedConfig,
    source="ours, from arXiv 2605.22156",
    needs=Needs(reference=True, active_only=True, old_logp=True, prepared=True, contexts=True),
    scaffold=Scaffold(dynamic_sampling=True),
    prepare=measured_signal,
)
def owpo_narrowed(batch: TokenBatch, config: NarrowedConfig) -> TokenLoss:
    assert batch.weight is not None
    signal = batch.weight
    below, above = 1 - config.w_low, config.w_high - 1
    room = 2 * config.max_cancelled * signal
    width = below * (1 + signal) + above * (1 - signal)
    share = torch.where(room < width, room / width, torch.ones_like(signal))
    low, high = 1 - share * below, 1 + share * above
    delta = deviation_of(batch, config.weight_policy)
    weight = where_active(batch, one_way_weight(delta, config.w_low, config.w_high).clamp(low, high))
    result = apply_weight(batch, config, delta, weight)
    saturated = (weight != 1) & ((weight <= low) | (weight >= high))
    return TokenLoss(result.loss, result.stats | {"saturated": saturated, "signal": signal})
