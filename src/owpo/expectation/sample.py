"""A large sample of a policy's responses with all that the rules read of it.

Shape legend: P prompts, G responses per prompt, B = P * G rows, T response tokens, K basis gradients, F flips.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from owpo.expectation.gradients import weighted_gradients
from owpo.expectation.rules import Rule, dapo, expected_parts, opd, told_correct
from owpo.policy.model import Policy
from owpo.policy.responses import Responses

RULES = ("dapo", "owpo", "mopd", "opd")
CLEAN = 0.0
"""The flip of a verifier without errors."""


@dataclass(frozen=True)
class Sample:
    """
    responses     B rows, prompt-major
    correct_PG    [P, G] bool, what a verifier without errors says
    log_ratio_BT  [B, T] float64, log pi - log ref, 0 at padding
    temperature   of the sampling, and of every log-prob
    micro_batch_tokens  of one forward-backward pass
    """

    responses: Responses
    correct_PG: Tensor
    log_ratio_BT: Tensor
    temperature: float
    micro_batch_tokens: int

    @property
    def prompt_B(self) -> Tensor:
        num_prompts, size = self.correct_PG.shape
        return torch.arange(num_prompts, device=self.correct_PG.device).repeat_interleave(size)

    def gradients(self, policy: Policy, index: Tensor, coefficient_KBT: Tensor) -> Tensor:
        """sum_bt c_kbt grad log pi_bt over the rows `index`, whose coefficients are given, [K, D]."""
        return weighted_gradients(
            policy, self.responses.rows(index), coefficient_KBT, self.temperature, self.micro_batch_tokens
        )


@dataclass(frozen=True)
class Basis:
    """The gradients that others are sums of, K = 2 F + 1: DAPO's and OWPO's at each flip, and distillation's.

    MOPD's is alpha times DAPO's plus distillation's.
    """

    owpo: Rule
    alpha: float
    flips: list[float]

    def coefficients(self, log_ratio_BT: Tensor, parts_F: list[tuple[Tensor, Tensor]]) -> Tensor:
        """[K, B, T]; `parts_F` are (gain_B, loss_B) at each flip."""
        rows = [
            rule(log_ratio_BT, gain.unsqueeze(1), loss.unsqueeze(1)).expand(log_ratio_BT.shape)
            for rule in (dapo, self.owpo)
            for gain, loss in parts_F
        ]
        none = torch.zeros_like(log_ratio_BT)
        return torch.stack([*rows, opd(log_ratio_BT, none, none)])

    def coordinates(self, rule: str, flip: float) -> Tensor:
        """[K] float64 of a rule's gradient; `rule` is one of `RULES`."""
        place, size = self.flips.index(flip), len(self.flips)
        vector = torch.zeros(2 * size + 1, dtype=torch.float64)
        if rule in ("mopd", "opd"):
            vector[-1] = 1
        if rule == "mopd":
            vector[place] = self.alpha
        elif rule != "opd":
            vector[place + size * (rule == "owpo")] = 1
        return vector


def expected_coefficients(sample: Sample, basis: Basis) -> Tensor:
    """[K, B, T], each the expectation over what the verifier tells of every response.

    A response is told its own verdict with chance 1 - flip; a prompt's advantages are those of its share that is told
    correct.
    """
    correct_PG = sample.correct_PG.double()
    share_P1 = correct_PG.mean(dim=1, keepdim=True)
    parts = []
    for flip in basis.flips:
        gain_PG, loss_PG = expected_parts(told_correct(correct_PG, flip), told_correct(share_P1, flip))
        parts.append((gain_PG.flatten(), loss_PG.flatten()))
    return basis.coefficients(sample.log_ratio_BT, parts)
