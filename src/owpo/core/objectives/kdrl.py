"""KDRL (arXiv 2506.02208): GRPO and distillation from a teacher (our reference) in one loss, with an annealed
weight.

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + beta * k2(pi, ref)
    beta = max(beta_start - beta_decay * step, beta_end)

k2's gradient coefficient is x = log pi - log ref, so on-policy this is the policy gradient of the advantage A
- beta x.

Departures:
1. The paper trains strictly on-policy, where the clip has no part; ours bounds further updates by PPO's 0.2.
2. The paper's reward-guided masking (no distillation where the response, or one of its group, is right) is
   left out.
3. `step` counts rollout steps of the stage (`TokenBatch.step`). The schedule's numbers are from secondary
   sources.
"""

from __future__ import annotations

from dataclasses import dataclass

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.objectives.grpo import needs_with_kl, ppo_with_kl
from owpo.core.objectives.ppo import PPOConfig
from owpo.core.registry import Scaffold, register


@dataclass(frozen=True, kw_only=True)
class KDRLConfig(PPOConfig):
    """The KL weight falls from beta_start by beta_decay a rollout step, down to beta_end."""

    beta_start: float = 5e-3
    beta_end: float = 1e-3
    beta_decay: float = 5e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta_end <= self.beta_start:
            raise ValueError(
                f"beta_end must lie in [0, beta_start = {self.beta_start}], got {self.beta_end}: "
                "the KL weight only falls"
            )
        if self.beta_decay < 0:
            raise ValueError(
                f"beta_decay is what the KL weight loses in a step, at least 0, got {self.beta_decay}"
            )


@register(
    "kdrl",
    config=KDRLConfig,
    source="arXiv 2506.02208",
    needs=lambda config: needs_with_kl(config.beta_start),
    scaffold=Scaffold(advantage="group_std", reduction="token-mean"),
)
def kdrl(batch: TokenBatch, config: KDRLConfig) -> TokenLoss:
    beta = max(config.beta_start - config.beta_decay * batch.step, config.beta_end)
    return ppo_with_kl(batch, config, beta, "k2")
