"""Accuracies with intervals. No number without its uncertainty, and two kinds of it kept apart.

An evaluation draws K samples for each of N problems. If the same problems were sampled again the mean would
move by `sampling_se`; if other problems of the same kind had been asked it would move more, and avg@32
hides how much. The interval is over problems: it answers how good the model is at problems like these.

Shape legend: N problems, K samples per problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

Grid = Tensor | Sequence[Sequence[bool | float]]
Row = Tensor | Sequence[float]


@dataclass(frozen=True)
class Accuracy:
    """avg@K over N problems.

    mean, low, high      the mean and its interval over problems, all in [0, 1]
    num_problems         N
    samples_per_problem  K
    sampling_se          standard error of the mean with the N problems held fixed; None where K = 1, as one
                         sample says nothing about how samples of a problem differ
    """

    mean: float
    low: float
    high: float
    num_problems: int
    samples_per_problem: int
    sampling_se: float | None


def accuracy_interval(correct_NK: Grid, level: float = 0.95) -> Accuracy:
    """The mean of [N, K] values in [0, 1] (True, False or graded rewards), with an interval over problems.

    Wilson's score interval with an effective number n of problems in place of its number of trials:

        n = max(N, min(N K, p (1 - p) / se^2) * (z / t)^2)

    p is the mean, se the standard deviation of the per-problem means over sqrt(N), z and t the normal and
    Student's (N - 1) quantile. n is N where every problem is always right or always wrong, so that more
    samples of one tell nothing new; it is N K where all are equally hard; K = 1 gives the ordinary interval.
    The samples of a problem are averaged first, as they are no independent evidence about other problems.
    Values in [0, 1] with mean p cannot vary more than p (1 - p), hence at least N.

    Not the t interval p -/+ t se: near 0 and 1, where weak bases and strong policies are, it breaks its
    promise, and for 0 of N it has width zero. Simulated coverage at 95 %, K = 4, mean accuracy 2 %: 55 % for
    N = 10 and 91 % for N = 100, against 96 % and 96 % here. For the U-shaped Beta(.21, .39) and for
    Beta(2, 2) both are within 2 points of 95 % at N = 100.

    Raises:
        ValueError: not an [N, K] grid of finite values in [0, 1], or a level outside (0, 1).
    """
    values_NK = _grid(correct_NK)
    _check_level(level)
    num_problems, num_samples = values_NK.shape
    mean_N = values_NK.mean(dim=1)
    mean = mean_N.mean().item()
    num_trials = _effective_problems(mean_N, mean, num_samples, level)
    low, high = _wilson(mean, num_trials, level)
    sampling_se = None
    if num_samples > 1:
        sampling_se = (values_NK.var(dim=1) / num_samples).sum().sqrt().item() / num_problems
    return Accuracy(mean, low, high, num_problems, num_samples, sampling_se)


def paired_difference(a_N: Row, b_N: Row, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and interval of a - b over N problems, from two models' per-problem accuracies on the same ones.

    Student's t interval on the N differences, cut off at -1 and 1: problems that are hard for both cancel,
    so it is narrower than the two intervals suggest. Where all differences are equal, d say, their spread
    would promise certainty. Then at most a share u of the problems may behave otherwise, u being Wilson's
    upper bound for 0 of N, each with a difference anywhere in [-1, 1]: the interval is (1 - u) d -/+ u.

    Raises:
        ValueError: unequal lengths, no problem, values that are not in [0, 1], or a level outside (0, 1).
    """
    a_N, b_N = _row(a_N, "a"), _row(b_N, "b")
    _check_level(level)
    if len(a_N) != len(b_N):
        raise ValueError(
            f"a has {len(a_N)} problems and b has {len(b_N)}; a paired comparison needs the same problems "
            "in the same order"
        )
    difference_N = a_N - b_N
    mean = difference_N.mean().item()
    if bool((difference_N == difference_N[0]).all()):
        _, unseen = _wilson(0.0, len(difference_N), level)
        return mean, (1 - unseen) * mean - unseen, (1 - unseen) * mean + unseen
    standard_error = difference_N.std().item() / math.sqrt(len(difference_N))
    half = _t_quantile(level, len(difference_N) - 1) * standard_error
    return mean, max(-1.0, mean - half), min(1.0, mean + half)


def pass_at(correct_NK: Grid, j: int) -> float:
    """pass@j: the chance that at least one of j samples is right, averaged over problems.

    The unbiased estimate 1 - C(K - c, j) / C(K, j) for a problem with c of K right (arXiv 2107.03374, eq. 1).

    Raises:
        ValueError: values other than 0 and 1, or j outside 1..K.
    """
    values_NK = _grid(correct_NK)
    num_samples = values_NK.shape[1]
    if not 1 <= j <= num_samples:
        raise ValueError(
            f"pass@{j} needs 1 <= j <= {num_samples}, the samples per problem; draw more of them"
        )
    if not bool(((values_NK == 0) | (values_NK == 1)).all()):
        raise ValueError(
            "pass@j counts right and wrong samples, but there are values between 0 and 1; threshold them"
        )
    num_correct_N = values_NK.sum(dim=1).long().tolist()
    all_wrong = [math.comb(num_samples - c, j) / math.comb(num_samples, j) for c in num_correct_N]
    return 1 - math.fsum(all_wrong) / len(all_wrong)


def _effective_problems(mean_N: Tensor, mean: float, num_samples: int, level: float) -> float:
    num_problems = len(mean_N)
    if num_problems == 1 or bool((mean_N == mean_N[0]).all()):
        return num_problems
    z, t = NormalDist().inv_cdf((1 + level) / 2), _t_quantile(level, num_problems - 1)
    trials = mean * (1 - mean) * num_problems / mean_N.var().item()
    return max(num_problems, min(num_problems * num_samples, trials) * (z / t) ** 2)


def _wilson(share: float, trials: float, level: float) -> tuple[float, float]:
    """Wilson's score interval for a share of `trials` (JASA 22, 1927)."""
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * share * (1 - share) / trials + (z2 / (2 * trials)) ** 2) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def _t_quantile(level: float, dof: int) -> float:
    """The t for which Student's variable with `dof` degrees of freedom is in [-t, t] with chance `level`."""
    low, high = 0.0, math.pi / 2  # of theta = atan(t / sqrt(dof)), in which the probability is a finite sum
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, dof) < level else (low, middle)
    return math.tan(low) * math.sqrt(dof)


def _t_within(theta: float, dof: int) -> float:
    """P(|t| < sqrt(dof) tan theta), exact for whole dof (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    is_odd = dof % 2
    cos2 = math.cos(theta) ** 2
    term, total = (math.cos(theta) if is_odd else 1.0), 0.0
    for k in range(is_odd, dof - 1, 2):
        total += term
        term *= cos2 * (k + 1) / (k + 2)
    within = math.sin(theta) * total
    return (theta + within) * 2 / math.pi if is_odd else within


def _grid(correct_NK: Grid) -> Tensor:
    """[N, K] float64, checked."""
    if not isinstance(correct_NK, Tensor):
        lengths = [len(row) for row in correct_NK]
        for index, length in enumerate(lengths):
            if length != lengths[0]:
                raise ValueError(
                    f"problem {index} has {length} samples and problem 0 has {lengths[0]}; "
                    "every problem needs as many"
                )
    values_NK = torch.as_tensor(correct_NK).to(torch.float64)
    if values_NK.dim() != 2 or values_NK.numel() == 0:
        raise ValueError(
            f"expected a grid of problems by samples, got shape {list(values_NK.shape)}; one row a problem, "
            "at least one sample in it"
        )
    return _checked(values_NK, "the grid")


def _row(values_N: Row, name: str) -> Tensor:
    """[N] float64, checked."""
    values_N = torch.as_tensor(values_N).to(torch.float64)
    if values_N.dim() != 1 or values_N.numel() == 0:
        raise ValueError(
            f"{name} must be a list of per-problem accuracies, got shape {list(values_N.shape)}; "
            "average over the samples of each problem first"
        )
    return _checked(values_N, name)


def _checked(values: Tensor, name: str) -> Tensor:
    outside = ~((values >= 0) & (values <= 1))  # NaN too
    if bool(outside.any()):
        raise ValueError(
            f"{name} must hold values in [0, 1], got {values[outside][0].item()} at "
            f"{outside.nonzero()[0].tolist()}; scale the rewards, or leave out what was not graded"
        )
    return values


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}; 0.95 for a 95% interval")
