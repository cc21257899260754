"""SIGKILL: in every phase of a run, at any moment, and again and again while it recovers."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from chaos.bench import Bench, lines, wait_for_lines
from chaos.child import Child
from chaos.phases import BETWEEN, CLOSING, CREATING, IMPORTS, PHASES, READING, Stack
from chaos.recipe import NAMES
from chaos.table import Try

RECOVERY = "SIGKILL 5 times in a row while it starts again"
_KILLS_A_RUN = 8
_UNIFORM_SHARE = 0.15
_WISHES = [phase.name for phase in PHASES if phase.name != BETWEEN]
_RECOVERIES = 4


def _row(phase: str) -> str:
    return f"SIGKILL, {phase}"


ROWS = [*(_row(name) for name in _WISHES), RECOVERY]

killed_at: Counter[str] = Counter()
"""The lines of the product at which a process was killed."""


def tasks(bench: Bench, kills: int) -> list[Callable[[], list[Try]]]:
    runs = _plan(bench.chance("kills"), kills)
    killed = [partial(_killed_run, bench, number, wishes) for number, wishes in enumerate(runs)]
    return [*killed, *(partial(_killed_recovery, bench, number) for number in range(_RECOVERIES))]


def _plan(chance: random.Random, kills: int) -> list[list[str | None]]:
    """What is wished of every run: phases in which to kill it, one after another; None for any moment.

    Each phase gets as many wishes as another. Within a run the beginning comes first and the end last.
    """
    uniform = round(kills * _UNIFORM_SHARE)
    wishes: list[str | None] = [None] * uniform
    wishes += [_WISHES[i % len(_WISHES)] for i in range(kills - uniform)]
    chance.shuffle(wishes)
    runs = [wishes[i : i + _KILLS_A_RUN] for i in range(0, len(wishes), _KILLS_A_RUN)]
    rank: dict[str | None, int] = {CREATING: 0, CLOSING: 2}
    return [sorted(run, key=lambda wish: rank.get(wish, 1)) for run in runs]


def _killed_run(bench: Bench, number: int, wishes: list[str | None]) -> list[Try]:
    """Runs that are killed until every wish was met, or missed by two runs that came to their end over it."""
    recipe = NAMES[number % len(NAMES)]
    chance = bench.chance(f"kills {number}")
    tries: list[Try] = []
    missed: str | None = None
    attempt = 0
    while wishes:
        case = bench.case(f"kills/{number}-{attempt}")
        phases = []
        for wish in wishes:
            child = bench.train(case, recipe, "--resume")
            stack = _reach(bench, child, recipe, wish, chance)
            if stack is None:
                break
            child.kill()
            killed_at[stack.line] += 1
            phases.append(stack.phase)
        wishes = wishes[len(phases) :]
        end = bench.outcome("", case, bench.finish(case, recipe))
        tries += [Try(_row(phase), end.end, end.note) for phase in phases]
        if wishes and not phases and missed == wishes[0]:
            wishes = wishes[1:]
        missed = wishes[0] if wishes else None
        attempt += 1
    return tries


def _reach(bench: Bench, child: Child, recipe: str, wish: str | None, chance: random.Random) -> Stack | None:
    """Stop it where the wish says; None where it ended before."""
    if wish is None or wish == IMPORTS:
        time.sleep(chance.uniform(0, bench.start_up_s if wish else bench.seconds[recipe]))
        return child.stop()
    if wish not in (CREATING, READING):
        run = child.cwd / "run"
        log, starts = run / "metrics.jsonl", run / "environment.jsonl"
        wait_for_lines(child, starts, lines(starts) + 1)  # noted last before the work begins
        left = bench.num_steps(recipe) - lines(log)
        if wish != CLOSING:
            wait_for_lines(child, log, lines(log) + chance.randint(0, left // 4))
    return child.hunt(wish, chance)


def _killed_recovery(bench: Bench, number: int) -> list[Try]:
    recipe = NAMES[number % len(NAMES)]
    chance = bench.chance(f"recovery {number}")
    case = bench.copy(f"{('half', 'closing')[number // 2 % 2]}-{recipe}", f"recovery/{number}")
    for _ in range(5):
        child = Child(["resume", "run"], case)
        time.sleep(chance.uniform(0.6, 1.1) * bench.start_up_s)
        stack = child.stop()
        child.kill()
        if stack is not None:
            killed_at[stack.line] += 1
    end = bench.outcome(RECOVERY, case, bench.finish(case, recipe))
    return [end] * 5
