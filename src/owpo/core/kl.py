"""KL(pi || ref) as a term of the loss: what each estimator adds to a token's loss, and what to its gradient.

With x = log pi - log ref at a sampled token and r = pi / pi_old:

    name      value               coefficient on grad log pi
    k2        x^2 / 2             x                            the reverse KL's gradient, on-policy
    k3        r (e^-x - 1 + x)    r x                          also off-policy: d[r (e^-x - 1 + x)] = r x dx
    k3_grpo   e^-x - 1 + x        1 - e^-x                     as GRPO prints it (arXiv 2402.03300, eq. 4)
    k1+       x                   x                            k1's value with k2's gradient
    k3+       e^-x - 1 + x        x                            k3's value with k2's gradient

The value of k3_grpo estimates the reverse KL, its gradient does not: it agrees with x for small x only,
levels off at 1 for x >> 0 and explodes for x << 0. k1 = x is no loss at all: its gradient is that of log pi
itself, which averages to zero over the policy's samples and does not know the reference.

The estimators are from Schulman, "Approximating KL divergence" (2020); the ratio in k3 from DeepSeek-V3.2. No
value is clamped, for a clamp would silence the gradient of exactly the tokens that are furthest away; only
exponents are held to 20, which keeps both columns finite.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from owpo.core.deviation import MAX_LOG_RATIO
from owpo.core.surrogate import probability_ratio

KLEstimator = Literal["k2", "k3", "k3_grpo", "k1+", "k3+"]

KL_ESTIMATORS: dict[str, str] = {
    "k2": "x^2 / 2; gradient coefficient x, the reverse KL's",
    "k3": "r (exp(-x) - 1 + x) with r differentiable; coefficient r x, the reverse KL's also off-policy",
    "k3_grpo": "exp(-x) - 1 + x as GRPO prints it; coefficient 1 - exp(-x), which is not the reverse KL's",
    "k1+": "value x, coefficient x (straight-through)",
    "k3+": "value exp(-x) - 1 + x, coefficient x (straight-through)",
}


def check_kl(beta: float, estimator: str) -> None:
    """beta >= 0, and an estimator that is a loss.

    Raises:
        ValueError: beta is negative, or the estimator is k1. Other unknown names are found by `objective()`.
    """
    if beta < 0:
        raise ValueError(f"a KL weight must not be negative, got {beta}; 0 leaves the KL out")
    if estimator == "k1":
        raise ValueError(
            "kl_estimator 'k1' is no loss: its gradient is that of log pi, which averages to zero and does "
            "not know the reference. Use 'k2' (the reverse KL's gradient), or 'k1+' to report k1"
        )


def kl_term(logp: Tensor, ref_logp: Tensor, old_logp: Tensor, estimator: str) -> Tensor:
    """KL of every token, [B, T], in nats, with the value and the gradient of the table above.

    Args:
        logp: [B, T], the only one whose gradient is followed.
        old_logp: read by `k3` alone.
        estimator: a name of `KL_ESTIMATORS`.
    """
    assert estimator in KL_ESTIMATORS, estimator
    x = (logp - ref_logp).detach()
    if estimator == "k2":
        value, coefficient = x.square() / 2, x
    elif estimator == "k1+":
        value, coefficient = x, x
    else:
        exponential = torch.expm1((-x).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
        value, coefficient = exponential + x, x
        if estimator == "k3_grpo":
            coefficient = -exponential
        elif estimator == "k3":
            ratio = probability_ratio(logp.detach(), old_logp)
            value, coefficient = ratio * value, ratio * x
    return value + coefficient * (logp - logp.detach())
