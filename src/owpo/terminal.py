"""A run in the terminal: progress bars on long work, a line a step, the closing table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from owpo.evaluation.evaluate import Evaluation
from owpo.printable import printable
from owpo.training.alarms import Alarm
from owpo.training.display import Display

# Column heading, metric, format, width. Missing metrics (an objective without a reference has no delta) are a dash.
_STEP_COLUMNS: list[tuple[str, str, str, int]] = [
    ("acc", "accuracy", "{:.3f}", 6),
    ("delta", "delta", "{:+.3f}", 7),
    ("accel", "accelerated", "{:.0%}", 6),
    ("lock", "locked", "{:.0%}", 5),
    ("satur", "saturated", "{:.0%}", 6),
    ("kl ref", "kl_to_reference", "{:.4f}", 7),
    ("entropy", "entropy", "{:.3f}", 8),
    ("len", "response_length", "{:.1f}", 6),
    ("trunc", "truncated_share", "{:.0%}", 6),
    ("groups", "groups_kept", "{:.0f}", 7),
    ("tok/s", "tokens_per_second", "{:.0f}", 7),
]
_PLACE_WIDTH = 8


def show_warnings() -> None:
    """Warnings of the library on stderr, a line each."""
    console = Console(stderr=True)
    handler = RichHandler(console=console, show_time=False, show_path=False)
    handler.setFormatter(_PrintableFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class Terminal(Display):
    """Draws on a rich console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn()]
        if total is not None:
            columns.append(MofNCompleteColumn())
        bar = Progress(
            *columns,
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with bar:
            task = bar.add_task(printable(name), total=total)
            yield lambda done: bar.update(task, completed=done)

    def start(self, folder: Path, stages: list[str], done: int) -> None:
        self._line(f"run folder {folder}")
        for number, sentence in enumerate(stages, start=1):
            self._line(f"  {'done, ' if number <= done else ''}{sentence}")

    def stage(self, number: int, sentence: str) -> None:
        self._line(f"\n{sentence}", style="bold")
        headings = "".join(f"{heading:>{width}}" for heading, _, _, width in _STEP_COLUMNS)
        self._line(f"{'step':>{_PLACE_WIDTH}}{headings}", style="dim")

    def step(self, metrics: dict[str, Any], timing: dict[str, Any], num_steps: int) -> None:
        record = {**metrics, **timing}
        cells = (f"{_cell(record.get(name), form):>{width}}" for _, name, form, width in _STEP_COLUMNS)
        place = f"{metrics['step']}/{num_steps}"
        self._line(f"{place:>{_PLACE_WIDTH}}{''.join(cells)}")

    def _line(self, text: str, style: str | None = None) -> None:
        """One line as it is, however narrow the terminal."""
        self.console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)

    def evaluation(self, stage: int, step: int, evaluation: Evaluation, is_best: bool) -> None:
        accuracy = evaluation.accuracy
        mark = ", the stage's best so far" if is_best else ""
        self._line(
            f"selection set at step {step}: {accuracy.mean:.1%} ({accuracy.low:.1%} - {accuracy.high:.1%}){mark}",
            style="cyan",
        )

    def candidate(self, record: dict[str, Any]) -> None:
        drift, reasons = record["drift"], "; ".join(record["reasons"])
        kl, kl_first = drift["reference"]["kl"], drift["first"]["kl"]
        distance = f"KL {kl:.3f} to {record['held_against']}, {kl_first:.3f} to the first reference"
        if record["accepted"]:
            self._line(f"{record['candidate']} is the reference now: {reasons}; {distance}", style="green")
        else:
            self._line(
                f"{record['candidate']} is refused: {reasons}; {distance}. {record['in_force']} stays the reference",
                style="yellow",
            )

    def alarm(self, alarm: Alarm, ends_stage: bool) -> None:
        self._line(
            f"alarm: {alarm.sentence}{'; the stage ends here' if ends_stage else ''}", style="bold red"
        )

    def note(self, text: str) -> None:
        self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}", style="yellow")

    def result(self, folder: Path, result: dict[str, Any]) -> None:
        rows = result["rows"]
        first = rows[0]
        table = Table(
            title=f"report set: {first['num_problems']} problems x {first['samples_per_problem']} samples, "
            "95% intervals over problems",
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        for heading in ("model", "by", "against"):
            table.add_column(heading, no_wrap=True)
        for heading in ("acc %", "interval", "gain", "accel", "lock"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(
                row["version"],
                row.get("objective", ""),
                row.get("reference") or "",
                f"{100 * row['accuracy']:.1f}",
                f"{100 * row['low']:.1f} - {100 * row['high']:.1f}",
                _gain(row),
                _cell(row.get("accelerated"), "{:.0%}"),
                _cell(row.get("locked"), "{:.0%}"),
            )
        self.console.print()
        self.console.print(table)
        self._line("\ngain: points over the model learned against, paired on the same problems")
        self._line("accel, lock: share of tokens whose step the reference made larger, smaller")
        if result["in_force"] is not None:
            self._line(_in_force(result["in_force"], result["lineage"]))
        if result["selection"] is not None:
            self._line(_selection_note(result["selection"], first["num_problems"]), style="yellow")
        self._line(
            f"run folder {folder}; every model above is a Hugging Face folder in {folder / 'versions'}"
        )


def _in_force(version: str, lineage: list[dict[str, Any]]) -> str:
    refused = [record["candidate"] for record in lineage if not record["accepted"]]
    told = f"; refused: {', '.join(refused)} (owpo ratchet says why)" if refused else ""
    return f"reference in place at the end: {version}{told}"


def show_lineage(console: Console, records: list[dict[str, Any]]) -> None:
    """The lines of lineage.jsonl: every reference and candidate, and what was decided."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("candidate", "parent"):
        table.add_column(heading, no_wrap=True)
    for heading in ("acc %", "interval", "gain", "KL", "|delta|", "KL first"):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in records:
        drift = record.get("drift")
        scored = "accuracy" in record
        table.add_row(
            escape(record["candidate"]),
            escape(record["parent"] or "-"),
            f"{100 * record['accuracy']:.1f}" if scored else "-",
            f"{100 * record['low']:.1f} - {100 * record['high']:.1f}" if scored else "-",
            f"{100 * record['gate']['gain']:+.1f}" if record.get("gate") else "-",
            _cell(drift["reference"]["kl"] if drift else None, "{:.3f}"),
            _cell(drift["reference"]["abs_delta"] if drift else None, "{:.3f}"),
            _cell(drift["first"]["kl"] if drift else None, "{:.3f}"),
        )
    console.print(table)
    console.print()
    for record in records:
        verdict = "accepted" if record["accepted"] else "refused"
        against = f" against {record['held_against']}" if "held_against" in record else ""
        sentence = f"{record['candidate']} {verdict}{against}: {'; '.join(record['reasons'])}"
        console.print(sentence, style=None if record["accepted"] else "yellow", markup=False, highlight=False)


def _selection_note(selection: dict[str, Any], num_problems: int) -> str:
    return (
        f"chosen on what is reported: {selection['shared_problems']} of these {num_problems} problems are also in the "
        f"selection set, where each stage's best was chosen among {max(selection['choices'])} checkpoints. Were all "
        f"of them equally good, the chosen one's score there would still be {100 * selection['inflation']:.1f} points "
        "above its true value; report on other problems"
    )


def _gain(row: dict[str, Any]) -> str:
    """Percentage points over the model learned against, with half the width of the paired interval."""
    if "gain" not in row:
        return ""
    return f"{100 * row['gain']:+.1f} ±{50 * (row['gain_high'] - row['gain_low']):.1f}"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
