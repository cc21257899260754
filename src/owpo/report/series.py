"""A number through a run, or its mean through several that differ by their seed alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from owpo.evaluation.score_intervals import t_quantile
from owpo.report.record import RunRecord

_MOST_POINTS = 400
_LEVEL = 0.95
Item = TypeVar("Item")


@dataclass(frozen=True)
class Series:
    """Points (x, y) with an interval [low, high] each, which is [y, y] where there is none.

    x  rollout steps of the whole run
    """

    name: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]

    @property
    def has_interval(self) -> bool:
        return self.low != self.high


Points = dict[int, tuple[float, float, float]]  # x: y, low, high


def metric_points(run: RunRecord, metric: str) -> Points:
    """A number of metrics.jsonl or timing.jsonl at every step that has it; `reference` is the phase's seconds."""
    found = {}
    for metrics, timing in zip(run.metrics, run.timing, strict=False):
        value = {**metrics, "reference": None, **timing}.get(metric)
        if value is not None and math.isfinite(value):
            found[metrics["total_step"]] = (value, value, value)
    return found


def evaluation_points(run: RunRecord) -> Points:
    """Accuracy on the selection set, with its interval over problems."""
    return {
        run.total_step(r["stage"], r["step"]): (r["accuracy"], r["low"], r["high"]) for r in run.evaluations
    }


def series(name: str, members: Iterable[Points]) -> Series:
    """One run's points, or the mean of several with its t interval where at least two have a point."""
    each = list(members)
    xs = sorted(set().union(*each)) if each else []
    points = {x: _joined([points[x] for points in each if x in points]) for x in xs}
    kept = some_of(xs, _MOST_POINTS)  # a picture of this size shows no more
    return Series(
        name,
        [float(x) for x in kept],
        *([points[x][part] for x in kept] for part in range(3)),
    )


def _joined(values: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0]
    mean, half = over_seeds([value[0] for value in values])
    return mean, mean - half, mean + half


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its t interval; 0 of one value."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, t_quantile(_LEVEL, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def some_of(items: Sequence[Item], most: int) -> list[Item]:
    """Evenly spaced ones of more than `most` items (2 at least), first and last among them; else all."""
    if len(items) <= most:
        return list(items)
    step = (len(items) - 1) / (most - 1)
    return [items[round(number * step)] for number in range(most)]
