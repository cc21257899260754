"""A disk that is full, and folders that cannot be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from chaos.bench import Bench, unclear
from chaos.child import Child
from chaos.mounts import can_mount, read_only, small_disk
from chaos.phases import PHASES
from chaos.recipe import NAMES
from chaos.table import End, Try

_FULL_FROM_START = "disk full: room for a part of the run"
_FULL_IN = "disk full from a moment on"
_LIMITED = "files that may not grow any further (in place of a full disk)"
_AT_RESUME = "read-only run folder, at a resume"
_IN_RUN = "read-only run folder, from a moment on"
_NEW = "read-only place for a new run"

_SHARES = (0.02, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.98)
_DISK = 32 << 20
_LIMITS = (8 << 10, 12 << 10, 20 << 10, 60 << 10, 150 << 10)
_STRUCK = (
    "start-up: making the run folder", "log-probs, backward, update", "checkpoint writing", "keeping a version",
    "evaluation on selection", "reference move", "closing evaluation",
)  # fmt: skip
assert set(_STRUCK) <= {phase.name for phase in PHASES}

ROWS = [_FULL_FROM_START, _FULL_IN, _AT_RESUME, _IN_RUN, _NEW] if can_mount() else [_LIMITED]


def how() -> str:
    """Which means were at hand."""
    if can_mount():
        return "Full disks were small tmpfs, read-only folders read-only mounts, in a user namespace."
    return (
        "This system allows no mounts in a user namespace: full disks were replaced by RLIMIT_FSIZE, read-only folders "
        "were not tried."
    )


def tasks(bench: Bench) -> list[Callable[[], list[Try]]]:
    if not can_mount():
        return [partial(_limited, bench, number) for number in range(len(_LIMITS))]
    return [
        *(partial(_full_from_start, bench, number) for number in range(len(_SHARES))),
        *(partial(_full_in, bench, number) for number in range(len(_STRUCK))),
        *(partial(_read_only_at_resume, bench, recipe) for recipe in NAMES),
        *(partial(_read_only_in, bench, number) for number in range(1, len(_STRUCK))),
        partial(_read_only_place, bench),
    ]


def _full_from_start(bench: Bench, number: int) -> list[Try]:
    recipe = NAMES[number % len(NAMES)]
    case = bench.case(f"full/{number}")
    with small_disk(case / "disk", _DISK) as disk:
        _fill(disk, leave=round(_SHARES[number] * _need(bench, recipe)))
        child = bench.train(disk, recipe, notes=case)
        child.wait()
        return [_freed(bench, _FULL_FROM_START, case, recipe, child)]


def _full_in(bench: Bench, number: int) -> list[Try]:
    recipe = NAMES[number % len(NAMES)]
    case = bench.case(f"full-in/{number}")
    with small_disk(case / "disk", _DISK) as disk:
        child = bench.train(disk, recipe, notes=case)
        if child.hunt(_STRUCK[number], bench.chance(f"full {number}")) is None:
            return []
        _fill(disk)
        child.go_on()
        child.wait()
        return [_freed(bench, _FULL_IN, case, recipe, child)]


def _freed(bench: Bench, row: str, case: Path, recipe: str, child: Child) -> Try:
    """What came of a full disk, once there is room again."""
    disk = case / "disk"
    (disk / "ballast").unlink()
    refused = child.process.returncode != 0
    badly = unclear(child) if refused else ""
    told = bench.finish(disk, recipe, notes=case)
    if told and (disk / "run").exists():
        shutil.copytree(disk / "run", case / "run")  # the disk is gone with us
    return bench.outcome(row, case, told, End.refused if refused else End.same, badly)


def _need(bench: Bench, recipe: str) -> int:
    """Bytes of a finished run's files in whole blocks."""
    run = bench.folder / f"whole-{recipe}" / "run"
    return sum(file.stat().st_blocks * 512 for file in run.rglob("*"))


def _fill(disk: Path, leave: int = 0) -> None:
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, max(free - leave, 1))


def _limited(bench: Bench, number: int) -> list[Try]:
    recipe = NAMES[number % len(NAMES)]
    case = bench.case(f"limited/{number}")
    child = bench.train(case, recipe, CHAOS_FSIZE=str(_LIMITS[number]))
    refused = child.wait() != 0
    badly = unclear(child) if refused else ""
    told = bench.finish(case, recipe)
    return [bench.outcome(_LIMITED, case, told, End.refused if refused else End.same, badly)]


def _read_only_at_resume(bench: Bench, recipe: str) -> list[Try]:
    case = bench.copy(f"half-{recipe}", f"read-only/{recipe}")
    with read_only(case / "run"):
        child = Child(["resume", "run"], case)
        child.wait()
    badly = unclear(child)
    return [bench.outcome(_AT_RESUME, case, bench.finish(case, recipe), End.refused, badly)]


def _read_only_in(bench: Bench, number: int) -> list[Try]:
    recipe = NAMES[number % len(NAMES)]
    case = bench.case(f"read-only/{number}")
    child = bench.train(case, recipe)
    if child.hunt(_STRUCK[number], bench.chance(f"read-only {number}")) is None:
        return []
    with read_only(case / "run"):
        child.go_on()
        child.wait()
    refused = child.process.returncode != 0
    badly = unclear(child) if refused else ""
    told = bench.finish(case, recipe)
    return [bench.outcome(_IN_RUN, case, told, End.refused if refused else End.same, badly)]


def _read_only_place(bench: Bench) -> list[Try]:
    case = bench.case("read-only/place")
    (case / "place").mkdir()
    with read_only(case / "place"):
        child = bench.train(case / "place", NAMES[0], notes=case)
        child.wait()
    badly = unclear(child)
    return [bench.outcome(_NEW, case, bench.finish(case / "place", NAMES[0]), End.refused, badly)]
