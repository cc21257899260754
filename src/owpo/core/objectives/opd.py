"""OPD, on-policy distillation (Thinking Machines, 2025): the reverse KL to the reference as a per-token
advantage.

    loss = -r sg[log ref - log student],   r = pi / pi_old

No verifier: `advantage` is not read, and a token where student and reference agree has no gradient, so
nothing is centred or whitened. Only the immediate token is credited (discount 0).

Departures:
1. `student_logp`: with "current" the coefficient is r (log ref - log pi), the gradient of KL(pi || ref) on
   the rollout's samples at every inner update. "old" fixes the advantage at the rollout, as the authors' code
   does (there with the sampler's log-probs). The two are equal at the first update.
2. No coefficient: alone in the loss it would only rescale the learning rate.
3. Averaged over the step's tokens, where the authors' service sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.registry import Needs, Scaffold, register
from owpo.core.surrogate import probability_ratio


@dataclass(frozen=True, kw_only=True)
class OPDConfig:
    """student_logp: whose log-prob is compared with the reference's."""

    student_logp: Literal["current", "old"] = "current"


@register(
    "opd",
    config=OPDConfig,
    source="Lu and Thinking Machines, On-Policy Distillation (2025)",
    needs=Needs(reference=True, old_logp=True, zero_advantage=True),
    scaffold=Scaffold(advantage="group_std", reduction="token-mean"),
)
def opd(batch: TokenBatch, config: OPDConfig) -> TokenLoss:
    assert batch.old_logp is not None
    assert batch.ref_logp is not None
    student_logp = batch.logp.detach() if config.student_logp == "current" else batch.old_logp
    kl = student_logp - batch.ref_logp
    ratio = probability_ratio(batch.logp, batch.old_logp)
    return TokenLoss(ratio * kl, {"ratio": ratio, "kl": kl})
