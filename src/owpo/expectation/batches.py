"""How well one batch of a training step points the way of a verifier without errors.

Shape legend: P prompts, G responses per prompt, B = P * G rows, T response tokens, K basis gradients, D parameters,
N batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from owpo.core.advantage import estimate_advantage
from owpo.evaluation.score_intervals import t_quantile
from owpo.expectation.gradients import cosine, products
from owpo.expectation.rules import known_parts
from owpo.expectation.sample import CLEAN, RULES, Basis, Sample
from owpo.policy.model import Policy

_LEVEL = 0.95


def batch_cosines(
    policy: Policy,
    sample: Sample,
    basis: Basis,
    halves: tuple[Tensor, Tensor],
    *,
    num_batches: int,
    prompts: int,
    group_size: int,
    seed: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """How small batches with drawn flips point to the clean gradient of the half that they are not drawn from.

    A batch takes `prompts` prompts and `group_size` responses to each from one half. The flips of all levels come from
    the same uniform numbers, and all rules see the same batches, so that differences are paired.

    Returns:
        For each rule and flip the number of `batches` in which both it and DAPO have a gradient, the mean `cosine` with
        its 95% interval over them, and the paired difference `over_dapo` with its own.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = int(basis.coordinates("dapo", CLEAN).argmax())
    found: dict[tuple[str, float], list[float]] = {(rule, flip): [] for rule in RULES for flip in basis.flips}
    for number in range(num_batches):
        half = number % 2
        index, correct_PG = _draw(sample, half, prompts, group_size, generator)
        uniform_PG = torch.rand(correct_PG.shape, generator=generator, dtype=torch.float64)
        parts = []
        for flip in basis.flips:
            told_PG = correct_PG ^ (uniform_PG < flip).to(correct_PG.device)
            parts.append(known_parts(estimate_advantage(told_PG.double(), "group_std").flatten()))
        gradient_KD = sample.gradients(policy, index, basis.coefficients(sample.log_ratio_BT[index], parts))
        target_1D = halves[1 - half][clean : clean + 1]
        vectors = torch.cat([gradient_KD, target_1D])
        product = products(vectors, vectors)
        target = torch.zeros(len(vectors), dtype=torch.float64)
        target[-1] = 1
        for rule, flip in found:
            own = pad(basis.coordinates(rule, flip), (0, 1))
            value = cosine(product, own, target)
            found[rule, flip].append(math.nan if value is None else value)
        on_batch(number + 1)
    return {"prompts": prompts, "group_size": group_size, "rules": _summary(found)}


def _draw(
    sample: Sample, half: int, prompts: int, group_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Row indices [B] of a batch, prompt-major, and what is correct in it, [P, G]."""
    num_prompts, size = sample.correct_PG.shape
    first, last = (0, size // 2) if half == 0 else (size // 2, size)
    chosen_P = torch.randperm(num_prompts, generator=generator)[:prompts]
    response_PG = torch.stack(
        [torch.randperm(last - first, generator=generator)[:group_size] + first for _ in chosen_P]
    )
    index = (chosen_P.unsqueeze(1) * size + response_PG).flatten().to(sample.correct_PG.device)
    return index, sample.correct_PG.flatten()[index].view(response_PG.shape)


def _summary(found: dict[tuple[str, float], list[float]]) -> list[dict[str, Any]]:
    rows = []
    for (rule, flip), values in found.items():
        own_N, dapo_N = (torch.tensor(each, dtype=torch.float64) for each in (values, found["dapo", flip]))
        difference_N = own_N - dapo_N
        defined_N = ~difference_N.isnan()
        rows.append({
            "rule": rule,
            "flip": flip,
            "batches": int(defined_N.sum()),
            "cosine": mean_interval(own_N[defined_N]),
            "over_dapo": mean_interval(difference_N[defined_N]),
        })  # fmt: skip
    return rows


def mean_interval(value_N: Tensor) -> list[float] | None:
    """[mean, low, high] with Student's 95% interval; None for fewer than two values."""
    if len(value_N) < 2:
        return None
    mean = value_N.mean().item()
    half = t_quantile(_LEVEL, len(value_N) - 1) * value_N.std().item() / math.sqrt(len(value_N))
    return [mean, mean - half, mean + half]
