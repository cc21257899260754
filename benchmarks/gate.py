"""How often the gate lets a candidate pass, by simulation.

    python benchmarks/gate.py [--gates 2000] [--seed 0] [--json]

Each gate has problems of its own. A problem's difficulty comes from a mixture of Beta distributions; a checkpoint
differs from the reference by a shift on the logit scale, by what the stage did to this problem, which all its
checkpoints share, and by what is the checkpoint's own; every model answers K times. The shift is such that the
mean over all problems, not over those drawn, gains what the row says. A stage climbs in equal steps: checkpoint
c of C gains c / C of it. The candidate is the checkpoint with the largest mean.

All figures are percent of gates that pass. `gate` is `decide`; `uncorrected` gives it the candidate alone, as if
there had been no choice; `fresh` gives it the candidate alone, answering the same problems anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from owpo.config.ratchet import GateConfig
from owpo.evaluation import sign_flips
from owpo.evaluation.evaluate import nearest_rank
from owpo.ratchet.gate import Evidence, decide

# Shape legend: B gates, C checkpoints, N problems, K samples per problem, S = N K responses.
DIFFICULTIES = {  # share, alpha and beta of each Beta distribution
    "contest": [(0.5, 0.5, 1.5), (0.5, 1.5, 0.8)],
    "weak base": [(0.8, 0.05, 2.0), (0.2, 0.5, 3.0)],
    "strong": [(0.8, 5.0, 0.4), (0.2, 1.0, 1.0)],
}
SHARED, OWN = 0.5, 0.5  # standard deviations of both differences, in logits
MEDIAN_LENGTH, LENGTH_SPREAD, LONGEST = 300.0, 0.6, 2048  # log-normal
CHUNK = 100  # gates at a time
LEVELS = (0.05, 0.01)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """
    gains      of every checkpoint, true over the population of problems
    forgotten  share of the problems that the stage unlearned: a tenth of their accuracy is left
    longer     factor on all lengths of responses
    runaway    share of the responses that only end at the limit
    """

    num_problems: int
    num_samples: int
    gains: tuple[float, ...] = (0.0,)
    difficulty: str = "contest"
    forgotten: float = 0.0
    longer: float = 1.0
    runaway: float = 0.0
    kl: float = 0.05


def climb(gain: float, num_checkpoints: int, start: float = 0.0) -> tuple[float, ...]:
    step = (gain - start) / num_checkpoints
    return tuple(start + step * (c + 1) for c in range(num_checkpoints))


def draw_logits(difficulty: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    share_M, alpha_M, beta_M = torch.tensor(DIFFICULTIES[difficulty], dtype=torch.float64).T
    which = share_M.multinomial(torch.Size(shape).numel(), replacement=True, generator=generator).view(shape)
    a, b = (torch._standard_gamma(x_M[which], generator=generator) for x_M in (alpha_M, beta_M))
    return (a / (a + b).clamp(min=1e-300)).clamp(1e-3, 1 - 1e-3).logit()


def chances(logit: Tensor, shift: Tensor | float, noise: Tensor, is_forgotten: Tensor) -> Tensor:
    return (logit + shift + noise).sigmoid() * torch.where(is_forgotten, 0.1, 1.0)


@cache
def shift_for(gain: float, difficulty: str, forgotten: float) -> float:
    """The shift in logits that gives this gain over the population, by bisection on 200,000 problems."""
    generator = torch.Generator().manual_seed(1)
    logit_P = draw_logits(difficulty, (100_000,), generator).repeat(2)
    noise_P = torch.randn(100_000, dtype=torch.float64, generator=generator) * (SHARED**2 + OWN**2) ** 0.5
    noise_P = torch.cat([noise_P, -noise_P])
    is_forgotten_P = torch.arange(200_000) % 1000 < 1000 * forgotten
    low, high = -12.0, 12.0
    for _ in range(40):
        middle = (low + high) / 2
        found = chances(logit_P, middle, noise_P, is_forgotten_P) - logit_P.sigmoid()
        low, high = (middle, high) if found.mean() < gain else (low, middle)
    return (low + high) / 2


def draw_lengths(
    shape: tuple[int, int], longer: float, runaway: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """[B, S] lengths up to the limit, and the share of those cut off there, [B]."""
    length_BS = MEDIAN_LENGTH * longer * (LENGTH_SPREAD * torch.randn(shape, generator=generator)).exp()
    length_BS[torch.rand(shape, generator=generator) < runaway] = LONGEST + 1
    return length_BS.ceil().clamp(max=LONGEST), (length_BS > LONGEST).double().mean(dim=1)


def simulate(scenario: Scenario, count: int, seed: int) -> Iterator[tuple[Evidence, Tensor]]:
    """`count` gates, and with each the candidate's accuracies from fresh responses to the same problems, [N]."""
    generator = torch.Generator().manual_seed(seed)
    shift_C1 = torch.tensor(
        [shift_for(gain, scenario.difficulty, scenario.forgotten) for gain in scenario.gains],
        dtype=torch.float64,
    ).unsqueeze(1)
    for start in range(0, count, CHUNK):
        yield from _simulate_chunk(scenario, shift_C1, min(CHUNK, count - start), generator)


def _simulate_chunk(
    scenario: Scenario, shift_C1: Tensor, num_gates: int, generator: torch.Generator
) -> Iterator[tuple[Evidence, Tensor]]:
    num_problems, num_samples = scenario.num_problems, scenario.num_samples

    def normal(rows: int) -> Tensor:
        return torch.randn((num_gates, rows, num_problems), dtype=torch.float64, generator=generator)

    def answer(chance: Tensor) -> Tensor:
        counts = torch.binomial(torch.full_like(chance, num_samples), chance, generator=generator)
        return counts / num_samples

    logit_B1N = draw_logits(scenario.difficulty, (num_gates, 1, num_problems), generator)
    is_forgotten_B1N = torch.rand(logit_B1N.shape, generator=generator) < scenario.forgotten
    noise_BCN = SHARED * normal(1) + OWN * normal(len(shift_C1))
    chance_BCN = chances(logit_B1N, shift_C1, noise_BCN, is_forgotten_B1N)
    checkpoint_BCN, reference_BN = answer(chance_BCN), answer(logit_B1N.sigmoid()).squeeze(1)
    chosen_B = checkpoint_BCN.mean(dim=2).argmax(dim=1)
    fresh_BN = answer(chance_BCN[torch.arange(num_gates), chosen_B])
    shape = (num_gates, num_problems * num_samples)
    length_BS, truncated_B = draw_lengths(shape, scenario.longer, scenario.runaway, generator)
    reference_length_BS, reference_truncated_B = draw_lengths(shape, 1.0, 0.0, generator)
    for b in range(num_gates):
        evidence = Evidence(
            checkpoint_CN=checkpoint_BCN[b],
            chosen=int(chosen_B[b]),
            reference_N=reference_BN[b],
            tail=nearest_rank(length_BS[b].tolist(), 95),
            reference_tail=nearest_rank(reference_length_BS[b].tolist(), 95),
            truncated_share=truncated_B[b].item(),
            reference_truncated_share=reference_truncated_B[b].item(),
            kl=scenario.kl,
        )
        yield evidence, fresh_BN[b]


def alone(evidence: Evidence, accuracy_N: Tensor) -> Evidence:
    return replace(evidence, checkpoint_CN=accuracy_N.unsqueeze(0), chosen=0)


def passing(scenario: Scenario, gates: int, seed: int, min_gain: float = 0.0) -> dict[str, float]:
    """Percent of gates that pass, at each level and for each way of judging."""
    totals: dict[str, float] = {}
    for number, (evidence, fresh_N) in enumerate(simulate(scenario, gates, seed)):
        ways = {"gate": evidence}
        if len(scenario.gains) > 1:
            ways["uncorrected"] = alone(evidence, evidence.checkpoint_CN[evidence.chosen])
            if max(scenario.gains) <= min_gain:
                ways["fresh"] = alone(evidence, fresh_N)
        for way, judged in ways.items():
            decision = decide(judged, GateConfig(level=LEVELS[0], min_gain=min_gain), seed=number)
            for level in LEVELS:
                key = f"{way} {level:g}"
                totals[key] = totals.get(key, 0.0) + (decision.accepted and decision.p_value <= level)
    return {key: 100 * value / gates for key, value in totals.items()}


FEW, USUAL = Scenario(num_problems=30, num_samples=32), Scenario(num_problems=128, num_samples=4)
STRESSES = {  # scenario and min_gain; each at best of 1 and of 6, all with a true gain of min_gain
    "weak base, 30 x 32": (replace(FEW, difficulty="weak base"), 0.0),
    "weak base, 128 x 4": (replace(USUAL, difficulty="weak base"), 0.0),
    "strong, 30 x 32": (replace(FEW, difficulty="strong"), 0.0),
    "strong, 128 x 4": (replace(USUAL, difficulty="strong"), 0.0),
    "2% forgotten, 128 x 16": (replace(USUAL, num_samples=16, forgotten=0.02), 0.0),
    "10% forgotten, 128 x 16": (replace(USUAL, num_samples=16, forgotten=0.1), 0.0),
    "gain and min_gain 3, 128 x 4": (USUAL, 0.03),
    "the same, weak base": (replace(USUAL, difficulty="weak base"), 0.03),
}
SCRIPTED = {
    "up by luck: best of 6 equals": replace(USUAL, gains=climb(0.0, 6)),
    "up by 10, all responses twice as long": replace(USUAL, gains=climb(0.1, 6), longer=2.0),
    "up by 10, 10% of responses run away": replace(USUAL, gains=climb(0.1, 6), runaway=0.1),
    "down by 5": replace(USUAL, gains=climb(-0.05, 6)),
    "truly better by 8, 1.1 x longer": replace(USUAL, gains=climb(0.08, 6), longer=1.1),
    "the same, the stage began 20 behind": replace(USUAL, gains=climb(0.08, 6, start=-0.2), longer=1.1),
    "the same, one of the 6 collapsed": replace(USUAL, gains=(-0.35, *climb(0.08, 5)), longer=1.1),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gates", type=int, default=2000, help="a row")
    parser.add_argument("--draws", type=int, default=499, help="of the test; a run of owpo takes 20,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sign_flips.DRAWS = args.draws

    def tell(title: str, scenario: Scenario, min_gain: float = 0.0) -> None:
        line = passing(scenario, args.gates, args.seed, min_gain)
        if args.json:
            print(json.dumps({"row": title, **line}), flush=True)
        else:
            print(f"{title:45}", "   ".join(f"{key} {value:5.1f}" for key, value in line.items()), flush=True)

    for num_problems, num_samples in ((30, 32), (128, 4), (128, 16), (500, 8)):
        for num_checkpoints in (1, 6, 12):
            for gain in (0.0, 0.02, 0.05, 0.1):
                gains = climb(gain, num_checkpoints)
                title = (
                    f"{num_problems:3} x {num_samples:2}, best of {num_checkpoints:2}, gain {100 * gain:4.1f}"
                )
                tell(title, Scenario(num_problems=num_problems, num_samples=num_samples, gains=gains))
    for title, (scenario, min_gain) in STRESSES.items():
        for num_checkpoints in (1, 6):
            gains = (min_gain,) * num_checkpoints
            tell(f"{title}, best of {num_checkpoints}", replace(scenario, gains=gains), min_gain)
    for title, scenario in SCRIPTED.items():
        tell(title, scenario)


if __name__ == "__main__":
    main()
