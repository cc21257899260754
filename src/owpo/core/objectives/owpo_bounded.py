"""A lock that does not know the sign of A, and distillation in a term of its own: a variant of ours, not the paper's.

    loss   = -w * min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)  -  distill_weight * r d,   r = pi / pi_old
    w      = sg[clip(exp(-|delta|), w_low, 1)],   d = sg[clip(log ref - log pi, -distill_bound, distill_bound)]

OWPO's w A is A plus a distillation of at most 0.2 |A|, which comes of w's dependence on the sign of A and can turn
the mean over samples. Here w does not depend on it, so the verifier's part is one-way in expectation too, and
what pulls to the reference is on-policy distillation, bounded at every token. At the defaults it weighs at most
0.2, as much as OWPO's at |A| = 1.

Departures:
1. Of the paper in all that is said here. w is that of the ablation "w/o Asym" as we read it.
2. The distillation is of every sample: of those that are not active, for the curriculum is w's alone, and of
   those with A = 0, for it does not need the verifier. DAPO's dynamic sampling leaves few of the latter.
3. The sum of both parts can turn a single token's update, where w |A| < distill_weight * distill_bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.one_way import LockingConfig, weighted_surrogate
from owpo.core.registry import Needs, Scaffold, register
from owpo.core.surrogate import probability_ratio


@dataclass(frozen=True, kw_only=True)
class BoundedConfig(LockingConfig):
    """distill_weight weighs a nat of the distillation against an advantage; distill_bound is in nats."""

    distill_weight: float = 0.2
    distill_bound: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("distill_weight", "distill_bound"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"{name} must be positive, got {getattr(self, name)}; without distillation this is 'no_asym'"
                )


@register(
    "owpo_bounded",
    config=BoundedConfig,
    source="ours, from arXiv 2605.22156",
    needs=Needs(reference=True, old_logp=True, zero_advantage=True),
    scaffold=Scaffold(dynamic_sampling=True),
)
def owpo_bounded(batch: TokenBatch, config: BoundedConfig) -> TokenLoss:
    assert batch.old_logp is not None
    assert batch.ref_logp is not None
    verifier = weighted_surrogate(batch, config.with_band(), "no_asym")
    kl = batch.logp.detach() - batch.ref_logp
    pull = -config.distill_weight * kl.clamp(-config.distill_bound, config.distill_bound)
    advantage = verifier.stats["weight"] * batch.advantage_BT
    stats = {
        "kl": kl,
        "distill_clipped": kl.abs() > config.distill_bound,
        "overruled": (advantage + pull) * advantage < 0,
    }
    ratio = probability_ratio(batch.logp, batch.old_logp)
    return TokenLoss(verifier.loss - ratio * pull, verifier.stats | stats)
