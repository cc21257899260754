"""A run as it goes on, in the terminal: where it is, how its numbers move, its last responses. It is only read."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from owpo.printable import printable
from owpo.report.record import RunRecord, read_run

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40  # of a sparkline, where there is room
_TEXT, _TEXT_NARROW = 48, 28  # columns of the table beside it: all of them, without lowest and highest
_LEAST = 12  # of a sparkline
_RECENT = 20  # steps whose median duration is taken for the rest's
_LINES = 6  # of a response
_METRICS = (
    ("accuracy", "{:.1%}"),
    ("kl_to_reference", "{:.4f}"),
    ("accelerated", "{:.1%}"),
    ("locked", "{:.1%}"),
    ("entropy", "{:.3f}"),
    ("response_length", "{:.1f}"),
    ("truncated_share", "{:.1%}"),
    ("grad_norm", "{:.3f}"),
    ("tokens_per_second", "{:.0f}"),
)


def watch(path: Path, console: Console, every: float = 2.0, once: bool = False) -> None:
    """Show a run until it is finished, anew every so many seconds; once where the output is no terminal.

    Raises:
        InputError: the folder is no run.
    """
    if once or not console.is_terminal:
        console.print(picture(read_run(path), console.width))
        return
    with Live(picture(read_run(path), console.width), console=console, auto_refresh=False) as live:
        while True:
            run = read_run(path)
            live.update(picture(run, console.width), refresh=True)
            if run.is_finished:
                return
            time.sleep(every)


def picture(run: RunRecord, width: int) -> RenderableType:
    """The run as it stands, for a terminal of so many columns."""
    parts: list[RenderableType] = [Text(printable(f"{run.name}: {run.status}"), style="bold")]
    if run.metrics:
        parts += [_progress(run, width), _numbers(run, width), _reference(run)]
    for record in run.last_rollouts(3):
        parts.append(_response(record))
    return Group(*parts)


def _progress(run: RunRecord, width: int) -> RenderableType:
    total = sum(stage.steps for stage in run.plan)
    done = len(run.metrics)
    left = "" if run.is_finished else f", about {_duration(_seconds_left(run))} left"
    text = f"{done} of at most {total} steps{left}"
    bar = min(_WIDTH, width - len(text) - 1)
    if bar < _LEAST:
        return Text(text)
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=total, completed=done, width=bar), text)
    return grid


def _seconds_left(run: RunRecord) -> float:
    """For the steps of the plan that are to come, evaluations left out."""
    place = run.metrics[-1]
    steps = run.plan[place["stage"] - 1].steps - place["step"]
    steps += sum(stage.steps for stage in run.plan[place["stage"] :])
    recent = [record["seconds"] for record in run.timing[-_RECENT:]]
    return steps * statistics.median(recent) if recent else 0.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    )


def _numbers(run: RunRecord, width: int) -> Table:
    """Every metric that the run has: its newest value and all of them, with the extremes where there is room."""
    is_wide = width >= _TEXT + _LEAST
    room = min(_WIDTH, max(_LEAST, width - (_TEXT if is_wide else _TEXT_NARROW)))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("now", justify="right")
    table.add_column("so far", no_wrap=True)
    if is_wide:
        table.add_column("lowest", justify="right")
        table.add_column("highest", justify="right")
    none: dict[str, Any] = {}  # a look may come between a step's two lines
    steps = [{**m, **t} for m, t in zip_longest(run.metrics, run.timing, fillvalue=none)]
    series = {name: (form, [step.get(name) for step in steps]) for name, form in _METRICS}
    series["selection set"] = ("{:.1%}", [record["accuracy"] for record in run.evaluations])
    for name, (form, found) in series.items():
        values = [value for value in found if value is not None and math.isfinite(value)]
        if values:
            extremes = [form.format(value) for value in (min(values), max(values))] if is_wide else []
            table.add_row(name, form.format(values[-1]), sparkline(values, room), *extremes)
    return table


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Values from left to right as bars between their least and largest, means of neighbours where there are many."""
    if len(values) > width:
        edges = [round(number * len(values) / width) for number in range(width + 1)]
        values = [statistics.fmean(values[a:b]) for a, b in pairwise(edges)]
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def _reference(run: RunRecord) -> Text:
    if not run.lineage:
        return Text("no reference is read")
    last = run.lineage[-1]
    told = f"reference in force: {last['in_force']}"
    if not last["accepted"]:
        told += f"; {last['candidate']} was refused: {'; '.join(last['reasons'])}"
    alarms = [
        f"alarm: {record['alarm']} in stage {record['stage']}, step {record['step']}"
        for record in run.alarms[-1:]
    ]
    return Text(printable("\n".join([told, *alarms])))


def _response(record: dict[str, Any]) -> Text:
    right = record["verdict"] == "correct"
    text = record["response"].strip()
    shown = "\n".join(text[-300:].split("\n")[-_LINES:])
    if len(shown) < len(text):
        shown = f"... {shown}"
    place = f"step {record['step']}, {record['problem']}, expected {record['answer']}"
    about = f"\n{'✓' if right else '✗'} {record['verdict']}, {place}: "
    return Text.assemble((printable(about), "green" if right else "yellow"), printable(shown))
