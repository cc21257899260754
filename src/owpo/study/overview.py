"""Several tasks or settings in one table: arms down, places across. The numbers are those of `tables.py`."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence

from owpo.study.file import Study
from owpo.study.results import Result
from owpo.study.tables import MEASURES, One, by_seed, capital, difference_of, line, mean_of


def overviews(results: Sequence[Result], study: Study) -> list[str]:
    """For each measure the tasks across, a table a setting; of a single task the settings across."""
    found = []
    for measure in study.measures:
        if len(study.tasks) > 1:
            for setting in study.settings:
                here = [r for r in results if r.setting == setting]
                title = f"{setting}: {MEASURES[measure]}" if setting else capital(MEASURES[measure])
                by_place = {task: [r for r in here if r.task == task] for task in study.tasks}
                found.append(_overview(by_place, study, measure, title, with_mean=True))
        elif len(study.settings) > 1:
            (task,) = study.tasks
            by_place = {setting: [r for r in results if r.setting == setting] for setting in study.settings}
            title = f"{task}: {MEASURES[measure]}" if task else capital(MEASURES[measure])
            found.append(_overview(by_place, study, measure, title, with_mean=False))
    return [table for table in found if table]


def _overview(
    by_place: dict[str, list[Result]], study: Study, measure: str, title: str, *, with_mean: bool
) -> str:
    """ "" where nothing is measured."""
    ones = {
        place: {arm: by_seed(results, study, arm, measure) for arm in study.arms}
        for place, results in by_place.items()
    }
    if not any(arm for arms in ones.values() for arm in arms.values()):
        return ""
    if with_mean:
        ones["mean"] = {arm: _over_places([arms[arm] for arms in ones.values()]) for arm in study.arms}
    lines = [f"**{title}**", "", line(["arm", *ones]), line(["---"] * (1 + len(ones)))]
    for arm in study.arms:
        base = {place: arms.get(study.baseline or arm, {}) for place, arms in ones.items()}
        cells = [_cell(arms[arm], base[place], arm == study.baseline) for place, arms in ones.items()]
        lines.append(line([arm or "the recipe", *cells]))
    return "\n".join([*lines, "", _note(study, by_place, ones), ""])


def _note(study: Study, places: Collection[str], ones: dict[str, dict[str, dict[int, One]]]) -> str:
    half = " ± half a 95% t interval" if len(study.seeds) > 1 else ""
    told = [f"Right answers in percent, means over {len(study.seeds)} seeds{half}"]
    if study.baseline is not None:
        told.append(
            f"in brackets the paired difference from {study.baseline}, bold where its interval leaves 0 out"
        )
    missing = sum(len(study.seeds) - len(one) for place in places for one in ones[place].values())
    return f"{'; '.join(told)}.{f' {missing} runs are missing.' if missing else ''}"


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
    points = f"{100 * difference.mean:+.1f}"
    if difference.excludes_zero:
        points = f"**{points}**"
    return f"{right} ({points} ± {50 * (difference.high - difference.low):.1f})"
