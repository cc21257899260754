"""A token's coefficient on grad log pi, on-policy, for an advantage that is known or expected.

An advantage comes in two parts that add up to it: `gain` >= 0 where it is positive, `loss` <= 0 where it is negative.
Of a known advantage one of them is zero. Of an uncertain one, A+ with chance p and else A-, they are p A+ and
(1 - p) A-, and a rule that is linear in them gives the coefficient's expectation:

    E[w A] = w+ p A+ + w- (1 - p) A-          w+, w-: the one-way weight for A > 0 and for A < 0

A verifier that errs with chance `flip`, either way, tells "correct" of a share p' = p (1 - flip) + (1 - p) flip where p
are. Its advantages are those of a large group with a told share q': A+ = (1 - q') / s, A- = -q' / s, s^2 = q' (1 - q').

All shapes broadcast. `log_ratio` is log pi - log ref of the token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from owpo.core.deviation import one_way_weight

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(log_ratio, gain, loss) -> coefficient."""


def dapo(log_ratio: Tensor, gain: Tensor, loss: Tensor) -> Tensor:
    return gain + loss


def opd(log_ratio: Tensor, gain: Tensor, loss: Tensor) -> Tensor:
    return -log_ratio


def weighted(w_low: float, w_high: float, rule: str = "one_way") -> Rule:
    """w A; `rule` is one of `owpo.core.deviation.RULES`."""

    def coefficient(log_ratio: Tensor, gain: Tensor, loss: Tensor) -> Tensor:
        w_gain = one_way_weight(log_ratio, w_low, w_high, rule)
        w_loss = one_way_weight(-log_ratio, w_low, w_high, rule)
        return w_gain * gain + w_loss * loss

    return coefficient


def mopd(alpha: float) -> Rule:
    def coefficient(log_ratio: Tensor, gain: Tensor, loss: Tensor) -> Tensor:
        return alpha * (gain + loss) - log_ratio

    return coefficient


def told_correct(correct: Tensor, flip: float) -> Tensor:
    """The share that is told correct where the share `correct` is."""
    return correct * (1 - flip) + (1 - correct) * flip


def expected_parts(told: Tensor, group_told: Tensor) -> tuple[Tensor, Tensor]:
    """(gain, loss) of what is told correct with chance `told`, in a group whose told share is `group_told`; zero where
    that is 0 or 1."""
    deviation = (group_told * (1 - group_told)).sqrt()
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)
    return told * (1 - group_told) * scale, -(1 - told) * group_told * scale


def known_parts(advantage: Tensor) -> tuple[Tensor, Tensor]:
    """(gain, loss) of an advantage that is known."""
    return advantage.clamp(min=0), advantage.clamp(max=0)
