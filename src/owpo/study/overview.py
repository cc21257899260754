"""Several tasks or settings in one table: arms down, places across. The numbers are those of `tables.py`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from owpo.study.file import Study
from owpo.study.measures import Estimate, One, by_seed, difference_of, mean_of, title_of
from owpo.study.results import Result
from owpo.study.tables import capital, line

_MEAN = "mean"


@dataclass(frozen=True)
class Overview:
    """A measure at several places of a study.

    ones  by place, arm and seed; the place "mean" is over the tasks
    """

    setting: str
    measure: str
    title: str
    ones: dict[str, dict[str, dict[int, One]]]


def overviews_of(results: Sequence[Result], study: Study) -> list[Overview]:
    """For each measure and transfer set the tasks across, one a setting; of a single task the settings across.

    A single task without settings has one for its contrasts.
    """
    found = []
    for measure in (
        *study.measures,
        *dict.fromkeys(name for sets in study.transfer.values() for name in sets),
    ):
        told = title_of(measure)
        tasks = [task for task in study.tasks if measure in (*study.measures, *study.transfer[task])]
        if len(study.tasks) > 1:
            for setting in study.settings:
                here = [r for r in results if r.setting == setting]
                ones = {task: _by_arm([r for r in here if r.task == task], study, measure) for task in tasks}
                if len(tasks) > 1:
                    over = {arm: _over_places([arms[arm] for arms in ones.values()]) for arm in study.arms}
                    ones[_MEAN] = over
                title = f"{setting}: {told}" if setting else capital(told)
                found.append(Overview(setting, measure, title, ones))
        elif len(study.settings) > 1 or study.contrasts:
            (task,) = study.tasks
            ones = {
                setting or task or "right": _by_arm(
                    [r for r in results if r.setting == setting], study, measure
                )
                for setting in study.settings
            }
            found.append(Overview("", measure, f"{task}: {told}" if task else capital(told), ones))
    return [each for each in found if any(arm for arms in each.ones.values() for arm in arms.values())]


def overviews(results: Sequence[Result], study: Study) -> list[str]:
    """As Markdown, each with its contrasts."""
    found = []
    for overview in overviews_of(results, study):
        found.append(_markdown(overview.title, overview.ones, study))
        if study.contrasts:
            found.append(_contrasts(overview, study))
    return found


def _by_arm(results: Sequence[Result], study: Study, measure: str) -> dict[str, dict[int, One]]:
    return {arm: by_seed(results, study, arm, measure) for arm in study.arms}


def _markdown(title: str, ones: dict[str, dict[str, dict[int, One]]], study: Study) -> str:
    lines = [f"**{title}**", "", line(["arm", *ones]), line(["---"] * (1 + len(ones)))]
    for arm in study.arms:
        base = {place: arms.get(study.baseline or arm, {}) for place, arms in ones.items()}
        cells = [_cell(arms[arm], base[place], arm == study.baseline) for place, arms in ones.items()]
        lines.append(line([arm or "the recipe", *cells]))
    return "\n".join([*lines, "", _note(study, ones), ""])


def _note(study: Study, ones: dict[str, dict[str, dict[int, One]]]) -> str:
    places = [arms for place, arms in ones.items() if place != _MEAN]
    missing = sum(len(study.seeds) - len(one) for arms in places for one in arms.values())
    half = " ± half a 95% t interval" if len(study.seeds) > 1 else ""
    seeds = f"{'up to ' if missing else ''}{len(study.seeds)} seeds"
    told = [f"Right answers in percent, means over {seeds}{half}"]
    if study.baseline is not None:
        told.append(
            f"in brackets the paired difference from {study.baseline}, bold where its interval leaves 0 out"
        )
    return f"{'; '.join(told)}.{f' {missing} runs are missing.' if missing else ''}"


def _contrasts(overview: Overview, study: Study) -> str:
    ones = overview.ones
    title = f"{overview.title}: differences"
    lines = [f"**{title}**", "", line(["points", *ones]), line(["---"] * (1 + len(ones)))]
    for a, b in study.contrasts:
        lines.append(
            line([f"{a} − {b}", *(_points(difference_of(arms[a], arms[b])) for arms in ones.values())])
        )
    return "\n".join(
        [*lines, "", "Paired seed by seed, ± half a 95% t interval; bold where it leaves 0 out.", ""]
    )


def _points(difference: Estimate | None) -> str:
    if difference is None:
        return ""
    points = f"{100 * difference.mean:+.1f}"
    if difference.excludes_zero:
        points = f"**{points}**"
    return f"{points} ± {50 * (difference.high - difference.low):.1f}"


def _over_places(arms: Sequence[dict[int, One]]) -> dict[int, One]:
    """By seed the mean over places, of seeds that all places have."""
    seeds = set.intersection(*map(set, arms))
    return {seed: One.of(statistics.fmean(arm[seed].value for arm in arms)) for seed in sorted(seeds)}


def _cell(mine: dict[int, One], base: dict[int, One], is_baseline: bool) -> str:
    mean = mean_of([*mine.values()])
    if mean is None:
        return ""
    right = f"{100 * mean.mean:.1f}"
    difference = None if is_baseline else difference_of(mine, base)
    if difference is None or mine is base:
        return f"{right} ± {50 * (mean.high - mean.low):.1f}" if mean.num > 1 else right
    return f"{right} ({_points(difference)})"
