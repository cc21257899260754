"""A study's figures: accuracy on the selection set, and metrics of training, against the step, a line an arm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from owpo.report.drawing import WIDE, Chart, mark, percent, style
from owpo.report.series import Series, series
from owpo.study.file import Study
from owpo.study.measures import mean_of
from owpo.study.overview import Overview, overviews_of
from owpo.study.results import Result

_PANELS = 3  # metrics in a row


def charts_of(results: Sequence[Result], study: Study) -> list[Chart]:
    """All places in one figure; then for each that has a result the learning curves, and a panel a metric."""
    charts = [_overview_chart(overview, study) for overview in overviews_of(results, study)]
    for task in study.tasks:
        for setting in study.settings:
            mine = [r for r in results if (r.task, r.setting) == (task, setting) and r.arm in study.arms]
            if mine:
                charts.append(_chart(mine, study, task, setting))
            if any(r.metrics for r in mine):
                charts.append(_metrics_chart(mine, study, task, setting))
    return charts


def curve(results: Sequence[Result], arm: str, at: Sequence[int] | None) -> Series:
    """The arm's mean over seeds with its t interval; with one seed its interval over problems.

    Only steps that every finished run of the arm has, so that no part of a curve is of other seeds than the rest.

    Args:
        at: steps to be shown; None: all.
    """
    members = [
        {step: (y, low, high) for step, y, low, high in r.curve if at is None or step in at}
        for r in results
        if r.arm == arm
    ]
    common = set.intersection(*map(set, members)) if members else set()
    return series(arm, [{step: points[step] for step in sorted(common)} for points in members])


def _chart(results: Sequence[Result], study: Study, task: str, setting: str) -> Chart:
    lines = [curve(results, arm, study.at) for arm in study.arms]
    place = ", ".join(filter(None, (task, setting)))
    last = [f"{line.name or 'the recipe'} {percent(line.y[-1])}" for line in lines if line.y]
    return Chart(
        name="-".join(["curves", *filter(None, (task, setting))]),
        title=f"{place or study.title}: accuracy on the selection set",
        says=f"Accuracy on the selection set against rollout steps; at the end {', '.join(last)}.",
        draw=partial(
            _draw,
            lines,
            f"{f'{place}: r' if place else 'R'}ight answers on the selection set",
            len(study.seeds),
        ),
        size=WIDE,
    )


def _metrics_chart(results: Sequence[Result], study: Study, task: str, setting: str) -> Chart:
    lines: dict[str, list[Series]] = {
        name: [_metric_curve(results, arm, name) for arm in study.arms]
        for name in study.metrics
        if any(name in r.metrics for r in results)
    }
    place = ", ".join(filter(None, (task, setting)))
    rows = -(-len(lines) // _PANELS)
    return Chart(
        name="-".join(filter(None, ["metrics", task, setting])),
        title=f"{place or study.title}: while it was trained",
        says=f"Against rollout steps, each the mean since the evaluation before: {', '.join(lines)}.",
        draw=partial(_draw_metrics, lines, rows),
        size=(WIDE[0], 0.9 + 1.8 * rows),
    )


def _metric_curve(results: Sequence[Result], arm: str, name: str) -> Series:
    members = [r.metrics[name] for r in results if r.arm == arm and name in r.metrics]
    return series(arm, [{step: (value, value, value) for step, value in points} for points in members])


def _draw_metrics(lines: dict[str, list[Series]], rows: int, figure: Figure) -> None:
    panels = figure.subplots(rows, min(_PANELS, len(lines)), squeeze=False).flatten()
    handles = {}
    for axes, (name, each) in zip(panels, lines.items(), strict=False):
        for number, line in enumerate(each):
            if line.x:
                look = style(number)
                (handles[line.name or "the recipe"],) = axes.plot(line.x, line.y, marker=mark(number), **look)
                axes.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.12, linewidth=0)
        axes.set_title(name)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes in panels[len(lines) :]:
        axes.set_axis_off()
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=5)


def _overview_chart(overview: Overview, study: Study) -> Chart:
    told = [
        f"{arm} {percent(mean.mean)} on {place}"
        for place, arms in overview.ones.items()
        for arm, ones in arms.items()
        if (mean := mean_of([*ones.values()])) is not None
    ]
    return Chart(
        name="-".join(filter(None, ["overview", overview.setting, overview.measure])),
        title=overview.title,
        says=f"{overview.title}: {', '.join(told)}.",
        draw=partial(_draw_overview, overview, study),
        size=WIDE,
    )


def _draw_overview(overview: Overview, study: Study, figure: Figure) -> None:
    axes = figure.subplots()
    width = 0.8 / len(study.arms)
    for number, arm in enumerate(study.arms):
        means = [mean_of([*arms[arm].values()]) for arms in overview.ones.values()]
        shown = [(x, mean) for x, mean in enumerate(means) if mean is not None]
        axes.errorbar(
            [x + (number - (len(study.arms) - 1) / 2) * width for x, _ in shown],
            [mean.mean for _, mean in shown],
            yerr=[
                [max(0.0, mean.mean - mean.low) for _, mean in shown],
                [max(0.0, min(1.0, mean.high) - mean.mean) for _, mean in shown],
            ],
            fmt=mark(number),
            color=style(number)["color"],
            linewidth=0.9,
            label=arm or "the recipe",
        )
    axes.set_title(f"{overview.title}; right answers, 95% intervals over seeds", wrap=True)
    axes.set_xticks(range(len(overview.ones)), list(overview.ones))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower left", ncols=4)


def _draw(lines: Sequence[Series], title: str, num_seeds: int, figure: Figure) -> None:
    axes = figure.subplots()
    for number, line in enumerate(lines):
        if not line.x:
            continue
        look = style(number)
        axes.plot(line.x, line.y, marker=mark(number), label=line.name or "the recipe", **look)
        low, high = ([min(1.0, max(0.0, value)) for value in side] for side in (line.low, line.high))
        axes.fill_between(line.x, low, high, color=look["color"], alpha=0.12, linewidth=0)
    over = "over problems" if num_seeds == 1 else "over seeds"
    axes.set_title(f"{title}, with 95% intervals {over}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rollout steps")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower left", ncols=4)
