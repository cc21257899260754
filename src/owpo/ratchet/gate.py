"""Whether a candidate may become the reference: a pure function of what was measured (docs/ratchet.md).

Shape legend: C checkpoints that the candidate was chosen among, N problems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from owpo.config.ratchet import GateConfig
from owpo.evaluation.grids import ROUNDING
from owpo.evaluation.sign_flips import DRAWS, max_t_test


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a decision stands on, all of it from the selection set.

    checkpoint_CN                the accuracy by problem of every checkpoint that the stage could have proposed
    chosen                       the row that is the candidate
    reference_N                  the reference's, from responses to this gate alone, as many as a checkpoint gave
    tail, reference_tail         95th percentile of the response lengths, in tokens
    truncated_share, reference_truncated_share  of the responses
    kl                           KL(candidate || reference) in nats a token of the candidate's responses

    Raises:
        ValueError: shapes that do not fit, nothing measured, or `chosen` is no row.
    """

    checkpoint_CN: Tensor
    chosen: int
    reference_N: Tensor
    tail: float
    reference_tail: float
    truncated_share: float
    reference_truncated_share: float
    kl: float

    def __post_init__(self) -> None:
        shape = list(self.checkpoint_CN.shape)
        if len(shape) != 2 or self.checkpoint_CN.numel() == 0:
            raise ValueError(f"checkpoint_CN must be checkpoints by problems, got shape {shape}")
        if list(self.reference_N.shape) != shape[1:]:
            raise ValueError(
                f"reference_N has shape {list(self.reference_N.shape)} and the checkpoints answered {shape[1]} "
                "problems; measure the reference on the same ones, in the same order"
            )
        if not 0 <= self.chosen < shape[0]:
            raise ValueError(
                f"chosen is {self.chosen}, but there are {shape[0]} checkpoints; name one of their rows"
            )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """
    refusals     a phrase for every bound that does not hold, with its figures; none: the candidate passes
    gain         the candidate's accuracy above the reference's
    p_value      of the test that the gain exceeds `min_gain`, corrected for the choice among C
    evidence, config  what was looked at, and by which bounds
    """

    refusals: list[str]
    gain: float
    p_value: float
    evidence: Evidence
    config: GateConfig

    @property
    def accepted(self) -> bool:
        return not self.refusals

    @property
    def reasons(self) -> list[str]:
        """Why it was refused, or that it passed."""
        return self.refusals or [
            f"gain {100 * self.gain:+.1f} points (p = {self.p_value:.2g}, level {self.config.level:g})"
        ]

    def to_json(self) -> dict[str, Any]:
        evidence = self.evidence
        return {
            "gain": self.gain,
            "p_value": self.p_value,
            "level": self.config.level,
            "min_gain": self.config.min_gain,
            "checkpoints": len(evidence.checkpoint_CN),
            "reference_accuracy": evidence.reference_N.double().mean().item(),
            **{
                name: getattr(evidence, name)
                for name in ("tail", "reference_tail", "truncated_share", "reference_truncated_share")
            },
        }


def decide(evidence: Evidence, config: GateConfig, seed: int = 0) -> Decision:
    """Hold a candidate against the reference in force.

    Null hypothesis: over problems like these no checkpoint's accuracy exceeds the reference's by more than
    `min_gain`. The differences by problem, less `min_gain`, go into `max_t_test`, whose p must not exceed `level`;
    and the gain itself must exceed `min_gain`, which matters at levels of one half and more alone.

    A figure that cannot be (NaN, infinity, a share outside [0, 1]) refuses, also where its bound is None.

    seed  of the test's draws
    """
    gain_CN = evidence.checkpoint_CN.double() - evidence.reference_N.double()
    gain = gain_CN[evidence.chosen].mean().item()
    impossible = _impossible(evidence)
    if impossible:
        p_value = 1.0
        refusals = [f"impossible {', '.join(impossible)}: NaN, infinity or out of range"]
    else:
        above_CN = gain_CN - config.min_gain
        above_CN = torch.where(above_CN.abs() < ROUNDING, 0.0, above_CN)
        p_value = max_t_test(above_CN, evidence.chosen, seed)
        refusals = [
            *_refuse_gain(gain, p_value, len(gain_CN), config),
            *_refuse_lengths(evidence, config.max_tail_growth),
            *_refuse_truncation(evidence, config.max_truncated_rise),
            *_refuse_kl(evidence.kl, config.max_kl),
        ]
    return Decision(refusals=refusals, gain=gain, p_value=p_value, evidence=evidence, config=config)


def fewest_problems(level: float) -> int:
    """The fewest problems on which a gate of this level can pass: of 2^N choices of signs one is as it was seen.

    Raises:
        ValueError: a level outside (0, 1), or below what the test can tell, 1 / 20,001.
    """
    if not 1 / (1 + DRAWS) <= level < 1:
        raise ValueError(
            f"the level {level} must lie in [{1 / (1 + DRAWS):.1g}, 1): the test draws {DRAWS:,} times and tells no "
            "smaller p-value; take 0.05 or 0.01"
        )
    return math.ceil(-math.log2(level))


def check_selection(num_problems: int, config: GateConfig) -> None:
    """
    Raises:
        ValueError: no candidate could pass on so few problems.
    """
    fewest = fewest_problems(config.level)
    if num_problems < fewest:
        raise ValueError(
            f"problems.selection holds {num_problems} problems, and no test on fewer than {fewest} can reach "
            f"ratchet.gate.level = {config.level:g}; take more problems: with 100 a gate begins to see small gains"
        )


def _impossible(evidence: Evidence) -> list[str]:
    """The names of figures that no measurement gives."""
    shares = torch.tensor([evidence.truncated_share, evidence.reference_truncated_share])
    accuracies = torch.cat([evidence.checkpoint_CN.flatten(), evidence.reference_N])
    tails = torch.tensor([evidence.tail, evidence.reference_tail])
    possible = {
        "accuracies": ((accuracies >= 0) & (accuracies <= 1)).all(),
        "length tails": ((tails >= 0) & (tails < math.inf)).all(),
        "truncated shares": ((shares >= 0) & (shares <= 1)).all(),
        "KL": math.isfinite(evidence.kl),
    }
    return [name for name, holds in possible.items() if not holds]


def _refuse_gain(gain: float, p_value: float, checkpoints: int, config: GateConfig) -> list[str]:
    if p_value <= config.level and gain > config.min_gain:
        return []
    choice = f", best of {checkpoints}" if checkpoints > 1 else ""
    return [
        f"gain {100 * gain:+.1f} points is not surely above {100 * config.min_gain:g} "
        f"(p = {p_value:.2g}, level {config.level:g}{choice})"
    ]


def _refuse_lengths(evidence: Evidence, bound: float | None) -> list[str]:
    if bound is None or evidence.tail <= bound * evidence.reference_tail + ROUNDING:
        return []
    return [
        f"length tail {evidence.tail:g} tokens is above {bound:g} times the reference's {evidence.reference_tail:g}"
    ]


def _refuse_truncation(evidence: Evidence, bound: float | None) -> list[str]:
    rise = evidence.truncated_share - evidence.reference_truncated_share
    if bound is None or rise <= bound + ROUNDING:
        return []
    return [
        f"truncated share {100 * evidence.truncated_share:.1f}% is {100 * rise:.1f} points above the reference's, "
        f"at most {100 * bound:g}"
    ]


def _refuse_kl(kl: float, bound: float | None) -> list[str]:
    if bound is None or kl <= bound:
        return []
    return [f"KL to the reference {kl:.3g} nats a token is above {bound:g}"]
