"""A study's tables: mean accuracies over seeds, and paired differences from the baseline, each with its 95% interval.

All of it is a pure function of the results. The statistics are `evaluation.intervals`; here it is only decided what
they are taken of. Shape legend: S seeds, N problems, K samples per problem.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from owpo.evaluation.intervals import accuracy_interval, paired_difference
from owpo.study.file import NAMELESS, Study
from owpo.study.results import Result, Score

BEFORE = "before training"
MEASURES = {
    "best": "the last stage's best checkpoint, chosen on the selection set",
    "last": "the weights at the end of the run",
    "selection": "the last stage's best checkpoint on the selection set, by which it was chosen",
    "references": "the references, their best checkpoints",
}


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
class Row:
    """
    arm         its name; `BEFORE` for what the baseline's runs started from
    accuracy    None where no run is finished
    difference  from the baseline, over the seeds that both have; None for the baseline, and where there is none
    is_best     highest of the arms, and surely another than the baseline
    pass_at     pass@j; None where it is not asked for
    """

    arm: str
    accuracy: Estimate | None
    difference: Estimate | None = None
    is_best: bool = False
    pass_at: Estimate | None = None


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


@dataclass(frozen=True)
class Table:
    """
    measure  "best", "last", "selection", "references", or the name of a transfer set
    planned  runs that the study asks for
    missing  of them, those without a result for this measure
    shared   problems of the report set that checkpoints were chosen by: the most of any run
    size     N and K; None without a result
    """

    task: str
    setting: str
    measure: str
    baseline: str | None
    rows: tuple[Row, ...]
    num_seeds: int
    planned: int
    missing: int
    shared: int
    size: tuple[int, int] | None
    pass_at: int | None = None

    @property
    def title(self) -> str:
        place = ", ".join(filter(None, (self.task, self.setting)))
        told = MEASURES.get(self.measure, f"the last stage's best checkpoint, on {self.measure}")
        return f"{place}: {told}" if place else capital(told)


def tables_of(results: Sequence[Result], study: Study) -> list[Table]:
    """The references of every task; then a table for every task, setting and measure, in the order of the file."""
    tables = []
    for task in study.tasks:
        of_task = [r for r in results if r.task == task]
        if study.references:
            tables.append(_table(of_task, study, task, NAMELESS, "references"))
        for setting in study.settings:
            here = [r for r in of_task if r.setting == setting]
            measures = [*study.measures, *study.transfer[task]]
            tables += [_table(here, study, task, setting, measure) for measure in measures]
    return tables


def _table(results: Sequence[Result], study: Study, task: str, setting: str, measure: str) -> Table:
    of_references = measure == "references"
    arms = study.references if of_references else study.arms
    baseline = None if of_references else study.baseline
    by_arm = {arm: by_seed(results, study, arm, measure) for arm in arms}
    rows = []
    for arm, ones in by_arm.items():
        is_held = baseline is not None and arm != baseline
        difference = difference_of(ones, by_arm[baseline]) if is_held and baseline is not None else None
        scores = (
            [] if study.pass_at is None else by_seed(results, study, arm, measure, study.pass_at).values()
        )
        rows.append(Row(arm, mean_of([*ones.values()]), difference, pass_at=mean_of([*scores])))
    best = max((row for row in rows if row.accuracy), key=_accuracy, default=None)
    if best is not None and best.difference is not None and best.difference.excludes_zero:
        rows[rows.index(best)] = replace(best, is_best=True)
    start = [r for r in results if r.arm == (baseline or next(iter(arms))) and r.seed in study.seeds]
    if before := mean_of([one for r in start if (one := _before(r, measure)) is not None]):
        passes = [] if study.pass_at is None else [_before(r, measure, study.pass_at) for r in start]
        rows.insert(0, Row(BEFORE, before, pass_at=mean_of([one for one in passes if one is not None])))
    found = [score for r in results if r.arm in arms and (score := r.score(_column(measure))) is not None]
    planned = len(arms) * len(study.seeds)
    return Table(
        task=task,
        setting=setting,
        measure=measure,
        baseline=baseline,
        rows=tuple(rows),
        num_seeds=len(study.seeds),
        planned=planned,
        missing=planned - sum(map(len, by_arm.values())),
        shared=0 if measure in study.transfer[task] else max((r.shared_problems for r in results), default=0),
        size=(len(found[0].correct), found[0].samples) if found else None,
        pass_at=None if measure == "selection" else study.pass_at,
    )


def _column(measure: str) -> str:
    return "best" if measure == "references" else measure


def _accuracy(row: Row) -> float:
    assert row.accuracy is not None
    return row.accuracy.mean


def by_seed(
    results: Sequence[Result], study: Study, arm: str, measure: str, pass_at: int | None = None
) -> dict[int, One]:
    """By seed, what the arm's run came to; with `pass_at`, its pass@j."""
    found = {}
    for result in results:
        if result.arm != arm or result.seed not in study.seeds:
            continue
        if measure == "selection":
            value, low, high = result.selection
            if pass_at is None:
                found[result.seed] = One(value, partial(_both, low, high))
            continue
        one = _one(result.score(_column(measure)), _problems(result, measure), pass_at)
        if one is not None:
            found[result.seed] = one
    return dict(sorted(found.items()))


def _before(result: Result, measure: str, pass_at: int | None = None) -> One | None:
    """What the run started from, where it was measured."""
    if measure == "selection":
        return None
    transfer = result.transfer.get(measure)
    return _one(result.base if transfer is None else transfer.base, _problems(result, measure), pass_at)


def _problems(result: Result, measure: str) -> str:
    return result.transfer[measure].problems if measure in result.transfer else result.problems


def _both(low: float, high: float) -> tuple[float, float]:
    return low, high


def _one(score: Score | None, problems: str, pass_at: int | None) -> One | None:
    if score is None:
        return None
    if pass_at is not None:
        shares_N = score.pass_at(pass_at)
        return One(statistics.fmean(shares_N), lambda: _over_problems(shares_N), shares_N, problems)
    return One(score.accuracy, lambda: _over_samples(score), score.shares, problems)


def _over_samples(score: Score) -> tuple[float, float]:
    found = accuracy_interval([[1.0] * count + [0.0] * (score.samples - count) for count in score.correct])
    return found.low, found.high


def _over_problems(shares_N: list[float]) -> tuple[float, float]:
    found = accuracy_interval([[share] for share in shares_N])
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


def markdown(table: Table) -> str:
    """The table with its title above and what its numbers mean below."""
    columns = ["arm", "right, %", "95% interval"]
    if table.baseline is not None:
        columns += [f"over {table.baseline}, points", "95% interval"]
    if table.pass_at is not None:
        columns += [f"pass@{table.pass_at}, %", "95% interval"]
    columns.append("seeds")
    lines = [f"**{table.title}**", "", line(columns), line(["---"] * len(columns))]
    lines += [line(_cells(row, table)) for row in table.rows]
    return "\n".join([*lines, "", _note(table), ""])


def _cells(row: Row, table: Table) -> list[str]:
    name = row.arm or "the recipe"
    accuracy, difference = row.accuracy, row.difference
    cells = [f"**{name}**" if row.is_best else name]
    if accuracy is None:
        cells += ["", ""]
    else:
        right = f"{100 * accuracy.mean:.1f}"
        cells += [f"**{right}**" if row.is_best else right, _span(accuracy, table)]
    if table.baseline is not None:
        if difference is None:
            cells += ["", ""]
        else:
            cells += [f"{100 * difference.mean:+.1f}", _span(difference, table, "+")]
    if table.pass_at is not None:
        reached = row.pass_at
        cells += ["", ""] if reached is None else [f"{100 * reached.mean:.1f}", _span(reached, table)]
    return [*cells, str(accuracy.num if accuracy is not None else 0)]


def _span(estimate: Estimate, table: Table, sign: str = "") -> str:
    mark = "†" if estimate.over == "problems" and table.num_seeds > 1 else ""
    return f"{100 * estimate.low:{sign}.1f} to {100 * estimate.high:{sign}.1f}{mark}"


def _note(table: Table) -> str:
    told = []
    if table.size is not None:
        told.append(f"{_set_name(table)}: {table.size[0]} problems, {table.size[1]} samples each.")
    if table.num_seeds == 1:
        told.append("One seed: intervals are over problems, and say nothing of what another seed would give.")
    else:
        told.append(f"{table.num_seeds} seeds: t intervals over seeds.")
    if table.baseline is not None:
        told.append(
            "Differences are paired, "
            + ("problem by problem." if table.num_seeds == 1 else "seed by seed.")
            + " Bold: the best arm, where its difference's interval leaves 0 out."
        )
    if "†" in "".join(cell for row in table.rows for cell in _cells(row, table)):
        told.append("†: of one finished seed, over problems.")
    if table.shared:
        told.append(f"{table.shared} of the problems are among those that checkpoints were chosen by.")
    if table.missing:
        told.append(f"{table.missing} of {table.planned} runs are missing.")
    return " ".join(told)


def _set_name(table: Table) -> str:
    return "Report set" if table.measure in MEASURES else capital(table.measure)


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


_COLUMNS = (
    "task", "setting", "measure", "arm", "seeds", "seeds_planned", "accuracy", "low", "high", "interval_over",
    "difference", "difference_low", "difference_high", "difference_seeds", "difference_interval_over",
    "pass_at", "pass_at_low", "pass_at_high",
)  # fmt: skip


def as_csv(tables: Sequence[Table]) -> str:
    """All tables as one: shares in [0, 1], a cell without a value is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for table in tables:
        for row in table.rows:
            accuracy = row.accuracy
            writer.writerow(
                [
                    table.task,
                    table.setting,
                    table.measure,
                    row.arm,
                    accuracy.num if accuracy is not None else 0,
                    table.num_seeds,
                    *_numbers(accuracy),
                    accuracy.over if accuracy is not None else "",
                    *_numbers(row.difference),
                    *((row.difference.num, row.difference.over) if row.difference is not None else ("", "")),
                    *_numbers(row.pass_at),
                ]
            )
    return stream.getvalue()


def _numbers(estimate: Estimate | None) -> list[str]:
    """Six decimals, which another machine's last bit does not change."""
    if estimate is None:
        return ["", "", ""]
    return [f"{value:.6f}" for value in (estimate.mean, estimate.low, estimate.high)]
