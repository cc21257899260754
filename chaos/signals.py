"""Stops on request: SIGTERM, Ctrl-C, and a terminal that is closed."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from chaos.bench import EXIT_INTERRUPTED, Bench, lines
from chaos.child import Child
from chaos.phases import IMPORTS, READING
from chaos.recipe import NAMES
from chaos.table import Try

_SIGNALS = {
    "SIGTERM": signal.SIGTERM,
    "Ctrl-C (SIGINT to the whole group)": signal.SIGINT,
    "SIGHUP (the terminal is closed)": signal.SIGHUP,
}
ROWS = list(_SIGNALS)
_RUNS = 4
_STOPS_A_RUN = 3


def tasks(bench: Bench) -> list[Callable[[], list[Try]]]:
    return [partial(_stopped_run, bench, row, number) for row in ROWS for number in range(_RUNS)]


def _stopped_run(bench: Bench, row: str, number: int) -> list[Try]:
    """A run that is stopped at random moments, three times at most."""
    recipe = NAMES[number % len(NAMES)]
    chance = bench.chance(f"{row} {number}")
    case = bench.case(f"signals/{_SIGNALS[row].name}-{number}")
    said: list[str] = []
    while len(said) < _STOPS_A_RUN:
        child = bench.train(case, recipe, "--resume")
        if not said and number % 2:
            stack = child.hunt(READING, chance)  # it is noted, and kept before the first step
        else:
            time.sleep(chance.uniform(0.2, 0.9) * bench.seconds[recipe])
            stack = child.stop()
        if stack is None:
            break
        child.signal(_SIGNALS[row], group=_SIGNALS[row] is signal.SIGINT)
        child.go_on()
        child.wait()
        said.append(_badly(child, _SIGNALS[row], stack.phase))
    told = bench.finish(case, recipe)
    return [bench.outcome(row, case, told, badly=badly) for badly in said]


def _badly(child: Child, number: signal.Signals, phase: str) -> str:
    """What is wrong with how it stopped: with exit code 75 and every step kept, once it listens to signals."""
    code, printed = child.process.returncode, child.printed()
    if "Traceback" in printed:
        return f"a traceback on {number.name} in {phase}"
    died_of_it = code == -number
    if code == EXIT_INTERRUPTED:
        return _steps_lost(child.cwd / "run")
    if code == 0 or (died_of_it and (number is signal.SIGHUP or phase in (IMPORTS, READING))):
        return ""
    return f"exit code {code} on {number.name} in {phase}"


def _steps_lost(run: Path) -> str:
    """The last checkpoint holds every step that was logged."""
    manifest = run / "checkpoints" / "manifest.json"
    if not manifest.exists():
        return (
            f"{lines(run / 'metrics.jsonl')} steps without a checkpoint"
            if (run / "metrics.jsonl").exists()
            else ""
        )
    saved = json.loads(manifest.read_bytes())["checkpoints"][-1]["progress"]["total_steps"]
    logged = lines(run / "metrics.jsonl")
    return f"{logged} steps logged, {saved} saved" if saved != logged else ""
