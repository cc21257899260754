"""Clocks that are wrong: one that jumps while a run works, and files from the future and the past."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from chaos.bench import Bench
from chaos.recipe import NAMES
from chaos.table import Try

_JUMPS = "the clock jumps by a day ahead and ten years back, all the time"
_DATES = "every file dated ten years ahead, or 1971"
ROWS = [_JUMPS, _DATES]
_TEN_YEARS_S = 3653 * 86_400


def tasks(bench: Bench) -> list[Callable[[], list[Try]]]:
    jumps = [partial(_jumping, bench, recipe) for recipe in NAMES]
    return [*jumps, *(partial(_dated, bench, recipe, ahead) for recipe in NAMES for ahead in (True, False))]


def _jumping(bench: Bench, recipe: str) -> list[Try]:
    """Killed once on the way, so that the recovery has a wrong clock too."""
    case = bench.case(f"clock/{recipe}")
    child = bench.train(case, recipe, CHAOS_CLOCK="jumps")
    child.hunt("log-probs, backward, update", bench.chance(f"clock {recipe}"))
    child.kill()
    child = bench.train(case, recipe, "--resume", CHAOS_CLOCK="jumps")
    child.wait()
    return [bench.outcome(_JUMPS, case, bench.finish(case, recipe))]


def _dated(bench: Bench, recipe: str, ahead: bool) -> list[Try]:
    case = bench.copy(f"half-{recipe}", f"dates/{recipe}-{'ahead' if ahead else '1971'}")
    date = time.time() + _TEN_YEARS_S if ahead else _TEN_YEARS_S / 10
    for path in [case / "run", *(case / "run").rglob("*")]:
        os.utime(path, (date, date))
    return [bench.outcome(_DATES, case, bench.finish(case, recipe))]
