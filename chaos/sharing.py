"""Two processes that want one run folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from chaos.bench import Bench, unclear
from chaos.child import Child
from chaos.phases import CREATING
from chaos.recipe import NAMES
from chaos.table import End, Try

_SECOND = "a second process on the folder of a working run"
_RESUMES = "two resumes of a run at once"
_TRAINS = "two new runs for one folder at once"
ROWS = [_SECOND, _RESUMES, _TRAINS]
_REPEATS = 3


def tasks(bench: Bench) -> list[Callable[[], list[Try]]]:
    return [
        *(partial(_second, bench, recipe) for recipe in NAMES),
        *(partial(_two_resumes, bench, number) for number in range(_REPEATS)),
        *(partial(_two_trains, bench, number) for number in range(_REPEATS)),
    ]


def _second(bench: Bench, recipe: str) -> list[Try]:
    """`resume` and `train --resume` while the first is at work (halted, so that it does not end before they begin)."""
    case = bench.case(f"second/{recipe}")
    first = bench.train(case, recipe)
    assert first.hunt("rollouts", bench.chance(f"second {recipe}")) is not None
    notes = _notes(case)
    others = [Child(["resume", "run"], case, notes[0]), bench.train(case, recipe, "--resume", notes=notes[1])]
    codes = [other.wait() for other in others]
    first.go_on()
    first.wait()
    told = bench.compare(case, recipe)
    if 0 in codes:
        told.append("a second process worked on the folder")
    return [bench.outcome(_SECOND, case, told, End.refused, unclear(other)) for other in others]


def _two_resumes(bench: Bench, number: int) -> list[Try]:
    recipe = NAMES[number % len(NAMES)]
    case = bench.copy(f"half-{recipe}", f"resumes/{number}")
    return _race(bench, _RESUMES, recipe, [Child(["resume", "run"], case, notes) for notes in _notes(case)])


def _two_trains(bench: Bench, number: int) -> list[Try]:
    """Both are halted where they make the folder, so that neither comes too late."""
    recipe = NAMES[number % len(NAMES)]
    case = bench.case(f"trains/{number}")
    children = [bench.train(case, recipe, notes=notes) for notes in _notes(case)]
    for child in children:
        child.hunt(CREATING, bench.chance(f"trains {number}"))
    for child in children:
        child.go_on()
    return _race(bench, _TRAINS, recipe, children)


def _notes(case: Path) -> list[Path]:
    """A folder for what each of two children prints."""
    folders = [case / "first", case / "second"]
    for folder in folders:
        folder.mkdir()
    return folders


def _race(bench: Bench, row: str, recipe: str, children: list[Child]) -> list[Try]:
    """One comes to the end; the other is refused, or finds the run finished."""
    codes = [child.wait() for child in children]
    told = bench.compare(children[0].cwd, recipe)
    badly = "; ".join(unclear(child) for child in children if child.process.returncode != 0)
    if 0 not in codes:
        badly = f"neither went on: {badly}"
    return [bench.outcome(row, children[0].cwd, told, End.refused if any(codes) else End.same, badly)]
