"""What else happens to a run: its graders die, the machine sleeps, its folder is moved."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from chaos.bench import Bench
from chaos.child import Child, processes_of
from chaos.recipe import BEST_OF_STAGE, GRADING_LIMIT_S, NAMES
from chaos.table import Try

_SUPERVISOR = "SIGKILL of the graders' supervisor"
_WORKERS = "SIGKILL of the graders"
_ASLEEP = "asleep for longer than a grader may take (SIGSTOP of all processes)"
_MOVED = "the folder moved, resumed from another working directory"
ROWS = [_SUPERVISOR, _WORKERS, _ASLEEP, _MOVED]
_REPEATS = 2


def tasks(bench: Bench) -> list[Callable[[], list[Try]]]:
    return [
        *(
            partial(_graders_killed, bench, row, number)
            for row in (_SUPERVISOR, _WORKERS)
            for number in range(_REPEATS)
        ),
        *(partial(_asleep, bench, number) for number in range(_REPEATS)),
        *(partial(_moved, bench, recipe) for recipe in NAMES),
    ]


def _graders_killed(bench: Bench, row: str, number: int) -> list[Try]:
    """Where nothing is lost with them, as no verdict is out: the run is halted, and they have done what they had."""
    case = bench.case(f"graders/{'supervisor' if row == _SUPERVISOR else 'workers'}-{number}")
    child = bench.train(case, BEST_OF_STAGE)
    child.hunt("rollouts", bench.chance(f"{row} {number}"))
    time.sleep(0.2)
    supervisor, *workers = _graders(child)
    for pid in [supervisor] if row == _SUPERVISOR else workers:
        os.kill(pid, signal.SIGKILL)
    child.go_on()
    child.wait()
    return [bench.outcome(row, case, bench.finish(case, BEST_OF_STAGE))]


def _asleep(bench: Bench, number: int) -> list[Try]:
    case = bench.case(f"asleep/{number}")
    child = bench.train(case, BEST_OF_STAGE)
    child.hunt("rollouts", bench.chance(f"asleep {number}"))
    graders = _graders(child)
    for pid in graders:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(GRADING_LIMIT_S + 1)
    child.go_on()
    for pid in graders:
        with suppress(ProcessLookupError):  # taken for one that hangs, and killed
            os.kill(pid, signal.SIGCONT)
    child.wait()
    return [bench.outcome(_ASLEEP, case, bench.finish(case, BEST_OF_STAGE))]


def _graders(child: Child) -> list[int]:
    """The supervisor, and the workers that it forked."""
    others = sorted(pid for pid in processes_of(child.cwd) if pid != child.process.pid)
    supervisors = [pid for pid in others if _parent(pid) == child.process.pid]
    assert len(supervisors) == 1, others
    return [*supervisors, *(pid for pid in others if _parent(pid) == supervisors[0])]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def _moved(bench: Bench, recipe: str) -> list[Try]:
    case = bench.copy(f"half-{recipe}", f"moved/{recipe}")
    (case / "elsewhere").mkdir()
    (case / "run").rename(case / "elsewhere" / "other-name")
    child = Child(["resume", "elsewhere/other-name"], case)
    child.wait()
    (case / "elsewhere" / "other-name").rename(case / "run")
    return [bench.outcome(_MOVED, case, bench.finish(case, recipe))]
