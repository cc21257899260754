"""A run in the terminal: progress bars on long work, a line a step, the closing table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from owpo.evaluation.evaluate import Evaluation
from owpo.training.display import Display

# Column heading, metric, format. Missing metrics (an objective without a reference has no delta) show as a dash.
_STEP_COLUMNS: list[tuple[str, str, str]] = [
    ("acc", "accuracy", "{:.3f}"),
    ("delta", "delta", "{:+.3f}"),
    ("accel", "accelerated", "{:.0%}"),
    ("lock", "locked", "{:.0%}"),
    ("satur", "saturated", "{:.0%}"),
    ("kl ref", "kl_to_reference", "{:.4f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("len", "response_length", "{:.1f}"),
    ("trunc", "truncated_share", "{:.0%}"),
    ("groups", "groups_kept", "{:.0f}"),
]


def quiet_libraries() -> None:
    """Our own warnings through the console; transformers' progress bars off, since ours are there."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_time=False, show_path=False)],
    )


class Terminal(Display):
    """Draws on a rich console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn()]
        if total is not None:
            columns.append(MofNCompleteColumn())
        bar = Progress(
            *columns, TimeElapsedColumn(), console=self.console, transient=True, disable=not self.console.is_terminal
        )
        with bar:
            task = bar.add_task(name, total=total)
            yield lambda done: bar.update(task, completed=done)

    def start(self, folder: Path, stages: list[str], done: int) -> None:
        self.console.print(f"run folder [bold]{folder}[/]")
        for number, sentence in enumerate(stages, start=1):
            self.console.print(f"  {'done  ' if number <= done else ''}{sentence}", highlight=False)

    def stage(self, number: int, sentence: str) -> None:
        self.console.rule(sentence, align="left")
        self.console.print(_aligned("step", *(heading for heading, _, _ in _STEP_COLUMNS), "tok/s"), style="bold")

    def step(self, metrics: dict[str, Any], timing: dict[str, Any], num_steps: int) -> None:
        cells = [_cell(metrics.get(name), form) for _, name, form in _STEP_COLUMNS]
        place = f"{metrics['step']}/{num_steps}"
        self.console.print(_aligned(place, *cells, f"{timing['tokens_per_second']:.0f}"), highlight=False)

    def evaluation(self, stage: int, step: int, evaluation: Evaluation, is_best: bool) -> None:
        accuracy = evaluation.accuracy
        mark = ", the stage's best so far" if is_best else ""
        self.console.print(
            f"selection set at step {step}: {accuracy.mean:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]{mark}",
            style="cyan",
            markup=False,
            highlight=False,
        )

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False, highlight=False)

    def result(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        first = rows[0]
        table = Table(
            title=f"report set: {first['num_problems']} problems x {first['samples_per_problem']} samples, "
            "95% intervals over problems",
            title_justify="left",
        )
        for heading in ("model", "lineage", "objective", "against", "weights"):
            table.add_column(heading, no_wrap=True)
        for heading in ("accuracy", "interval", "accel", "lock"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(
                row["model"],
                row.get("lineage", ""),
                row.get("objective", ""),
                row.get("reference") or "",
                row["version"],
                f"{row['accuracy']:.1%}",
                f"{row['low']:.1%} to {row['high']:.1%}",
                _cell(row.get("accelerated"), "{:.0%}"),
                _cell(row.get("locked"), "{:.0%}"),
            )
        self.console.print(table)
        self.console.print(f"run folder {folder}; each row's weights are a model folder in {folder / 'versions'}")


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _aligned(*cells: str) -> str:
    return "".join(f"{cell:>9}" for cell in cells)
