"""DAPO (arXiv 2503.14476): PPO's clipped surrogate with a higher upper clip, averaged over the step's tokens.

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),   r = pi / pi_old

No KL, no entropy term. Dynamic sampling and overlong shaping, the paper's other half, belong to the engine.

Departures:
1. No dual clip unless asked for; the authors' script has one at 10, the paper does not mention it.
"""

from __future__ import annotations

from dataclasses import dataclass

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.objectives.ppo import PPOConfig, ppo
from owpo.core.registry import Needs, Scaffold, register


@dataclass(frozen=True, kw_only=True)
class DAPOConfig(PPOConfig):
    """As PPO, with "clip-higher"."""

    clip_high: float = 0.28


@register(
    "dapo",
    config=DAPOConfig,
    source="arXiv 2503.14476, eq. 8",
    needs=Needs(old_logp=True),
    scaffold=Scaffold(dynamic_sampling=True),
)
def dapo(batch: TokenBatch, config: DAPOConfig) -> TokenLoss:
    return ppo(batch, config)
