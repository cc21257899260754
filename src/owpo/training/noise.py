"""A verifier that errs on purpose: what training is told in place of the truth, for studies of robustness.

Evaluations, and whatever is chosen by them, never come through here.

Shape legend: P prompts, G responses per prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from owpo.config import VerifierConfig


def is_noisy(verifier: VerifierConfig) -> bool:
    return verifier.flip_correct > 0 or verifier.flip_wrong > 0


def rewarded(correct_PG: Tensor, verifier: VerifierConfig, seed: int) -> Tensor:
    """rewarded_PG [P, G] bool: the verdicts as training is told them.

    Each verdict is turned on its own: "correct" with probability `flip_correct`, any other with `flip_wrong`. The
    uniform number that decides belongs to the seed and the place (p, g) alone. Without noise this is `correct_PG`.
    """
    if not is_noisy(verifier):
        return correct_PG
    uniform_PG = torch.rand(
        correct_PG.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    probability_PG = torch.full_like(uniform_PG, verifier.flip_wrong)
    probability_PG[correct_PG] = verifier.flip_correct
    return correct_PG ^ (uniform_PG < probability_PG)


def noise_warning(verifier: VerifierConfig) -> str | None:
    """What the owner of a noisy run must know; None for any other."""
    if not is_noisy(verifier):
        return None
    warning = (
        f"the verifier errs on purpose: training is told the opposite of {verifier.flip_correct:.1%} of the correct "
        f"and {verifier.flip_wrong:.1%} of the other verdicts; evaluations are not"
    )
    if verifier.flip_correct + verifier.flip_wrong >= 1:
        warning += ". The two sum to 1 or more, so that being right is not rewarded"
    return warning
