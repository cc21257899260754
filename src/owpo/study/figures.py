"""A study's figures: accuracy on the selection set, and metrics of training, against the step, a line an arm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from owpo.report.drawing import WIDE, Chart, mark, percent, style
from owpo.report.series import Series, series
from owpo.study.file import Study
from owpo.study.overview import Overview, overviews_of
from owpo.study.results import Result
from owpo.study.tables import mean_of


def charts_of(results: Sequence[Result], study: Study) -> list[Chart]:
    """All places in one figure; then for each that has a result the learning curves, and a figure a metric."""
    charts = [_overview_chart(overview, study) for overview in overviews_of(results, study)]
    for task in study.tasks:
        for setting in study.settings:
            mine = [r for r in results if (r.task, r.setting) == (task, setting) and r.arm in study.arms]
            if mine:
                charts.append(_chart(mine, study, task, setting))
            for name in study.metrics:
                if any(name in r.metrics for r in mine):
                    charts.append(_metric_chart(mine, study, task, setting, name))
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


def _metric_chart(results: Sequence[Result], study: Study, task: str, setting: str, name: str) -> Chart:
    lines = [
        series(
            arm,
            [
                {step: (value, value, value) for step, value in r.metrics[name]}
                for r in results
                if r.arm == arm and name in r.metrics
            ],
        )
        for arm in study.arms
    ]
    place = ", ".join(filter(None, (task, setting)))
    return Chart(
        name="-".join(filter(None, [name, task, setting])),
        title=f"{place or study.title}: {name}",
        says=f"{name} against rollout steps, each the mean since the evaluation before.",
        draw=partial(_draw, lines, f"{place}: {name}" if place else name, len(study.seeds), is_share=False),
        size=WIDE,
    )


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


def _draw(
    lines: Sequence[Series], title: str, num_seeds: int, figure: Figure, *, is_share: bool = True
) -> None:
    axes = figure.subplots()
    for number, line in enumerate(lines):
        if not line.x:
            continue
        look = style(number)
        axes.plot(line.x, line.y, marker=mark(number), label=line.name or "the recipe", **look)
        low, high = line.low, line.high
        if is_share:
            low, high = ([min(1.0, max(0.0, value)) for value in side] for side in (low, high))
        axes.fill_between(line.x, low, high, color=look["color"], alpha=0.12, linewidth=0)
    over = "over problems" if num_seeds == 1 and is_share else "over seeds"
    axes.set_title(f"{title}, with 95% intervals {over}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rollout steps")
    if is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower left", ncols=4)
