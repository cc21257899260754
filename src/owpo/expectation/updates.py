"""Which way expected updates point, against that of a verifier without errors.

The way is DAPO's expected gradient on the whole sample without flips. The sample is held in two halves of every
prompt's responses, so that neither a batch nor a corrected cosine meets its own responses in it.

Shape legend: K basis gradients, D parameters, B responses, T response tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from owpo.expectation.gradients import cosine, products
from owpo.expectation.sample import CLEAN, RULES, Basis, Sample, expected_coefficients
from owpo.policy.model import Policy


def half_gradients(policy: Policy, sample: Sample, basis: Basis) -> tuple[Tensor, Tensor]:
    """The basis on the first and on the second half of every prompt's responses, [K, D] each."""
    coefficient_KBT = expected_coefficients(sample, basis)
    size = sample.correct_PG.shape[1]
    is_first_B = torch.arange(len(sample.prompt_B), device=policy.device) % size < size // 2
    first, second = (half_B.nonzero().squeeze(1) for half_B in (is_first_B, ~is_first_B))
    return (
        sample.gradients(policy, first, coefficient_KBT[:, first]),
        sample.gradients(policy, second, coefficient_KBT[:, second]),
    )


def expected_cosines(halves: tuple[Tensor, Tensor], basis: Basis) -> dict[str, Any]:
    """Angles between expected updates.

    Returns:
        `agreement` of the two halves on the clean gradient; for each rule and flip the cosine `to_clean` gradient and
        `to_dapo`'s at the same flip, each also `_corrected` for the sample's noise.
    """
    whole = halves[0] + halves[1]
    across = products(*halves)
    seen, corrected = products(whole, whole), (across + across.T) / 2
    clean = basis.coordinates("dapo", CLEAN)
    lengths = math.prod((clean @ products(half, half) @ clean).item() for half in halves)
    rows = []
    for rule in RULES:
        for flip in basis.flips:
            own, dapo = basis.coordinates(rule, flip), basis.coordinates("dapo", flip)
            rows.append({
                "rule": rule,
                "flip": flip,
                "to_clean": cosine(seen, own, clean),
                "to_clean_corrected": cosine(corrected, own, clean),
                "to_dapo": cosine(seen, own, dapo),
                "to_dapo_corrected": cosine(corrected, own, dapo),
            })  # fmt: skip
    return {
        "agreement": (clean @ across @ clean).item() / math.sqrt(lengths) if lengths > 0 else None,
        "rules": rows,
    }
