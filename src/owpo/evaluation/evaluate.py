"""avg@k of a policy on a set of problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from owpo.evaluation.answers import Verifier, answer_problems
from owpo.evaluation.intervals import Accuracy, accuracy_interval, pass_at
from owpo.policy.model import Policy
from owpo.problems.problem import Problem
from owpo.problems.verify import Verdict


@dataclass(frozen=True)
class Evaluation:
    """`correct_NK` [N, k] bool on CPU; shares are of all N * k responses, lengths in tokens."""

    accuracy: Accuracy
    correct_NK: Tensor
    unparseable_share: float
    truncated_share: float
    response_length: float

    def to_json(self) -> dict[str, float]:
        return {
            "accuracy": self.accuracy.mean,
            "low": self.accuracy.low,
            "high": self.accuracy.high,
            "num_problems": self.accuracy.num_problems,
            "samples_per_problem": self.accuracy.samples_per_problem,
            "pass_at_k": pass_at(self.correct_NK, self.accuracy.samples_per_problem),
            "unparseable_share": self.unparseable_share,
            "truncated_share": self.truncated_share,
            "response_length": self.response_length,
        }


def evaluate_policy(
    policy: Policy,
    problems: list[Problem],
    verify: Verifier,
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Sample k = `samples` responses to each of N problems and verify them."""
    groups = answer_problems(
        policy,
        problems,
        verify,
        group_size=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        batch_size=batch_size,
        on_batch=on_batch,
    )
    return Evaluation(
        accuracy=accuracy_interval(groups.correct_PG),
        correct_NK=groups.correct_PG,
        unparseable_share=groups.verdicts.count(Verdict.unparseable) / len(groups.verdicts),
        truncated_share=groups.responses.truncated.double().mean().item(),
        response_length=groups.responses.lengths.double().mean().item(),
    )
