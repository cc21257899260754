"""What k verified answers to each of N problems say of the policy that gave them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from owpo.evaluation.intervals import Accuracy, accuracy_interval, pass_at, pass_at_all
from owpo.evaluation.majority import majority_at
from owpo.evaluation.samples import Sample
from owpo.verify.verdict import Verdict


@dataclass(frozen=True)
class Evaluation:
    """avg@k and what goes with it.

    problems         the N ids
    accuracy         avg@k with its two intervals
    correct_NK       [N, k] bool on CPU
    pass_at          pass@j for j = 1, 2, 4, ... k (unbiased)
    majority         maj@k; None where the verifier does not tell what it read, so that wrong answers cannot vote
    verdicts         number of samples by verdict, all five
    truncated_share  of all N * k responses
    response_length  mean, in tokens
    response_length_p95  their 95th percentile (nearest rank)
    """

    problems: list[str]
    accuracy: Accuracy
    correct_NK: Tensor
    pass_at: dict[int, float]
    majority: float | None
    verdicts: dict[str, int]
    truncated_share: float
    response_length: float
    response_length_p95: int

    def to_json(self) -> dict[str, Any]:
        accuracy = self.accuracy
        return {
            "accuracy": accuracy.mean,
            "low": accuracy.low,
            "high": accuracy.high,
            "sampling_low": accuracy.sampling_low,
            "sampling_high": accuracy.sampling_high,
            "num_problems": accuracy.num_problems,
            "samples_per_problem": accuracy.samples_per_problem,
            "pass_at": {str(j): value for j, value in self.pass_at.items()},
            "majority": self.majority,
            "verdicts": self.verdicts,
            "truncated_share": self.truncated_share,
            "response_length": self.response_length,
            "response_length_p95": self.response_length_p95,
        }


def evaluation_of(samples: Sequence[Sample], pass_at_js: Sequence[int] = ()) -> Evaluation:
    """
    Args:
        samples: k of each problem, problem by problem.
        pass_at_js: the j of pass@j, none above k; none at all: 1, 2, 4, ... k.
    """
    problems = list(dict.fromkeys(sample.problem for sample in samples))
    size = len(samples) // len(problems)
    rows = [samples[start : start + size] for start in range(0, len(samples), size)]
    assert all(sample.problem == id for id, row in zip(problems, rows, strict=True) for sample in row)
    correct_NK = torch.tensor([[sample.verdict is Verdict.correct for sample in row] for row in rows])
    counts = Counter(sample.verdict for sample in samples)
    return Evaluation(
        problems=problems,
        accuracy=accuracy_interval(correct_NK),
        correct_NK=correct_NK,
        pass_at={j: pass_at(correct_NK, j) for j in pass_at_js} or pass_at_all(correct_NK),
        majority=_majority(rows, correct_NK),
        verdicts={str(verdict): counts[verdict] for verdict in Verdict},
        truncated_share=sum(sample.truncated for sample in samples) / len(samples),
        response_length=sum(sample.tokens for sample in samples) / len(samples),
        response_length_p95=nearest_rank([sample.tokens for sample in samples], 95),
    )


def nearest_rank(values: Sequence[int], percent: int) -> int:
    """The percentile by nearest rank: the smallest value that at least `percent` % of them do not exceed."""
    return sorted(values)[-(-percent * len(values) // 100) - 1]


def _majority(rows: Sequence[Sequence[Sample]], correct_NK: Tensor) -> float | None:
    if any(sample.verdict is Verdict.wrong and sample.answer is None for row in rows for sample in row):
        return None
    return majority_at([[sample.answer for sample in row] for row in rows], correct_NK)
