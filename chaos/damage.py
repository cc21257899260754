"""Files that are not as they were written: one bit flipped, cut short, gone, or a log with a line lost or doubled."""

from __future__ import annotations

import filecmp
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from chaos.bench import Bench, unclear
from chaos.child import Child
from chaos.recipe import BEST_OF_STAGE
from chaos.table import End, Try

_NEWEST = "damage: newest checkpoint"
_BOTH = "damage: every checkpoint"
_MANIFEST = "damage: list of the checkpoints"
_SETTINGS = "damage: config.json, problems.json"
_REFERENCE = "damage: the reference in force"
_BASE = "damage: the base"
_LOGS = "damage: logs"
_CLOSING = "damage: samples of the closing evaluation"
_RESULT = "damage: result of a finished run"
ROWS = [_NEWEST, _BOTH, _MANIFEST, _SETTINGS, _REFERENCE, _BASE, _LOGS, _CLOSING, _RESULT]

_RECIPE = BEST_OF_STAGE
_FREE = {"run.lock", "environment.jsonl"}  # every start writes them, a refused one too

Harm = Callable[[Path, random.Random], None]


def flip(file: Path, chance: random.Random) -> None:
    """One random bit."""
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


def cut(file: Path, chance: random.Random) -> None:
    """Everything from a random place on is gone."""
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def remove(file: Path, _chance: random.Random) -> None:
    file.unlink()


def lose_line(file: Path, chance: random.Random) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    del lines[chance.randrange(len(lines))]
    file.write_bytes(b"".join(lines))


def double_line(file: Path, chance: random.Random) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    place = chance.randrange(len(lines))
    file.write_bytes(b"".join([*lines[:place], lines[place], *lines[place:]]))


_FILE_HARMS: list[Harm] = [flip, cut, remove]
_LOG_HARMS: list[Harm] = [flip, cut, lose_line, double_line]


@dataclass(frozen=True)
class Damage:
    """One harm to some files of a copy of the run that was stopped at `start`."""

    row: str
    start: str
    files: tuple[str, ...]
    harm: Harm


def tasks(bench: Bench) -> list[Callable[[], list[Try]]]:
    return [partial(_damaged, bench, number, each) for number, each in enumerate(_plan(bench.folder))]


def _plan(folder: Path) -> list[Damage]:
    half, closing, whole = (f"{start}-{_RECIPE}" for start in ("half", "closing", "whole"))
    run = folder / half / "run"
    *_, older, newest = _manifest(run)
    in_force = f"versions/{newest['progress']['reference']['version']}"
    assert in_force != "versions/base", "the reference has to have moved before the half-done run was stopped"
    sections: list[tuple[str, str, list[tuple[str, ...]], list[Harm]]] = [
        (_NEWEST, half, [(f"checkpoints/{newest['name']}/{file}",) for file in newest["sha256"]], _FILE_HARMS),
        (
            _BOTH, half,
            [tuple(f"checkpoints/{entry['name']}/{file}" for entry in (older, newest)) for file in newest["sha256"]],
            _FILE_HARMS,
        ),
        (_MANIFEST, half, [("checkpoints/manifest.json",)], _FILE_HARMS),
        (_SETTINGS, half, [("config.json",), ("problems.json",)], _FILE_HARMS),
        (_REFERENCE, half, _files(run, f"{in_force}/*"), _FILE_HARMS),
        (_BASE, half, _files(run, "versions/base/*"), [flip]),
        (_LOGS, half, [names for names in _files(run, "*.jsonl*") if names[0] not in _FREE], _LOG_HARMS),
        (_CLOSING, closing, _files(folder / closing / "run", "report/*/*.jsonl"), [flip, lose_line, double_line]),
        (_CLOSING, closing, _files(folder / closing / "run", "report/*/*.json"), [flip]),
        (_RESULT, whole, [("result.json",)], _FILE_HARMS),
    ]  # fmt: skip
    return [
        Damage(row, start, files, harm)
        for row, start, groups, harms in sections
        for files in groups
        for harm in harms
    ]


def _manifest(run: Path) -> list[dict[str, Any]]:
    return json.loads((run / "checkpoints" / "manifest.json").read_bytes())["checkpoints"]


def _files(run: Path, pattern: str) -> list[tuple[str, ...]]:
    """Files that hold something, each for itself."""
    files = [path for path in sorted(run.glob(pattern)) if path.is_file() and path.stat().st_size]
    return [(path.relative_to(run).as_posix(),) for path in files]


def _damaged(bench: Bench, number: int, damage: Damage) -> list[Try]:
    case = bench.copy(damage.start, f"damage/{number}")
    chance = bench.chance(f"damage {number}")
    for name in damage.files:
        damage.harm(case / "run" / name, chance)
    child = Child(["resume", "run"], case)
    what = f"{damage.harm.__name__} {damage.files[-1]}"
    if child.wait() == 0:
        told = [f"not noticed, {each}" for each in bench.compare(case, _RECIPE)]
        return [_named(what, bench.outcome(damage.row, case, told))]
    badly = unclear(child)
    before = bench.folder / damage.start / "run"
    for name in damage.files:
        shutil.copy2(before / name, case / "run" / name)
    told = [] if _same_files(before, case / "run") else bench.finish(case, _RECIPE)
    return [_named(what, bench.outcome(damage.row, case, told, End.refused, badly))]


def _named(what: str, end: Try) -> Try:
    return Try(end.row, end.end, f"{what}: {end.note}" if end.note else "")


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same bytes, but for what every start writes."""
    names, others = (
        {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} - _FREE
        for run in (one, other)
    )
    return names == others and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names)
