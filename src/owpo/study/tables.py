"""A study's tables: mean accuracies over seeds, and paired differences from the baseline, each with its 95% interval.

All of it is a pure function of the results.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

from owpo.study.file import NAMELESS, Study
from owpo.study.measures import (
    TITLES,
    Estimate,
    before_training,
    by_seed,
    difference_of,
    mean_of,
    size_of,
    title_of,
)
from owpo.study.results import Result

BEFORE = "before training"


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
        told = title_of(self.measure)
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
    if (before := mean_of(before_training(start, measure))) is not None:
        passes = [] if study.pass_at is None else before_training(start, measure, study.pass_at)
        rows.insert(0, Row(BEFORE, before, pass_at=mean_of(passes)))
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
        size=size_of([r for r in results if r.arm in arms], measure),
        pass_at=None if measure == "selection" else study.pass_at,
    )


def _column(measure: str) -> str:
    return "best" if measure == "references" else measure


def _accuracy(row: Row) -> float:
    assert row.accuracy is not None
    return row.accuracy.mean


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
    return "Report set" if table.measure in TITLES else capital(table.measure)


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
