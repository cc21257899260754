"""Several studies that differ in one knob, read as one: each arm where it stands best on the selection set."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from owpo.errors import InputError
from owpo.study.file import Study
from owpo.study.results import Result

Stored = tuple[Study, Sequence[Result]]
Place = tuple[str, str, str]  # task, setting, arm


class Tuned(NamedTuple):
    """
    study    the first one, with the tasks, settings, arms and seeds that all of them have results of
    results  of each task, setting and arm those of the study in which the arm is best
    told     which these are, in a sentence
    """

    study: Study
    results: list[Result]
    told: str


def tuned(stored: Sequence[Stored]) -> Tuned:
    """
    Args:
        stored: two or more studies, each with its results.

    Raises:
        InputError: they do not have the baseline's runs in common.
    """
    seeds = set.intersection(*({result.seed for result in results} for _, results in stored))
    by_place = [_by_place(each, seeds) for each in stored]
    results: list[Result] = []
    chosen: dict[str, list[str]] = {study.name: [] for study, _ in stored}
    for place in by_place[0]:
        found = [places.get(place, []) for places in by_place]
        if any(len(each) < len(seeds) for each in found):
            continue
        best = max(range(len(found)), key=lambda i: statistics.fmean(r.selection[0] for r in found[i]))
        results += found[best]
        chosen[stored[best][0].name].append(" ".join(part for part in place if part))
    first = stored[0][0]
    has = {axis: {getattr(r, axis) for r in results} for axis in ("task", "setting", "arm")}
    if (first.baseline or next(iter(first.arms))) not in has["arm"]:
        raise InputError(f"{' and '.join(chosen)} have no runs of the baseline in common")
    study = replace(
        first,
        seeds=tuple(sorted(seeds)),
        tasks={name: each for name, each in first.tasks.items() if name in has["task"]},
        settings={name: each for name, each in first.settings.items() if name in has["setting"]},
        arms={name: each for name, each in first.arms.items() if name in has["arm"]},
        references={},
        contrasts=tuple(pair for pair in first.contrasts if has["arm"].issuperset(pair)),
    )
    others = [f"{name}: {', '.join(chosen[name])}" for name in list(chosen)[1:] if chosen[name]]
    told = f"All of {first.name} but what is better on the selection set in {'; '.join(others)}."
    if not others:
        told = f"All of {first.name}, as nothing is better on the selection set elsewhere."
    return Tuned(study, results, told)


def _by_place(stored: Stored, seeds: set[int]) -> dict[Place, list[Result]]:
    """Of the arms alone, and of these seeds."""
    study, results = stored
    found: dict[Place, list[Result]] = {}
    for result in results:
        if result.arm in study.arms and result.seed in seeds:
            found.setdefault((result.task, result.setting, result.arm), []).append(result)
    return found
