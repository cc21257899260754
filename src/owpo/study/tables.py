"""A study's tables: mean accuracies over seeds, and paired differences from the baseline, each with its 95% interval.

All of it is a pure function of the results. The statistics are `evaluation.intervals`; here it is only decided what
they are taken of. Shape legend: S seeds, N problems, K samples per problem.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from owpo.evaluation.intervals import accuracy_interval, paired_difference
from owpo.study.file import Study
from owpo.study.results import Result, Score

BEFORE = "before training"
_MEASURES = {
    "best": "the last stage's best checkpoint, chosen on the selection set",
    "last": "the weights at the end of the run",
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
    """

    arm: str
    accuracy: Estimate | None
    difference: Estimate | None = None
    is_best: bool = False


@dataclass(frozen=True)
class Table:
    """
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

    @property
    def title(self) -> str:
        place = ", ".join(filter(None, (self.task, self.setting)))
        return f"{place}: {_MEASURES[self.measure]}" if place else _capital(_MEASURES[self.measure])


def tables_of(results: Sequence[Result], study: Study) -> list[Table]:
    """A table for every task, setting and measure, in the order of the study's file."""
    return [
        _table([r for r in results if (r.task, r.setting) == (task, setting)], study, task, setting, measure)
        for task in study.tasks
        for setting in study.settings
        for measure in study.measures
    ]


def _table(results: Sequence[Result], study: Study, task: str, setting: str, measure: str) -> Table:
    by_arm = {arm: _scores(results, study, arm, measure) for arm in study.arms}
    base = by_arm.get(study.baseline) if study.baseline is not None else None
    rows = []
    for arm, scores in by_arm.items():
        difference = None if base is None or arm == study.baseline else _difference(scores, base)
        rows.append(Row(arm, _mean([score for score, _ in scores.values()]), difference))
    best = max((row for row in rows if row.accuracy), key=_accuracy, default=None)
    if best is not None and best.difference is not None and best.difference.excludes_zero:
        rows[rows.index(best)] = Row(best.arm, best.accuracy, best.difference, is_best=True)
    start = [r.base for r in results if r.arm == (study.baseline or next(iter(study.arms)))]
    found = [score for scores in by_arm.values() for score, _ in scores.values()]
    planned = len(study.arms) * len(study.seeds)
    return Table(
        task=task,
        setting=setting,
        measure=measure,
        baseline=study.baseline,
        rows=(*([Row(BEFORE, _mean(start))] if start else []), *rows),
        num_seeds=len(study.seeds),
        planned=planned,
        missing=planned - len(found),
        shared=max((r.shared_problems for r in results), default=0),
        size=(len(found[0].correct), found[0].samples) if found else None,
    )


def _accuracy(row: Row) -> float:
    assert row.accuracy is not None
    return row.accuracy.mean


def _scores(results: Sequence[Result], study: Study, arm: str, measure: str) -> dict[int, tuple[Score, str]]:
    """By seed: the arm's score, and which problems it is of."""
    found = {}
    for result in results:
        score = result.score(measure)
        if result.arm == arm and result.seed in study.seeds and score is not None:
            found[result.seed] = (score, result.problems)
    return dict(sorted(found.items()))


def _mean(scores: Sequence[Score]) -> Estimate | None:
    """Over S seeds a t interval, `paired_difference` from nothing; with one seed that over its problems."""
    if not scores:
        return None
    if len(scores) == 1:
        score = scores[0]
        grid_NK = [[1.0] * count + [0.0] * (score.samples - count) for count in score.correct]
        found = accuracy_interval(grid_NK)
        return Estimate(found.mean, found.low, found.high, "problems", 1)
    accuracy_S = [score.accuracy for score in scores]
    mean, low, high = paired_difference(accuracy_S, [0.0] * len(accuracy_S))
    return Estimate(mean, max(0.0, low), high, "seeds", len(scores))


def _difference(mine: dict[int, tuple[Score, str]], base: dict[int, tuple[Score, str]]) -> Estimate | None:
    """Paired over the seeds that both have; with one such seed over problems, where both answered the same ones."""
    shared = [seed for seed in mine if seed in base]
    if not shared:
        return None
    if len(shared) == 1:
        (a, a_problems), (b, b_problems) = mine[shared[0]], base[shared[0]]
        if a_problems != b_problems:
            return None
        return Estimate(*paired_difference(a.shares, b.shares), "problems", 1)
    a_S, b_S = ([side[seed][0].accuracy for seed in shared] for side in (mine, base))
    return Estimate(*paired_difference(a_S, b_S), "seeds", len(shared))


def markdown(table: Table) -> str:
    """The table with its title above and what its numbers mean below."""
    columns = ["arm", "right, %", "95% interval"]
    if table.baseline is not None:
        columns += [f"over {table.baseline}, points", "95% interval"]
    columns.append("seeds")
    lines = [f"**{table.title}**", "", _line(columns), _line(["---"] * len(columns))]
    lines += [_line(_cells(row, table)) for row in table.rows]
    return "\n".join([*lines, "", _note(table), ""])


def _cells(row: Row, table: Table) -> list[str]:
    name = row.arm or "the recipe"
    accuracy, difference = row.accuracy, row.difference
    cells = [f"**{name}**" if row.is_best else name]
    if accuracy is None:
        cells += ["", ""]
    else:
        mark = "†" if accuracy.over == "problems" and table.num_seeds > 1 else ""
        right = f"{100 * accuracy.mean:.1f}"
        cells += [
            f"**{right}**" if row.is_best else right,
            f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}{mark}",
        ]
    if table.baseline is not None:
        if difference is None:
            cells += ["", ""]
        else:
            mark = "†" if difference.over == "problems" and table.num_seeds > 1 else ""
            cells += [
                f"{100 * difference.mean:+.1f}",
                f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}{mark}",
            ]
    return [*cells, str(accuracy.num if accuracy is not None else 0)]


def _note(table: Table) -> str:
    told = []
    if table.size is not None:
        told.append(f"Report set: {table.size[0]} problems, {table.size[1]} samples each.")
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


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


_COLUMNS = (
    "task", "setting", "measure", "arm", "seeds", "seeds_planned", "accuracy", "low", "high", "interval_over",
    "difference", "difference_low", "difference_high", "difference_seeds", "difference_interval_over",
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
                ]
            )
    return stream.getvalue()


def _numbers(estimate: Estimate | None) -> list[str]:
    """Six decimals, which another machine's last bit does not change."""
    if estimate is None:
        return ["", "", ""]
    return [f"{value:.6f}" for value in (estimate.mean, estimate.low, estimate.high)]
