"""OWPO that locks only while the reference is ahead: a variant of ours, not the paper's.

    loss   = -w * min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),   r = pi / pi_old
    w      = sg[clip(exp(-delta), w_low, w_high)]   where the reference is ahead, else   sg[max(w, 1)]
    ahead  = sum A (log ref - log pi_old) > 0   over the response tokens of the optimiser step

The sum, that of -|A| delta, is positive where the verifier prefers, on the whole, the responses that the
reference thinks likelier than the policy does. It is taken at pi_old, once an optimiser step, for all of its
tokens.

Departures:
1. Of the paper in all that is said here. Right after ref <- policy the sum is 0 and nothing is locked.
2. Without locking the mean update of a token can still turn, at |E A| / E|A| below (w_high - 1) / (w_high + 1),
   for wrong samples go on being accelerated back to the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.deviation import one_way_weight
from owpo.core.one_way import OWPOConfig, apply_weight, deviation_of, where_active
from owpo.core.registry import Needs, Scaffold, register


def lowest_weight(batch: TokenBatch, config: OWPOConfig, generator: torch.Generator) -> Tensor:
    """The band's lower bound, the same at all of [B, T]: w_low where the reference is ahead, else 1."""
    assert batch.old_logp is not None
    assert batch.ref_logp is not None
    lead = (batch.advantage_BT * (batch.ref_logp - batch.old_logp)).sum()
    return torch.full_like(batch.logp, config.w_low if lead > 0 else 1.0)


@register(
    "owpo_while_ahead",
    config=OWPOConfig,
    source="ours, from arXiv 2605.22156",
    # Whether the reference is ahead is asked of all samples, not of active ones alone.
    needs=Needs(reference=True, old_logp=True, prepared=True),
    scaffold=Scaffold(dynamic_sampling=True),
    prepare=lowest_weight,
)
def owpo_while_ahead(batch: TokenBatch, config: OWPOConfig) -> TokenLoss:
    assert batch.weight is not None
    delta = deviation_of(batch, config.weight_policy)
    weight = one_way_weight(delta, config.w_low, config.w_high).clamp(min=batch.weight)
    result = apply_weight(batch, config, delta, where_active(batch, weight))
    return TokenLoss(result.loss, result.stats | {"ahead": batch.weight < 1})
