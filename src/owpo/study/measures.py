"""The numbers of a study's tables: what a measure is in each run, its mean over seeds, and paired differences.

The statistics are `evaluation.intervals`; here it is only decided what they are taken of. Shape legend: S seeds,
N problems, K samples per problem.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from owpo.evaluation.intervals import accuracy_interval, paired_difference
from owpo.study.file import Study
from owpo.study.results import Result, Score

TITLES = {
    "best": "the last stage's best checkpoint, chosen on the selection set",
    "last": "the weights at the end of the run",
    "selection": "the last stage's best checkpoint on the selection set, by which it was chosen",
    "references": "the references, their best checkpoints",
}


def title_of(measure: str) -> str:
    """Of one of `TITLES`, or a transfer set."""
    return TITLES.get(measure, f"the last stage's best checkpoint, on {measure}")


@dataclass(frozen=True)
class Estimate:
    """
    mean, low, high  in [0, 1], of a difference in [-1, 1]
    over             what the 95% interval is over: seeds, or with one seed problems
    num              how many seeds
    """

    mean: float
    low: float
    high: float
    over: Literal["seeds", "problems"]
    num: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class One:
    """What a measure is in one run.

    interval  over problems
    shares_N  of each problem's right samples; None where they are not known
    problems  digest of the set
    """

    value: float
    interval: Callable[[], tuple[float, float]]
    shares_N: list[float] | None = None
    problems: str = ""

    @classmethod
    def of(cls, value: float) -> One:
        """A number that has no interval over problems."""
        return cls(value, lambda: (value, value))


def by_seed(
    results: Sequence[Result], study: Study, arm: str, measure: str, pass_at: int | None = None
) -> dict[int, One]:
    """By seed, what the arm's run came to.

    Args:
        measure: one of `TITLES`, or a transfer set.
        pass_at: the j of pass@j in place of accuracy.
    """
    mine = sorted((r for r in results if r.arm == arm and r.seed in study.seeds), key=lambda r: r.seed)
    found = {result.seed: _one_of(result, measure, pass_at) for result in mine}
    return {seed: one for seed, one in found.items() if one is not None}


def before_training(results: Sequence[Result], measure: str, pass_at: int | None = None) -> list[One]:
    """What runs started from, where it was measured."""
    found = []
    for result in results:
        if measure in result.transfer:
            transfer = result.transfer[measure]
            found.append(_of_score(transfer.base, transfer.problems, pass_at))
        elif measure != "selection":
            found.append(_of_score(result.base, result.problems, pass_at))
    return [one for one in found if one is not None]


def size_of(results: Sequence[Result], measure: str) -> tuple[int, int] | None:
    """N and K of the first result that has the measure."""
    scores = [score for r in results if (score := r.score(_column(measure))) is not None]
    return (len(scores[0].correct), scores[0].samples) if scores else None


def _column(measure: str) -> str:
    return "best" if measure == "references" else measure


def _one_of(result: Result, measure: str, pass_at: int | None) -> One | None:
    if measure == "selection":
        value, low, high = result.selection
        return One(value, lambda: (low, high)) if pass_at is None else None
    problems = result.transfer[measure].problems if measure in result.transfer else result.problems
    return _of_score(result.score(_column(measure)), problems, pass_at)


def _of_score(score: Score | None, problems: str, pass_at: int | None) -> One | None:
    if score is None:
        return None
    if pass_at is None:
        grid_NK = [[1.0] * count + [0.0] * (score.samples - count) for count in score.correct]
        return One(score.accuracy, lambda: _interval(grid_NK), score.shares, problems)
    share_N = score.pass_at(pass_at)
    return One(
        statistics.fmean(share_N), lambda: _interval([[share] for share in share_N]), share_N, problems
    )


def _interval(grid_NK: list[list[float]]) -> tuple[float, float]:
    found = accuracy_interval(grid_NK)
    return found.low, found.high


def mean_of(ones: Sequence[One]) -> Estimate | None:
    """Over S seeds a t interval, `paired_difference` from nothing; with one seed that over its problems."""
    if not ones:
        return None
    if len(ones) == 1:
        return Estimate(ones[0].value, *ones[0].interval(), "problems", 1)
    value_S = [one.value for one in ones]
    mean, low, high = paired_difference(value_S, [0.0] * len(value_S))
    return Estimate(mean, max(0.0, low), high, "seeds", len(ones))


def difference_of(mine: dict[int, One], base: dict[int, One]) -> Estimate | None:
    """Paired over the seeds that both have; with one such seed over problems, where both answered the same ones."""
    shared = [seed for seed in mine if seed in base]
    if not shared:
        return None
    if len(shared) == 1:
        a, b = mine[shared[0]], base[shared[0]]
        if a.shares_N is None or b.shares_N is None or a.problems != b.problems:
            return None
        return Estimate(*paired_difference(a.shares_N, b.shares_N), "problems", 1)
    a_S, b_S = ([side[seed].value for seed in shared] for side in (mine, base))
    return Estimate(*paired_difference(a_S, b_S), "seeds", len(shared))
