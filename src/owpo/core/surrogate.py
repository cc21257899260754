"""The clipped policy-gradient surrogate that most objectives share."""

from __future__ import annotations

import torch
from torch import Tensor

from owpo.core.deviation import MAX_LOG_RATIO


def probability_ratio(logp: Tensor, old_logp: Tensor) -> Tensor:
    """r = pi / pi_old, with the gradient of logp.

    The exponent is held to +-20 so that r stays finite. Beyond that there is no gradient: no token of a sound
    run is e^20 times as likely as it was at the start of its own rollout.
    """
    return (logp - old_logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_surrogate(
    ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) and where its gradient is cut off.

    With `dual_clip` = c > 1 the loss of a token with A < 0 is held at -c A (arXiv 1912.09729).

    Returns:
        loss [B, T] and clipped [B, T] bool.
    """
    unclipped = -ratio * advantage
    clipped = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    loss = torch.maximum(unclipped, clipped)
    is_clipped = clipped > unclipped
    if dual_clip is not None:
        ceiling = -dual_clip * advantage
        is_dual = (advantage < 0) & (loss > ceiling)
        loss = torch.where(is_dual, ceiling, loss)
        is_clipped = is_clipped | is_dual
    return loss, is_clipped
