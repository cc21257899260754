"""What a study leaves for readers: README.md, tables.md, tables.csv and the figures, all of its results alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from owpo.disk.files import write_text
from owpo.disk.settings import flatten
from owpo.disk.trouble import writing
from owpo.report.drawing import Chart
from owpo.study.figures import charts_of
from owpo.study.file import NAMELESS, Study
from owpo.study.metrics import drift_tables, metric_tables
from owpo.study.overrides import Overrides
from owpo.study.overview import overviews
from owpo.study.results import FILE, Result
from owpo.study.tables import as_csv, markdown, tables_of

PAGE, TABLES, CSV, FIGURES = "README.md", "tables.md", "tables.csv", "figures"
_HOUR = 3600.0  # seconds


def texts_of(results: Sequence[Result], study: Study) -> dict[str, str]:
    """Every text that a study writes, by file name; a pure function of the results."""
    shown = [*overviews(results, study), *map(markdown, tables_of(results, study))]
    shown += [*metric_tables(results, study), *drift_tables(results, study)]
    return {
        PAGE: _page(results, study, shown, charts_of(results, study)),
        TABLES: "\n".join(shown),
        CSV: as_csv(tables_of(results, study)),
    }


def write_page(results: Sequence[Result], study: Study, folder: Path) -> Path:
    """Write texts and figures into `folder`, in place of those that are there; returns the page."""
    with writing(folder):
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    for chart in charts_of(results, study):
        chart.save_svg(folder / FIGURES)
    for name, text in texts_of(results, study).items():
        write_text(folder / name, text)
    return folder / PAGE


def _page(results: Sequence[Result], study: Study, tables: list[str], charts: list[Chart]) -> str:
    parts = [f"# {study.title}", "", study.question, "", "## Results", "", "\n".join(tables)]
    if charts:
        parts += ["## Curves", ""]
        for chart in charts:
            parts += [f"![{chart.title}. {chart.says}]({FIGURES}/{chart.name}.svg)", ""]
    parts += ["## What was run", "", *_what_was_run(results, study), ""]
    for axis, points in (("arms", study.arms), ("tasks", study.tasks), ("settings", study.settings)):
        if set(points) != {NAMELESS}:
            parts += _axis(axis, points, study.shrink_by[axis], study.reference_of[axis])
    if study.references:
        parts += _axis("references", study.references, {}, {})
    for task, arms in study.arms_of.items():
        if arms:
            parts += _axis(f"arms in {task}", arms, {}, {})
    parts += ["## Again", "", f"    {study.command}", ""]
    parts += [
        f"The numbers are made of `{FILE}`; `{study.command} --tables` writes this page of it anew.",
        "",
    ]
    return "\n".join(parts)


def provenance(results: Sequence[Result], study: Study) -> str:
    """In one line what made the numbers, and how to make them again."""
    dates = sorted(result.finished[:10] for result in results)
    commits = ", ".join(_each(_code(result) for result in results))
    seeds = ", ".join(map(str, sorted({result.seed for result in results})))
    return f"`{study.command}`, seeds {seeds}, {commits}, {_span(dates[0], dates[-1])}"


def _what_was_run(results: Sequence[Result], study: Study) -> list[str]:
    seeds = ", ".join(map(str, study.seeds))
    grid = " x ".join(
        f"{len(points)} {axis}"
        for axis, points in (("tasks", study.tasks), ("settings", study.settings), ("arms", study.arms))
        if set(points) != {NAMELESS}
    )
    form = "the whole study" if study.is_full else "the study"
    if study.shrink or any(study.shrink_by.values()):
        form = "the reduced form of the study"
    lines = [
        f"- {form}: {f'{grid} x ' if grid else ''}seeds {seeds}; {len(results)} of {study.num_runs} runs are finished",
        f"- recipe: {f'`{study.source}`' if study.source else 'in the study file'}, one thread a run",
    ]
    if study.shrink:
        lines.append(f"- of all runs: {_entries(study.shrink)}")
    if not results:
        return lines
    dates = sorted(result.finished for result in results)
    hours = sum(result.seconds for result in results) / _HOUR
    lines += [
        f"- finished: {_span(dates[0][:10], dates[-1][:10])} (UTC)",
        f"- code: {', '.join(_each(_code(result) for result in results))}",
        f"- machine: {'; '.join(_each(_machine(result.machine) for result in results))}",
        f"- time: {hours:.2f} hours of rollout steps in all runs, evaluations not counted; "
        f"{sum(result.steps for result in results)} steps",
        f"- a run: {_range(result.responses for result in results)} responses to train on, "
        f"{_range(result.updates for result in results)} updates",
    ]
    return lines


def _axis(
    axis: str, points: dict[str, Overrides], shrink: dict[str, Overrides], reference_of: dict[str, str]
) -> list[str]:
    lines = [f"| {axis} | what differs from the recipe |", "| --- | --- |"]
    for name, overrides in points.items():
        told = _entries(overrides) or "nothing"
        if name in reference_of:
            told += f"; learns against the best checkpoint of `{reference_of[name]}`"
        if shrink.get(name):
            told += f"; reduced: {_entries(shrink[name])}"
        lines.append(f"| {name} | {told} |")
    return [*lines, ""]


def _entries(overrides: Overrides) -> str:
    return ", ".join(f"`{key} = {value!r}`".replace("|", "\\|") for key, value in flatten(overrides).items())


def _code(result: Result) -> str:
    if result.code is None:
        return f"owpo {result.machine.get('owpo')}"
    changed = " with local changes" if result.code.get("modified") else ""
    return f"commit {str(result.code.get('commit'))[:12]}{changed}"


def _range(values: Iterable[int]) -> str:
    low, *rest = sorted(set(values))
    return f"{low} to {rest[-1]}" if rest else str(low)


def _machine(machine: dict[str, Any]) -> str:
    device = f", {machine['cuda']}" if machine.get("cuda") else ""
    versions = ", ".join(f"{name} {machine.get(name)}" for name in ("python", "torch", "transformers"))
    return f"{machine.get('platform')}, {machine.get('cpu_count')} cores{device}, {versions}"


def _each(words: Any) -> list[str]:
    return list(dict.fromkeys(words))


def _span(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"
