"""The heart of the method: how far a token is past its reference, and what that does to its step.

    delta = sgn(A) * (log pi - log ref),  sgn(0) = 0              eq. 5
    w     = sg[clip(exp(-delta), w_low, w_high)]                  eq. 7     (arXiv 2605.22156)

The verifier's advantage A alone decides the direction of a token's update; w > 0 only scales its size.
delta < 0: the policy lags behind the reference along the verifier's direction, w > 1 (accelerated).
delta > 0: it is past the reference, w < 1 (locked).

Shape legend: P prompts, G responses per prompt, B = P * G sequences, T response tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# exp(20) is finite in every dtype we compute in, and far outside any weight band.
MAX_LOG_RATIO = 20.0


def deviation(logp: Tensor, ref_logp: Tensor, advantage: Tensor) -> Tensor:
    """delta [B, T] in nats, without gradient: positive where the policy is past its reference (eq. 5)."""
    return torch.sign(advantage) * (logp - ref_logp).detach()


def _one_way(delta: Tensor) -> Tensor:
    return -delta


def _no_asym(delta: Tensor) -> Tensor:
    return -delta.abs()


def _inverted(delta: Tensor) -> Tensor:
    return delta


# The exponent that each rule gives to a deviation; the weight is its exponential, clipped to the band. The
# paper's other two ablations are bands: [1, w_high] never locks, [w_low, 1] never accelerates.
RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "one_way": _one_way,  # eq. 7
    "no_asym": _no_asym,  # "w/o Asym": the size of delta alone, our reading of the paper's one line
    "inverted": _inverted,  # the rule as the paper's Figure 2 prints it, pi/ref where eq. 7 has ref/pi
}


def one_way_weight(delta: Tensor, w_low: float, w_high: float, rule: str = "one_way") -> Tensor:
    """w [B, T] in [w_low, w_high], without gradient; 1 where delta is 0 (eq. 7)."""
    exponent = RULES[rule](delta.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return exponent.exp().clamp(w_low, w_high)


def kl_would_flip(delta: Tensor, advantage: Tensor, beta: float) -> Tensor:
    """[B, T] bool: tokens whose update a KL penalty beta * k2 would turn against the verifier.

    Along the verifier's direction such a penalty leaves the coefficient |A| - beta * delta (on-policy), which
    is negative once delta > |A| / beta. A token with A = 0 has no direction to turn. Section 4 calls this
    force reversal; whether it happens at a given beta is to be measured.
    """
    size = advantage.abs()
    return (size > 0) & (beta * delta > size)


def active_count(step: int, num_steps: int, group_size: int) -> int:
    """N_act, active samples of a group at `step` (0-based) of a stage: linear from G to 1 (Algorithm 1)."""
    if num_steps <= 1:
        return group_size
    done = min(step, num_steps - 1) / (num_steps - 1)
    return max(1, round(group_size - (group_size - 1) * done))


def top_active(advantage_PG: Tensor, num_active: int) -> Tensor:
    """active [P, G] bool: the `num_active` samples of each group with the largest |A|, ties by sample index.

    With binary rewards |A| takes two values in a group, so ties are the rule: the rarer outcome comes first.
    """
    assert num_active >= 1, num_active
    order_PG = advantage_PG.abs().sort(dim=1, descending=True, stable=True).indices
    active_PG = torch.zeros_like(advantage_PG, dtype=torch.bool)
    return active_PG.scatter_(1, order_PG[:, :num_active], True)
