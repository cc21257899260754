"""Two models on the same problems: how much better, how surely, and on which problems.

Shape legend: N problems, K samples per problem; S shared problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from owpo.evaluation.grids import ROUNDING, Grid, checked_grid
from owpo.evaluation.intervals import Accuracy, accuracy_interval, paired_difference
from owpo.evaluation.sign_flips import sign_flip_test


@dataclass(frozen=True)
class Change:
    """One problem and the accuracies of both models on it."""

    id: str
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """Model b against model a.

    a, b                   their accuracies, each with its own intervals
    difference, low, high  b - a and its paired interval over problems (`paired_difference`)
    p_value                two-sided, of the sign-flip test (`sign_flip_test`)
    better, equal, worse   number of problems on which b's accuracy is above, at, below a's
    gained                 problems that b solves and a does not
    kept                   ... that both solve
    lost                   ... that a solves and b does not
    never                  ... that neither solves

    The four lists are disjoint, together all problems, each with the largest change first.
    """

    a: Accuracy
    b: Accuracy
    difference: float
    low: float
    high: float
    p_value: float
    better: int
    equal: int
    worse: int
    gained: list[Change]
    kept: list[Change]
    lost: list[Change]
    never: list[Change]


def compare(
    a_NK: Grid,
    b_NK: Grid,
    ids: Sequence[str],
    b_ids: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    solved: float = 0.5,
    seed: int = 0,
) -> Comparison:
    """Compare model b with model a on the same N problems; they may have different numbers of samples.

    ids     of the problems, in the order of a's rows
    b_ids   in the order of b's rows, where that is not known to be the same; it must be
    level   of the intervals
    solved  a model solves a problem if its accuracy on it is at least this: at 0.5, half of the samples
    seed    of the sign-flip test's draws

    The interval and the p-value come from different reasoning and may disagree at the edge: the interval asks
    how large the difference is over problems like these, the test whether there is any.

    Raises:
        ValueError: not grids of values in [0, 1], other numbers of problems than ids, ids that repeat or differ,
            level outside (0, 1), solved outside (0, 1].
    """
    a_NK, b_NK = checked_grid(a_NK), checked_grid(b_NK)
    _check_ids(ids, a_NK, "a")
    if b_ids is not None:
        _check_ids(b_ids, b_NK, "b")
        _check_same(ids, b_ids)
    if len(a_NK) != len(b_NK):
        raise ValueError(
            f"a has {len(a_NK)} problems and b has {len(b_NK)}; compare them on the problems that they share: "
            "on_shared_ids"
        )
    if not 0 < solved <= 1:
        raise ValueError(f"solved must lie in (0, 1], got {solved}; 0.5 for half of the samples")
    a_N, b_N = a_NK.mean(dim=1), b_NK.mean(dim=1)
    difference, low, high = paired_difference(b_N, a_N, level)
    difference_N = _differences(a_N, b_N)
    changes = [Change(*row) for row in zip(ids, a_N.tolist(), b_N.tolist(), strict=True)]
    changes.sort(key=lambda change: -abs(change.b - change.a))  # stable: equal changes in the order of ids
    return Comparison(
        a=accuracy_interval(a_NK, level),
        b=accuracy_interval(b_NK, level),
        difference=difference,
        low=low,
        high=high,
        p_value=sign_flip_test(difference_N, seed),
        better=int((difference_N > 0).sum()),
        equal=int((difference_N == 0).sum()),
        worse=int((difference_N < 0).sum()),
        gained=[change for change in changes if change.a < solved <= change.b],
        kept=[change for change in changes if solved <= min(change.a, change.b)],
        lost=[change for change in changes if change.b < solved <= change.a],
        never=[change for change in changes if max(change.a, change.b) < solved],
    )


def on_shared_ids(
    a_NK: Grid, a_ids: Sequence[str], b_NK: Grid, b_ids: Sequence[str]
) -> tuple[Tensor, Tensor, list[str]]:
    """(a_SK, b_SK, ids) on the S problems that both answered, in the order of a: what `compare` takes.

    Raises:
        ValueError: not grids, other numbers of problems than ids, ids that repeat, or no id in common.
    """
    a_NK, b_NK = checked_grid(a_NK), checked_grid(b_NK)
    _check_ids(a_ids, a_NK, "a")
    _check_ids(b_ids, b_NK, "b")
    b_row = {id: row for row, id in enumerate(b_ids)}
    shared = [(row, b_row[id], id) for row, id in enumerate(a_ids) if id in b_row]
    if not shared:
        raise ValueError(
            f"a's problems ({a_ids[0]}, ...) and b's ({b_ids[0]}, ...) have no id in common; evaluate both on one set"
        )
    a_rows, b_rows, ids = zip(*shared, strict=True)
    return a_NK[list(a_rows)], b_NK[list(b_rows)], list(ids)


def _differences(a_N: Tensor, b_N: Tensor) -> Tensor:
    """b - a, and exactly 0 where nothing but rounding differs."""
    difference_N = b_N - a_N
    return torch.where(difference_N.abs() < ROUNDING, 0.0, difference_N)


def _check_ids(ids: Sequence[str], values_NK: Tensor, name: str) -> None:
    if len(ids) != len(values_NK):
        raise ValueError(f"{name} has {len(values_NK)} problems and {len(ids)} ids; give one id a problem")
    repeated = next((id for id in ids if ids.count(id) > 1), None) if len(set(ids)) < len(ids) else None
    if repeated is not None:
        raise ValueError(f"id {repeated!r} stands for more than one problem of {name}; ids must be unique")


def _check_same(a_ids: Sequence[str], b_ids: Sequence[str]) -> None:
    if list(a_ids) == list(b_ids):
        return
    num_shared = len(set(a_ids) & set(b_ids))
    if num_shared == len(a_ids) == len(b_ids):
        raise ValueError("a and b have the same problems in another order; on_shared_ids puts them in one")
    raise ValueError(
        f"a has {len(a_ids)} problems and b has {len(b_ids)}, of which {num_shared} are shared; compare them on "
        "these (on_shared_ids), or evaluate both on one set"
    )
