"""Sym-DAPO, the OWPO paper's symmetric baseline (arXiv 2605.22156, section 5): DAPO plus a KL to the
reference.

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_beta * KL(pi || ref)

"Symmetric" because the KL pulls back every deviation from the reference, whatever the verifier says of it.
The paper chose kl_beta among 0.1, 0.01 and 0.001.

Departures:
1. The paper does not name the estimator. Ours is k2, whose gradient is the reverse KL's; others by
   `kl_estimator`.
"""

from __future__ import annotations

from dataclasses import dataclass

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.kl import KLEstimator
from owpo.core.objectives.grpo import GRPOConfig, grpo, needs_with_kl
from owpo.core.registry import Scaffold, register


@dataclass(frozen=True, kw_only=True)
class SymDAPOConfig(GRPOConfig):
    """As GRPO, with DAPO's clip and the paper's KL weight."""

    clip_high: float = 0.28
    kl_beta: float = 1e-3
    kl_estimator: KLEstimator = "k2"


@register(
    "sym_dapo",
    config=SymDAPOConfig,
    source="arXiv 2605.22156, section 5 (baselines)",
    needs=lambda config: needs_with_kl(config.kl_beta),
    scaffold=Scaffold(dynamic_sampling=True),
)
def sym_dapo(batch: TokenBatch, config: SymDAPOConfig) -> TokenLoss:
    return grpo(batch, config)
