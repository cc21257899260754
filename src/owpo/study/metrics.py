"""What training did, beside what it came to: means of step metrics, and how far each reference had gone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import product

from owpo.report.series import over_seeds
from owpo.study.file import Study
from owpo.study.results import Drift, Result


def metric_tables(results: Sequence[Result], study: Study) -> list[str]:
    """A table for every task and setting in which a run has one of the study's metrics."""
    tables = (_table(results, study, *place) for place in product(study.tasks, study.settings))
    return [table for table in tables if table]


def _table(results: Sequence[Result], study: Study, task: str, setting: str) -> str:
    """An arm a row: each metric's mean over all steps, averaged over seeds, with the t interval's half width."""
    here = [r for r in results if (r.task, r.setting) == (task, setting)]
    names = [name for name in study.metrics if any(name in r.metrics for r in here)]
    if not names:
        return ""
    place = ", ".join(filter(None, (task, setting)))
    title = f"{place}: while it was trained" if place else "While it was trained"
    lines = [f"**{title}**", "", f"| arm | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for arm in study.arms:
        mine = [r for r in here if r.arm == arm]
        cells = [_cell([mean_of(r, name) for r in mine if name in r.metrics]) for name in names]
        lines.append(f"| {arm or 'the recipe'} | {' | '.join(cells)} |")
    note = "Means over the steps of a run, then over seeds, ± half a t interval. docs/run-folder.md says what each is."
    return "\n".join([*lines, "", note, ""])


def drift_tables(results: Sequence[Result], study: Study) -> list[str]:
    """A table for every task and setting in which a reference was to move."""
    found = []
    for task, setting in product(study.tasks, study.settings):
        here = [r for r in results if (r.task, r.setting) == (task, setting) and r.drift]
        if not here:
            continue
        columns = [f"stage {number + 1}" for number in range(max(len(r.drift) for r in here))]
        place = ", ".join(filter(None, (task, setting)))
        title = f"{place}: how far from the first reference" if place else "How far from the first reference"
        lines = [f"**{title}**", "", f"| arm | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
        for arm in study.arms:
            mine = [r.drift for r in here if r.arm == arm]
            if mine:
                cells = [
                    _drift_cell([d[number] for d in mine if len(d) > number])
                    for number in range(len(columns))
                ]
                lines.append(f"| {arm or 'the recipe'} | {' | '.join(cells)} |")
        note = (
            "KL(candidate ‖ first reference) in nats a token, ± half a t interval over seeds; in brackets that to the "
            "reference in place, and how many of the seeds' candidates were taken."
        )
        found.append("\n".join([*lines, "", note, ""]))
    return found


def _drift_cell(drifts: Sequence[Drift]) -> str:
    if not drifts:
        return ""
    taken = f"{sum(d.accepted for d in drifts)} of {len(drifts)}"
    return f"{_cell([d.kl_first for d in drifts])} ({_cell([d.kl for d in drifts])}; {taken})"


def mean_of(result: Result, name: str) -> float:
    """Over the run's evaluations, of the steps since the one before."""
    return statistics.fmean(value for _, value in result.metrics[name])


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean, half = over_seeds(values)
    return f"{mean:.3g}" if len(values) == 1 else f"{mean:.3g} ± {half:.2g}"
