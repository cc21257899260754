"""GRPO (DeepSeekMath, arXiv 2402.03300): PPO's surrogate with a group baseline, plus a KL to the reference.

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_beta * KL(pi || ref)

averaged over each response's tokens, then over responses.

Departures:
1. The paper leaves the clip offset open; ours is PPO's 0.2.
2. `kl_estimator` offers the estimators of `owpo.core.kl`. The default is the one that the paper prints, whose
   gradient is not the reverse KL's. With kl_beta = 0 no reference is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.deviation import deviation, kl_would_flip
from owpo.core.kl import KLEstimator, check_kl, kl_term
from owpo.core.objectives.ppo import PPOConfig, ppo
from owpo.core.registry import Needs, Scaffold, register


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(PPOConfig):
    """kl_beta weighs the KL of a token, in nats; kl_estimator is a name of `owpo.core.kl.KL_ESTIMATORS`."""

    kl_beta: float = 0.04
    kl_estimator: KLEstimator = "k3_grpo"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kl(self.kl_beta, self.kl_estimator)


def ppo_with_kl(batch: TokenBatch, config: PPOConfig, beta: float, estimator: KLEstimator) -> TokenLoss:
    """PPO's loss plus beta times the KL of every token; PPO's alone where beta is 0."""
    policy = ppo(batch, config)
    if beta == 0:
        return policy
    assert batch.old_logp is not None
    assert batch.ref_logp is not None
    kl = kl_term(batch.logp, batch.ref_logp, batch.old_logp, estimator)
    delta = deviation(batch.logp, batch.ref_logp, batch.advantage_BT)
    flipped = kl_would_flip(delta, batch.advantage_BT, beta)
    return TokenLoss(
        policy.loss + beta * kl, policy.stats | {"kl": kl, "delta": delta, "flipped_by_kl": flipped}
    )


def needs_with_kl(beta: float) -> Needs:
    """A KL pulls at every token, also where the advantage is 0."""
    return Needs(old_logp=True, reference=beta > 0, zero_advantage=beta > 0)


@register(
    "grpo",
    config=GRPOConfig,
    source="arXiv 2402.03300, eq. 3-4",
    needs=lambda config: needs_with_kl(config.kl_beta),
    scaffold=Scaffold(advantage="group_std", reduction="seq-mean-token-mean"),
)
def grpo(batch: TokenBatch, config: GRPOConfig) -> TokenLoss:
    return ppo_with_kl(batch, config, config.kl_beta, config.kl_estimator)
